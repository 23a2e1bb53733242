//! A CA that others keep: Istio's `cacerts`, or a Secret of cert-manager's.

use std::{collections::BTreeSet, time::SystemTime};

use k8s_openapi::api::core::v1::Secret;
use weft_certs::{Authority, Bundle, BundleError, IssueError};
use weft_model::TrustDomain;
use zeroize::Zeroizing;

use super::stored::{Data, StoredError, data_of, text};

/// What each kind of Secret calls chain, key and roots.
const CACERTS: [&str; 3] = ["ca-cert.pem", "ca-key.pem", "root-cert.pem"];
const CERT_MANAGER: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
/// Of `cacerts`: the CA's own certificate and all above it. May be missing where there is none above.
const CHAIN: &str = "cert-chain.pem";

/// Why a Secret is no CA.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlugInError {
    #[error(transparent)]
    Incomplete(#[from] StoredError),
    #[error("its roots cannot be used")]
    Roots(#[from] BundleError),
    // Boxed: it is large, and every other error would be as large.
    #[error("its CA cannot be used")]
    Ca(#[from] Box<IssueError>),
}

/// What a Secret holds.
pub(super) struct Parts {
    chain: String,
    key: Zeroizing<String>,
    roots: Bundle,
}

impl Parts {
    pub(super) fn of(secret: &Secret) -> Result<Self, PlugInError> {
        let data = data_of(secret);
        let has_any = |fields: [&str; 3]| fields.iter().any(|field| data.contains_key(*field));
        let [certificate, key, roots] =
            if has_any(CACERTS) && !has_any(CERT_MANAGER) { CACERTS } else { CERT_MANAGER };
        // All three before anything is judged: half a CA is the commonest mistake, and named best.
        let (own, key, roots) = (text(&data, certificate)?, text(&data, key)?, text(&data, roots)?);
        let roots = Bundle::from_pem(&roots)?;
        Ok(Self { chain: chain(&data, own), key: Zeroizing::new(key), roots })
    }

    /// The CA, if peers would accept what it signs.
    pub(super) fn authority(
        &self,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Authority, PlugInError> {
        self.under(domain, &self.roots, now).map_err(|error| Box::new(error).into())
    }

    /// The names of those of its own roots and of `others` by which alone it would be accepted.
    pub(super) fn signers(
        &self,
        domain: &TrustDomain,
        others: Option<&Bundle>,
        now: SystemTime,
    ) -> BTreeSet<String> {
        let all = self.roots.each().chain(others.into_iter().flat_map(Bundle::each));
        let signers = all.filter(|root| self.under(domain, root, now).is_ok());
        signers.flat_map(|root| root.names()).collect()
    }

    fn under(
        &self,
        domain: &TrustDomain,
        roots: &Bundle,
        now: SystemTime,
    ) -> Result<Authority, IssueError> {
        Authority::issuing(domain, &self.chain, &self.key, roots, now)
    }
}

fn chain(data: &Data, own: String) -> String {
    text(data, CHAIN).unwrap_or(own)
}

#[cfg(test)]
mod tests;
