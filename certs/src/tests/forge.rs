//! Certificates that no CA of ours would make, for the other side of the table.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::CertificateDer;

use super::{DAY, start};
use crate::Bundle;

pub(crate) fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// A CA, and what it has signed so far on the way from the root to it.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// Itself and the intermediates above it, without the root.
    above: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
}

impl Ca {
    pub(crate) fn root(name: &str) -> Self {
        Self::root_with(name, |_| {})
    }

    pub(crate) fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = key();
        let mut params = ca_params(name);
        change(&mut params);
        let root: CertificateDer<'_> = params.self_signed(&key).unwrap().into();
        Self { issuer: Issuer::new(params, key), above: Vec::new(), root }
    }

    pub(crate) fn intermediate(&self, name: &str) -> Self {
        self.intermediate_with(name, |_| {})
    }

    pub(crate) fn intermediate_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let key = key();
        let mut params = ca_params(name);
        change(&mut params);
        let own: CertificateDer<'_> = params.signed_by(&key, &self.issuer).unwrap().into();
        let above = [vec![own], self.above.clone()].concat();
        Self { issuer: Issuer::new(params, key), above, root: self.root.clone() }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::from_pem(&crate::pem::encode_certificate(&self.root)).unwrap()
    }

    /// A good leaf of `identity`, changed; with all intermediates.
    pub(crate) fn chain(
        &self,
        identity: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Vec<CertificateDer<'static>> {
        let mut params = leaf_params(identity);
        change(&mut params);
        let leaf = params.signed_by(&key(), &self.issuer).unwrap().into();
        [vec![leaf], self.above.clone()].concat()
    }
}

pub(crate) fn leaf_params(identity: &str) -> CertificateParams {
    let mut params = dated(start(), start() + DAY);
    params.subject_alt_names = vec![uri(identity)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = dated(start() - DAY, start() + 3650 * DAY);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn dated(from: SystemTime, to: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    set_validity(&mut params, from, to);
    params
}

pub(crate) fn set_validity(params: &mut CertificateParams, from: SystemTime, to: SystemTime) {
    let since = |t: SystemTime| -> Duration { t.duration_since(UNIX_EPOCH).unwrap() };
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since(from);
    params.not_after = epoch + since(to);
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}
