//! Why a certificate is denied: all of it for the audit line, and little for the caller.

use tonic::Status;
use weft_certs::{IssueError, NodeIdentityError};
use weft_model::NameError;

use crate::{
    attest::Stranger, causes::chain, index::NotEntitled, metrics::DenialReason, signing::Stale,
};

#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    #[error(transparent)]
    Stranger(#[from] Stranger),
    #[error("node {node} asks too often")]
    TooOften { node: String },
    #[error("node {node} has too many identities")]
    TooMany { node: String },
    #[error("the request's metadata `{field}` is not what it should be")]
    Metadata { field: &'static str },
    #[error(transparent)]
    BadIdentity(#[from] NameError),
    #[error("the node cannot be named in a certificate")]
    BadNode(#[from] NodeIdentityError),
    #[error(transparent)]
    NotEntitled(#[from] NotEntitled),
    #[error("the request cannot be signed")]
    Issue(#[from] IssueError),
    #[error(transparent)]
    Stale(#[from] Stale),
}

impl Denied {
    /// For the caller. Of an identity that it may not have, it does not learn why.
    pub(super) fn status(&self) -> Status {
        match self {
            Self::Stranger(stranger) => stranger.status(),
            Self::TooOften { .. } | Self::TooMany { .. } => {
                Status::resource_exhausted(self.to_string())
            }
            // So that it proves itself anew, and does not only ask for something else.
            Self::NotEntitled(NotEntitled::OtherNode { .. }) => {
                Status::unauthenticated("this proves no node that is there")
            }
            Self::NotEntitled(
                NotEntitled::TrustDomain { .. }
                | NotEntitled::NoSuchPod { .. }
                | NotEntitled::OtherPod { .. },
            )
            | Self::BadNode(_)
            | Self::Issue(IssueError::RequestNames { .. } | IssueError::RequestCa { .. }) => {
                Status::permission_denied("this node may not have that certificate")
            }
            // Another replica may know, and so may we in a while.
            Self::Stale(stale) => Status::unavailable(stale.to_string()),
            Self::Metadata { .. } | Self::BadIdentity(_) | Self::Issue(_) => {
                Status::invalid_argument(chain(self))
            }
        }
    }

    pub(super) fn reason(&self) -> DenialReason {
        match self {
            Self::Stranger(stranger) => stranger.reason(),
            Self::TooOften { .. } => DenialReason::TooOften,
            Self::TooMany { .. } => DenialReason::TooManyIdentities,
            Self::Metadata { .. } | Self::BadIdentity(_) | Self::BadNode(_) => {
                DenialReason::BadIdentity
            }
            Self::NotEntitled(NotEntitled::TrustDomain { .. }) => DenialReason::TrustDomain,
            Self::NotEntitled(NotEntitled::NoSuchPod { .. }) => DenialReason::NoSuchPod,
            Self::NotEntitled(NotEntitled::OtherPod { .. }) => DenialReason::OtherPod,
            Self::NotEntitled(NotEntitled::OtherNode { .. }) => DenialReason::OtherNode,
            Self::Issue(IssueError::RequestNames { .. }) => DenialReason::RequestNames,
            Self::Issue(IssueError::RequestCa { .. }) => DenialReason::RequestCa,
            Self::Issue(_) => DenialReason::BadRequest,
            Self::Stale(_) => DenialReason::StaleCa,
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_ca_that_cannot_be_read_is_a_reason_to_ask_again() {
        let denied = Denied::from(Stale);
        assert_eq!(
            (denied.status().code(), denied.reason().label()),
            (Code::Unavailable, "stale_ca")
        );
    }
}
