//! Every way in which a chain is refused, each with the words that name what and the value.

use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;

use super::{
    forge::{Ca, dns, key, leaf_params, set_validity, uri},
    *,
};
use crate::{Bundle, Role, VerifyError, verify, verify_client, verify_server};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The refusal with all its causes.
fn said(result: Result<crate::Leaf, VerifyError>) -> String {
    match result {
        Ok(leaf) => format!("accepted {}", leaf.identity()),
        Err(error) => reason(&error),
    }
}

fn as_server(chain: &[CertificateDer<'_>], bundle: &Bundle) -> String {
    said(verify(chain, bundle, Role::Server, start()))
}

type Change = fn(&mut CertificateParams);

/// What is unusual about a leaf, and what is said of it.
const LEAVES: &[(&str, Change, &str)] = &[
    ("good", |_| {}, "accepted spiffe://cluster.local/ns/shop/sa/web"),
    (
        "a CA",
        |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        "peer's certificate does not name a workload: certificate of `` with SAN \
             URI(spiffe://cluster.local/ns/shop/sa/web) is a CA's, not a workload's",
    ),
    (
        "two URIs",
        |p| p.subject_alt_names.push(uri("spiffe://cluster.local/ns/shop/sa/admin")),
        "peer's certificate does not name a workload: certificate has 2 URI SANs, not one: \
             URI(spiffe://cluster.local/ns/shop/sa/web), \
             URI(spiffe://cluster.local/ns/shop/sa/admin)",
    ),
    (
        "the same URI twice",
        |p| p.subject_alt_names.push(uri(WEB)),
        "peer's certificate does not name a workload: certificate has 2 URI SANs, not one: \
             URI(spiffe://cluster.local/ns/shop/sa/web), \
             URI(spiffe://cluster.local/ns/shop/sa/web)",
    ),
    (
        "no SAN",
        |p| p.subject_alt_names.clear(),
        "peer's certificate does not name a workload: certificate has no URI SAN, its SAN is empty",
    ),
    (
        "a name in the subject instead",
        |p| {
            p.subject_alt_names.clear();
            p.distinguished_name.push(DnType::CommonName, WEB);
        },
        "peer's certificate does not name a workload: certificate has no URI SAN, its SAN is empty",
    ),
    (
        "DNS only",
        |p| p.subject_alt_names = vec![dns("web.shop.svc")],
        "peer's certificate does not name a workload: certificate has no URI SAN, \
             its SAN is DNSName(web.shop.svc)",
    ),
    (
        "a URI and a DNS name, which X509-SVID allows",
        |p| p.subject_alt_names.push(dns("web.shop.svc")),
        "accepted spiffe://cluster.local/ns/shop/sa/web",
    ),
    (
        "no key usage",
        |p| p.key_usages.clear(),
        "peer's certificate does not name a workload: certificate of \
             spiffe://cluster.local/ns/shop/sa/web has key usage none, which must have \
             digitalSignature and neither keyCertSign nor cRLSign",
    ),
    (
        "a leaf that signs certificates",
        |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
        "peer's certificate does not name a workload: certificate of \
             spiffe://cluster.local/ns/shop/sa/web has key usage Digital Signature, \
             Key Encipherment, Key Cert Sign, which must have digitalSignature and neither \
             keyCertSign nor cRLSign",
    ),
    (
        "two SAN extensions",
        |p| {
            let san = [0x30, 0x03, 0x82, 0x01, b'a'].to_vec();
            p.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], san)];
        },
        "peer's certificate does not name a workload: certificate cannot be read: \
             duplicate extensions",
    ),
    (
        "a URI that is not text",
        |p| {
            p.subject_alt_names.clear();
            let san = [0x30, 0x04, 0x86, 0x02, 0xff, 0xfe].to_vec();
            p.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], san)];
        },
        "peer's certificate does not name a workload: certificate cannot be read: \
             subject alternative name Invalid(tag=Oid, data=ff:fe)",
    ),
    (
        "a critical extension that nobody knows",
        |p| {
            let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            unknown.set_criticality(true);
            p.custom_extensions = vec![unknown];
        },
        "certificate chain of spiffe://cluster.local/ns/shop/sa/web is not valid: \
             UnsupportedCriticalExtension",
    ),
];

#[test]
fn a_leaf_that_is_not_one_workloads_is_refused_by_what_is_wrong_with_it() {
    let ca = Ca::root("test");
    for (name, change, expected) in LEAVES {
        assert_eq!(as_server(&ca.chain(WEB, change), &ca.bundle()), *expected, "{name}");
    }
}

#[test]
fn a_uri_that_is_not_an_identity_is_refused_and_shown_escaped() {
    let ca = Ca::root("test");
    for (san, shown) in [
        (
            "spiffe://cluster.local/ns/shop/sa/web\0.evil",
            "spiffe://cluster.local/ns/shop/sa/web\\0.evil",
        ),
        (
            "spiffe://cluster.local/ns/shop/sa/web\nadmin",
            "spiffe://cluster.local/ns/shop/sa/web\\nadmin",
        ),
        (
            "spiffe://cluster.local/ns/shop/sa/web\u{1b}[2J",
            "spiffe://cluster.local/ns/shop/sa/web\\u{1b}[2J",
        ),
        ("spiffe://cluster.local/ns/shop/sa/", "spiffe://cluster.local/ns/shop/sa/"),
        ("spiffe://cluster.local/ns/shop/sa/web/", "spiffe://cluster.local/ns/shop/sa/web/"),
        ("spiffe://cluster.local/ns/shop/sa/web/x", "spiffe://cluster.local/ns/shop/sa/web/x"),
        ("spiffe://cluster.local/ns/../sa/web", "spiffe://cluster.local/ns/../sa/web"),
        ("spiffe://cluster.local/ns/shop/sa/w%65b", "spiffe://cluster.local/ns/shop/sa/w%65b"),
        ("spiffe://cluster.local:1/ns/shop/sa/web", "spiffe://cluster.local:1/ns/shop/sa/web"),
        ("spiffe://cluster.local/ns/shop/sa/web?a=b", "spiffe://cluster.local/ns/shop/sa/web?a=b"),
        ("SPIFFE://cluster.local/ns/shop/sa/web", "SPIFFE://cluster.local/ns/shop/sa/web"),
        ("https://cluster.local/ns/shop/sa/web", "https://cluster.local/ns/shop/sa/web"),
        ("spiffe://cluster.local", "spiffe://cluster.local"),
        ("", ""),
    ] {
        let text = as_server(&ca.chain(san, |_| {}), &ca.bundle());
        let start = format!(
            "peer's certificate does not name a workload: certificate's URI SAN `{shown}` is not an identity: "
        );
        assert!(text.starts_with(&start), "{san:?}: {text}");
        assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
    }
}

#[test]
fn a_uri_of_any_length_is_refused_with_a_message_that_is_bounded() {
    let ca = Ca::root("test");
    let long = format!("spiffe://cluster.local/ns/shop/sa/{}", "a".repeat(8000));
    let text = as_server(&ca.chain(&long, |_| {}), &ca.bundle());
    assert!(text.len() < 1000, "{} bytes: {text}", text.len());
}

#[test]
fn a_certificate_is_valid_to_its_last_second_and_no_skew_prolongs_it() {
    let ca = Ca::root("test");
    let chain = ca.chain(WEB, |_| {});
    for (now, expected) in [
        (start() + DAY, "accepted spiffe://cluster.local/ns/shop/sa/web".to_owned()),
        (
            start() + DAY + seconds(1),
            format!(
                "certificate of {WEB} expired at 2026-01-02T00:00:00Z, and it is 2026-01-02T00:00:01Z"
            ),
        ),
        (
            start() + DAY + seconds(59),
            format!(
                "certificate of {WEB} expired at 2026-01-02T00:00:00Z, and it is 2026-01-02T00:00:59Z"
            ),
        ),
    ] {
        assert_eq!(said(verify(&chain, &ca.bundle(), Role::Server, now)), expected);
    }
}

#[test]
fn a_certificate_may_be_sixty_seconds_early_and_not_sixty_one() {
    let ca = Ca::root("test");
    let chain = ca.chain(WEB, |_| {});
    let accepted = "accepted spiffe://cluster.local/ns/shop/sa/web".to_owned();
    for (now, expected) in [
        (start(), accepted.clone()),
        (start() - seconds(1), accepted.clone()),
        (start() - seconds(60), accepted),
        (
            start() - seconds(61),
            format!(
                "certificate of {WEB} is not valid before 2026-01-01T00:00:00Z, and it is 2025-12-31T23:58:59Z"
            ),
        ),
    ] {
        assert_eq!(said(verify(&chain, &ca.bundle(), Role::Server, now)), expected);
    }
}

#[test]
fn skew_of_one_certificate_never_saves_another_that_is_expired() {
    let ca = Ca::root("test");
    // The leaf is 30 s early, its intermediate is over by 1 s: at no single instant both are valid.
    let old = ca.intermediate_with("old", |p| set_validity(p, start() - DAY, start() - seconds(1)));
    let chain = old.chain(WEB, |p| set_validity(p, start() + seconds(30), start() + DAY));
    let text = as_server(&chain, &ca.bundle());
    assert!(
        text.starts_with(&format!("certificate chain of {WEB} is not valid: CertExpired")),
        "{text}"
    );
    // An intermediate that is itself early by less than the skew is taken.
    let new =
        ca.intermediate_with("new", |p| set_validity(p, start() + seconds(59), start() + DAY));
    let chain = new.chain(WEB, |_| {});
    assert_eq!(as_server(&chain, &ca.bundle()), format!("accepted {WEB}"));
}

#[test]
fn extended_key_usage_must_cover_the_role() {
    let ca = Ca::root("test");
    for (usages, server, client) in [
        (vec![ServerAuth, ClientAuth], true, true),
        (vec![], true, true),
        (vec![ServerAuth], true, false),
        (vec![ClientAuth], false, true),
        (vec![CodeSigning], false, false),
    ] {
        let chain = ca.chain(WEB, |p| p.extended_key_usages.clone_from(&usages));
        for (role, accepted) in [(Role::Server, server), (Role::Client, client)] {
            let text = said(verify(&chain, &ca.bundle(), role, start()));
            let start = if accepted {
                format!("accepted {WEB}")
            } else {
                format!("certificate of {WEB} is not for TLS {role:?}s: RequiredEku")
            };
            assert!(text.starts_with(&start), "{usages:?} as {role:?}: {text}");
        }
    }
}

#[test]
fn only_a_path_to_a_root_of_the_bundle_is_trusted() {
    let (ours, theirs) = (Ca::root("ours"), Ca::root("theirs"));
    assert_eq!(
        as_server(&theirs.chain(WEB, |_| {}), &ours.bundle()),
        format!("certificate of {WEB} was issued by `CN=theirs`, which is none of ours")
    );
    // A stranger who names himself as our root does.
    let impostor = Ca::root("ours");
    let text = as_server(&impostor.chain(WEB, |_| {}), &ours.bundle());
    assert!(
        text.starts_with(&format!("certificate chain of {WEB} is not valid: InvalidSignature")),
        "{text}"
    );
    // Self-signed.
    let alone: CertificateDer<'_> = leaf_params(WEB).self_signed(&key()).unwrap().into();
    assert_eq!(
        as_server(&[alone], &ours.bundle()),
        format!("certificate of {WEB} was issued by ``, which is none of ours")
    );
    // An untrusted root that the peer sends along is not thereby trusted.
    let mut chain = theirs.chain(WEB, |_| {});
    chain.extend(theirs.bundle().certificates().to_vec());
    assert_eq!(
        as_server(&chain, &ours.bundle()),
        format!("certificate of {WEB} was issued by `CN=theirs`, which is none of ours")
    );
}

#[test]
fn a_bundle_of_old_and_new_root_accepts_leaves_of_both_and_a_bundle_of_one_only_its_own() {
    let (old, new) = (Ca::root("old"), Ca::root("new"));
    let both = together(&old.bundle(), &new.bundle());
    for ca in [&old, &new] {
        assert_eq!(as_server(&ca.chain(WEB, |_| {}), &both), format!("accepted {WEB}"));
    }
    assert_eq!(
        as_server(&old.chain(WEB, |_| {}), &new.bundle()),
        format!("certificate of {WEB} was issued by `CN=old`, which is none of ours")
    );
}

#[test]
fn an_expired_root_proves_nothing() {
    let old = Ca::root_with("old", |p| set_validity(p, start() - DAY, start() - seconds(1)));
    let chain = old.chain(WEB, |_| {});
    assert_eq!(
        as_server(&chain, &old.bundle()),
        format!(
            "certificate of {WEB} cannot be verified: no root of the trust bundle is valid at 2026-01-01T00:00:00Z"
        )
    );
    let both = together(&old.bundle(), &Ca::root("new").bundle());
    assert_eq!(
        as_server(&chain, &both),
        format!("certificate of {WEB} was issued by `CN=old`, which is none of ours")
    );
}

#[test]
fn a_chain_is_bounded_in_certificates_and_bytes_and_may_have_intermediates() {
    let root = Ca::root("root");
    let third = root.intermediate("1").intermediate("2").intermediate("3");
    assert_eq!(as_server(&third.chain(WEB, |_| {}), &root.bundle()), format!("accepted {WEB}"));
    let fourth = third.intermediate("4");
    assert_eq!(as_server(&fourth.chain(WEB, |_| {}), &root.bundle()), format!("accepted {WEB}"));
    assert_eq!(
        as_server(&fourth.intermediate("5").chain(WEB, |_| {}), &root.bundle()),
        "peer sent 6 certificates, more than 5"
    );
    let large = root.chain(WEB, |p| {
        let bytes = [vec![0x04, 0x82, 0x80, 0x00], vec![0; 0x8000]].concat();
        p.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], bytes)];
    });
    let text = as_server(&large, &root.bundle());
    assert!(text.starts_with("peer sent 33") && text.ends_with(", more than 32768"), "{text}");
    assert_eq!(as_server(&[], &root.bundle()), "peer sent no certificate");
}

#[test]
fn only_authorities_may_sign() {
    let root = Ca::root("root");
    let leaf = root.intermediate_with("leaf", |p| p.is_ca = IsCa::ExplicitNoCa);
    let text = as_server(&leaf.chain(WEB, |_| {}), &root.bundle());
    assert_eq!(text, format!("certificate chain of {WEB} is not valid: EndEntityUsedAsCa"));
    let idle = root.intermediate_with("idle", |p| p.key_usages = vec![KeyUsagePurpose::CrlSign]);
    assert_eq!(
        as_server(&idle.chain(WEB, |_| {}), &root.bundle()),
        format!("certificate of {WEB} was signed with a key whose key usage has no keyCertSign")
    );
    // The path length that an intermediate allows holds. A root's own does not count: to a path validator a
    // trust anchor is a name and a key (RFC 5280 6.1.1 d).
    let short =
        root.intermediate_with("short", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    assert_eq!(as_server(&short.chain(WEB, |_| {}), &root.bundle()), format!("accepted {WEB}"));
    let text = as_server(&short.intermediate("1").chain(WEB, |_| {}), &root.bundle());
    assert_eq!(text, format!("certificate chain of {WEB} is not valid: PathLenConstraintViolated"));
}

#[test]
fn a_client_must_be_of_the_servers_own_trust_domain() {
    let ca = Ca::root("test");
    let own = TrustDomain::default();
    let chain = ca.chain("spiffe://other.example/ns/shop/sa/web", |_| {});
    assert_eq!(
        said(verify_client(&chain, &ca.bundle(), &own, start())),
        "peer is spiffe://other.example/ns/shop/sa/web, of another trust domain than ours, cluster.local"
    );
    let chain = ca.chain(WEB, |_| {});
    assert_eq!(said(verify_client(&chain, &ca.bundle(), &own, start())), format!("accepted {WEB}"));
}

#[test]
fn a_server_must_be_one_of_the_expected() {
    let ca = Ca::root("test");
    let chain = ca.chain(WEB, |_| {});
    let other = |n| identity(&format!("spiffe://cluster.local/ns/shop/sa/{n}"));
    for (expected, text) in [
        (vec![web()], format!("accepted {WEB}")),
        (vec![other("a"), web()], format!("accepted {WEB}")),
        (
            vec![other("a"), other("b")],
            format!(
                "peer is {WEB}, expected spiffe://cluster.local/ns/shop/sa/a or spiffe://cluster.local/ns/shop/sa/b"
            ),
        ),
        (vec![], format!("peer is {WEB}, expected nobody")),
        // A prefix is not an identity.
        (
            vec![other("we")],
            format!("peer is {WEB}, expected spiffe://cluster.local/ns/shop/sa/we"),
        ),
    ] {
        assert_eq!(said(verify_server(&chain, &ca.bundle(), &expected, start())), text);
    }
}

#[test]
fn bytes_that_are_no_certificate_are_refused_without_panic() {
    let ca = Ca::root("test");
    let good = ca.chain(WEB, |_| {}).remove(0);
    assert_eq!(
        as_server(&[[good.as_ref(), &[0, 0]].concat().into()], &ca.bundle()),
        "peer's certificate does not name a workload: certificate cannot be read: 2 bytes after its end"
    );
    for cut in 0..good.len() {
        let text = as_server(&[good[..cut].to_vec().into()], &ca.bundle());
        assert!(text.starts_with("peer's certificate does not name a workload"), "{cut}: {text}");
    }
}

#[test]
fn no_flipped_bit_of_a_certificate_is_accepted() {
    let ca = Ca::root("test");
    let good = ca.chain(WEB, |_| {}).remove(0);
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.to_vec();
            bad[at] ^= 1 << bit;
            let text = as_server(&[bad.into()], &ca.bundle());
            assert!(!text.starts_with("accepted"), "byte {at} bit {bit}");
        }
    }
}
