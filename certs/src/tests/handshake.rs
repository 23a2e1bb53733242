//! Real rustls handshakes in memory, accepted and refused, in both directions.

use std::{error::Error as _, sync::Arc, time::SystemTime};

use rustls::{CipherSuite, NamedGroup};

use super::*;
use crate::{client_config_at, peer_identity, server_config_at};

fn clock(now: SystemTime) -> Arc<At> {
    Arc::new(At(now))
}

/// Who refused, and the whole chain of its reasons.
fn reason(error: &rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error else {
        return error.to_string();
    };
    let mut text = other.0.to_string();
    let mut cause = other.0.source();
    while let Some(c) = cause {
        text = format!("{text}: {c}");
        cause = c.source();
    }
    text
}

#[test]
fn two_workloads_of_one_authority_prove_themselves_to_each_other() {
    let ca = authority();
    let (c, s) = shake(
        client_config_at(&svid(&ca, &client()), &[web()], clock(start())),
        server_config_at(&svid(&ca, &web()), clock(start())),
    )
    .unwrap();
    assert_eq!(peer_identity(c.peer_certificates().unwrap()).unwrap(), web());
    assert_eq!(peer_identity(s.peer_certificates().unwrap()).unwrap(), client());
    assert_eq!(c.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(s.server_name(), None);
}

#[test]
fn a_handshake_is_post_quantum_and_aes_128_in_tls_1_3() {
    let ca = authority();
    let (c, s) = shake(
        client_config_at(&svid(&ca, &client()), &[web()], clock(start())),
        server_config_at(&svid(&ca, &web()), clock(start())),
    )
    .unwrap();
    for (version, suite, group) in [
        (c.protocol_version(), c.negotiated_cipher_suite(), c.negotiated_key_exchange_group()),
        (s.protocol_version(), s.negotiated_cipher_suite(), s.negotiated_key_exchange_group()),
    ] {
        assert_eq!(version, Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(suite.unwrap().suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(group.unwrap().name(), NamedGroup::X25519MLKEM768);
    }
}

#[test]
fn a_client_refuses_a_server_that_is_not_the_one_it_expects() {
    let ca = authority();
    let other = identity("spiffe://cluster.local/ns/shop/sa/other");
    let error = shake(
        client_config_at(&svid(&ca, &client()), &[web()], clock(start())),
        server_config_at(&svid(&ca, &other), clock(start())),
    )
    .unwrap_err();
    assert_eq!(reason(&error), format!("peer is {other}, expected {}", web()));
}
