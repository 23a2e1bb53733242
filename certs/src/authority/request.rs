//! What is taken from a certificate request: a public key whose holder signed it.
//!
//! Names and extensions are never taken over. A request that has some which its requester may not have is
//! refused all the same: nobody sends one by mistake.

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use webpki::RawPublicKeyEntity;
use x509_parser::{
    certification_request::{X509CertificationRequest, X509CertificationRequestInfo},
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer as _,
};

use super::IssueError;
use crate::certificate::shown;

/// Largest request that is read: ours is under 600 bytes, one with an RSA-8192 key under 4 KiB.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// The public key of a request that proves possession of its private key, and names nobody but `subject`.
pub(super) fn public_key(
    request_pem: &str,
    subject: &str,
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
        subject: subject.to_owned(),
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
    check_modest(info, subject)?;
    SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
        .map_err(|source| IssueError::PublicKey { subject: subject.to_owned(), source })
}

/// Refuses a request for other names than `subject`, or for the right to sign certificates.
fn check_modest(info: &X509CertificationRequestInfo<'_>, subject: &str) -> Result<(), IssueError> {
    let extensions =
        info.iter_attributes().flat_map(|attribute| match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(request) => request.extensions.as_slice(),
            _ => &[],
        });
    for extension in extensions {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                let other = names
                    .general_names
                    .iter()
                    .find(|name| !matches!(name, GeneralName::URI(uri) if *uri == subject));
                if let Some(other) = other {
                    let (subject, found) = (subject.to_owned(), shown(&other.to_string()));
                    return Err(IssueError::RequestNames { subject, found });
                }
            }
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(IssueError::RequestCa { subject: subject.to_owned() });
            }
            _ => {}
        }
    }
    Ok(())
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
