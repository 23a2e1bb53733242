//! One request to a certificate service on the network, and the way there.

use std::time::Duration;

use tonic::{Request, transport::Channel};
use weft_certs::NodeSvid;
use weft_xds::proto::auth::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};

use super::error::ServiceError;
use crate::{config::Config, remote::Remote};

/// Where the certificate service is, and how it is proven and asked.
#[derive(Debug, Clone)]
pub struct CaSettings {
    pub remote: Remote,
    /// The life asked for.
    pub ttl: Duration,
}

impl CaSettings {
    /// Of the configuration; none where no certificate service is configured.
    pub fn of(config: &Config) -> Option<Self> {
        Some(Self {
            remote: Remote {
                address: config.ca.address.as_ref()?.as_str().to_owned(),
                server_name: config.ca.server_name.clone(),
                root: config.ca.root.clone(),
                token: config.ca.token.clone(),
                cluster_id: config.node.cluster_id.clone(),
            },
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
    remote: &Remote,
    channel: Channel,
    proof: Option<&NodeSvid>,
    asked: Asked,
) -> Result<Vec<String>, ServiceError> {
    let mut message = Request::new(IstioCertificateRequest {
        csr: asked.csr,
        validity_duration: i64::try_from(asked.ttl.as_secs()).unwrap_or(i64::MAX),
        metadata: asked.metadata,
    });
    remote.headers(proof, message.metadata_mut())?;
    let answer = IstioCertificateServiceClient::new(channel)
        .create_certificate(message)
        .await
        .map_err(|status| ServiceError::Refused {
            address: remote.address.clone(),
            subject: asked.subject,
            source: Box::new(status),
        })?;
    Ok(answer.into_inner().cert_chain)
}

/// Connects when it is first asked.
pub(super) fn connect(
    remote: &Remote,
    roots: &str,
    proof: Option<&NodeSvid>,
) -> Result<Channel, ServiceError> {
    Ok(remote.endpoint(roots, proof)?.connect_lazy())
}
