//! Why there is no certificate.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use weft_certs::{KeyError, NodeSvidError, SvidError};
use weft_model::Identity;

use crate::remote::RemoteError;

/// Why a caller gets no certificate. All may pass with time; until then the connection is refused.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The request failed, and the next attempt is too late for this caller.
    #[error("no certificate for {identity}")]
    Unavailable {
        /// For whom.
        identity: Identity,
        /// The last failure.
        source: Arc<FetchError>,
    },
    /// No answer in time.
    #[error("no certificate for {identity} within {} ms", .waited.as_millis())]
    Timeout {
        /// For whom.
        identity: Identity,
        /// How long.
        waited: Duration,
    },
    /// The last local workload with it is gone.
    #[error("{identity} is of no workload on this node any more")]
    Forgotten {
        /// Which.
        identity: Identity,
    },
}

/// Why one request for a certificate failed. It is repeated.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No key, no request.
    #[error("a certificate request for {identity} cannot be made")]
    Key {
        /// For whom.
        identity: Identity,
        /// Why.
        source: KeyError,
    },
    /// The service was not reached, or refused.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// No answer.
    #[error("certificate service did not answer for {identity} within {} ms", .after.as_millis())]
    Timeout {
        /// For whom.
        identity: Identity,
        /// How long.
        after: Duration,
    },
    /// The answer is not a certificate that peers would accept.
    #[error("certificate service gave an unusable certificate for {identity}")]
    Answer {
        /// For whom.
        identity: Identity,
        /// Why.
        source: SvidError,
    },
}

/// Why the certificate service gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// This node has none.
    #[error("no certificate service is configured (ca.address)")]
    NotConfigured,
    /// By what the configuration says of it.
    #[error("certificate service cannot be asked")]
    Remote(#[from] RemoteError),
    /// The service, or the way to it, said no.
    #[error("certificate service {address} gave none for {subject}")]
    Refused {
        /// Where.
        address: String,
        /// For whom.
        subject: String,
        /// What it said.
        source: Box<tonic::Status>,
    },
}

/// Why this node has no certificate of its own. It is asked for again, and meanwhile the token is sent.
#[derive(Debug, thiserror::Error)]
pub enum NodeCertificateError {
    /// No key, no request.
    #[error("a certificate request for this node cannot be made")]
    Key(#[from] KeyError),
    /// The service was not reached, or refused.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// No answer.
    #[error("certificate service did not answer for this node within {} ms", .after.as_millis())]
    Timeout {
        /// How long.
        after: Duration,
    },
    /// The answer is not this node's certificate.
    #[error("certificate service gave an unusable certificate for this node")]
    Answer(#[from] NodeSvidError),
}

/// Why certificates cannot be kept on disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or a file in it.
    #[error("certificates cannot be kept in {}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
