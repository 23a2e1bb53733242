//! rustls configurations for the tunnel, made from an [`Svid`]; who the peer is after the handshake.

use std::{error::Error, net::Ipv4Addr, sync::Arc, time::SystemTime};

use rustls::{
    CertificateError as TlsCertificateError, ClientConfig, DigitallySignedStruct,
    DistinguishedName, Error as TlsError, OtherError, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::SingleCertAndKey,
    time_provider::{DefaultTimeProvider, TimeProvider},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use weft_model::{Identity, TrustDomain};

use crate::{
    bundle::Bundle,
    certificate::Leaf,
    svid::Svid,
    time::system,
    verify::{VerifyError, algorithms, verify_client, verify_server},
};

const BAD_PROVIDER: &str = "the provider below has TLS 1.3 suites and groups";

/// A client that proves itself with `svid` and talks only to one of `expected`.
///
/// Dial with [`server_name`]. Cache it for each (`svid`, `expected`): making one is some microseconds.
pub fn client_config(svid: &Svid, expected: &[Identity]) -> Arc<ClientConfig> {
    client_config_at(svid, expected, Arc::new(DefaultTimeProvider))
}

/// [`client_config`] with another clock than the system's.
pub fn client_config_at(
    svid: &Svid,
    expected: &[Identity],
    clock: Arc<dyn TimeProvider>,
) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&TLS13])
        .expect(BAD_PROVIDER)
        .dangerous()
        .with_custom_certificate_verifier(server_proof(svid, expected))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(svid.certified().clone())));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    // Off, on both sides. A resumed TLS 1.3 session skips the certificate check: rustls keeps the peer's
    // certificates of the first handshake and looks neither at their expiry nor at roots that are gone
    // since. Binding a ticket to (source, expected) is easy, since a config is made for each pair; bounding
    // it by expiry and by the bundle is not possible through rustls' API without checking the whole chain
    // again after each handshake. Pooled tunnels make handshakes rare, so it would gain little here.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// A server that proves itself with `svid` and takes only clients of its own trust domain.
pub fn server_config(svid: &Svid) -> Arc<ServerConfig> {
    server_config_at(svid, Arc::new(DefaultTimeProvider))
}

/// [`server_config`] with another clock than the system's.
pub fn server_config_at(svid: &Svid, clock: Arc<dyn TimeProvider>) -> Arc<ServerConfig> {
    let verifier = ClientProof {
        bundle: svid.bundle().clone(),
        own: svid.identity().trust_domain().clone(),
        verify: |chain, bundle, own, now| {
            verify_client(chain, bundle, own, now).map(drop).map_err(refused)
        },
        unproven: Unproven::Refused,
    };
    let mut config = ServerConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&TLS13])
        .expect(BAD_PROVIDER)
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(svid.certified().clone())));
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A stock ztunnel offers AES-256 first; AES-128-GCM is as safe here and cheaper.
    config.ignore_client_order = true;
    // No resumption: see `client_config_at`.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// The name to dial with. It is not sent (no SNI) and not verified: the expected identities are.
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into())
}

/// Who the peer of a finished handshake is: its leaf was verified, this only reads it again.
pub fn peer_identity(certificates: &[CertificateDer<'_>]) -> Result<Identity, VerifyError> {
    let leaf = certificates.first().ok_or(VerifyError::NoCertificate)?;
    Ok(Leaf::from_der(leaf)?.identity().clone())
}

/// AES-GCM only: a stock ztunnel has no `ChaCha20`, and AES-128 is the fastest here. Post-quantum first.
fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::{cipher_suite, kx_group};
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
}

pub(crate) fn server_proof(svid: &Svid, expected: &[Identity]) -> Arc<ServerProof> {
    Arc::new(ServerProof { bundle: svid.bundle().clone(), expected: expected.into() })
}

/// Accepts a server that proves one of the expected identities.
#[derive(Debug)]
pub(crate) struct ServerProof {
    bundle: Bundle,
    expected: Box<[Identity]>,
}

impl ServerCertVerifier for ServerProof {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let chain = chain(end_entity, intermediates);
        verify_server(&chain, &self.bundle, &self.expected, system(now)).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Accepts a client whose chain `verify` accepts.
#[derive(Debug)]
pub(crate) struct ClientProof {
    pub(crate) bundle: Bundle,
    /// The server's own trust domain.
    pub(crate) own: TrustDomain,
    pub(crate) verify: VerifyChain,
    pub(crate) unproven: Unproven,
}

/// Of a client's chain, leaf first, by these roots and for this trust domain.
pub(crate) type VerifyChain =
    fn(&[CertificateDer<'_>], &Bundle, &TrustDomain, SystemTime) -> Result<(), TlsError>;

/// What becomes of a client that sends no certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unproven {
    Refused,
    /// A stranger, until something else says who it is.
    Accepted,
}

impl ClientCertVerifier for ClientProof {
    fn client_auth_mandatory(&self) -> bool {
        self.unproven == Unproven::Refused
    }

    /// None: a client has one certificate, and hints would tell a stranger our CA's name.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let chain = chain(end_entity, intermediates);
        (self.verify)(&chain, &self.bundle, &self.own, system(now))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

fn chain<'a>(
    end_entity: &'a CertificateDer<'_>,
    intermediates: &'a [CertificateDer<'_>],
) -> Vec<CertificateDer<'a>> {
    let all = std::iter::once(end_entity).chain(intermediates);
    all.map(|c| CertificateDer::from(c.as_ref())).collect()
}

/// Our own error inside rustls', so that whoever logs the handshake's failure can name the peer.
pub(crate) fn refused(error: impl Error + Send + Sync + 'static) -> TlsError {
    TlsError::InvalidCertificate(TlsCertificateError::Other(OtherError(Arc::new(error))))
}

fn only_tls13() -> TlsError {
    TlsError::General("a TLS 1.2 signature where only TLS 1.3 is negotiated".to_owned())
}
