//! A node's own identity: what its proxy proves to the control plane, and to nobody else.
//!
//! It has its own form of SPIFFE ID, so that a node's certificate can never pass for a workload's: whoever
//! reads it as one finds no namespace and no service account in it.

mod svid;

use std::{fmt, str::FromStr, sync::Arc, time::SystemTime};

use rustls_pki_types::CertificateDer;
use weft_model::{NameError, TrustDomain};

use crate::{
    bundle::Bundle,
    certificate::{self, CertificateError, shown},
    time::{At, NOT_BEFORE_SKEW, from_asn1},
    verify::{Broken, Role, VerifyError, check_size, path},
};
pub use svid::{NodeSvid, NodeSvidError};

/// Longest name or uid: Kubernetes' own bound for names.
const PART_BYTES_MAX: usize = 253;

/// Why a text does not name a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeIdentityError {
    /// Another path, or none.
    #[error("`{value}` is not of the form spiffe://<trust domain>/weft/node/<name>[/<uid>]")]
    Form {
        /// The text, escaped.
        value: String,
    },
    /// The trust domain is none.
    #[error(transparent)]
    TrustDomain(#[from] NameError),
    /// A SPIFFE path has letters, digits, `.`, `-` and `_`, and no segment is empty, `.` or `..`.
    #[error(
        "{what} `{value}` of a node is empty, too long or has a character that SPIFFE IDs have not"
    )]
    Part {
        /// Name or uid.
        what: &'static str,
        /// The part, escaped.
        value: String,
    },
}

/// `spiffe://<trust domain>/weft/node/<name>`, and `/<uid>` where there is one: a node that was deleted and
/// made again under its old name is another node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIdentity {
    trust_domain: TrustDomain,
    name: Arc<str>,
    uid: Option<Arc<str>>,
}

impl NodeIdentity {
    /// Of a node's name and uid.
    pub fn new(
        trust_domain: TrustDomain,
        name: &str,
        uid: Option<&str>,
    ) -> Result<Self, NodeIdentityError> {
        check_part("name", name)?;
        uid.map(|uid| check_part("uid", uid)).transpose()?;
        Ok(Self { trust_domain, name: name.into(), uid: uid.map(Arc::from) })
    }

    /// Whose node it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What it is called.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Which node of that name it is, where that is known.
    pub fn uid(&self) -> Option<&Arc<str>> {
        self.uid.as_ref()
    }
}

impl fmt::Display for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/weft/node/{}", self.trust_domain, self.name)?;
        self.uid.as_ref().map_or(Ok(()), |uid| write!(f, "/{uid}"))
    }
}

impl FromStr for NodeIdentity {
    type Err = NodeIdentityError;

    fn from_str(value: &str) -> Result<Self, NodeIdentityError> {
        let form = || NodeIdentityError::Form { value: shown(value) };
        let mut parts = value.strip_prefix("spiffe://").ok_or_else(form)?.split('/');
        let domain = parts.next().ok_or_else(form)?;
        if (parts.next(), parts.next()) != (Some("weft"), Some("node")) {
            return Err(form());
        }
        let (name, uid) = (parts.next().ok_or_else(form)?, parts.next());
        if parts.next().is_some() {
            return Err(form());
        }
        Self::new(TrustDomain::new(domain)?, name, uid)
    }
}

fn check_part(what: &'static str, value: &str) -> Result<(), NodeIdentityError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let dots = value.bytes().all(|b| b == b'.');
    if dots || value.len() > PART_BYTES_MAX || !value.chars().all(legal) {
        return Err(NodeIdentityError::Part { what, value: shown(value) });
    }
    Ok(())
}

/// A node's certificate, read: which node, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLeaf {
    identity: NodeIdentity,
    not_before: SystemTime,
    not_after: SystemTime,
    public_key_info: Vec<u8>,
}

impl NodeLeaf {
    /// Which node.
    pub fn identity(&self) -> &NodeIdentity {
        &self.identity
    }

    /// Last instant of its validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    fn from_der(der: &CertificateDer<'_>) -> Result<Self, NodeError> {
        let certificate = certificate::parse(der)?;
        let uri = certificate::subject(&certificate)?;
        let identity =
            uri.parse().map_err(|source| NodeError::NotANode { san: shown(&uri), source })?;
        certificate::check_key_usage(&certificate, &uri)?;
        let validity = certificate.validity();
        Ok(Self {
            identity,
            not_before: from_asn1(validity.not_before),
            not_after: from_asn1(validity.not_after),
            public_key_info: certificate.public_key().raw.to_vec(),
        })
    }
}

/// Why a chain proves no node of ours.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// None, too many or too large: refused unread.
    #[error(transparent)]
    Chain(#[from] VerifyError),
    /// The leaf is no SPIFFE identity document.
    #[error("certificate does not name a node")]
    Leaf(#[from] CertificateError),
    /// It names somebody else: its URI is not `spiffe://<trust domain>/weft/node/<name>[/<uid>]`.
    #[error("certificate's URI SAN `{san}` is not a node's")]
    NotANode {
        /// The URI, escaped and cut to 256 characters.
        san: String,
        /// Why.
        source: NodeIdentityError,
    },
    /// Of another trust domain than ours.
    #[error("{node} is of another trust domain than ours, {own}")]
    ForeignTrustDomain {
        /// Which.
        node: NodeIdentity,
        /// Ours.
        own: TrustDomain,
    },
    /// Too early or too late.
    #[error("certificate of {node} is valid from {} to {}, and it is {}", At(*.not_before), At(*.not_after), At(*.now))]
    Time {
        /// Whose.
        node: NodeIdentity,
        /// From.
        not_before: SystemTime,
        /// To.
        not_after: SystemTime,
        /// What our clock says.
        now: SystemTime,
    },
    /// No root of ours is valid now.
    #[error("certificate of {node} cannot be verified: no root of the trust bundle is valid")]
    NoValidRoot {
        /// Whose.
        node: NodeIdentity,
    },
    /// No path to a root of ours.
    #[error("certificate of {node} does not lead to a root of ours")]
    Path {
        /// Whose.
        node: NodeIdentity,
        /// Why.
        source: webpki::Error,
    },
    /// An intermediate that may not sign.
    #[error("certificate of {node} was signed with a key that may not sign certificates")]
    IssuerMayNotSign {
        /// Whose.
        node: NodeIdentity,
    },
}

/// Which node the peer of a finished handshake is: its leaf was verified, this only reads it again.
pub fn peer_node(certificates: &[CertificateDer<'_>]) -> Result<NodeLeaf, NodeError> {
    let leaf = certificates.first().ok_or(VerifyError::NoCertificate)?;
    NodeLeaf::from_der(leaf)
}

/// Verifies a node's chain (leaf first) and says which node of `own` it proves.
pub(crate) fn verify_node(
    chain: &[CertificateDer<'_>],
    bundle: &Bundle,
    own: &TrustDomain,
    now: SystemTime,
) -> Result<NodeLeaf, NodeError> {
    let first = chain.first().ok_or(VerifyError::NoCertificate)?;
    check_size(chain)?;
    let leaf = NodeLeaf::from_der(first)?;
    let node = leaf.identity.clone();
    if node.trust_domain() != own {
        return Err(NodeError::ForeignTrustDomain { node, own: own.clone() });
    }
    let (not_before, not_after) = (leaf.not_before, leaf.not_after);
    if now > not_after || now + NOT_BEFORE_SKEW < not_before {
        return Err(NodeError::Time { node, not_before, not_after, now });
    }
    match path(chain, bundle, Role::Client, now) {
        Ok(()) => Ok(leaf),
        Err(Broken::Empty) => Err(VerifyError::NoCertificate.into()),
        Err(Broken::NoValidRoot) => Err(NodeError::NoValidRoot { node }),
        Err(Broken::IssuerMayNotSign) => Err(NodeError::IssuerMayNotSign { node }),
        Err(Broken::Certificate(source)) => Err(NodeError::Leaf(source)),
        Err(Broken::Path(source)) => Err(NodeError::Path { node, source }),
    }
}
