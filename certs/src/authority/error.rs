//! Why the authority does not issue.

use std::time::{Duration, SystemTime};

use weft_model::TrustDomain;

use crate::{bundle::BundleError, key::KeyError, svid::SvidError, time::At};

/// Life of a leaf where nobody asks for another, as Istio's CA has it.
pub const LEAF_TTL: Duration = Duration::from_hours(24);

/// Longest life of a leaf, as Istio's CA has it.
pub const LEAF_TTL_MAX: Duration = Duration::from_hours(90 * 24);

/// Why the authority does not issue, or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request is not a PEM certificate request.
    #[error("certificate request cannot be read: {reason}")]
    Request {
        /// What the reader found.
        reason: String,
    },
    /// The requester does not hold the private key, or the key is too weak or of an unknown kind.
    #[error(
        "certificate request for {subject} is not signed by a key that we accept, over its own public key ({algorithm})"
    )]
    Signature {
        /// For whom.
        subject: String,
        /// The signature algorithm that it names.
        algorithm: String,
        /// Why.
        source: webpki::Error,
    },
    /// The key is of a kind that cannot be put in a certificate here.
    #[error("public key of the request for {subject} is of an unknown kind")]
    PublicKey {
        /// For whom.
        subject: String,
        /// Why.
        source: rcgen::Error,
    },
    /// The requester wants more names than it may have. They would not be taken over; that it asks is told.
    #[error("certificate request for {subject} names {found} too")]
    RequestNames {
        /// For whom.
        subject: String,
        /// What it names besides.
        found: String,
    },
    /// The requester wants to be an authority. It would not become one; that it asks is told.
    #[error("certificate request for {subject} asks to be a CA")]
    RequestCa {
        /// For whom.
        subject: String,
    },
    /// The authority speaks for one trust domain.
    #[error("{subject} is not of trust domain {own}")]
    ForeignTrustDomain {
        /// Asked for.
        subject: String,
        /// The authority's.
        own: TrustDomain,
    },
    /// Zero, or longer than 90 days.
    #[error("certificate life of {} s is not within 1 s to {} s", .ttl.as_secs(), LEAF_TTL_MAX.as_secs())]
    Ttl {
        /// Asked for.
        ttl: Duration,
    },
    /// The root's time is over: it must be rotated.
    #[error("root of {trust_domain} expired at {}", At(*.not_after))]
    RootExpired {
        /// Whose.
        trust_domain: TrustDomain,
        /// When.
        not_after: SystemTime,
    },
    /// A server certificate needs a DNS name or an IP address.
    #[error("server name `{name}` is neither an IP address nor a DNS name")]
    ServerName {
        /// The name.
        name: String,
    },
    /// A server certificate for nobody.
    #[error("a server certificate needs at least one name")]
    NoServerName,
    /// The machine has no randomness.
    #[error("no random serial number")]
    Random,
    /// The stored root is not readable.
    #[error("root certificates of {trust_domain} cannot be read")]
    Root {
        /// Whose.
        trust_domain: TrustDomain,
        /// Why.
        source: BundleError,
    },
    /// The stored key is not readable, or none can be made.
    #[error("key of the root of {trust_domain} is not usable")]
    Key {
        /// Whose.
        trust_domain: TrustDomain,
        /// Why.
        source: KeyError,
    },
    /// Root and key do not belong together.
    #[error("the key given is not that of the first root certificate of {trust_domain}")]
    OtherKey {
        /// Whose.
        trust_domain: TrustDomain,
    },
    /// Its leaves would be refused.
    #[error("certificates of the CA of {trust_domain} would be refused")]
    Unaccepted {
        /// Whose.
        trust_domain: TrustDomain,
        /// Why.
        source: Box<SvidError>,
    },
    /// Building or signing the certificate failed.
    #[error("certificate cannot be signed")]
    Sign(#[source] rcgen::Error),
}
