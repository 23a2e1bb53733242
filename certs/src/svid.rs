//! A workload's own identity document: a proven chain with its key and its trust bundle.

use std::{sync::Arc, time::SystemTime};

use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use weft_model::Identity;
use zeroize::Zeroizing;

use crate::{
    bundle::{Bundle, BundleError},
    certificate::Leaf,
    key::{KeyError, KeyPair},
    pem::{self, PemError},
    verify::{CHAIN_CERTS_MAX, Role, VerifyError, verify},
};

/// Why a chain from a CA, or from disk, is not an identity document for this key.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// The list holds a leaf and no root.
    #[error("certificate chain for {identity} has {parts} parts, without a root certificate")]
    NoRoot {
        /// For whom.
        identity: Identity,
        /// How many.
        parts: usize,
    },
    /// Leaf or intermediates are not PEM.
    #[error("certificate chain for {identity} cannot be read")]
    Chain {
        /// For whom.
        identity: Identity,
        /// Why.
        source: PemError,
    },
    /// The last part is not a trust bundle.
    #[error("root certificates for {identity} cannot be read")]
    Roots {
        /// For whom.
        identity: Identity,
        /// Why.
        source: BundleError,
    },
    /// A peer would refuse it.
    #[error("certificate for {identity} would be refused by peers")]
    Refused {
        /// For whom.
        identity: Identity,
        /// Why.
        source: Box<VerifyError>,
    },
    /// The CA answered with somebody else's certificate.
    #[error("certificate is of {presented}, asked for {asked}")]
    OtherIdentity {
        /// Who was asked for.
        asked: Identity,
        /// Who is named.
        presented: Identity,
    },
    /// The certificate is over another public key.
    #[error("certificate for {identity} is not for this private key")]
    OtherKey {
        /// For whom.
        identity: Identity,
    },
    /// The key that was held cannot be read again.
    #[error("private key of {identity} cannot be read")]
    OwnKey {
        /// For whom.
        identity: Identity,
        /// Why.
        source: KeyError,
    },
    /// TLS cannot sign with the key.
    #[error("private key of {identity} cannot sign handshakes")]
    Key {
        /// For whom.
        identity: Identity,
        /// Why.
        source: rustls::Error,
    },
}

/// A workload's identity document. Only one that peers would accept can be made.
#[derive(Debug)]
pub struct Svid {
    leaf: Leaf,
    bundle: Bundle,
    key: KeyPair,
    certified: Arc<CertifiedKey>,
}

impl Svid {
    /// Takes what a CA answers: leaf, intermediates, and last the root bundle, each a PEM text.
    ///
    /// Checked as a peer would check it at `now`, and that it is `identity`'s and over `key`.
    pub fn from_pem<S: AsRef<str>>(
        identity: &Identity,
        key: KeyPair,
        chain: &[S],
        now: SystemTime,
    ) -> Result<Self, SvidError> {
        let (certificates, bundle) = read(identity, chain)?;
        let refused = |e| SvidError::Refused { identity: identity.clone(), source: Box::new(e) };
        let leaf = verify(&certificates, &bundle, Role::Server, now).map_err(refused)?;
        verify(&certificates, &bundle, Role::Client, now).map_err(refused)?;
        if leaf.identity() != identity {
            let presented = leaf.identity().clone();
            return Err(SvidError::OtherIdentity { asked: identity.clone(), presented });
        }
        if leaf.public_key_info() != key.public_key_info() {
            return Err(SvidError::OtherKey { identity: identity.clone() });
        }
        let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key.der())
            .map_err(|source| SvidError::Key { identity: identity.clone(), source })?;
        let certified = Arc::new(CertifiedKey::new(certificates, signing));
        Ok(Self { leaf, bundle, key, certified })
    }

    /// The same document, whose holder verifies its peers against other roots. Peers must still accept it by
    /// them at `now`.
    pub fn trusting(&self, bundle: &Bundle, now: SystemTime) -> Result<Self, SvidError> {
        let identity = self.identity();
        let failed = |source| SvidError::OwnKey { identity: identity.clone(), source };
        let key = KeyPair::from_pem(&self.key_pem()).map_err(failed)?;
        let chain = self.chain().iter().map(pem::encode_certificate);
        let chain: Vec<_> = chain.chain([bundle.to_pem()]).collect();
        Self::from_pem(identity, key, &chain, now)
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        self.leaf.identity()
    }

    /// First instant of its validity.
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before()
    }

    /// Last instant of its validity: after it, it must not be used.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after()
    }

    /// Leaf and intermediates, as sent in handshakes.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The roots that peers are verified against.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The private key in PEM. Secret: for a 0600 file only.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    /// Leaf, intermediates, and last the root bundle: what [`Svid::from_pem`] takes.
    pub fn chain_pem(&self) -> Vec<String> {
        let chain = self.chain().iter().map(pem::encode_certificate);
        chain.chain([self.bundle.to_pem()]).collect()
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

fn read<S: AsRef<str>>(
    identity: &Identity,
    chain: &[S],
) -> Result<(Vec<CertificateDer<'static>>, Bundle), SvidError> {
    let (roots, parts) = match chain.split_last() {
        Some((roots, parts)) if !parts.is_empty() => (roots, parts),
        _ => return Err(SvidError::NoRoot { identity: identity.clone(), parts: chain.len() }),
    };
    let bundle = Bundle::from_pem(roots.as_ref())
        .map_err(|source| SvidError::Roots { identity: identity.clone(), source })?;
    let mut certificates = Vec::new();
    for part in parts {
        // Istio's CA puts one certificate in a string; others put leaf and intermediates in the first.
        let more = pem::certificates(part.as_ref(), CHAIN_CERTS_MAX + 1)
            .map_err(|source| SvidError::Chain { identity: identity.clone(), source })?;
        certificates.extend(more);
        // A peer refuses more than the maximum: stop reading once that is certain.
        if certificates.len() > CHAIN_CERTS_MAX {
            break;
        }
    }
    Ok((certificates, bundle))
}
