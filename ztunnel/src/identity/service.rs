//! The CA on the network: any `IstioCertificateService`.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tonic::{
    Request,
    metadata::{AsciiMetadataValue, MetadataMap},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use weft_certs::Bundle;
use weft_model::Identity;
use weft_xds::proto::auth::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};

use super::{CertificateSource, error::ServiceError};
use crate::config::Config;

/// What a node says that it asks on behalf of another identity than its own.
const IMPERSONATED: &str = "ImpersonatedIdentity";

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

/// A client of the certificate service. Connects when it is first asked.
#[derive(Debug)]
pub struct CertificateService {
    settings: Option<CaSettings>,
    connection: Mutex<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    /// What the roots' file held when it was made.
    roots: String,
    channel: Channel,
}

impl CertificateService {
    /// Without settings every request is refused: such a node carries plain text only.
    pub fn new(settings: Option<CaSettings>) -> Self {
        Self { settings, connection: Mutex::new(None) }
    }

    /// The connection, made anew when the roots' file changed since: a root is rotated without a restart.
    ///
    /// The file is read for each request. There is one request an identity in twelve hours, so watching
    /// the file would be more work, and could miss a change.
    fn channel(&self, settings: &CaSettings) -> Result<Channel, ServiceError> {
        let path = &settings.root;
        let roots = fs::read_to_string(path)
            .map_err(|source| ServiceError::RootFile { path: path.clone(), source })?;
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*connection
            && made.roots == roots
        {
            return Ok(made.channel.clone());
        }
        let channel = connect(settings, &roots)?;
        *connection = Some(Connection { roots, channel: channel.clone() });
        Ok(channel)
    }
}

impl CertificateSource for CertificateService {
    async fn sign(
        &self,
        identity: &Identity,
        request: String,
    ) -> Result<Vec<String>, ServiceError> {
        let settings = self.settings.as_ref().ok_or(ServiceError::NotConfigured)?;
        let channel = self.channel(settings)?;
        let mut message = Request::new(IstioCertificateRequest {
            csr: request,
            validity_duration: i64::try_from(settings.ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(impersonating(identity)),
        });
        headers(settings, message.metadata_mut())?;
        let answer = IstioCertificateServiceClient::new(channel)
            .create_certificate(message)
            .await
            .map_err(|status| ServiceError::Refused {
                address: settings.address.clone(),
                identity: identity.clone(),
                source: Box::new(status),
            })?;
        Ok(answer.into_inner().cert_chain)
    }
}

fn connect(settings: &CaSettings, roots: &str) -> Result<Channel, ServiceError> {
    // The TLS library passes over certificates that it cannot read, and would then trust nobody without
    // saying why.
    Bundle::from_pem(roots)
        .map_err(|source| ServiceError::Roots { path: settings.root.clone(), source })?;
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots));
    if let Some(name) = &settings.server_name {
        tls = tls.domain_name(name);
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

fn headers(settings: &CaSettings, metadata: &mut MetadataMap) -> Result<(), ServiceError> {
    if let Some(token) = token(settings)? {
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

fn impersonating(identity: &Identity) -> prost_types::Struct {
    use prost_types::{Struct, Value, value::Kind};
    let value = Value { kind: Some(Kind::StringValue(identity.to_string())) };
    Struct { fields: [(IMPERSONATED.to_owned(), value)].into() }
}
