//! Roots that sign an issuing CA, which signs the leaves: the root's key is needed once in a while only.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyUsagePurpose,
    SubjectPublicKeyInfo,
};
use weft_model::{Identity, Namespace, ServiceAccountName, TrustDomain};
use zeroize::Zeroizing;

use super::{Authority, IssueError, hex, parameters, validity};
use crate::{
    bundle::{Bundle, BundleError, may_sign_certificates},
    certificate,
    key::KeyPair,
    pem,
    svid::Svid,
    verify::CHAIN_CERTS_MAX,
};

/// A CA under a root, as it is stored.
#[derive(Debug)]
pub struct IssuingCa {
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM. Secret.
    pub key: Zeroizing<String>,
}

impl Authority {
    /// Makes a CA under this one, which is to be a root. It signs leaves only.
    pub fn issuing_ca(&self, life: Duration, now: SystemTime) -> Result<IssuingCa, IssueError> {
        let unusable = |source| IssueError::Key { trust_domain: self.trust_domain.clone(), source };
        let key = KeyPair::generate().map_err(unusable)?;
        let mut params = self.ca_parameters(now, now + life, 0)?;
        let id = hex(&params.key_identifier(&key), 8);
        params.distinguished_name.push(DnType::OrganizationName, self.trust_domain.as_str());
        params.distinguished_name.push(DnType::CommonName, format!("Weft issuing CA {id}"));
        let certificate = params.signed_by(&key, &self.issuer).map_err(IssueError::Sign)?;
        Ok(IssuingCa { certificate: certificate.pem(), key: key.to_pem() })
    }

    /// This root's word for another root, PEM: whoever trusts this one only, finds a way to the other's leaves.
    pub fn cross_sign(&self, other: &Self, now: SystemTime) -> Result<String, IssueError> {
        let bad = |source| IssueError::Root { trust_domain: self.trust_domain.clone(), source };
        let root = other.bundle.certificates().first().expect("a Bundle has at least one");
        let parsed = certificate::parse(root)
            .map_err(|source| bad(BundleError::Certificate { index: 0, source }))?;
        let mut params = self.ca_parameters(now, other.not_after, 1)?;
        // The same name and key as the root itself has, or no path would lead over it.
        let subject = parsed.subject();
        for (kind, value) in [
            (DnType::OrganizationName, subject.iter_organization().next()),
            (DnType::CommonName, subject.iter_common_name().next()),
        ] {
            if let Some(text) = value.and_then(|value| value.as_str().ok()) {
                params.distinguished_name.push(kind, text);
            }
        }
        let key =
            SubjectPublicKeyInfo::from_der(parsed.public_key().raw).map_err(IssueError::Sign)?;
        Ok(params.signed_by(&key, &self.issuer).map_err(IssueError::Sign)?.pem())
    }

    fn ca_parameters(
        &self,
        now: SystemTime,
        not_after: SystemTime,
        below: u8,
    ) -> Result<CertificateParams, IssueError> {
        if now >= self.not_after {
            let trust_domain = self.trust_domain.clone();
            return Err(IssueError::RootExpired { trust_domain, not_after: self.not_after });
        }
        let mut params = parameters(now, not_after.min(self.not_after))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    /// Takes up a stored issuing CA: its own certificate, those above it without the root, its key, and the
    /// roots that are trusted.
    ///
    /// Refused unless a leaf of it would be accepted by its peers at `now`: so a chain with a gap, an expired
    /// certificate in it, too many below one, or another key is found here and not by every workload.
    pub fn issuing(
        trust_domain: &TrustDomain,
        chain_pem: &str,
        key_pem: &str,
        roots: &Bundle,
        now: SystemTime,
    ) -> Result<Self, IssueError> {
        let unusable = |source| IssueError::Key { trust_domain: trust_domain.clone(), source };
        let bad = |source| IssueError::Root { trust_domain: trust_domain.clone(), source };
        let chain = pem::certificates(chain_pem, CHAIN_CERTS_MAX).map_err(|e| bad(e.into()))?;
        let own = chain.first().expect("`certificates` returns at least one");
        let parsed = certificate::parse(own)
            .map_err(|source| bad(BundleError::Certificate { index: 0, source }))?;
        let signs = may_sign_certificates(&parsed)
            .map_err(|source| bad(BundleError::Certificate { index: 0, source }))?;
        if !signs {
            let subject = certificate::shown(&parsed.subject().to_string());
            return Err(bad(BundleError::NotAnAuthority { index: 0, subject }));
        }
        let key = KeyPair::for_signing(key_pem).map_err(unusable)?;
        if parsed.public_key().raw != key.public_key_info() {
            return Err(IssueError::OtherKey { trust_domain: trust_domain.clone() });
        }
        let (not_before, not_after) = validity(&parsed);
        let issuer = Issuer::from_ca_cert_der(own, key).map_err(IssueError::Sign)?;
        // A root that signs leaves itself need not be sent: who trusts it has it.
        let sent = chain.iter().filter(|one| !roots.certificates().contains(one));
        let authority = Self {
            trust_domain: trust_domain.clone(),
            issuer,
            not_before,
            not_after,
            chain: sent.map(pem::encode_certificate).collect(),
            bundle: roots.clone(),
        };
        authority.prove(now)?;
        Ok(authority)
    }

    /// That a leaf of it is accepted.
    fn prove(&self, now: SystemTime) -> Result<(), IssueError> {
        let unusable = |source| IssueError::Key { trust_domain: self.trust_domain.clone(), source };
        let probe = Identity::new(
            self.trust_domain.clone(),
            Namespace::new("weft").expect("it is a label"),
            ServiceAccountName::new("probe").expect("it is a label"),
        );
        let key = KeyPair::generate().map_err(unusable)?;
        let request = key.request(&probe).map_err(unusable)?;
        let chain = self.issue(&request, &probe, Duration::from_mins(1), now)?;
        Svid::from_pem(&probe, key, &chain, now).map_err(|source| IssueError::Unaccepted {
            trust_domain: self.trust_domain.clone(),
            source: Box::new(source),
        })?;
        Ok(())
    }
}
