use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use k8s_openapi::ByteString;

use super::*;

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(490_896)
}

fn secret(fields: &[(&str, &str)]) -> Secret {
    let data = fields
        .iter()
        .map(|(field, text)| ((*field).to_owned(), ByteString(text.as_bytes().to_vec())));
    Secret { data: Some(data.collect::<BTreeMap<_, _>>()), ..Secret::default() }
}

fn opened(fields: &[(&str, &str)]) -> Result<Authority, String> {
    let opened = Parts::of(&secret(fields))
        .and_then(|parts| parts.authority(&TrustDomain::default(), start()));
    opened.map_err(|error| crate::causes::chain(&error))
}

#[test]
fn both_kinds_of_secret_are_read_and_half_of_one_is_named() {
    let root = Authority::new(&TrustDomain::default(), start()).unwrap();
    let ca = root.issuing_ca(Duration::from_hours(24), start()).unwrap();
    let (own, key, roots) = (ca.certificate.as_str(), ca.key.as_str(), root.bundle().to_pem());
    let chain = format!("{own}{roots}");
    let cacerts = [
        ("ca-cert.pem", own),
        ("ca-key.pem", key),
        ("root-cert.pem", &roots),
        ("cert-chain.pem", &chain),
    ];
    let cert_manager = [("tls.crt", own), ("tls.key", key), ("ca.crt", roots.as_str())];
    for fields in [&cacerts[..], &cacerts[..3], &cert_manager] {
        let authority = opened(fields).unwrap();
        assert_eq!(authority.bundle(), root.bundle());
        assert_eq!(authority.not_after(), start() + Duration::from_hours(24));
    }
    for (fields, missing) in [
        (&cacerts[..2], "root-cert.pem"),
        (&cacerts[1..], "ca-cert.pem"),
        (&cert_manager[..2], "ca.crt"),
        (&cert_manager[1..], "tls.crt"),
        (&[], "tls.crt"),
    ] {
        assert_eq!(opened(fields).unwrap_err(), format!("it has no `{missing}`"));
    }
}

/// As `openssl ecparam -genkey` writes it: what PKCS#8 wraps.
fn sec1(key: &rcgen::KeyPair) -> String {
    let der = key.serialize_der();
    // A SEQUENCE of 107 bytes that begins with an INTEGER, the version.
    let at = der.windows(4).position(|bytes| bytes == [0x30, 0x6b, 0x02, 0x01]).unwrap();
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &der[at..]);
    format!("-----BEGIN EC PRIVATE KEY-----\n{text}\n-----END EC PRIVATE KEY-----\n")
}

#[test]
fn a_root_that_signs_leaves_itself_is_a_ca_too_with_its_key_in_pkcs_8_or_sec_1() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key).unwrap().pem();
    for key in [key.serialize_pem(), sec1(&key)] {
        opened(&[("tls.crt", &*root), ("tls.key", &key), ("ca.crt", &root)]).unwrap();
    }
}

#[test]
fn a_ca_that_signs_what_nobody_accepts_is_refused_and_says_why() {
    let domain = TrustDomain::default();
    let (root, other) =
        (Authority::new(&domain, start()).unwrap(), Authority::new(&domain, start()).unwrap());
    let ca = root.issuing_ca(Duration::from_hours(24), start()).unwrap();
    let (roots, others) = (root.bundle().to_pem(), other.bundle().to_pem());
    let with = |certificate: &str, key: &str, roots: &str| {
        opened(&[("tls.crt", certificate), ("tls.key", key), ("ca.crt", roots)]).unwrap_err()
    };
    assert!(with(&ca.certificate, &ca.key, &others).contains("which is none of ours"));
    assert!(with(&ca.certificate, &other.key_pem(), &roots).contains("the key given is not that"));
    assert!(with("rubbish", &ca.key, &roots).contains("holds no certificate"));
    assert!(with(&ca.certificate, "rubbish", &roots).contains("private key cannot be read"));
    assert!(with(&ca.certificate, &ca.key, "rubbish").starts_with("its roots cannot be used"));
}

#[test]
fn a_ca_is_under_each_root_that_alone_would_do() {
    let domain = TrustDomain::default();
    let root = || Authority::new(&domain, start()).unwrap();
    let (old, new, other) = (root(), root(), root());
    let ca = new.issuing_ca(Duration::from_hours(24), start()).unwrap();
    let cross = old.cross_sign(&new, start()).unwrap();
    let signers = |chain: &str, others: Option<&Bundle>| {
        let roots = new.bundle().to_pem();
        let fields = [
            ("ca-cert.pem", &*ca.certificate),
            ("ca-key.pem", &ca.key),
            ("root-cert.pem", &roots),
            ("cert-chain.pem", chain),
        ];
        Parts::of(&secret(&fields)).unwrap().signers(&domain, others, start())
    };
    let both = &old.bundle().names() | &new.bundle().names();
    let crossed = format!("{}{cross}", ca.certificate);
    assert_eq!(signers(&crossed, Some(old.bundle())), both);
    assert_eq!(signers(&crossed, Some(other.bundle())), new.bundle().names());
    assert_eq!(signers(&ca.certificate, Some(old.bundle())), new.bundle().names());
}
