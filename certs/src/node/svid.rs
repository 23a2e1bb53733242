//! A node's own identity document, as its proxy holds it.

use std::time::SystemTime;

use zeroize::Zeroizing;

use super::{NodeError, NodeIdentity, NodeLeaf, verify_node};
use crate::{
    bundle::{Bundle, BundleError},
    key::KeyPair,
    pem::{self, PemError},
    verify::CHAIN_CERTS_MAX,
};

/// Why an answer is not this node's identity document.
#[derive(Debug, thiserror::Error)]
pub enum NodeSvidError {
    /// The list holds a leaf and no root.
    #[error("certificate chain of the node has {parts} parts, without a root certificate")]
    NoRoot {
        /// How many.
        parts: usize,
    },
    /// Leaf or intermediates are not PEM.
    #[error("certificate chain of the node cannot be read")]
    Chain(#[from] PemError),
    /// The last part is not a trust bundle.
    #[error("root certificates for the node cannot be read")]
    Roots(#[from] BundleError),
    /// The control plane would refuse it.
    #[error("certificate of the node would be refused")]
    Refused(#[source] Box<NodeError>),
    /// The answer is another node's.
    #[error("certificate is of node {presented}, and this is {own}")]
    OtherNode {
        /// This node's name.
        own: String,
        /// Who is named.
        presented: NodeIdentity,
    },
    /// The certificate is over another public key.
    #[error("certificate of the node is not for this private key")]
    OtherKey,
}

/// A node's identity document. Only one that the control plane would accept can be made.
#[derive(Debug)]
pub struct NodeSvid {
    leaf: NodeLeaf,
    chain: String,
    bundle: Bundle,
    key: KeyPair,
}

impl NodeSvid {
    /// Takes what the certificate service answers: leaf, intermediates, and last the root bundle, all PEM.
    ///
    /// Checked as the control plane will check it at `now`, that it is of the node `name`, and over `key`.
    pub fn from_pem<S: AsRef<str>>(
        name: &str,
        key: KeyPair,
        chain: &[S],
        now: SystemTime,
    ) -> Result<Self, NodeSvidError> {
        let (roots, parts) = match chain.split_last() {
            Some((roots, parts)) if !parts.is_empty() => (roots, parts),
            _ => return Err(NodeSvidError::NoRoot { parts: chain.len() }),
        };
        let bundle = Bundle::from_pem(roots.as_ref())?;
        let parts: String = parts.iter().map(AsRef::as_ref).collect();
        let certificates = pem::certificates(&parts, CHAIN_CERTS_MAX + 1)?;
        let refused = |error| NodeSvidError::Refused(Box::new(error));
        let first = certificates.first().ok_or(PemError::Empty)?;
        let domain = NodeLeaf::from_der(first).map_err(refused)?;
        let domain = domain.identity().trust_domain().clone();
        let leaf = verify_node(&certificates, &bundle, &domain, now).map_err(refused)?;
        if **leaf.identity().name() != *name {
            let presented = leaf.identity().clone();
            return Err(NodeSvidError::OtherNode { own: name.to_owned(), presented });
        }
        if leaf.public_key_info != key.public_key_info() {
            return Err(NodeSvidError::OtherKey);
        }
        let chain = certificates.iter().map(pem::encode_certificate).collect();
        Ok(Self { leaf, chain, bundle, key })
    }

    /// Which node.
    pub fn identity(&self) -> &NodeIdentity {
        self.leaf.identity()
    }

    /// Last instant of its validity.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after()
    }

    /// The roots that it came with.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Leaf and intermediates, PEM.
    pub fn chain_pem(&self) -> &str {
        &self.chain
    }

    /// The private key in PEM. Secret.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }
}
