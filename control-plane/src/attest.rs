//! Proof of who calls: the certificate of a node, else a bearer token.

use std::{sync::Arc, time::SystemTime};

use tonic::{Status, metadata::MetadataMap};
use weft_certs::NodeLeaf;

use crate::{
    caller::Caller,
    metrics::DenialReason,
    review::{ReviewError, Reviewer},
    token::{TokenError, Tokens},
};

/// Why a caller is a stranger. What it is told says less than what is logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stranger {
    #[error("neither a node's certificate nor a bearer token was sent")]
    NoProof,
    #[error("the certificate of node {node} has expired")]
    Expired { node: Arc<str> },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Review(#[from] ReviewError),
}

impl Stranger {
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::NoProof | Self::Expired { .. } | Self::Token(_) => {
                Status::unauthenticated(self.to_string())
            }
            Self::Review(ReviewError::Refused(_)) => {
                Status::permission_denied("this token gives nothing here")
            }
            Self::Review(ReviewError::Unavailable { .. } | ReviewError::Late) => {
                Status::unavailable("tokens cannot be reviewed now")
            }
        }
    }

    pub(crate) fn reason(&self) -> DenialReason {
        match self {
            Self::NoProof => DenialReason::NoProof,
            Self::Expired { .. } => DenialReason::ExpiredCertificate,
            Self::Token(_) | Self::Review(ReviewError::Refused(_)) => DenialReason::Token,
            Self::Review(ReviewError::Unavailable { .. } | ReviewError::Late) => {
                DenialReason::ReviewUnavailable
            }
        }
    }
}

/// Who says whether a token is good.
#[derive(Debug)]
pub(crate) enum Attestor {
    /// We: tokens are made with a key in the data folder.
    Own(Box<Tokens>),
    /// The API server: tokens are those of service accounts.
    Kubernetes(Box<Reviewer>),
}

impl Attestor {
    /// The caller of a request. A certificate counts first: a token is asked about only where there is none.
    pub(crate) async fn caller(
        &self,
        certificate: Option<&NodeLeaf>,
        headers: &MetadataMap,
        now: SystemTime,
    ) -> Result<Caller, Stranger> {
        if let Some(leaf) = certificate {
            // A connection may outlive the certificate that it was opened with.
            if now > leaf.not_after() {
                return Err(Stranger::Expired { node: leaf.identity().name().clone() });
            }
            return Ok(Caller::of(leaf));
        }
        let token = bearer(headers).ok_or(Stranger::NoProof)?;
        match self {
            Self::Own(tokens) => Ok(tokens.verify(token, now)?),
            Self::Kubernetes(reviewer) => Ok(reviewer.review(token).await?),
        }
    }
}

fn bearer(headers: &MetadataMap) -> Option<&str> {
    headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")
}
