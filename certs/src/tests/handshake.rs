//! Real rustls handshakes in memory, accepted and refused, in both directions.

use rustls::{CipherSuite, HandshakeKind, NamedGroup, crypto::aws_lc_rs};

use super::*;
use crate::{client_config_at, peer_identity, server_config_at};

fn clock(now: SystemTime) -> Arc<At> {
    Arc::new(At(now))
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

#[test]
fn a_client_refuses_a_server_of_another_authority() {
    let (ours, theirs) = (authority(), authority());
    let error = shake(
        client_config_at(&svid(&ours, &client()), &[web()], clock(start())),
        server_config_at(&svid(&theirs, &web()), clock(start())),
    )
    .unwrap_err();
    let text = reason(&error);
    assert!(
        text.starts_with(&format!(
            "certificate of {} was issued by `O=cluster.local, CN=Weft root",
            web()
        )),
        "{text}"
    );
}

#[test]
fn a_server_refuses_a_client_of_another_authority() {
    let (ours, theirs) = (authority(), authority());
    // The client trusts both, so that the refusal is the server's.
    let bundle = together(theirs.bundle(), ours.bundle());
    let own = svid(&theirs, &client());
    let chain = [own.chain_pem().remove(0), bundle.to_pem()];
    let key = KeyPair::from_pem(&own.key_pem()).unwrap();
    let stranger = Svid::from_pem(&client(), key, &chain, start()).unwrap();
    let error = shake(
        client_config_at(&stranger, &[web()], clock(start())),
        server_config_at(&svid(&ours, &web()), clock(start())),
    )
    .unwrap_err();
    let text = reason(&error);
    assert!(text.starts_with(&format!("certificate of {} was issued by", client())), "{text}");
}

#[test]
fn a_server_refuses_a_client_of_another_trust_domain_under_the_same_roots() {
    let foreign = TrustDomain::new("other.example").unwrap();
    let theirs = Authority::new(&foreign, start()).unwrap();
    let ours = authority();
    let both = ours.bundle().to_pem() + &theirs.bundle().to_pem();
    let ours = Authority::from_pem(ours.trust_domain(), &both, &ours.key_pem()).unwrap();
    let peer = identity("spiffe://other.example/ns/shop/sa/client");
    let own = svid(&theirs, &peer);
    let key = KeyPair::from_pem(&own.key_pem()).unwrap();
    let chain = [own.chain_pem().remove(0), ours.bundle().to_pem()];
    let peer = Svid::from_pem(&peer, key, &chain, start()).unwrap();
    let error = shake(
        client_config_at(&peer, &[web()], clock(start())),
        server_config_at(&svid(&ours, &web()), clock(start())),
    )
    .unwrap_err();
    assert_eq!(
        reason(&error),
        "peer is spiffe://other.example/ns/shop/sa/client, of another trust domain than ours, cluster.local"
    );
}

#[test]
fn an_expired_or_future_certificate_is_refused_by_either_side() {
    let ca = authority();
    let (early, late) = (start(), start() + 3 * DAY);
    let fresh = |id: &Identity| svid_from(&ca, id, late);
    let stale = |id: &Identity| svid_from(&ca, id, early);
    for (client_svid, server_svid, now, expected) in [
        (
            fresh(&client()),
            stale(&web()),
            late,
            "certificate of spiffe://cluster.local/ns/shop/sa/web expired",
        ),
        (
            stale(&client()),
            fresh(&web()),
            late,
            "certificate of spiffe://cluster.local/ns/shop/sa/client expired",
        ),
        (
            stale(&client()),
            fresh(&web()),
            early,
            "certificate of spiffe://cluster.local/ns/shop/sa/web is not valid before",
        ),
        (
            fresh(&client()),
            stale(&web()),
            early,
            "certificate of spiffe://cluster.local/ns/shop/sa/client is not valid before",
        ),
    ] {
        let error = shake(
            client_config_at(&client_svid, &[web()], clock(now)),
            server_config_at(&server_svid, clock(now)),
        )
        .unwrap_err();
        let text = reason(&error);
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn a_server_refuses_a_client_without_certificate() {
    let ca = authority();
    let proven = client_config_at(&svid(&ca, &client()), &[web()], clock(start()));
    let mut anonymous = (*proven).clone();
    anonymous.client_auth_cert_resolver = Arc::new(NoCertificate);
    let error = shake(Arc::new(anonymous), server_config_at(&svid(&ca, &web()), clock(start())))
        .unwrap_err();
    assert_eq!(error, rustls::Error::NoCertificatesPresented);
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn a_client_that_holds_a_certificate_but_not_its_key_is_refused() {
    let ca = authority();
    let (own, other) = (svid(&ca, &client()), svid(&ca, &client()));
    let mut thief = (*client_config_at(&other, &[web()], clock(start()))).clone();
    let stolen =
        rustls::sign::CertifiedKey::new(own.chain().to_vec(), other.certified().key.clone());
    thief.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(stolen));
    let error =
        shake(Arc::new(thief), server_config_at(&svid(&ca, &web()), clock(start()))).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("BadSignature"), "{text}");
}

/// Peers as others configure them: what each offers, and what comes of it.
#[test]
fn stock_peers_agree_on_a_suite_and_a_group_or_are_refused() {
    use aws_lc_rs::{cipher_suite as suite, kx_group as group};
    let ca = authority();
    let server = server_config_at(&svid(&ca, &web()), clock(start()));
    let own = client_config_at(&svid(&ca, &client()), &[web()], clock(start()));
    let aes = [suite::TLS13_AES_256_GCM_SHA384, suite::TLS13_AES_128_GCM_SHA256];
    let chacha = [suite::TLS13_CHACHA20_POLY1305_SHA256];
    for (suites, groups, expected) in [
        (
            &aes[..],
            vec![group::X25519, group::SECP256R1],
            Some((CipherSuite::TLS13_AES_128_GCM_SHA256, NamedGroup::X25519)),
        ),
        (
            &aes[..1],
            vec![group::SECP256R1],
            Some((CipherSuite::TLS13_AES_256_GCM_SHA384, NamedGroup::secp256r1)),
        ),
        (
            &aes[..],
            vec![group::X25519MLKEM768],
            Some((CipherSuite::TLS13_AES_128_GCM_SHA256, NamedGroup::X25519MLKEM768)),
        ),
        (&chacha[..], vec![group::X25519], None),
        (&aes[..], vec![group::SECP384R1], None),
    ] {
        let provider = rustls::crypto::CryptoProvider {
            cipher_suites: suites.to_vec(),
            kx_groups: groups,
            ..aws_lc_rs::default_provider()
        };
        let mut peer = ClientConfig::builder_with_details(Arc::new(provider), clock(start()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(crate::tls::server_proof(
                &svid(&ca, &client()),
                &[web()],
            ))
            .with_client_cert_resolver(own.client_auth_cert_resolver.clone());
        peer.alpn_protocols = vec![b"h2".to_vec()];
        let got = shake(Arc::new(peer), server.clone()).ok().map(|(c, _)| {
            let suite = c.negotiated_cipher_suite().unwrap().suite();
            (suite, c.negotiated_key_exchange_group().unwrap().name())
        });
        assert_eq!(got, expected);
    }
}

#[test]
fn no_session_is_ever_resumed() {
    let ca = authority();
    let client = client_config_at(&svid(&ca, &client()), &[web()], clock(start()));
    let server = server_config_at(&svid(&ca, &web()), clock(start()));
    for _ in 0..3 {
        let (c, s) = shake(client.clone(), server.clone()).unwrap();
        assert_eq!(c.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(s.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(c.tls13_tickets_received(), 0);
    }
}

#[test]
fn a_server_takes_no_other_protocol_than_h2() {
    let ca = authority();
    let mut other = (*client_config_at(&svid(&ca, &client()), &[web()], clock(start()))).clone();
    other.alpn_protocols = vec![b"http/1.1".to_vec()];
    let error =
        shake(Arc::new(other), server_config_at(&svid(&ca, &web()), clock(start()))).unwrap_err();
    assert_eq!(error, rustls::Error::NoApplicationProtocol);
}
