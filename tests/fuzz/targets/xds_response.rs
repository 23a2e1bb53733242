//! Any response leaves a client with what it can read again after a restart, and with an answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use weft_model::View;
use weft_xds::{
    delta::Client,
    proto::discovery::{DeltaDiscoveryResponse, Node},
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(response) = DeltaDiscoveryResponse::decode(bytes) else { return };
    let nonce = response.nonce.clone();
    let mut client = Client::new(Node::default());
    let received = client.receive(response);
    assert_eq!(received.reply.response_nonce, nonce);
    assert!(received.refused.is_empty() || received.reply.error_detail.is_some());

    let view: View = received.changes.into_iter().collect();
    let mut restarted = Client::new(Node::default());
    let mut kept = Vec::new();
    for resource in client.kept() {
        kept.extend(restarted.restore(resource).expect("what was accepted is accepted again"));
    }
    // Stand-ins for refused policies are not kept; everything else is.
    let kept: View = kept.into_iter().collect();
    assert!(kept.workloads().count() == view.workloads().count());
    assert!(kept.services().count() == view.services().count());
    assert!(kept.policies().count() <= view.policies().count());
});
