//! A server that this node depends on: how it is proven, how it is told who asks, and the way there.

use std::{fs, io, path::PathBuf, time::Duration};

use tonic::{
    metadata::{AsciiMetadataValue, MetadataMap},
    transport::{self, Certificate, ClientTlsConfig, Endpoint},
};
use weft_certs::{Bundle, BundleError, NodeSvid};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// What the configuration says of a server.
#[derive(Clone, Debug)]
pub struct Remote {
    /// `https://host:port`.
    pub address: String,
    /// The name that its certificate must carry, where it is not the host's.
    pub server_name: Option<String>,
    /// PEM file of the roots that its certificate must chain to; read for every connection.
    pub root: PathBuf,
    /// File of the bearer token; read for every request. Without the file no token is sent.
    pub token: PathBuf,
    /// Sent with each request.
    pub cluster_id: String,
}

/// Why nothing can be asked of a server: by what the configuration says of it.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The roots that prove the server are not there.
    #[error("root certificates cannot be read from {}", .path.display())]
    RootFile {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// They are no roots.
    #[error("root certificates in {} are not usable", .path.display())]
    Roots {
        /// Where.
        path: PathBuf,
        /// Why.
        source: BundleError,
    },
    /// The address is not a URL, or the roots, the name or the proof are nothing for TLS.
    #[error("address `{address}` is not usable")]
    Address {
        /// What was configured.
        address: String,
        /// Why.
        source: transport::Error,
    },
    /// A token is not sent in clear text.
    #[error("address `{address}` is not https")]
    NotHttps {
        /// What was configured.
        address: String,
    },
    /// The token is there and cannot be read.
    #[error("token cannot be read from {}", .path.display())]
    TokenFile {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Tokens and cluster ids go into headers.
    #[error("{what} does not fit in a header")]
    Header {
        /// Which: never its value, it may be a secret.
        what: &'static str,
    },
}

impl Remote {
    /// What the roots' file holds.
    pub(crate) fn roots(&self) -> Result<String, RemoteError> {
        let path = &self.root;
        fs::read_to_string(path)
            .map_err(|source| RemoteError::RootFile { path: path.clone(), source })
    }

    /// The way there. `proof` is whom we prove to be.
    pub(crate) fn endpoint(
        &self,
        roots: &str,
        proof: Option<&NodeSvid>,
    ) -> Result<Endpoint, RemoteError> {
        // The TLS library passes over certificates that it cannot read, and would then trust nobody without
        // saying why.
        Bundle::from_pem(roots)
            .map_err(|source| RemoteError::Roots { path: self.root.clone(), source })?;
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots));
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        if let Some(svid) = proof {
            let key = svid.key_pem();
            tls = tls.identity(transport::Identity::from_pem(svid.chain_pem(), key.as_bytes()));
        }
        let failed = |source| RemoteError::Address { address: self.address.clone(), source };
        let endpoint = Endpoint::from_shared(self.address.clone()).map_err(failed)?;
        // To any other scheme the library would send the token in clear text, TLS settings or not.
        if endpoint.uri().scheme_str() != Some("https") {
            return Err(RemoteError::NotHttps { address: self.address.clone() });
        }
        Ok(endpoint
            .tls_config(tls)
            .map_err(failed)?
            .connect_timeout(CONNECT_WITHIN)
            .tcp_keepalive(Some(Duration::from_mins(5)))
            .tcp_keepalive_interval(Some(Duration::from_secs(75)))
            .tcp_keepalive_retries(Some(9))
            // One that vanished without a word is noticed in 40 s, not by the next request's timeout.
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10)))
    }

    /// Tells who asks. `proof` is what the connection was made with; without it the token is sent.
    pub(crate) fn headers(
        &self,
        proof: Option<&NodeSvid>,
        metadata: &mut MetadataMap,
    ) -> Result<(), RemoteError> {
        if proof.is_none()
            && let Some(token) = self.token()?
        {
            metadata.insert("authorization", token);
        }
        let cluster = AsciiMetadataValue::try_from(&self.cluster_id)
            .map_err(|_| RemoteError::Header { what: "cluster id" })?;
        metadata.insert("clusterid", cluster);
        Ok(())
    }

    /// Kubelet replaces a projected token well before it expires, so it is read each time.
    fn token(&self) -> Result<Option<AsciiMetadataValue>, RemoteError> {
        let path = &self.token;
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RemoteError::TokenFile { path: path.clone(), source }),
        };
        let mut value = AsciiMetadataValue::try_from(format!("Bearer {}", text.trim()))
            .map_err(|_| RemoteError::Header { what: "token" })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}
