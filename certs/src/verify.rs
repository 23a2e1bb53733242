//! A peer's chain against a trust bundle, at an instant.

use std::{sync::LazyLock, time::SystemTime};

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::CertificateDer;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use weft_model::{Identity, TrustDomain};

use crate::{
    bundle::{Bundle, may_sign_certificates},
    certificate::{self, CertificateError, Leaf},
    time::{At, NOT_BEFORE_SKEW, unix},
};

/// Most certificates that a peer may send. Istio sends one or two, SPIRE up to three.
pub const CHAIN_CERTS_MAX: usize = 5;

/// Most bytes of DER that a peer may send: five post-quantum (ML-DSA-65) certificates fit.
pub const CHAIN_BYTES_MAX: usize = 32 * 1024;

/// Why a peer's certificates are refused. The peer is at fault, unless our bundle or clock is stale.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The peer sent none.
    #[error("peer sent no certificate")]
    NoCertificate,
    /// Refused unread.
    #[error("peer sent {count} certificates, more than {CHAIN_CERTS_MAX}")]
    TooManyCertificates {
        /// How many.
        count: usize,
    },
    /// Refused unread.
    #[error("peer sent {bytes} bytes of certificates, more than {CHAIN_BYTES_MAX}")]
    ChainTooLarge {
        /// How many.
        bytes: usize,
    },
    /// The leaf does not name a workload.
    #[error("peer's certificate does not name a workload")]
    Leaf(#[from] CertificateError),
    /// Too late. No skew is allowed for.
    #[error("certificate of {identity} expired at {}, and it is {}", At(*.not_after), At(*.now))]
    Expired {
        /// Whose.
        identity: Identity,
        /// When.
        not_after: SystemTime,
        /// What our clock says.
        now: SystemTime,
    },
    /// Too early by more than [`NOT_BEFORE_SKEW`]. Retry later, or set the clocks.
    #[error("certificate of {identity} is not valid before {}, and it is {}", At(*.not_before), At(*.now))]
    NotYetValid {
        /// Whose.
        identity: Identity,
        /// From when on.
        not_before: SystemTime,
        /// What our clock says.
        now: SystemTime,
    },
    /// Its extended key usage does not cover the peer's role.
    #[error("certificate of {identity} is not for TLS {role:?}s")]
    WrongUsage {
        /// Whose.
        identity: Identity,
        /// What the peer is in this handshake.
        role: Role,
        /// What it is for.
        source: webpki::Error,
    },
    /// No path to any root of the bundle.
    #[error("certificate of {identity} was issued by `{issuer}`, which is none of ours")]
    Untrusted {
        /// Whose.
        identity: Identity,
        /// The issuer that it names.
        issuer: String,
    },
    /// Every root of the bundle is expired or not valid yet.
    #[error("certificate of {identity} cannot be verified: no root of the trust bundle is valid at {}", At(*.now))]
    NoValidRoot {
        /// Whose.
        identity: Identity,
        /// What our clock says.
        now: SystemTime,
    },
    /// A path exists but a certificate or a signature on it is bad.
    #[error("certificate chain of {identity} is not valid")]
    BadPath {
        /// Whose.
        identity: Identity,
        /// Why.
        source: webpki::Error,
    },
    /// An intermediate that may not sign.
    #[error("certificate of {identity} was signed with a key whose key usage has no keyCertSign")]
    IssuerMayNotSign {
        /// Whose.
        identity: Identity,
    },
    /// Another workload than the one that was dialled.
    #[error("peer is {presented}, expected {expected}")]
    Unexpected {
        /// Who it is.
        presented: Identity,
        /// Who it should be, separated by `or`.
        expected: String,
    },
    /// Of another trust domain than ours.
    #[error("peer is {presented}, of another trust domain than ours, {own}")]
    ForeignTrustDomain {
        /// Who it is.
        presented: Identity,
        /// The server's own.
        own: TrustDomain,
    },
}

/// What the peer is in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It dialled us.
    Client,
    /// We dialled it.
    Server,
}

/// Verifies a chain (leaf first) and says whom it proves. Which identity is acceptable is the caller's.
pub fn verify(
    chain: &[CertificateDer<'_>],
    bundle: &Bundle,
    role: Role,
    now: SystemTime,
) -> Result<Leaf, VerifyError> {
    let first = chain.first().ok_or(VerifyError::NoCertificate)?;
    check_size(chain)?;
    let leaf = Leaf::from_der(first)?;
    check_validity(&leaf, now)?;
    match path(chain, bundle, role, now) {
        Ok(()) => Ok(leaf),
        Err(broken) => Err(refused(&leaf, role, now, broken)),
    }
}

/// Why no path leads from a leaf to a root. The leaf's holder is added by whoever knows it.
#[derive(Debug)]
pub(crate) enum Broken {
    Empty,
    NoValidRoot,
    Path(webpki::Error),
    IssuerMayNotSign,
    Certificate(CertificateError),
}

/// That a leaf, whoever it names, leads to a root of the bundle at an instant.
pub(crate) fn path(
    chain: &[CertificateDer<'_>],
    bundle: &Bundle,
    role: Role,
    now: SystemTime,
) -> Result<(), Broken> {
    let (first, intermediates) = chain.split_first().ok_or(Broken::Empty)?;
    let anchors = bundle.anchors(now);
    if anchors.is_empty() {
        return Err(Broken::NoValidRoot);
    }
    let end = EndEntityCert::try_from(first).map_err(Broken::Path)?;
    let path = |at: SystemTime| {
        end.verify_for_usage(
            algorithms().all,
            &anchors,
            intermediates,
            unix(at),
            usage(role),
            None,
            None,
        )
    };
    let verified = match path(now) {
        // Something on the path is not valid yet. Judge it all at the far end of the skew: stricter on
        // every notAfter, so nothing that is expired can pass.
        Err(webpki::Error::CertNotValidYet { .. }) => path(now + NOT_BEFORE_SKEW),
        other => other,
    };
    check_issuers(&verified.map_err(Broken::Path)?)
}

/// Verifies the chain of a client that dialled a server of trust domain `own`.
pub fn verify_client(
    chain: &[CertificateDer<'_>],
    bundle: &Bundle,
    own: &TrustDomain,
    now: SystemTime,
) -> Result<Leaf, VerifyError> {
    let leaf = verify(chain, bundle, Role::Client, now)?;
    if leaf.identity().trust_domain() != own {
        let presented = leaf.identity().clone();
        return Err(VerifyError::ForeignTrustDomain { presented, own: own.clone() });
    }
    Ok(leaf)
}

/// Verifies the chain of a server that must be one of `expected`. An empty list accepts nobody.
pub fn verify_server(
    chain: &[CertificateDer<'_>],
    bundle: &Bundle,
    expected: &[Identity],
    now: SystemTime,
) -> Result<Leaf, VerifyError> {
    let leaf = verify(chain, bundle, Role::Server, now)?;
    if !expected.contains(leaf.identity()) {
        let presented = leaf.identity().clone();
        let names = expected.iter().map(ToString::to_string).collect::<Vec<_>>();
        let expected = if names.is_empty() { "nobody".to_owned() } else { names.join(" or ") };
        return Err(VerifyError::Unexpected { presented, expected });
    }
    Ok(leaf)
}

/// What certificates and handshakes may be signed with.
pub(crate) fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    // The provider is built of vectors, and this is asked for several times in each handshake.
    static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> = LazyLock::new(|| {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms
    });
    &ALGORITHMS
}

pub(crate) fn check_size(chain: &[CertificateDer<'_>]) -> Result<(), VerifyError> {
    if chain.len() > CHAIN_CERTS_MAX {
        return Err(VerifyError::TooManyCertificates { count: chain.len() });
    }
    let bytes = chain.iter().map(|c| c.len()).sum();
    if bytes > CHAIN_BYTES_MAX {
        return Err(VerifyError::ChainTooLarge { bytes });
    }
    Ok(())
}

fn check_validity(leaf: &Leaf, now: SystemTime) -> Result<(), VerifyError> {
    let identity = leaf.identity().clone();
    if now > leaf.not_after() {
        return Err(VerifyError::Expired { identity, not_after: leaf.not_after(), now });
    }
    if now + NOT_BEFORE_SKEW < leaf.not_before() {
        return Err(VerifyError::NotYetValid { identity, not_before: leaf.not_before(), now });
    }
    Ok(())
}

/// The path validator checks that issuers are CAs, but not that their key usage lets them sign.
fn check_issuers(path: &VerifiedPath<'_>) -> Result<(), Broken> {
    for issuer in path.intermediate_certificates() {
        let der = issuer.der();
        let parsed = certificate::parse(&der).map_err(Broken::Certificate)?;
        if !may_sign_certificates(&parsed).map_err(Broken::Certificate)? {
            return Err(Broken::IssuerMayNotSign);
        }
    }
    Ok(())
}

fn usage(role: Role) -> KeyUsage {
    match role {
        Role::Client => KeyUsage::client_auth(),
        Role::Server => KeyUsage::server_auth(),
    }
}

fn refused(leaf: &Leaf, role: Role, now: SystemTime, broken: Broken) -> VerifyError {
    let identity = leaf.identity().clone();
    match broken {
        Broken::Empty => VerifyError::NoCertificate,
        Broken::NoValidRoot => VerifyError::NoValidRoot { identity, now },
        Broken::IssuerMayNotSign => VerifyError::IssuerMayNotSign { identity },
        Broken::Certificate(error) => VerifyError::Leaf(error),
        Broken::Path(webpki::Error::UnknownIssuer) => {
            VerifyError::Untrusted { identity, issuer: leaf.issuer().to_owned() }
        }
        Broken::Path(
            source @ (webpki::Error::RequiredEkuNotFoundContext(_)
            | webpki::Error::EmptyEkuExtension),
        ) => VerifyError::WrongUsage { identity, role, source },
        Broken::Path(source) => VerifyError::BadPath { identity, source },
    }
}
