//! The TLS of the control plane: known by its names to all, and nodes by their certificates.

use std::sync::Arc;

use rustls::{
    Error as TlsError, ServerConfig, crypto::aws_lc_rs, server::NoServerSessionStorage,
    version::TLS13,
};
use rustls_pki_types::PrivateKeyDer;
use weft_model::TrustDomain;

use crate::{
    authority::ServerCertificate,
    bundle::Bundle,
    node::verify_node,
    pem::{self, PemError},
    tls::{ClientProof, Unproven, refused},
    verify::CHAIN_CERTS_MAX,
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
    let proof = ClientProof {
        bundle: bundle.clone(),
        own: own.clone(),
        verify: |chain, bundle, own, now| {
            verify_node(chain, bundle, own, now).map(drop).map_err(refused)
        },
        unproven: Unproven::Accepted,
    };
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
