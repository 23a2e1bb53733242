use weft_model::PolicyName;
use weft_xds::{
    codec::ResourceType,
    delta::Resources,
    proto::{discovery::DeltaDiscoveryRequest, rpc::Status},
};

use super::*;

fn policy() -> ResourceKey {
    ResourceKey::Policy(PolicyName::new("shop", "deny").unwrap())
}

/// A stream on which everything was asked for and answered, up to three policies.
fn answer(stream: &Stream, refused: Option<&str>) {
    let mut now = Resources::default();
    for name in ["deny", "p", "q"] {
        let policy = weft_model::Authorization {
            name: PolicyName::new("shop", name).unwrap(),
            scope: weft_model::Scope::Namespace,
            action: weft_model::Action::Deny,
            rules: Vec::new(),
            dry_run: false,
        };
        now.put(weft_xds::codec::encode_authorization(&policy));
    }
    let mut server = Server::new();
    let type_url = ResourceType::Authorization.type_url().to_owned();
    let ask = DeltaDiscoveryRequest { type_url, ..DeltaDiscoveryRequest::default() };
    server.request(ask.clone(), &now);
    let response_nonce = server.advance(&now).remove(0).nonce;
    let error_detail = refused.map(|message| Status { code: 0, message: message.to_owned() });
    server.request(DeltaDiscoveryRequest { response_nonce, error_detail, ..ask }, &now);
    server.advance(&now);
    stream.note(&server);
}

#[test]
fn a_node_has_what_all_of_its_streams_have_answered_and_none_has_refused() {
    let streams = Arc::new(Streams::default());
    let node = |name: &str| Streams::open(&streams, &name.into());
    let reached = |since| streams.progress().reached(since, &[policy()]);
    assert_eq!(reached(0), Reached::default());
    let (one, two) = (node("one"), node("two"));
    let of = |nodes, applied| Reached { nodes, applied, refused: None };
    assert_eq!(reached(3), of(2, 0));
    answer(&one, None);
    assert_eq!(reached(3), of(2, 1));
    answer(&two, Some("shop/p: no"));
    assert_eq!((reached(3), reached(4)), (of(2, 2), of(2, 0)));
    assert!(streams.progress().any_refused());
    answer(&two, Some("shop/deny: no"));
    let refused = Some(("two".into(), "shop/deny: no".into()));
    assert_eq!(reached(3), Reached { nodes: 2, applied: 1, refused });
    let of_node = |answered, refused: &[&str]| Applied {
        answered,
        refused: refused.iter().map(ToString::to_string).collect(),
    };
    let applied = [("one", of_node(Some(3), &[])), ("two", of_node(Some(3), &["shop/deny"]))];
    let applied = applied.map(|(node, applied)| (node.to_owned(), applied));
    assert_eq!(streams.progress().applied(), BTreeMap::from(applied));
    // It connects again, and the one from before is not gone yet.
    let again = node("one");
    assert_eq!(reached(3).applied, 0);
    drop(one);
    answer(&again, None);
    drop(two);
    assert_eq!(reached(3), of(1, 1));
}
