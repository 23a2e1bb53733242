//! Why an answer came to nothing more, in words for who runs the cluster.

use std::time::Duration;

use super::decode::{Rubbish, Status};

#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the API server cannot be reached: {0}")]
    Broken(String),
    #[error("nothing came for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the answer ended before anything came")]
    Empty,
    #[error("the list ended before it was whole")]
    Unfinished,
    #[error("{}: {}", .0.code, .0.message)]
    Refused(Status, Option<Duration>),
    #[error("{0}")]
    Rubbish(#[from] Rubbish),
    #[error("{0} bytes without an end are no event")]
    Endless(usize),
}
