//! Any bytes are a request that the CA signs for the identity it was told, and nothing else, or refused.
#![no_main]

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use libfuzzer_sys::fuzz_target;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use weft_certs::{Authority, Role, verify};
use weft_model::{Identity, TrustDomain};

fuzz_target!(|bytes: &[u8]| {
    static AUTHORITY: OnceLock<(Authority, Identity)> = OnceLock::new();
    let now: SystemTime = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    let (authority, identity) = AUTHORITY.get_or_init(|| {
        let authority = Authority::new(&TrustDomain::default(), now).expect("randomness");
        (authority, "spiffe://cluster.local/ns/shop/sa/web".parse().expect("an identity"))
    });
    let body = STANDARD.encode(bytes);
    let pem =
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
    let Ok(chain) = authority.issue(&pem, identity, Duration::from_secs(60), now) else { return };
    let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).expect("a CA answers in PEM");
    let proven = verify(&[leaf], authority.bundle(), Role::Client, now).expect("its own leaf");
    assert_eq!(proven.identity(), identity);
});
