//! What the node agent calls a pod.

use std::{fmt, sync::Arc};

/// Never reused, unlike a pod's name and its address.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PodUid(pub Arc<str>);

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
