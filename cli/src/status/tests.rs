use weft_model::dump::{Cert, CertificateDump};

use super::*;

#[test]
fn an_expired_certificate_is_a_problem_and_one_that_expires_later_is_not() {
    let leaf = Cert { expiration_time: "2026-01-02T00:00:00Z".into(), ..Cert::default() };
    let mut dump = Dump::default();
    dump.certificates.push(CertificateDump {
        identity: "spiffe://td/ns/a/sa/b".into(),
        state: "Available".into(),
        cert_chain: vec![leaf],
        root_certs: Vec::new(),
    });
    assert!(problems(&dump, "2026-01-01T23:59:59Z".parse().unwrap()).is_empty());
    assert_eq!(
        problems(&dump, "2026-01-02T00:00:00Z".parse().unwrap()),
        ["certificate of spiffe://td/ns/a/sa/b expired at 2026-01-02T00:00:00Z"]
    );
}

#[test]
fn a_proxy_that_does_not_answer_is_a_problem_beside_those_that_do() {
    let silence = || SourceError::NotForwarded {
        node: "n1".into(),
        pod: "weft-system/weft-node-1".into(),
        reason: "no kubelet".into(),
    };
    let picture = || Picture::Nodes {
        known: vec![("n2".into(), Dump::default())],
        silent: vec![("n1".into(), silence())],
    };
    let mut out = Vec::new();
    assert_eq!(status(&picture(), Format::Json, &mut out).unwrap(), End::Found);
    let said: Vec<serde_json::Value> = serde_json::from_slice(&out).unwrap();
    assert_eq!((&said[0]["proxy"], &said[1]["proxy"]), (&"n1".into(), &"n2".into()));
    assert_eq!(said[0]["problems"], serde_json::json!([silence().to_string()]));
    assert_eq!(said[1]["problems"], serde_json::json!([]));

    let refused = picture().refuse_silence().unwrap_err().to_string();
    assert_eq!(refused, "1 of 2 proxies did not answer, as that of node n1");
    let all = Picture::Nodes { known: vec![("n2".into(), Dump::default())], silent: Vec::new() };
    assert!(all.refuse_silence().is_ok());
}
