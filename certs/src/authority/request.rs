//! What is taken from a certificate request: a public key whose holder signed it.

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use webpki::RawPublicKeyEntity;
use weft_model::Identity;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer as _};

use super::IssueError;
use crate::certificate::shown;

/// Largest request that is read: ours is under 600 bytes, one with an RSA-8192 key under 4 KiB.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// The public key of a request that proves possession of its private key.
pub(super) fn public_key(
    request_pem: &str,
    identity: &Identity,
) -> Result<SubjectPublicKeyInfo, IssueError> {
    let der = request_der(request_pem)?;
    let (rest, request) = X509CertificationRequest::from_der(&der)
        .map_err(|e| IssueError::Request { reason: shown(&e.to_string()) })?;
    if !rest.is_empty() {
        let reason = format!("{} bytes after its end", rest.len());
        return Err(IssueError::Request { reason });
    }
    let info = &request.certification_request_info;
    let algorithm = shown(&request.signature_algorithm.algorithm.to_id_string());
    let spki = SubjectPublicKeyInfoDer::from(info.subject_pki.raw);
    let refused = |source| IssueError::Signature {
        identity: identity.clone(),
        algorithm: algorithm.clone(),
        source,
    };
    let holder = RawPublicKeyEntity::try_from(&spki).map_err(refused)?;
    let signature = &request.signature_value;
    if signature.unused_bits != 0 {
        let reason = format!("its signature ends in {} unused bits", signature.unused_bits);
        return Err(IssueError::Request { reason });
    }
    let scheme =
        accepted(&request.signature_algorithm.algorithm.to_id_string()).ok_or_else(|| {
            IssueError::Request {
                reason: format!("signature algorithm {algorithm} is not accepted"),
            }
        })?;
    holder.verify_signature(scheme, info.raw, &signature.data).map_err(refused)?;
    SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
        .map_err(|source| IssueError::PublicKey { identity: identity.clone(), source })
}

fn request_der(request_pem: &str) -> Result<Vec<u8>, IssueError> {
    use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
    if request_pem.len() > REQUEST_BYTES_MAX {
        let reason = format!("{} bytes, more than {REQUEST_BYTES_MAX}", request_pem.len());
        return Err(IssueError::Request { reason });
    }
    CertificateSigningRequestDer::from_pem_slice(request_pem.as_bytes())
        .map(|der| der.as_ref().to_vec())
        .map_err(|e| IssueError::Request { reason: shown(&e.to_string()) })
}

/// What a request may be signed with. Each verifier has its own floor: RSA below 2048 bits fails in it.
fn accepted(
    algorithm: &str,
) -> Option<&'static dyn rustls_pki_types::SignatureVerificationAlgorithm> {
    use webpki::aws_lc_rs as verifiers;
    match algorithm {
        "1.2.840.10045.4.3.2" => Some(verifiers::ECDSA_P256_SHA256),
        "1.2.840.10045.4.3.3" => Some(verifiers::ECDSA_P384_SHA384),
        "1.2.840.113549.1.1.11" => Some(verifiers::RSA_PKCS1_2048_8192_SHA256),
        "1.2.840.113549.1.1.12" => Some(verifiers::RSA_PKCS1_2048_8192_SHA384),
        "1.3.101.112" => Some(verifiers::ED25519),
        _ => None,
    }
}
