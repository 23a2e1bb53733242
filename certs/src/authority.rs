//! The certificate authority: one root, and the leaves that it signs.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use webpki::RawPublicKeyEntity;
use weft_model::{Identity, TrustDomain};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer as _};

use crate::{
    bundle::{Bundle, BundleError},
    certificate::{self, shown},
    key::{KeyError, KeyPair, uri_san},
    time::{At, from_asn1, since_epoch},
    verify::NOT_BEFORE_SKEW,
};

/// How long a root lives: Istio's own choice, so that nobody meets its end by surprise in a few years.
const ROOT_TTL: Duration = Duration::from_hours(10 * 365 * 24);

/// Longest life of a leaf, as Istio's CA has it.
const LEAF_TTL_MAX: Duration = Duration::from_hours(90 * 24);

/// Largest request that is read: ours is under 600 bytes, one with an RSA-8192 key under 4 KiB.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

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
        "certificate request for {identity} is not signed by a key that we accept, over its own public key ({algorithm})"
    )]
    Signature {
        /// For whom.
        identity: Identity,
        /// The signature algorithm that it names.
        algorithm: String,
        /// Why.
        source: webpki::Error,
    },
    /// The key is of a kind that cannot be put in a certificate here.
    #[error("public key of the request for {identity} is of an unknown kind")]
    PublicKey {
        /// For whom.
        identity: Identity,
        /// Why.
        source: rcgen::Error,
    },
    /// The authority speaks for one trust domain.
    #[error("{identity} is not of trust domain {own}")]
    ForeignTrustDomain {
        /// Asked for.
        identity: Identity,
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
    /// Building or signing the certificate failed.
    #[error("certificate cannot be signed")]
    Sign(#[source] rcgen::Error),
}

/// A key and certificate for a TLS server that is known by name, not by SPIFFE ID: the control plane.
#[derive(Debug)]
pub struct ServerCertificate {
    /// Its private key.
    pub key: KeyPair,
    /// Its certificate, PEM.
    pub certificate: String,
}

/// A certificate authority for one trust domain.
///
/// Rotation: make a new one, [`Authority::also_trusting`] the old root, and distribute that bundle until
/// every leaf is of the new; then drop the old. The key is never replaced silently.
pub struct Authority {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, rcgen::KeyPair>,
    not_after: SystemTime,
    bundle: Bundle,
}

impl Authority {
    /// Makes a new root, valid for ten years from `now`.
    pub fn new(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, IssueError> {
        let unusable = |source| IssueError::Key { trust_domain: trust_domain.clone(), source };
        let key = KeyPair::generate().map_err(unusable)?;
        let mut params = parameters(now, now + ROOT_TTL)?;
        params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
        // Two roots of a trust domain must differ in name, or verifiers try the wrong one first.
        let id = hex(&params.key_identifier(key.inner()), 8);
        params.distinguished_name.push(DnType::CommonName, format!("Weft root {id}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(key.inner()).map_err(IssueError::Sign)?;
        Self::from_pem(trust_domain, &certificate.pem(), &key.to_pem())
    }

    /// Takes up a stored authority: its root first, further roots that are trusted too, and its key.
    pub fn from_pem(
        trust_domain: &TrustDomain,
        roots_pem: &str,
        key_pem: &str,
    ) -> Result<Self, IssueError> {
        let unusable = |source| IssueError::Key { trust_domain: trust_domain.clone(), source };
        let bad_root = |source| IssueError::Root { trust_domain: trust_domain.clone(), source };
        let bundle = Bundle::from_pem(roots_pem).map_err(bad_root)?;
        let key = KeyPair::from_pem(key_pem).map_err(unusable)?;
        let own = bundle.certificates().first().expect("a Bundle has at least one certificate");
        let parsed = certificate::parse(own)
            .map_err(|source| bad_root(BundleError::Certificate { index: 0, source }))?;
        if parsed.public_key().raw != key.public_key_info() {
            return Err(IssueError::OtherKey { trust_domain: trust_domain.clone() });
        }
        let not_after = from_asn1(parsed.validity().not_after);
        let issuer = Issuer::from_ca_cert_der(own, key.into_inner()).map_err(IssueError::Sign)?;
        Ok(Self { trust_domain: trust_domain.clone(), issuer, not_after, bundle })
    }

    /// The same authority, whose bundle holds `others` too.
    pub fn also_trusting(mut self, others: &Bundle) -> Result<Self, IssueError> {
        let trust_domain = self.trust_domain.clone();
        self.bundle =
            self.bundle.with(others).map_err(|source| IssueError::Root { trust_domain, source })?;
        Ok(self)
    }

    /// Whose identities it signs.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its own root first, then the others that are trusted.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Last instant of its root's validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Its private key in PEM. Secret: for a 0600 file or a Secret only.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Signs a leaf for `identity`: `[leaf, root bundle]`, each PEM.
    ///
    /// Nothing is taken from the request but its public key, once its signature proves that the requester
    /// holds the private key: names, extensions and attributes in it are not even looked at. The leaf
    /// starts a minute before `now`, for peers whose clock is behind, and never outlives the root.
    pub fn issue(
        &self,
        request_pem: &str,
        identity: &Identity,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, IssueError> {
        if identity.trust_domain() != &self.trust_domain {
            let own = self.trust_domain.clone();
            return Err(IssueError::ForeignTrustDomain { identity: identity.clone(), own });
        }
        let public_key = public_key(request_pem, identity)?;
        let san = uri_san(identity).map_err(IssueError::Sign)?;
        let leaf = self.leaf(&public_key, vec![san], ttl, now)?;
        Ok(vec![leaf, self.bundle.to_pem()])
    }

    /// Signs a certificate for a server that is reached by DNS names and IP addresses.
    pub fn issue_server(
        &self,
        names: &[&str],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<ServerCertificate, IssueError> {
        if names.is_empty() {
            return Err(IssueError::NoServerName);
        }
        let sans = names.iter().map(|name| server_san(name)).collect::<Result<_, _>>()?;
        let key = KeyPair::generate().map_err(|source| IssueError::Key {
            trust_domain: self.trust_domain.clone(),
            source,
        })?;
        let certificate = self.leaf(key.inner(), sans, ttl, now)?;
        Ok(ServerCertificate { key, certificate })
    }

    fn leaf(
        &self,
        public_key: &impl PublicKeyData,
        sans: Vec<SanType>,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<String, IssueError> {
        if ttl < Duration::from_secs(1) || ttl > LEAF_TTL_MAX {
            return Err(IssueError::Ttl { ttl });
        }
        if now >= self.not_after {
            let trust_domain = self.trust_domain.clone();
            return Err(IssueError::RootExpired { trust_domain, not_after: self.not_after });
        }
        let mut params = parameters(now, (now + ttl).min(self.not_after))?;
        params.subject_alt_names = sans;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(public_key, &self.issuer).map_err(IssueError::Sign)?.pem())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn parameters(now: SystemTime, not_after: SystemTime) -> Result<CertificateParams, IssueError> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = epoch + since_epoch(now).saturating_sub(NOT_BEFORE_SKEW);
    params.not_after = epoch + since_epoch(not_after);
    params.serial_number = Some(serial()?);
    params.key_identifier_method = KeyIdMethod::Sha256;
    Ok(params)
}

/// 128 random bits: the library's own choice, a hash of the public key, would repeat on a second issue.
fn serial() -> Result<SerialNumber, IssueError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| IssueError::Random)?;
    // RFC 5280 4.1.2.2: positive, so neither a sign bit nor a zero in front.
    let [first, ..] = &mut bytes;
    *first = (*first & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// The public key of a request that proves possession of its private key.
fn public_key(request_pem: &str, identity: &Identity) -> Result<SubjectPublicKeyInfo, IssueError> {
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
    let signature = &request.signature_value.data;
    let scheme =
        accepted(&request.signature_algorithm.algorithm.to_id_string()).ok_or_else(|| {
            IssueError::Request {
                reason: format!("signature algorithm {algorithm} is not accepted"),
            }
        })?;
    holder.verify_signature(scheme, info.raw, signature).map_err(refused)?;
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

fn server_san(name: &str) -> Result<SanType, IssueError> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let bad = || IssueError::ServerName { name: shown(name) };
    rustls_pki_types::DnsName::try_from(name).map_err(|_| bad())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| bad())?))
}

fn hex(bytes: &[u8], digits: usize) -> String {
    use fmt::Write as _;
    let mut text = String::new();
    for byte in bytes.iter().take(digits.div_ceil(2)) {
        write!(text, "{byte:02x}").expect("a String takes all text");
    }
    text
}
