//! The roots that all nodes are given, and since when; and whether a CA that others keep may follow another.
//!
//! Nobody but they can change a CA of others step by step, and a wrong order is seen by nobody before workloads
//! refuse each other. So each step is held against what nodes were given and have said:
//!
//! ```text
//!   1. the new root is put beside the old one         the CA stays
//!   2. the CA is changed                              once every node has said that it has both
//!   3. the old root is taken away                     once all that it proves is over
//! ```

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use k8s_openapi::{
    api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp,
};
use weft_certs::{Bundle, BundleError};

use super::rotation::{Census, LEAVES_GONE_AFTER, Lacking};
use crate::clock::seconds;

/// The `ConfigMap`.
pub(super) const BUNDLE: &str = "weft-trust-bundle";
/// Of the ConfigMap: the roots, under Istio's name for them.
pub(super) const FIELD: &str = "root-cert.pem";
/// Annotations, in seconds since 1970: since when these roots are given to all, and since when another signs.
const ROOTS_SINCE: &str = "weft.mesh/roots-since";
const SIGNED_SINCE: &str = "weft.mesh/signed-since";
/// The fingerprint of the root that the CA is under.
const SIGNED_BY: &str = "weft.mesh/signed-by";

/// What is published of roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) roots: Bundle,
    since: SystemTime,
    signed_by: String,
    signed_since: SystemTime,
}

/// Why a CA may not take the place of the one before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotYet {
    #[error(
        "it is under none of the roots that nodes were given: first put its root beside them, and leave the CA as it \
         was until every node has said that it has both"
    )]
    Unknown,
    #[error(
        "its roots lack {root}, by which certificates that are still good were signed: keep it for {}h after the CA \
         was changed",
        LEAVES_GONE_AFTER.as_secs() / 3600
    )]
    Dropped { root: String },
    #[error(
        "these nodes have not said that they have its root, keep the CA of before until they do: {nodes}"
    )]
    Nodes { nodes: String },
    #[error(
        "not all nodes can have said that they have its root, keep the CA of before until {until}"
    )]
    Unheard { until: Timestamp },
}

impl Published {
    /// `None`: nothing is published.
    pub(super) fn of(map: &ConfigMap) -> Result<Option<Self>, BundleError> {
        let Some(text) = map.data.as_ref().and_then(|data| data.get(FIELD)) else {
            return Ok(None);
        };
        let annotation = |name| map.metadata.annotations.as_ref().and_then(|all| all.get(name));
        let time = |name| {
            let at = annotation(name).and_then(|text| text.parse::<u32>().ok());
            at.map(|at| UNIX_EPOCH + Duration::from_secs(u64::from(at)))
        };
        // Without a record the roots are as old as the map, and the first of them signs.
        let made = map.metadata.creation_timestamp.as_ref().map(|Time(made)| (*made).into());
        let made = made.unwrap_or(UNIX_EPOCH);
        let roots = Bundle::from_pem(text)?;
        let first = || roots.each().next().map(|root| root.fingerprint()).unwrap_or_default();
        let signed_by = annotation(SIGNED_BY).cloned().unwrap_or_else(first);
        let since = time(ROOTS_SINCE).unwrap_or(made);
        let signed_since = time(SIGNED_SINCE).unwrap_or(made);
        Ok(Some(Self { roots, since, signed_by, signed_since }))
    }

    /// What is to be published of a CA with these roots that is under each of `signers`.
    pub(super) fn after(
        before: Option<&Self>,
        roots: &Bundle,
        signers: &[String],
        now: SystemTime,
    ) -> Self {
        let signs_on = before.filter(|before| signers.contains(&before.signed_by));
        let (signed_by, signed_since) = match signs_on {
            Some(before) => (before.signed_by.clone(), before.signed_since),
            None => (signers.first().cloned().unwrap_or_default(), now),
        };
        let same = before.filter(|before| before.roots.fingerprint() == roots.fingerprint());
        let since = same.map_or(now, |before| before.since);
        Self { roots: roots.clone(), since, signed_by, signed_since }
    }

    /// Puts it in the map; says whether that is news.
    pub(super) fn put(&self, map: &mut ConfigMap) -> News {
        let mut news = News::None;
        let mut set = |all: &mut BTreeMap<String, String>, name: &str, text: String| {
            if all.get(name) != Some(&text) {
                all.insert(name.to_owned(), text);
                news = News::Some;
            }
        };
        set(map.data.get_or_insert_default(), FIELD, self.roots.to_pem());
        let annotations = map.metadata.annotations.get_or_insert_default();
        set(annotations, ROOTS_SINCE, seconds(self.since).to_string());
        set(annotations, SIGNED_BY, self.signed_by.clone());
        set(annotations, SIGNED_SINCE, seconds(self.signed_since).to_string());
        news
    }

    /// The root that signs, where it is none of these: they are not those of this mesh, or not the newest.
    pub(super) fn signer_other_than(&self, roots: &Bundle) -> Option<&str> {
        let known = roots.each().any(|root| root.fingerprint() == self.signed_by);
        (!known).then_some(self.signed_by.as_str())
    }

    /// Whether a CA with these roots, which is under each of `signers`, may sign from now on.
    pub(super) fn may_be_followed_by(
        &self,
        roots: &Bundle,
        signers: &[String],
        census: &Census,
        now: SystemTime,
    ) -> Result<(), NotYet> {
        let known: Vec<String> = self.roots.each().map(|root| root.fingerprint()).collect();
        if !signers.iter().any(|signer| known.contains(signer)) {
            return Err(NotYet::Unknown);
        }
        let kept: Vec<String> = roots.each().map(|root| root.fingerprint()).collect();
        let is_over =
            |root: &String| *root != self.signed_by && now >= self.signed_since + LEAVES_GONE_AFTER;
        if let Some(root) = known.into_iter().find(|root| !kept.contains(root) && !is_over(root)) {
            return Err(NotYet::Dropped { root });
        }
        if signers.contains(&self.signed_by) {
            return Ok(());
        }
        match census.lacking(&self.roots.fingerprint(), self.since, now) {
            Lacking::Nobody => Ok(()),
            Lacking::Nodes(names) => Err(NotYet::Nodes { nodes: names.join(" ") }),
            Lacking::Unheard { until } => {
                Err(NotYet::Unheard { until: Timestamp::try_from(until).unwrap_or_default() })
            }
        }
    }
}

/// Whether something is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    None,
    Some,
}

#[cfg(test)]
mod tests;
