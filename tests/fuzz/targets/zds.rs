//! Any packet from the agent or from the proxy is a message or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use weft_xds::zds::{WorkloadRequest, WorkloadResponse, ZdsHello};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = WorkloadRequest::decode(bytes) {
        assert_eq!(WorkloadRequest::decode(&*request.encode_to_vec()), Ok(request));
    }
    let _refused = WorkloadResponse::decode(bytes);
    let _refused = ZdsHello::decode(bytes);
});
