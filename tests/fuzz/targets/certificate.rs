//! Any bytes are a certificate that we can speak of, or refused; so are any as a root, and any text as a chain.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use weft_certs::{Bundle, Role, Summary, peer_identity, verify};

fuzz_target!(|bytes: &[u8]| {
    let der = CertificateDer::from(bytes);
    let _refused = peer_identity(std::slice::from_ref(&der));
    let _refused = Summary::of(&der);
    let body = STANDARD.encode(bytes);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    if let Ok(bundle) = Bundle::from_pem(&pem) {
        let now = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        // A root is an authority, so it never proves itself as a workload.
        verify(&[der], &bundle, Role::Server, now).expect_err("a CA is no leaf");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _refused = Bundle::from_pem(text);
    }
});
