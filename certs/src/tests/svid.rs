//! What a CA, or the disk, must give for a document to be one.

use super::*;

fn answer(ca: &Authority, key: &KeyPair) -> Vec<String> {
    ca.issue(&key.request(&web()).unwrap(), &web(), DAY, start()).unwrap()
}

fn refused(chain: &[String], key: KeyPair, now: SystemTime) -> String {
    reason(&Svid::from_pem(&web(), key, chain, now).unwrap_err())
}

#[test]
fn a_document_survives_being_written_and_read() {
    let ca = authority();
    let first = svid(&ca, &web());
    let key = KeyPair::from_pem(&first.key_pem()).unwrap();
    let again = Svid::from_pem(&web(), key, &first.chain_pem(), start()).unwrap();
    assert_eq!(again.chain(), first.chain());
    assert_eq!(again.key_pem(), first.key_pem());
    assert_eq!(again.bundle(), first.bundle());
    assert_eq!((again.not_before(), again.not_after()), (first.not_before(), first.not_after()));
    assert_eq!(first.not_after(), start() + DAY);
}

#[test]
fn leaf_and_intermediates_may_come_in_one_text() {
    let ca = authority();
    let key = KeyPair::generate().unwrap();
    let chain = answer(&ca, &key);
    let merged = vec![format!("{}{}", chain[0], chain[1]), chain[1].clone()];
    assert_eq!(Svid::from_pem(&web(), key, &merged, start()).unwrap().chain().len(), 2);
}

#[test]
fn an_answer_that_peers_would_refuse_is_refused_first() {
    let ca = authority();
    let make = || {
        let key = KeyPair::generate().unwrap();
        (answer(&ca, &key), key)
    };
    let (chain, key) = make();
    assert_eq!(
        refused(&chain[..1], key, start()),
        "certificate chain for spiffe://cluster.local/ns/shop/sa/web has 1 parts, without a root certificate"
    );
    let (_, key) = make();
    assert_eq!(
        refused(&[], key, start()),
        "certificate chain for spiffe://cluster.local/ns/shop/sa/web has 0 parts, without a root certificate"
    );
    let (chain, _) = make();
    assert_eq!(
        refused(&chain, KeyPair::generate().unwrap(), start()),
        "certificate for spiffe://cluster.local/ns/shop/sa/web is not for this private key"
    );
    let (chain, key) = make();
    assert_eq!(
        refused(&chain, key, start() + DAY + Duration::from_secs(1)),
        "certificate for spiffe://cluster.local/ns/shop/sa/web would be refused by peers: certificate of \
         spiffe://cluster.local/ns/shop/sa/web expired at 2026-01-02T00:00:00Z, and it is 2026-01-02T00:00:01Z"
    );
    let (chain, key) = make();
    let foreign = [chain[0].clone(), authority().bundle().to_pem()];
    assert!(refused(&foreign, key, start()).ends_with("which is none of ours"));
    let (chain, key) = make();
    let other = identity("spiffe://cluster.local/ns/shop/sa/other");
    let error = Svid::from_pem(&other, key, &chain, start()).unwrap_err();
    assert_eq!(error.to_string(), format!("certificate is of {}, asked for {other}", web()));
    let (chain, key) = make();
    assert_eq!(
        refused(&["rubbish".to_owned(), chain[1].clone()], key, start()),
        "certificate chain for spiffe://cluster.local/ns/shop/sa/web cannot be read: PEM text holds no certificate"
    );
    let (chain, key) = make();
    assert!(
        refused(&[chain[0].clone(), chain[0].clone()], key, start()).ends_with("is not a CA's")
    );
}

#[test]
fn nothing_of_a_key_is_shown() {
    let own = svid(&authority(), &web());
    let secret = own.key_pem();
    let line = secret.lines().nth(1).unwrap();
    let text = format!("{own:?}");
    assert!(!text.contains(line) && text.contains("KeyPair(secret)"), "{text}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_readers_panic(text in ".{0,400}", bytes in proptest::collection::vec(0u8..=255, 0..400)) {
        let _ = KeyPair::from_pem(&text);
        let _ = Bundle::from_pem(&text);
        let der = rustls_pki_types::CertificateDer::from(bytes.clone());
        let _ = crate::Leaf::from_der(&der);
        let _ = crate::Summary::of(&der);
        let framed = crate::pem::encode("CERTIFICATE REQUEST", &bytes);
        let _ = authority_once().issue(&framed, &web(), DAY, start());
        let framed = crate::pem::encode("CERTIFICATE", &bytes);
        let _ = Bundle::from_pem(&framed);
        let framed = crate::pem::encode("PRIVATE KEY", &bytes);
        let _ = KeyPair::from_pem(&framed);
    }
}

fn authority_once() -> &'static Authority {
    static ONE: std::sync::OnceLock<Authority> = std::sync::OnceLock::new();
    ONE.get_or_init(authority)
}
