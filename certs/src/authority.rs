//! The certificate authority: one root, and the leaves that it signs.

mod error;
mod hierarchy;
mod request;

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use weft_model::{Identity, TrustDomain};
use x509_parser::certificate::X509Certificate;
use zeroize::Zeroizing;

use crate::{
    bundle::{Bundle, BundleError},
    certificate::{self, shown},
    key::{KeyPair, uri_san},
    node::NodeIdentity,
    time::{NOT_BEFORE_SKEW, from_asn1, since_epoch},
};
pub use error::{IssueError, LEAF_TTL, LEAF_TTL_MAX};
pub use hierarchy::IssuingCa;
use request::public_key;

/// How long a root lives: Istio's own choice, so that nobody meets its end by surprise in a few years.
const ROOT_TTL: Duration = Duration::from_hours(10 * 365 * 24);

/// A key and certificate for a TLS server that is known by name, not by SPIFFE ID: the control plane.
#[derive(Debug)]
pub struct ServerCertificate {
    /// Its private key.
    pub key: KeyPair,
    /// Its certificate and what leads from it to a root, PEM.
    pub certificate: String,
}

/// A certificate authority for one trust domain.
///
/// Rotation, in three steps with a leaf's life between them: the old authority goes on signing, and its bundle holds
/// the new root too; the new one signs, and its bundle holds the old root too; the old root is dropped. At every moment any two leaves accept each other.
pub struct Authority {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    not_before: SystemTime,
    not_after: SystemTime,
    /// What leads from its leaves to a root, PEM: nothing where it is the root.
    chain: Vec<String>,
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
        let id = hex(&params.key_identifier(&key), 8);
        params.distinguished_name.push(DnType::CommonName, format!("Weft root {id}"));
        // Below it: another root that it vouches for while they change, that one's issuing CA, and the leaves.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(2));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(IssueError::Sign)?;
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
        let (not_before, not_after) = validity(&parsed);
        let issuer = Issuer::from_ca_cert_der(own, key).map_err(IssueError::Sign)?;
        let (trust_domain, chain) = (trust_domain.clone(), Vec::new());
        Ok(Self { trust_domain, issuer, not_before, not_after, chain, bundle })
    }

    /// Whose identities it signs.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its own root first, then the others that are trusted.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// First instant of its own certificate's validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Last instant of its own certificate's validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Its private key in PEM. Secret: for a 0600 file or a Secret only.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.issuer.key().to_pem()
    }

    /// Signs a leaf for `identity`: `[leaf, intermediates, root bundle]`, each PEM.
    ///
    /// Nothing is taken from the request but its public key, once its signature proves that the requester
    /// holds the private key. A request that names anybody else, or wants to be a CA, is refused. The leaf
    /// starts a minute before `now`, for peers whose clock is behind, and never outlives its issuer.
    pub fn issue(
        &self,
        request_pem: &str,
        identity: &Identity,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, IssueError> {
        self.issue_for(request_pem, &identity.to_string(), identity.trust_domain(), ttl, now)
    }

    /// Signs a leaf for a node's proxy, in the same way. No workload accepts it.
    pub fn issue_node(
        &self,
        request_pem: &str,
        node: &NodeIdentity,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, IssueError> {
        self.issue_for(request_pem, &node.to_string(), node.trust_domain(), ttl, now)
    }

    fn issue_for(
        &self,
        request_pem: &str,
        subject: &str,
        domain: &TrustDomain,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, IssueError> {
        if domain != &self.trust_domain {
            let own = self.trust_domain.clone();
            return Err(IssueError::ForeignTrustDomain { subject: subject.to_owned(), own });
        }
        let public_key = public_key(request_pem, subject)?;
        let san = uri_san(subject).map_err(IssueError::Sign)?;
        let leaf = self.leaf(&public_key, vec![san], ttl, now)?;
        let above = self.chain.iter().cloned().chain([self.bundle.to_pem()]);
        Ok(std::iter::once(leaf).chain(above).collect())
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
        let certificate = self.leaf(&key, sans, ttl, now)? + &self.chain.concat();
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

fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let validity = certificate.validity();
    (from_asn1(validity.not_before), from_asn1(validity.not_after))
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
