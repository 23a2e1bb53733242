//! Why there is no CA, or none that is tended.

use weft_certs::{BundleError, IssueError};

use super::{
    API_WITHIN,
    plugin::PlugInError,
    published::{BUNDLE, NotYet},
    stored::{ROOT, StoredError},
};

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("cannot {doing} {name}")]
    Api {
        doing: &'static str,
        name: String,
        #[source]
        // Boxed: it is large, and every other error would be as large.
        source: Box<kube::Error>,
    },
    #[error("the API server did not let us {doing} within {} s", API_WITHIN.as_secs())]
    Late { doing: &'static str },
    #[error(
        "Secret {ROOT} is missing but {sign} is there: nodes may trust the root that was in it. Restore the Secret, \
         or, to begin with a new root that every node must be given, start once with --reset-trust"
    )]
    Lost { sign: &'static str },
    #[error(
        "Secret {ROOT} holds no root {published}, which signs as ConfigMap {BUNDLE} says: it is an older one, or \
         another mesh's. Restore the Secret, or, to go on with its root, which every node must be given, start once \
         with --reset-trust"
    )]
    Other { published: String },
    #[error("Secret {name} is missing")]
    Missing { name: String },
    #[error("Secret {name} is not usable")]
    Stored {
        name: &'static str,
        #[source]
        source: StoredError,
    },
    #[error("Secret {name} is no CA")]
    PlugIn {
        name: String,
        #[source]
        source: PlugInError,
    },
    #[error(
        "Secret {name} has another CA that may not sign yet, as ConfigMap {BUNDLE} says; to begin with it all the same, where every node is given \
         its root by hand, start once with --reset-trust"
    )]
    NotYet {
        name: String,
        #[source]
        source: NotYet,
    },
    #[error("ConfigMap {BUNDLE}, which says what nodes were given, holds no roots that are usable")]
    Published(#[source] BundleError),
    #[error("the roots that are kept are not usable")]
    Bundle(#[from] BundleError),
    #[error("the CA is not usable")]
    Issue(#[from] Box<IssueError>),
}

impl From<IssueError> for TrustError {
    fn from(error: IssueError) -> Self {
        Self::Issue(Box::new(error))
    }
}

pub(super) fn api_error(doing: &'static str, name: &str, source: kube::Error) -> TrustError {
    TrustError::Api { doing, name: name.to_owned(), source: Box::new(source) }
}
