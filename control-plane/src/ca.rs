//! Certificates to nodes: who calls, may it have that identity, and then the signature.
//!
//! Of the request's CSR nothing counts but its public key; the identity is the one that the metadata asks for
//! and that the index grants. Every request ends in one audit line.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tonic::{Code, Request, Response, Status};
use tracing::{info, warn};
use weft_certs::{Authority, IssueError};
use weft_model::{Identity, NameError};
use weft_xds::proto::auth::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::IstioCertificateService,
};

use crate::{
    clock,
    escape::shown,
    index::NotEntitled,
    mesh::Known,
    metrics::Metrics,
    token::{TokenError, Tokens},
};

mod rate;

use rate::Bucket;

/// What a node gets that does not say how long, and the most that it gets.
const TTL: Duration = Duration::from_hours(24);
/// Shorter ones would be renewed faster than they spread.
const TTL_MIN: Duration = Duration::from_secs(10);

/// Why a certificate was denied. The caller learns the kind, the audit line all of it.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("node {node} asks too often")]
    TooOften { node: String },
    #[error("the request names no `ImpersonatedIdentity`")]
    NoIdentity,
    #[error(transparent)]
    BadIdentity(#[from] NameError),
    #[error(transparent)]
    NotEntitled(#[from] NotEntitled),
    #[error("the request cannot be signed")]
    Issue(#[from] IssueError),
}

impl Denied {
    fn code(&self) -> Code {
        match self {
            Self::Token(_) => Code::Unauthenticated,
            Self::TooOften { .. } => Code::ResourceExhausted,
            Self::NoIdentity | Self::BadIdentity(_) | Self::Issue(_) => Code::InvalidArgument,
            Self::NotEntitled(_) => Code::PermissionDenied,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::NotEntitled(_) => "this node may not have that identity".to_owned(),
            Self::Token(_)
            | Self::TooOften { .. }
            | Self::NoIdentity
            | Self::BadIdentity(_)
            | Self::Issue(_) => described(self),
        }
    }
}

fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The certificate service.
#[derive(Debug)]
pub(crate) struct Certificates {
    known: Arc<Known>,
    tokens: Arc<Tokens>,
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    /// By node. Only nodes with a valid token get here, so there are no more than nodes.
    rates: Mutex<HashMap<String, Bucket>>,
}

impl Certificates {
    pub(crate) fn new(
        known: Arc<Known>,
        tokens: Arc<Tokens>,
        authority: Arc<Authority>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { known, tokens, authority, metrics, rates: Mutex::default() }
    }

    fn issue(
        &self,
        caller: Result<crate::token::Caller, TokenError>,
        request: &IstioCertificateRequest,
        audit: &mut Audit,
        now: SystemTime,
    ) -> Result<Vec<String>, Denied> {
        let node = caller?.node;
        audit.node.clone_from(&node);
        let asked = asked_identity(request).ok_or(Denied::NoIdentity)?;
        audit.identity = shown(asked);
        if !self.within_rate(&node, now) {
            return Err(Denied::TooOften { node });
        }
        let identity: Identity = asked.parse()?;
        self.known.index().entitled(&node, &identity)?;
        let ttl = match u64::try_from(request.validity_duration) {
            Ok(0) | Err(_) => TTL,
            Ok(seconds) => Duration::from_secs(seconds).clamp(TTL_MIN, TTL),
        };
        Ok(self.authority.issue(&request.csr, &identity, ttl, now)?)
    }

    fn within_rate(&self, node: &str, now: SystemTime) -> bool {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.entry(node.to_owned()).or_insert_with(|| Bucket::full(now)).take(now)
    }
}

/// What is known of a request for its audit line.
#[derive(Default)]
struct Audit {
    node: String,
    identity: String,
}

fn asked_identity(request: &IstioCertificateRequest) -> Option<&str> {
    let value = request.metadata.as_ref()?.fields.get("ImpersonatedIdentity")?;
    match value.kind.as_ref()? {
        prost_types::value::Kind::StringValue(identity) => Some(identity),
        prost_types::value::Kind::NullValue(_)
        | prost_types::value::Kind::NumberValue(_)
        | prost_types::value::Kind::BoolValue(_)
        | prost_types::value::Kind::StructValue(_)
        | prost_types::value::Kind::ListValue(_) => None,
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let now = clock::now();
        let caller = self.tokens.caller(request.metadata(), now);
        let peer = request.remote_addr();
        let mut audit = Audit::default();
        match self.issue(caller, request.get_ref(), &mut audit, now) {
            Ok(cert_chain) => {
                self.metrics.issued();
                info!(?peer, node = audit.node, identity = audit.identity, "certificate issued");
                Ok(Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err(denied) => {
                self.metrics.denied();
                let reason = described(&denied);
                warn!(
                    ?peer,
                    node = audit.node,
                    identity = audit.identity,
                    reason,
                    "certificate denied"
                );
                Err(Status::new(denied.code(), denied.message()))
            }
        }
    }
}
