//! Certificates to nodes: who calls, may it have that identity, and then the signature.
//!
//! Of the request's CSR nothing counts but its public key; the identity is the one that the metadata asks for
//! and that the index grants. A request that asks for none is answered with the node's own. Every request
//! ends in one audit line.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tonic::{Request, Response, Status};
use tracing::{info, warn};
use weft_certs::{LEAF_TTL, NodeIdentity, NodeLeaf};
use weft_model::Identity;
use weft_xds::proto::auth::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::IstioCertificateService,
};

use crate::{
    attest::Attestor, caller::Caller, causes::chain, clock, heard::Heard, mesh::Known,
    metrics::Metrics, signing::Signing,
};

mod asked;
mod denied;
mod quota;

use asked::{Asked, asked, trusted};
use denied::Denied;
use quota::{Node, Quotas, Share};

/// Shorter ones would be renewed faster than they spread.
const TTL_MIN: Duration = Duration::from_secs(10);
/// The most that a node's own certificate lives: as long can a node that is gone still ask.
const NODE_TTL: Duration = Duration::from_hours(1);

/// The certificate service.
#[derive(Debug)]
pub(crate) struct Certificates {
    known: Arc<Known>,
    attestor: Arc<Attestor>,
    signing: Signing,
    metrics: Arc<Metrics>,
    heard: Arc<Heard>,
    quotas: Mutex<Quotas>,
}

impl Certificates {
    pub(crate) fn new(
        known: Arc<Known>,
        attestor: Arc<Attestor>,
        signing: Signing,
        metrics: Arc<Metrics>,
        heard: Arc<Heard>,
    ) -> Self {
        Self { known, attestor, signing, metrics, heard, quotas: Mutex::default() }
    }

    fn issue(
        &self,
        caller: &Caller,
        request: &IstioCertificateRequest,
        audit: &mut Audit,
        now: SystemTime,
    ) -> Result<Vec<String>, Denied> {
        let node = || caller.node.to_string();
        let asks = Node::from(caller);
        if self.quotas().take(&asks, now) == Share::Exceeded {
            return Err(Denied::TooOften { node: node() });
        }
        let trusts = trusted(request)?;
        // Before its word is taken: a node that is gone must not speak for the one that has its name now.
        self.known.index().is_there(caller)?;
        self.heard.note(&caller.node, trusts, now);
        match asked(request)? {
            Asked::Node => {
                let domain = self.known.index().mesh().trust_domain.clone();
                let own = NodeIdentity::new(domain, &caller.node, caller.uid.as_deref())?;
                audit.identity = own.to_string();
                let ttl = ttl(request, NODE_TTL);
                Ok(self.signing.current()?.issue_node(&request.csr, &own, ttl, now)?)
            }
            Asked::Workload { identity, pods } => {
                let identity: Identity = identity.parse()?;
                self.known.index().entitled(caller, &identity, &pods)?;
                let ttl = ttl(request, LEAF_TTL);
                let chain = self.signing.current()?.issue(&request.csr, &identity, ttl, now)?;
                if self.quotas().hold(&asks, &identity, now + ttl, now) == Share::Exceeded {
                    return Err(Denied::TooMany { node: node() });
                }
                Ok(chain)
            }
        }
    }

    fn quotas(&self) -> MutexGuard<'_, Quotas> {
        self.quotas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The identity that is asked for, empty for a node's own.
fn claimed(request: &IstioCertificateRequest) -> String {
    match asked(request) {
        Ok(Asked::Workload { identity, .. }) => crate::escape::shown(identity),
        Ok(Asked::Node) | Err(_) => String::new(),
    }
}

fn ttl(request: &IstioCertificateRequest, max: Duration) -> Duration {
    match u64::try_from(request.validity_duration) {
        Ok(0) | Err(_) => max,
        Ok(seconds) => Duration::from_secs(seconds).clamp(TTL_MIN, max),
    }
}

/// What is known of a request for its audit line.
struct Audit {
    node: String,
    identity: String,
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let now = clock::now();
        let peer = request.remote_addr();
        // Also of whom nobody knows, and of what is refused unread.
        let mut audit = Audit { node: String::new(), identity: claimed(request.get_ref()) };
        let leaf = request.extensions().get::<NodeLeaf>();
        let caller = self.attestor.caller(leaf, request.metadata(), now).await;
        let issued = caller.map_err(Denied::from).and_then(|caller| {
            audit.node = caller.node.to_string();
            self.issue(&caller, request.get_ref(), &mut audit, now)
        });
        match issued {
            Ok(cert_chain) => {
                self.metrics.issued();
                info!(?peer, node = audit.node, identity = audit.identity, "certificate issued");
                Ok(Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err(denied) => {
                let reason = denied.reason();
                self.metrics.denied(reason);
                let error = chain(&denied);
                warn!(
                    ?peer,
                    node = audit.node,
                    identity = audit.identity,
                    reason = reason.label(),
                    error,
                    "certificate denied"
                );
                Err(denied.status())
            }
        }
    }
}
