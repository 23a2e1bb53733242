//! What the CA signs, and what it does not.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    RsaKeySize,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::*;

use super::{
    forge::{dns, key, uri},
    *,
};
use crate::{Bundle, IssueError, Role, Summary, client_config_at, server_config_at, verify};

/// Made by `openssl req -newkey rsa:1024`: no library of ours makes a key that weak.
const RSA_1024: &str = include_str!("rsa-1024.csr.pem");

fn request(key: &rcgen::KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn greedy_request(key: &rcgen::KeyPair) -> String {
    request(key, |params| {
        params.distinguished_name.push(DnType::CommonName, "root");
        params.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/web")];
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    })
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn refused(request: &str) -> String {
    reason(&authority().issue(request, &web(), DAY, start()).unwrap_err())
}

#[test]
fn nothing_of_a_request_is_taken_but_its_public_key() {
    let (ca, key) = (authority(), key());
    let chain = ca.issue(&greedy_request(&key), &web(), DAY, start()).unwrap();
    let leaf = der(&chain[0]);
    let (_, parsed) = X509Certificate::from_der(&leaf).unwrap();
    assert_eq!(parsed.subject().to_string(), "");
    let san = parsed.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical);
    assert_eq!(
        san.value.general_names,
        [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]
    );
    assert!(!parsed.is_ca());
    assert_eq!(
        parsed.key_usage().unwrap().unwrap().value.to_string(),
        "Digital Signature, Key Encipherment"
    );
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.code_signing && !usage.any);
    assert_eq!(parsed.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    let proven = verify(std::slice::from_ref(&leaf), ca.bundle(), Role::Server, start()).unwrap();
    assert_eq!(proven.identity(), &web());
}

#[test]
fn a_request_for_other_names_or_for_a_cas_rights_is_refused() {
    let own = "certificate request for spiffe://cluster.local/ns/shop/sa/web";
    let more = |name| {
        refused(&request(&key(), |params| {
            params.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/web"), name];
        }))
    };
    let admin = "spiffe://cluster.local/ns/kube-system/sa/admin";
    assert_eq!(more(uri(admin)), format!("{own} names URI({admin}) too"));
    assert_eq!(
        more(dns("istiod.istio-system.svc")),
        format!("{own} names DNSName(istiod.istio-system.svc) too")
    );
    let other_domain = "spiffe://other.example/ns/shop/sa/web";
    assert_eq!(more(uri(other_domain)), format!("{own} names URI({other_domain}) too"));
    let ca = request(&key(), |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(refused(&ca), format!("{own} asks to be a CA"));
    let no_ca = request(&key(), |params| params.is_ca = IsCa::ExplicitNoCa);
    authority().issue(&no_ca, &web(), DAY, start()).unwrap();
}

#[test]
fn a_request_of_ours_has_istios_form() {
    let csr = KeyPair::generate().unwrap().request(&web()).unwrap();
    let der =
        rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).unwrap();
    let (_, parsed) = X509CertificationRequest::from_der(&der).unwrap();
    let info = &parsed.certification_request_info;
    assert_eq!(info.subject.to_string(), "");
    assert_eq!(parsed.signature_algorithm.algorithm.to_id_string(), "1.2.840.10045.4.3.2");
    assert_eq!(info.attributes().len(), 1);
    let ParsedCriAttribute::ExtensionRequest(request) = info.attributes()[0].parsed_attribute()
    else {
        panic!("{:?}", info.attributes())
    };
    assert_eq!(request.extensions.len(), 1);
    let extension = &request.extensions[0];
    assert!(extension.critical);
    let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() else {
        panic!("{extension:?}")
    };
    assert_eq!(san.general_names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]);
}

#[test]
fn strong_keys_of_every_kind_are_taken() {
    for key in [
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
        rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
    ] {
        let ca = authority();
        let chain = ca.issue(&greedy_request(&key), &web(), DAY, start()).unwrap();
        let key = KeyPair::from_pem(&key.serialize_pem()).unwrap();
        assert_eq!(Svid::from_pem(&web(), key, &chain, start()).unwrap().identity(), &web());
    }
}

#[test]
fn weak_keys_and_broken_requests_are_refused() {
    let text = refused(RSA_1024);
    assert!(
        text.starts_with(
            "certificate request for spiffe://cluster.local/ns/shop/sa/web is not signed by a key \
             that we accept, over its own public key (1.2.840.113549.1.1.11)"
        ),
        "{text}"
    );
    assert_eq!(refused("rubbish"), "certificate request cannot be read: no items found");
    assert_eq!(
        refused(&"x".repeat(20_000)),
        "certificate request cannot be read: 20000 bytes, more than 16384"
    );
    let leaf = authority().issue(&greedy_request(&key()), &web(), DAY, start()).unwrap().remove(0);
    assert_eq!(refused(&leaf), "certificate request cannot be read: no items found");
}

#[test]
fn a_request_that_was_changed_after_signing_is_refused_wherever_it_was_changed() {
    let csr = greedy_request(&key());
    let good =
        rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).unwrap();
    let (_, parsed) = X509CertificationRequest::from_der(&good).unwrap();
    // Between what is signed and the signature stands the algorithm's label, which is neither.
    let label = 4 + parsed.certification_request_info.raw.len()
        ..good.len() - parsed.signature_value.data.len() - 3;
    let ca = authority();
    for at in (0..good.len()).filter(|at| !label.contains(at)) {
        let mut bad = good.as_ref().to_vec();
        bad[at] ^= 1;
        let pem = crate::pem::encode("CERTIFICATE REQUEST", &bad);
        ca.issue(&pem, &web(), DAY, start()).expect_err(&format!("byte {at}"));
    }
}

#[test]
fn a_leaf_starts_a_minute_early_and_ends_with_its_ttl_or_with_the_root() {
    let ca = authority();
    let csr = KeyPair::generate().unwrap().request(&web()).unwrap();
    let summary =
        |ttl, now| Summary::of(&der(&ca.issue(&csr, &web(), ttl, now).unwrap()[0])).unwrap();
    let leaf = summary(DAY, start());
    assert_eq!(leaf.not_before, start() - Duration::from_mins(1));
    assert_eq!(leaf.not_after, start() + DAY);
    assert_ne!(leaf.serial, summary(DAY, start()).serial);
    let late = ca.not_after() - Duration::from_mins(10);
    assert_eq!(summary(DAY, late).not_after, ca.not_after());
    assert_eq!(ca.not_after(), start() + 3650 * DAY);
    let error = ca.issue(&csr, &web(), DAY, ca.not_after()).unwrap_err();
    assert_eq!(error.to_string(), "root of cluster.local expired at 2035-12-30T00:00:00Z");
}

#[test]
fn a_life_of_nothing_or_of_more_than_ninety_days_is_refused() {
    let ca = authority();
    let csr = KeyPair::generate().unwrap().request(&web()).unwrap();
    for ttl in [Duration::ZERO, Duration::from_millis(999), 90 * DAY + Duration::from_secs(1)] {
        let error = ca.issue(&csr, &web(), ttl, start()).unwrap_err();
        assert!(matches!(&error, IssueError::Ttl { ttl: t } if *t == ttl), "{error}");
    }
    ca.issue(&csr, &web(), 90 * DAY, start()).unwrap();
}

#[test]
fn an_identity_of_another_trust_domain_is_refused() {
    let other = identity("spiffe://other.example/ns/shop/sa/web");
    let csr = KeyPair::generate().unwrap().request(&other).unwrap();
    let error = authority().issue(&csr, &other, DAY, start()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "spiffe://other.example/ns/shop/sa/web is not of trust domain cluster.local"
    );
}

#[test]
fn an_authority_is_the_same_after_it_was_stored_and_a_foreign_key_is_noticed() {
    let domain = TrustDomain::default();
    let ca = authority();
    let again = Authority::from_pem(&domain, &ca.bundle().to_pem(), &ca.key_pem()).unwrap();
    assert_eq!(again.bundle(), ca.bundle());
    assert_eq!(again.not_after(), ca.not_after());
    let own = svid(&again, &web());
    verify(own.chain(), ca.bundle(), Role::Server, start()).unwrap();
    let error = Authority::from_pem(&domain, &ca.bundle().to_pem(), &authority().key_pem());
    assert_eq!(
        error.unwrap_err().to_string(),
        "the key given is not that of the first root certificate of cluster.local"
    );
    let text = format!("{ca:?}");
    assert!(!text.contains("PRIVATE") && !text.contains("key"), "{text}");
}

#[test]
fn roots_are_rotated_without_a_moment_in_which_peers_disagree() {
    let domain = TrustDomain::default();
    let old = authority();
    let next = Authority::new(&domain, start()).unwrap();
    // First the new root is distributed by the old authority, then the new one signs.
    let (of_old, of_next) = (old.bundle().to_pem(), next.bundle().to_pem());
    let with = |roots: String, key: &str| Authority::from_pem(&domain, &roots, key).unwrap();
    let announcing = with(format!("{of_old}{of_next}"), &old.key_pem());
    let signing = with(format!("{of_next}{of_old}"), &next.key_pem());
    let (before, during, after) =
        (svid(&announcing, &web()), svid(&signing, &web()), svid(&next, &web()));
    let good = |a: &Svid, b: &Svid| {
        for (client, server) in [(a, b), (b, a)] {
            shake(
                client_config_at(client, &[web()], Arc::new(At(start()))),
                server_config_at(server, Arc::new(At(start()))),
            )
            .unwrap();
        }
    };
    good(&svid(&old, &web()), &before);
    good(&before, &during);
    good(&during, &after);
    // Without the announcement there would have been such a moment.
    let unprepared = svid(&old, &web());
    verify(during.chain(), unprepared.bundle(), Role::Server, start()).unwrap_err();
    assert_eq!(signing.bundle().certificates().len(), 2);
    // What is stored is the own root first, then the others.
    let stored =
        Authority::from_pem(&domain, &signing.bundle().to_pem(), &signing.key_pem()).unwrap();
    assert_eq!(stored.bundle(), signing.bundle());
}

fn issuing(root: &Authority, cross: &str, roots: &Bundle) -> Authority {
    let ca = root.issuing_ca(30 * DAY, start()).unwrap();
    let chain = ca.certificate + cross;
    Authority::issuing(&TrustDomain::default(), &chain, &ca.key, roots, start()).unwrap()
}

#[test]
fn an_issuing_ca_signs_what_its_roots_prove_and_is_changed_without_a_word_to_anybody() {
    let root = authority();
    let (one, two) = (issuing(&root, "", root.bundle()), issuing(&root, "", root.bundle()));
    assert_eq!(one.not_after(), start() + 30 * DAY);
    let (old, new) = (svid(&one, &web()), svid(&two, &web()));
    assert_eq!((old.chain().len(), old.bundle()), (2, root.bundle()));
    for (client, server) in [(&old, &new), (&new, &old)] {
        shake(
            client_config_at(client, &[web()], Arc::new(At(start()))),
            server_config_at(server, Arc::new(At(start()))),
        )
        .unwrap();
    }
    let late = one.not_after() - DAY / 2;
    assert_eq!(svid_from(&one, &web(), late).not_after(), one.not_after());
}

#[test]
fn a_new_root_that_the_old_one_vouches_for_is_accepted_by_who_knows_the_old_one_only() {
    let (old, new) = (authority(), authority());
    let cross = old.cross_sign(&new, start()).unwrap();
    let both = together(new.bundle(), old.bundle());
    let leaf = svid(&issuing(&new, &cross, &both), &web());
    assert_eq!(leaf.chain().len(), 3);
    for bundle in [old.bundle(), new.bundle(), &both] {
        verify(leaf.chain(), bundle, Role::Server, start()).unwrap();
    }
    verify(leaf.chain(), authority().bundle(), Role::Server, start()).unwrap_err();
    let without = svid(&issuing(&new, "", &both), &web());
    verify(without.chain(), old.bundle(), Role::Server, start()).unwrap_err();
}

#[test]
fn a_ca_whose_leaves_would_be_refused_is_refused_itself() {
    let (root, other) = (authority(), authority());
    let ca = root.issuing_ca(30 * DAY, start()).unwrap();
    let open = |chain: &str, key: &str, roots: &Bundle, at| {
        let opened = Authority::issuing(&TrustDomain::default(), chain, key, roots, at);
        reason(&opened.expect_err("it must be refused"))
    };
    let text = open(&ca.certificate, &ca.key, other.bundle(), start());
    assert!(text.contains("which is none of ours"), "{text}");
    let text = open(&ca.certificate, &other.key_pem(), root.bundle(), start());
    assert!(text.contains("the key given is not that of"), "{text}");
    let text = open(&ca.certificate, &ca.key, root.bundle(), start() + 31 * DAY);
    assert!(text.contains("expired at"), "{text}");
    let leaf = svid(&root, &web());
    let (chain, key) = (leaf.chain_pem().remove(0), leaf.key_pem());
    let text = open(&chain, &key, root.bundle(), start());
    assert!(text.contains("is not a CA's"), "{text}");
    let text = open("", &ca.key, root.bundle(), start());
    assert!(text.contains("holds no certificate"), "{text}");
    // Under a CA that may have none below it.
    let parent = Authority::issuing(
        &TrustDomain::default(),
        &ca.certificate,
        &ca.key,
        root.bundle(),
        start(),
    )
    .unwrap();
    let child = parent.issuing_ca(DAY, start()).unwrap();
    let chain = child.certificate + &ca.certificate;
    let text = open(&chain, &child.key, root.bundle(), start());
    assert!(text.contains("is not valid"), "{text}");
}

#[test]
fn an_identity_document_takes_other_roots_only_if_it_is_good_by_them() {
    let (old, new) = (authority(), authority());
    let own = svid(&old, &web());
    let both = together(old.bundle(), new.bundle());
    let wider = own.trusting(&both, start()).unwrap();
    assert_eq!((wider.bundle(), wider.chain()), (&both, own.chain()));
    wider.trusting(new.bundle(), start()).unwrap_err();
    assert_eq!(both.fingerprint(), together(new.bundle(), old.bundle()).fingerprint());
    assert_ne!(both.fingerprint(), old.bundle().fingerprint());
}

#[test]
fn a_server_certificate_names_hosts_and_is_no_workloads() {
    let ca = authority();
    let own =
        ca.issue_server(&["istiod.istio-system.svc", "127.0.0.1", "::1"], DAY, start()).unwrap();
    let leaf = der(&own.certificate);
    let ee = webpki::EndEntityCert::try_from(&leaf).unwrap();
    for name in ["istiod.istio-system.svc", "127.0.0.1", "::1"] {
        let name = rustls_pki_types::ServerName::try_from(name).unwrap();
        ee.verify_is_valid_for_subject_name(&name).unwrap();
    }
    let error =
        verify(std::slice::from_ref(&leaf), ca.bundle(), Role::Server, start()).unwrap_err();
    assert!(reason(&error).contains("certificate has no URI SAN"), "{}", reason(&error));
    for name in ["", "a b", "spiffe://x", "*", "a\0b"] {
        let error = ca.issue_server(&[name], DAY, start()).unwrap_err();
        assert!(matches!(error, IssueError::ServerName { .. }), "{name:?}: {error}");
    }
    assert!(matches!(ca.issue_server(&[], DAY, start()), Err(IssueError::NoServerName)));
}

#[test]
fn a_bundle_holds_authorities_only_and_each_once() {
    let ca = authority();
    let root = ca.bundle().to_pem();
    assert_eq!(Bundle::from_pem(&root.repeat(3)).unwrap().certificates().len(), 1);
    let leaf = svid(&ca, &web()).chain_pem().remove(0);
    for (text, expected) in [
        (format!("{root}{leaf}"), "certificate 1 of the trust bundle, ``, is not a CA's"),
        (String::new(), "trust bundle cannot be read: PEM text holds no certificate"),
        ("rubbish".to_owned(), "trust bundle cannot be read: PEM text holds no certificate"),
        (root.repeat(33), "trust bundle cannot be read: PEM text holds more than 32 certificates"),
        (
            " ".repeat(300_000),
            "trust bundle cannot be read: PEM text of 300000 bytes is larger than 262144",
        ),
    ] {
        assert_eq!(reason(&Bundle::from_pem(&text).unwrap_err()), expected);
    }
}
