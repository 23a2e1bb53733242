//! One request to a certificate service on the network, and the way there.

use std::{fs, io, path::PathBuf, time::Duration};

use tonic::{
    Request,
    metadata::{AsciiMetadataValue, MetadataMap},
    transport::{self, Certificate, Channel, ClientTlsConfig, Endpoint},
};
use weft_certs::{Bundle, NodeSvid};
use weft_xds::proto::auth::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};

use super::error::ServiceError;
use crate::config::Config;

/// Where the certificate service is, and how it is proven and asked.
#[derive(Debug, Clone)]
pub struct CaSettings {
    /// `https://host:port`.
    pub address: String,
    /// The name that its certificate must carry, where it is not the host's.
    pub server_name: Option<String>,
    /// PEM file of the roots that its certificate must chain to; read for every request.
    pub root: PathBuf,
    /// File of the bearer token; read for every request. Without the file no token is sent.
    pub token: PathBuf,
    /// Sent with each request.
    pub cluster_id: String,
    /// The life asked for.
    pub ttl: Duration,
}

impl CaSettings {
    /// Of the configuration; none where no certificate service is configured.
    pub fn of(config: &Config) -> Option<Self> {
        Some(Self {
            address: config.ca.address.as_ref()?.as_str().to_owned(),
            server_name: config.ca.server_name.clone(),
            root: config.ca.root.clone(),
            token: config.ca.token.clone(),
            cluster_id: config.node.cluster_id.clone(),
            ttl: config.ca.ttl,
        })
    }
}

/// What is asked of the service.
pub(super) struct Asked {
    pub(super) subject: String,
    pub(super) ttl: Duration,
    pub(super) metadata: Option<prost_types::Struct>,
    pub(super) csr: String,
}

/// One request. `proof` is what the channel was made with; without it the token is sent.
pub(super) async fn ask(
    settings: &CaSettings,
    channel: Channel,
    proof: Option<&NodeSvid>,
    asked: Asked,
) -> Result<Vec<String>, ServiceError> {
    let mut message = Request::new(IstioCertificateRequest {
        csr: asked.csr,
        validity_duration: i64::try_from(asked.ttl.as_secs()).unwrap_or(i64::MAX),
        metadata: asked.metadata,
    });
    headers(settings, proof, message.metadata_mut())?;
    let answer = IstioCertificateServiceClient::new(channel)
        .create_certificate(message)
        .await
        .map_err(|status| ServiceError::Refused {
            address: settings.address.clone(),
            subject: asked.subject,
            source: Box::new(status),
        })?;
    Ok(answer.into_inner().cert_chain)
}

pub(super) fn roots(settings: &CaSettings) -> Result<String, ServiceError> {
    let path = &settings.root;
    fs::read_to_string(path).map_err(|source| ServiceError::RootFile { path: path.clone(), source })
}

pub(super) fn connect(
    settings: &CaSettings,
    roots: &str,
    proof: Option<&NodeSvid>,
) -> Result<Channel, ServiceError> {
    // The TLS library passes over certificates that it cannot read, and would then trust nobody without
    // saying why.
    Bundle::from_pem(roots)
        .map_err(|source| ServiceError::Roots { path: settings.root.clone(), source })?;
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots));
    if let Some(name) = &settings.server_name {
        tls = tls.domain_name(name);
    }
    if let Some(svid) = proof {
        let key = svid.key_pem();
        tls = tls.identity(transport::Identity::from_pem(svid.chain_pem(), key.as_bytes()));
    }
    let failed = |source| ServiceError::Address { address: settings.address.clone(), source };
    let endpoint = Endpoint::from_shared(settings.address.clone()).map_err(failed)?;
    // To any other scheme the library would send the token in clear text, TLS settings or not.
    if endpoint.uri().scheme_str() != Some("https") {
        return Err(ServiceError::NotHttps { address: settings.address.clone() });
    }
    let endpoint = endpoint
        .tls_config(tls)
        .map_err(failed)?
        .connect_timeout(Duration::from_secs(5))
        // A peer that vanished is noticed before the next request, not by its timeout.
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    Ok(endpoint.connect_lazy())
}

fn headers(
    settings: &CaSettings,
    proof: Option<&NodeSvid>,
    metadata: &mut MetadataMap,
) -> Result<(), ServiceError> {
    if proof.is_none()
        && let Some(token) = token(settings)?
    {
        metadata.insert("authorization", token);
    }
    let cluster = AsciiMetadataValue::try_from(&settings.cluster_id)
        .map_err(|_| ServiceError::Header { what: "cluster id" })?;
    metadata.insert("clusterid", cluster);
    Ok(())
}

/// Kubelet replaces a projected token well before it expires, so it is read each time.
fn token(settings: &CaSettings) -> Result<Option<AsciiMetadataValue>, ServiceError> {
    let path = &settings.token;
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ServiceError::TokenFile { path: path.clone(), source }),
    };
    let mut value = AsciiMetadataValue::try_from(format!("Bearer {}", text.trim()))
        .map_err(|_| ServiceError::Header { what: "token" })?;
    value.set_sensitive(true);
    Ok(Some(value))
}
