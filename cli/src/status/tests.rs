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
