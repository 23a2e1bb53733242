//! PEM, the little of it that certificates need.

use base64::Engine as _;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use zeroize::Zeroizing;

/// Why a text is not the PEM that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// The text is larger than is ever needed; it was not read.
    #[error("PEM text of {bytes} bytes is larger than {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What is accepted.
        max: usize,
    },
    /// More certificates than are ever needed.
    #[error("PEM text holds more than {max} certificates")]
    TooMany {
        /// What is accepted.
        max: usize,
    },
    /// No certificate in it.
    #[error("PEM text holds no certificate")]
    Empty,
    /// Not PEM.
    #[error("PEM text cannot be read: {reason}")]
    Malformed {
        /// What the reader found.
        reason: String,
    },
}

/// Largest PEM text that is read.
pub(crate) const TEXT_BYTES_MAX: usize = 256 * 1024;

/// The certificates of a PEM text, one to `max`. Sections of another kind are passed over.
pub(crate) fn certificates(
    text: &str,
    max: usize,
) -> Result<Vec<CertificateDer<'static>>, PemError> {
    bounded(text)?;
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        if found.len() == max {
            return Err(PemError::TooMany { max });
        }
        found.push(certificate.map_err(|e| PemError::Malformed { reason: e.to_string() })?);
    }
    if found.is_empty() { Err(PemError::Empty) } else { Ok(found) }
}

pub(crate) fn bounded(text: &str) -> Result<(), PemError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(PemError::TooLarge { bytes: text.len(), max: TEXT_BYTES_MAX });
    }
    Ok(())
}

/// RFC 7468: 64 characters a line.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    // It may be a private key: no copy stays behind in memory that is given back.
    let body = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(der));
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 64);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

pub(crate) fn encode_certificate(der: &CertificateDer<'_>) -> String {
    encode("CERTIFICATE", der)
}
