//! What one certificate says of its holder, read strictly.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use weft_model::{Identity, NameError};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer as _,
};

use crate::{pem, time::from_asn1};

/// Why a certificate does not name a workload. Never transient: the same certificate is refused again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not one X.509 certificate in DER.
    #[error("certificate cannot be read: {reason}")]
    Malformed {
        /// What the reader found.
        reason: String,
    },
    /// A CA's certificate in the place of a workload's.
    #[error("certificate of `{subject}` with SAN {san} is a CA's, not a workload's")]
    CaAsLeaf {
        /// Its subject.
        subject: String,
        /// Its alternative names.
        san: String,
    },
    /// No URI among the alternative names.
    #[error("certificate has no URI SAN, its SAN is {found}")]
    NoUriSan {
        /// The names that it has.
        found: String,
    },
    /// X509-SVID 2: exactly one URI SAN.
    #[error("certificate has {count} URI SANs, not one: {found}")]
    SeveralUriSans {
        /// How many.
        count: usize,
        /// All of them.
        found: String,
    },
    /// The URI is not `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    #[error("certificate's URI SAN `{san}` is not an identity")]
    NotAnIdentity {
        /// The URI, escaped and cut to 256 characters.
        san: String,
        /// Why.
        source: NameError,
    },
    /// X509-SVID 4.3: a leaf may sign handshakes, and no certificates.
    #[error(
        "certificate of {subject} has key usage {found}, which must have digitalSignature and neither keyCertSign nor cRLSign"
    )]
    KeyUsage {
        /// Whose.
        subject: String,
        /// What it may do.
        found: String,
    },
}

/// A workload's certificate, read: who it names, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    identity: Identity,
    not_before: SystemTime,
    not_after: SystemTime,
    issuer: String,
    public_key_info: Vec<u8>,
}

impl Leaf {
    /// Reads a leaf. It proves nothing: the signature and the times are [`crate::verify()`]'s concern.
    pub fn from_der(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        let uri = subject(&certificate)?;
        let identity = uri
            .parse()
            .map_err(|source| CertificateError::NotAnIdentity { san: shown(&uri), source })?;
        check_key_usage(&certificate, &uri)?;
        let validity = certificate.validity();
        Ok(Self {
            identity,
            not_before: from_asn1(validity.not_before),
            not_after: from_asn1(validity.not_after),
            issuer: shown(&certificate.issuer().to_string()),
            public_key_info: certificate.public_key().raw.to_vec(),
        })
    }

    /// Whom it names.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// First instant of its validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Last instant of its validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Its issuer's name, escaped.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(crate) fn public_key_info(&self) -> &[u8] {
        &self.public_key_info
    }
}

/// Any certificate as tools show it: leaf, intermediate or root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The certificate itself.
    pub pem: String,
    /// In decimal, as `istioctl` prints it.
    pub serial: String,
    /// First instant of its validity.
    pub not_before: SystemTime,
    /// Last instant of its validity.
    pub not_after: SystemTime,
}

impl Summary {
    /// Reads what tools show; checks nothing.
    pub fn of(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        Ok(Self {
            pem: pem::encode_certificate(der),
            serial: certificate.tbs_certificate.serial.to_string(),
            not_before: from_asn1(certificate.validity().not_before),
            not_after: from_asn1(certificate.validity().not_after),
        })
    }
}

pub(crate) fn parse<'a>(
    der: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, CertificateError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(malformed)?;
    if !rest.is_empty() {
        return Err(malformed(format!("{} bytes after its end", rest.len())));
    }
    Ok(certificate)
}

fn malformed(reason: impl std::fmt::Display) -> CertificateError {
    CertificateError::Malformed { reason: shown(&reason.to_string()) }
}

fn names<'a>(
    certificate: &'a X509Certificate<'a>,
) -> Result<Vec<GeneralName<'a>>, CertificateError> {
    // `None` also stands for a duplicate or unreadable extension in some readers: here those are errors.
    let extension = certificate
        .get_extension_unique(&x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME)
        .map_err(malformed)?;
    match extension.map(x509_parser::extensions::X509Extension::parsed_extension) {
        None => Ok(Vec::new()),
        Some(ParsedExtension::SubjectAlternativeName(san)) => Ok(san.general_names.clone()),
        Some(_) => Err(malformed("its subject alternative name is not readable")),
    }
}

/// The one URI that a leaf names.
pub(crate) fn subject(certificate: &X509Certificate<'_>) -> Result<String, CertificateError> {
    let names = names(certificate)?;
    if certificate.basic_constraints().map_err(malformed)?.is_some_and(|c| c.value.ca) {
        return Err(CertificateError::CaAsLeaf {
            subject: shown(&certificate.subject().to_string()),
            san: shown_names(&names),
        });
    }
    let mut uris = Vec::new();
    for name in &names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // A name that cannot be read could be a second URI.
            GeneralName::Invalid(..) => {
                return Err(malformed(format!("subject alternative name {name}")));
            }
            _ => {}
        }
    }
    match uris.as_slice() {
        [] => Err(CertificateError::NoUriSan { found: shown_names(&names) }),
        [uri] => Ok((*uri).to_owned()),
        _ => {
            Err(CertificateError::SeveralUriSans { count: uris.len(), found: shown_names(&names) })
        }
    }
}

pub(crate) fn check_key_usage(
    certificate: &X509Certificate<'_>,
    subject: &str,
) -> Result<(), CertificateError> {
    let refused =
        |found: String| Err(CertificateError::KeyUsage { subject: shown(subject), found });
    match certificate.key_usage().map_err(malformed)? {
        None => refused("none".to_owned()),
        Some(usage) => {
            let usage = usage.value;
            if usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign() {
                return Ok(());
            }
            refused(usage.to_string())
        }
    }
}

fn shown_names(names: &[GeneralName<'_>]) -> String {
    if names.is_empty() {
        return "empty".to_owned();
    }
    let all = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    shown(&all)
}

/// Text of a peer's, made fit for a log line: escaped, and cut to 256 characters.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(256).flat_map(char::escape_debug).collect()
}
