//! Any bytes are a certificate that we can speak of, or refused; so is any text as a chain.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;

fuzz_target!(|bytes: &[u8]| {
    let der = CertificateDer::from(bytes);
    let _refused = weft_certs::peer_identity(&[der]);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _refused = weft_certs::Bundle::from_pem(text);
    }
});
