//! The TLS of the control plane: known by its names to all, and nodes by their certificates.

use std::sync::Arc;

use rustls::{
    CertificateError as TlsCertificateError, DigitallySignedStruct, DistinguishedName,
    Error as TlsError, OtherError, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{aws_lc_rs, verify_tls13_signature},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use weft_model::TrustDomain;

use crate::{
    authority::ServerCertificate,
    bundle::Bundle,
    node::verify_node,
    pem::{self, PemError},
    time::system,
    verify::{CHAIN_CERTS_MAX, algorithms},
};

/// A server with that certificate. A client may prove that it is a node of `own`; one that sends a certificate
/// that does not prove it is refused, one that sends none is a stranger until a token says otherwise.
pub fn node_server_config(
    certificate: &ServerCertificate,
    bundle: &Bundle,
    own: &TrustDomain,
) -> Result<Arc<ServerConfig>, NodeServerError> {
    let chain = pem::certificates(&certificate.certificate, CHAIN_CERTS_MAX)?;
    let key = certificate.key.der();
    let key = PrivateKeyDer::Pkcs8(key.secret_der().to_vec().into());
    let proof = NodeProof { bundle: bundle.clone(), own: own.clone() };
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(proof))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip the check of the certificate: see `client_config_at`.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Why a server cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NodeServerError {
    /// Its certificate is not readable.
    #[error("the server's certificate cannot be read")]
    Pem(#[from] PemError),
    /// TLS does not take it.
    #[error("the server's certificate cannot be used")]
    Tls(#[from] TlsError),
}

/// Accepts who proves to be a node, and who proves nothing.
#[derive(Debug)]
struct NodeProof {
    bundle: Bundle,
    own: TrustDomain,
}

impl ClientCertVerifier for NodeProof {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: a node has one certificate, and a list of roots would only tell strangers about us.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let all = std::iter::once(end_entity).chain(intermediates);
        let chain: Vec<_> = all.map(|c| CertificateDer::from(c.as_ref())).collect();
        verify_node(&chain, &self.bundle, &self.own, system(now)).map_err(|error| {
            TlsError::InvalidCertificate(TlsCertificateError::Other(OtherError(Arc::new(error))))
        })?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("a TLS 1.2 signature where only TLS 1.3 is negotiated".to_owned()))
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
