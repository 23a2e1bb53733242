//! The roots that a trust domain is proven by.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc, time::SystemTime};

use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::{
    certificate::{self, CertificateError, shown},
    pem::{self, PemError},
    time::{NOT_BEFORE_SKEW, from_asn1},
};

/// Most roots in a bundle: a rotation needs two, a federation a handful.
const ROOTS_MAX: usize = 32;

/// Why a text is not a trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The text holds no certificates, or too many.
    #[error("trust bundle cannot be read")]
    Pem(#[from] PemError),
    /// One of them is no certificate.
    #[error("certificate {index} of the trust bundle cannot be read")]
    Certificate {
        /// Its place, from 0.
        index: usize,
        /// Why.
        source: CertificateError,
    },
    /// One of them may not sign certificates, so trusting it would trust a workload as a CA.
    #[error("certificate {index} of the trust bundle, `{subject}`, is not a CA's")]
    NotAnAuthority {
        /// Its place, from 0.
        index: usize,
        /// Its subject.
        subject: String,
    },
}

/// One or more roots. Cheap to clone (one reference count).
///
/// Several roots are how a root is rotated: old and new are trusted until all leaves are of the new.
#[derive(Debug, Clone)]
pub struct Bundle(Arc<Roots>);

#[derive(Debug)]
struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    validity: Vec<(SystemTime, SystemTime)>,
}

impl Bundle {
    /// Reads the concatenated PEM of 1 to 32 CA certificates. Copies of one root count once.
    pub fn from_pem(text: &str) -> Result<Self, BundleError> {
        Self::from_certificates(pem::certificates(text, ROOTS_MAX)?)
    }

    pub(crate) fn from_certificates(
        all: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        let mut roots =
            Roots { certificates: Vec::new(), anchors: Vec::new(), validity: Vec::new() };
        for (index, der) in all.into_iter().enumerate() {
            if roots.certificates.contains(&der) {
                continue;
            }
            let (anchor, validity) = read_root(index, &der)?;
            roots.anchors.push(anchor);
            roots.validity.push(validity);
            roots.certificates.push(der);
        }
        Ok(Self(Arc::new(roots)))
    }

    /// The roots, in the order given.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0.certificates
    }

    /// The roots as concatenated PEM.
    pub fn to_pem(&self) -> String {
        self.0.certificates.iter().map(pem::encode_certificate).collect()
    }

    /// Each of the roots alone.
    pub fn each(&self) -> impl Iterator<Item = Self> {
        let one = |at| Roots {
            certificates: self.0.certificates.get(at).cloned().into_iter().collect(),
            anchors: self.0.anchors.get(at).cloned().into_iter().collect(),
            validity: self.0.validity.get(at).copied().into_iter().collect(),
        };
        (0..self.0.certificates.len()).map(move |at| Self(Arc::new(one(at))))
    }

    /// What each root is to those whom it signed, in hexadecimal: a digest of its subject and public key, and the same
    /// for another certificate of them.
    pub fn names(&self) -> BTreeSet<String> {
        let name = |anchor: &TrustAnchor<'_>| {
            digest(&[anchor.subject.as_ref(), anchor.subject_public_key_info.as_ref()].concat())
        };
        self.0.anchors.iter().map(name).collect()
    }

    /// What tells it from any bundle with other roots, in hexadecimal. Their order does not count.
    pub fn fingerprint(&self) -> String {
        let mut roots: Vec<&[u8]> = self.certificates().iter().map(AsRef::as_ref).collect();
        roots.sort_unstable();
        digest(&roots.concat())
    }

    /// The roots that are valid at `now`. A path validator never looks at an anchor's own dates.
    pub(crate) fn anchors(&self, now: SystemTime) -> Cow<'_, [TrustAnchor<'static>]> {
        let valid =
            |(from, to): &(SystemTime, SystemTime)| *from <= now + NOT_BEFORE_SKEW && now <= *to;
        if self.0.validity.iter().all(valid) {
            return Cow::Borrowed(&self.0.anchors);
        }
        let anchors = self.0.anchors.iter().zip(&self.0.validity);
        Cow::Owned(anchors.filter(|(_, v)| valid(v)).map(|(a, _)| a.clone()).collect())
    }
}

fn digest(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.certificates() == other.certificates()
    }
}

impl Eq for Bundle {}

type Validity = (SystemTime, SystemTime);

fn read_root(
    index: usize,
    der: &CertificateDer<'static>,
) -> Result<(TrustAnchor<'static>, Validity), BundleError> {
    let failed = |source| BundleError::Certificate { index, source };
    let parsed = certificate::parse(der).map_err(failed)?;
    if !may_sign_certificates(&parsed).map_err(failed)? {
        let subject = shown(&parsed.subject().to_string());
        return Err(BundleError::NotAnAuthority { index, subject });
    }
    let anchor = webpki::anchor_from_trusted_cert(der)
        .map_err(|e| failed(CertificateError::Malformed { reason: e.to_string() }))?
        .to_owned();
    let validity = parsed.validity();
    Ok((anchor, (from_asn1(validity.not_before), from_asn1(validity.not_after))))
}

/// A CA by its basic constraints, and by its key usage when it has one (RFC 5280 4.2.1.3).
pub(crate) fn may_sign_certificates(
    certificate: &x509_parser::certificate::X509Certificate<'_>,
) -> Result<bool, CertificateError> {
    let malformed = |e: x509_parser::error::X509Error| CertificateError::Malformed {
        reason: shown(&e.to_string()),
    };
    let ca = certificate.basic_constraints().map_err(malformed)?.is_some_and(|c| c.value.ca);
    let signs = certificate.key_usage().map_err(malformed)?.is_none_or(|u| u.value.key_cert_sign());
    Ok(ca && signs)
}
