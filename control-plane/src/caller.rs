//! Who calls: a node, and how that is proven.

use std::{sync::Arc, time::SystemTime};

use weft_certs::NodeLeaf;

/// Who called, and until when that is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub node: Arc<str>,
    /// Which node of that name, where that is known.
    pub uid: Option<Arc<str>>,
    pub expires: SystemTime,
}

impl Caller {
    /// The node of a certificate that was verified in the handshake.
    pub(crate) fn of(leaf: &NodeLeaf) -> Self {
        let node = leaf.identity();
        Self { node: node.name().clone(), uid: node.uid().cloned(), expires: leaf.not_after() }
    }
}
