//! A node's certificate, and that it is a node's only.

use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::*;
use crate::{NodeIdentity, NodeSvid, Role, VerifyError, node::verify_node, verify};

const UID: &str = "6c1b8f0e-0000-4000-8000-0123456789ab";

fn node() -> NodeIdentity {
    NodeIdentity::new(TrustDomain::default(), "worker-1", Some(UID)).unwrap()
}

fn issued(authority: &Authority, key: &KeyPair) -> Vec<String> {
    authority.issue_node(&key.request_node().unwrap(), &node(), DAY, start()).unwrap()
}

fn ders(chain: &[String]) -> Vec<CertificateDer<'static>> {
    let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    vec![leaf]
}

#[test]
fn a_nodes_name_is_read_as_it_is_written_and_nothing_else_is_one() {
    for text in [
        "spiffe://cluster.local/weft/node/worker-1",
        &node().to_string(),
        "spiffe://x/weft/node/a.b",
    ] {
        assert_eq!(text.parse::<NodeIdentity>().unwrap().to_string(), text);
    }
    for bad in [
        "",
        "spiffe://cluster.local",
        "spiffe://cluster.local/weft/node",
        "spiffe://cluster.local/weft/node/",
        "spiffe://cluster.local/weft/node/..",
        "spiffe://cluster.local/weft/node/a/",
        "spiffe://cluster.local/weft/node/a/b/c",
        "spiffe://cluster.local/weft/node/a%2fb",
        "spiffe://cluster.local/ns/shop/sa/web",
        "spiffe:///weft/node/a",
        "https://cluster.local/weft/node/a",
    ] {
        bad.parse::<NodeIdentity>().expect_err(bad);
    }
}

#[test]
fn a_nodes_certificate_proves_the_node_and_no_workload() {
    let (ca, key) = (authority(), KeyPair::generate().unwrap());
    let chain = issued(&ca, &key);
    let leaf = verify_node(&ders(&chain), ca.bundle(), ca.trust_domain(), start()).unwrap();
    assert_eq!(leaf.identity(), &node());
    assert_eq!(leaf.not_after(), start() + DAY);
    let error = verify(&ders(&chain), ca.bundle(), Role::Client, start()).unwrap_err();
    assert!(matches!(error, VerifyError::Leaf(_)), "{error}");
    let error = Svid::from_pem(&web(), key, &chain, start()).unwrap_err();
    assert!(reason(&error).contains("is not an identity"), "{}", reason(&error));
    let workload = svid(&ca, &web());
    let error = verify_node(workload.chain(), ca.bundle(), ca.trust_domain(), start()).unwrap_err();
    assert!(reason(&error).contains("is not a node's"), "{}", reason(&error));
}

#[test]
fn a_nodes_certificate_of_others_or_out_of_time_proves_nothing() {
    let (ca, other) = (authority(), authority());
    let key = KeyPair::generate().unwrap();
    let chain = ders(&issued(&ca, &key));
    let domain = TrustDomain::new("other.example").unwrap();
    let refused =
        |bundle, domain, at| reason(&verify_node(&chain, bundle, domain, at).unwrap_err());
    assert!(refused(ca.bundle(), &domain, start()).contains("of another trust domain than ours"));
    let (own, late) = (ca.trust_domain(), start() + DAY + Duration::from_secs(1));
    assert!(refused(ca.bundle(), own, late).contains("and it is 2026-01-02T00:00:01Z"));
    assert!(refused(ca.bundle(), own, start() - DAY).contains("is valid from"));
    let text = refused(other.bundle(), own, start());
    assert!(text.contains("does not lead to a root of ours"), "{text}");
}

#[test]
fn only_its_own_node_takes_a_nodes_certificate() {
    let ca = authority();
    let key = KeyPair::generate().unwrap();
    let chain = issued(&ca, &key);
    let error = NodeSvid::from_pem("worker-2", key, &chain, start()).unwrap_err();
    assert!(error.to_string().contains("and this is worker-2"), "{error}");
    let error =
        NodeSvid::from_pem("worker-1", KeyPair::generate().unwrap(), &chain, start()).unwrap_err();
    assert_eq!(error.to_string(), "certificate of the node is not for this private key");
}
