//! SPIFFE identity documents: asked for, issued, verified, renewed, and put to work in TLS.
//!
//! ```text
//!   key        KeyPair: a private key and the request (CSR) for one identity
//!   authority  Authority: the CA; takes nothing from a request but its public key
//!   certificate what one certificate says of its holder: Leaf { identity, validity, serial }
//!   bundle     Bundle: the roots that a trust domain is proven by, old and new while they rotate
//!   verify     a peer's chain against a bundle, at an instant -> Leaf, or why not
//!   svid       Svid: a proven chain with its key and its bundle, ready for TLS
//!   tls        rustls configurations made from an Svid; who the peer is after the handshake
//!   node       the same for a node's own identity, which is no workload's
//!   server     the control plane's TLS, by which nodes prove themselves
//!   renewal    when to ask for which certificate: a state machine
//! ```
//!
//! No I/O and no clock: the time is an argument, and in handshakes it comes from rustls' `TimeProvider`.
//!
//! Invariants: an [`Svid`] that exists was verified as a peer would verify it; an [`Identity`] comes out
//! of a certificate only if it is the one URI SAN of a leaf that is no CA; an expired certificate is
//! never accepted, whatever the skew.
//!
//! [`Identity`]: weft_model::Identity

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![allow(clippy::missing_panics_doc, reason = "each `expect` carries the proof that it cannot")]

mod authority;
mod bundle;
mod certificate;
mod key;
mod node;
mod pem;
mod renewal;
mod server;
mod svid;
mod time;
mod tls;
mod verify;

#[cfg(test)]
mod tests;

pub use authority::{Authority, IssueError, IssuingCa, LEAF_TTL, LEAF_TTL_MAX, ServerCertificate};
pub use bundle::{Bundle, BundleError};
pub use certificate::{CertificateError, Leaf, Summary};
pub use key::{KeyError, KeyPair};
pub use node::{
    NodeError, NodeIdentity, NodeIdentityError, NodeLeaf, NodeSvid, NodeSvidError, peer_node,
};
pub use pem::PemError;
pub use renewal::{Now, Priority, REQUESTS_MAX, Released, Renewal, Step};
pub use server::{NodeServerError, node_server_config};
pub use svid::{Svid, SvidError};
pub use time::NOT_BEFORE_SKEW;
pub use tls::{
    client_config, client_config_at, peer_identity, server_config, server_config_at, server_name,
};
pub use verify::{
    CHAIN_BYTES_MAX, CHAIN_CERTS_MAX, Role, VerifyError, verify, verify_client, verify_server,
};
