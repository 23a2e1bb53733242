//! The CA on the network: any `IstioCertificateService`.

use std::sync::{Arc, Mutex, PoisonError};

use tonic::transport::Channel;
use weft_certs::NodeSvid;
use weft_model::Identity;

use super::{
    CertificateSource,
    ask::{Asked, CaSettings, ask, connect},
    error::ServiceError,
    node::NodeCertificate,
};
use crate::remote::Remote;

/// What a node says that it asks on behalf of another identity than its own.
const IMPERSONATED: &str = "ImpersonatedIdentity";
/// For which of its pods a node asks, by their uids.
const PODS: &str = "WeftPodUids";

/// A client of the certificate service. Connects when it is first asked.
#[derive(Debug)]
pub struct CertificateService {
    settings: Option<CaSettings>,
    node: NodeCertificate,
    connection: Mutex<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    /// What the roots' file held when it was made.
    roots: String,
    /// What the node proved itself with.
    proof: Option<Arc<NodeSvid>>,
    channel: Channel,
}

impl Connection {
    fn is_of(&self, roots: &str, proof: Option<&Arc<NodeSvid>>) -> bool {
        let same = match (&self.proof, proof) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same && self.roots == roots
    }
}

impl CertificateService {
    /// Without settings every request is refused: such a node carries plain text only.
    pub fn new(settings: Option<CaSettings>, node: NodeCertificate) -> Self {
        Self { settings, node, connection: Mutex::new(None) }
    }

    /// The connection, made anew when the roots' file or the node's certificate changed since: a root is
    /// rotated without a restart.
    ///
    /// The file is read for each request. There is one request an identity in twelve hours, so watching
    /// the file would be more work, and could miss a change.
    fn channel(
        &self,
        remote: &Remote,
        proof: Option<&Arc<NodeSvid>>,
    ) -> Result<Channel, ServiceError> {
        let roots = remote.roots()?;
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*connection
            && made.is_of(&roots, proof)
        {
            return Ok(made.channel.clone());
        }
        let channel = connect(remote, &roots, proof.map(AsRef::as_ref))?;
        *connection = Some(Connection { roots, proof: proof.cloned(), channel: channel.clone() });
        Ok(channel)
    }
}

impl CertificateSource for CertificateService {
    async fn sign(
        &self,
        identity: &Identity,
        pods: Vec<Arc<str>>,
        request: String,
    ) -> Result<Vec<String>, ServiceError> {
        let settings = self.settings.as_ref().ok_or(ServiceError::NotConfigured)?;
        let proof = self.node.current().await;
        let channel = self.channel(&settings.remote, proof.as_ref())?;
        // Only ours takes the uids; a stock service is sent what a stock node sends.
        let pods = if proof.is_some() { pods } else { Vec::new() };
        let asked = Asked {
            subject: identity.to_string(),
            ttl: settings.ttl,
            metadata: Some(impersonating(identity, &pods)),
            csr: request,
        };
        let answer = ask(&settings.remote, channel, proof.as_deref(), asked).await;
        if let (Err(ServiceError::Refused { source, .. }), Some(svid)) = (&answer, &proof) {
            self.node.failed(svid, source);
        }
        answer
    }
}

fn impersonating(identity: &Identity, pods: &[Arc<str>]) -> prost_types::Struct {
    use prost_types::{ListValue, Struct, Value, value::Kind};
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let mut metadata = Struct::default();
    metadata.fields.insert(IMPERSONATED.to_owned(), text(&identity.to_string()));
    if !pods.is_empty() {
        let values = pods.iter().map(|pod| text(pod)).collect();
        let list = Value { kind: Some(Kind::ListValue(ListValue { values })) };
        metadata.fields.insert(PODS.to_owned(), list);
    }
    metadata
}
