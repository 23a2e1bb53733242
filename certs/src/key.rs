//! A workload's private key, and the request that asks for a certificate over it.

use std::fmt;

use rcgen::{
    CertificateParams, DistinguishedName, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use weft_model::Identity;
use zeroize::{Zeroize as _, Zeroizing};

use crate::pem::{self, PemError};

/// Why a key cannot be made or read. Making one fails only when the machine has no randomness.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key could not be generated.
    #[error("a P-256 key cannot be generated")]
    Generate(#[source] rcgen::Error),
    /// The text is not a PKCS#8 private key.
    #[error("private key cannot be read")]
    Parse(#[source] rcgen::Error),
    /// The text is not PEM within bounds.
    #[error("private key cannot be read")]
    Pem(#[from] PemError),
    /// The request could not be built.
    #[error("request for {subject} cannot be built")]
    Request {
        /// For whom.
        subject: String,
        /// Why.
        source: rcgen::Error,
    },
}

/// A private key. Its `Debug` form shows nothing of it, and its memory is wiped when it is dropped.
pub struct KeyPair(rcgen::KeyPair);

impl Drop for KeyPair {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl KeyPair {
    /// Makes a P-256 key, what Istio's peers use. About 15 µs.
    pub fn generate() -> Result<Self, KeyError> {
        rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(KeyError::Generate)
    }

    /// Reads a PKCS#8 key of any kind that TLS 1.3 can sign with.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        pem::bounded(text)?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes())
            .map_err(|e| PemError::Malformed { reason: e.to_string() })?;
        let der = Zeroizing::new(PrivateKeyDer::Pkcs8(der));
        rcgen::KeyPair::try_from(der.secret_der()).map(Self).map_err(KeyError::Parse)
    }

    /// Reads a key to sign certificates with, in PKCS#8, SEC 1 or PKCS#1, as other CAs' tools write them.
    pub(crate) fn for_signing(text: &str) -> Result<Self, KeyError> {
        pem::bounded(text)?;
        let der = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|e| PemError::Malformed { reason: e.to_string() })?;
        let der = Zeroizing::new(der);
        rcgen::KeyPair::try_from(&*der).map(Self).map_err(KeyError::Parse)
    }

    /// The private key as PKCS#8 PEM. Secret: for a 0600 file only.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem::encode("PRIVATE KEY", self.0.serialized_der()))
    }

    /// A certificate signing request for one identity, in PEM.
    ///
    /// Istio's form: an empty subject and one critical SAN extension with the one SPIFFE ID.
    pub fn request(&self, identity: &Identity) -> Result<String, KeyError> {
        let subject = identity.to_string();
        let failed = |source| KeyError::Request { subject: subject.clone(), source };
        let names = vec![uri_san(&subject).map_err(failed)?];
        self.signed_request(names).map_err(failed)
    }

    /// A certificate signing request that names nobody, in PEM: a node does not choose what it is called.
    pub fn request_node(&self) -> Result<String, KeyError> {
        let failed = |source| KeyError::Request { subject: "this node".to_owned(), source };
        self.signed_request(Vec::new()).map_err(failed)
    }

    fn signed_request(&self, names: Vec<SanType>) -> Result<String, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.serialize_request(&self.0)?.pem()
    }

    pub(crate) fn public_key_info(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    pub(crate) fn der(&self) -> PrivateKeyDer<'_> {
        PrivateKeyDer::Pkcs8(self.0.serialized_der().into())
    }
}

impl PublicKeyData for KeyPair {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        PublicKeyData::algorithm(&self.0)
    }
}

impl SigningKey for KeyPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(secret)")
    }
}

pub(crate) fn uri_san(uri: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(uri.try_into()?))
}
