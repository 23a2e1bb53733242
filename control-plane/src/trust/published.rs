//! The roots that all nodes are given, and since when; and whether a CA that others keep may follow another.
//!
//! Nobody but they can change a CA of others step by step, and a wrong order is seen by nobody before workloads
//! refuse each other. So each step is held against what nodes were given and have said:
//!
//! ```text
//!   1. the new root is put beside the old one         the CA stays
//!   2. the CA is changed                              once every node has said that it has both
//!   3. the old root is taken away                     once all that it alone proves is over
//! ```
//!
//! A CA may be under several roots at once, where the old one vouches for the new. A root is known by its subject and
//! key: another certificate of them changes nothing for whom it signed.

use std::{
    collections::{BTreeMap, BTreeSet},
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
/// Annotations: since when these roots are given to all, and the CAs by which certificates are still good. Times are in
/// seconds since 1970.
const ROOTS_SINCE: &str = "weft.mesh/roots-since";
const SIGNED_BY: &str = "weft.mesh/signed-by";

/// What is published of roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) roots: Bundle,
    since: SystemTime,
    /// Oldest first, and never empty: the last one signs.
    signed: Vec<Signed>,
}

/// The CAs that were in force one after another under the same roots.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signed {
    /// The names of the roots by each of which they are accepted.
    by: BTreeSet<String>,
    since: SystemTime,
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
        "its roots lack {root}, by which alone certificates that are still good are accepted: keep it for {}h after \
         the CA was changed",
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
        // Without a record the roots are as old as the map, and the first of them signs.
        let made = map.metadata.creation_timestamp.as_ref().map(|Time(made)| (*made).into());
        let made = made.unwrap_or(UNIX_EPOCH);
        let roots = Bundle::from_pem(text)?;
        let since = annotation(ROOTS_SINCE).and_then(|text| time(text)).unwrap_or(made);
        let signed = annotation(SIGNED_BY).and_then(|text| read(text)).unwrap_or_else(|| {
            let first = roots.each().next().map(|root| root.names());
            vec![Signed { by: first.unwrap_or_default(), since: made }]
        });
        Ok(Some(Self { roots, since, signed }))
    }

    /// What is to be published of a CA with these roots that is under each of `signers`.
    pub(super) fn after(
        before: Option<&Self>,
        roots: &Bundle,
        signers: &BTreeSet<String>,
        now: SystemTime,
    ) -> Self {
        let by: BTreeSet<String> = signers.intersection(&roots.names()).cloned().collect();
        let good = before.into_iter().flat_map(|before| before.still_good(now));
        let mut signed: Vec<Signed> = good.cloned().collect();
        if signed.last().is_none_or(|last| last.by != by) {
            // Also where a CA of before is back: the record is shorter then, and what it allows less.
            signed.retain(|before| before.by != by);
            signed.push(Signed { by, since: now });
        }
        let same = before.filter(|before| before.roots.fingerprint() == roots.fingerprint());
        let since = same.map_or(now, |before| before.since);
        Self { roots: roots.clone(), since, signed }
    }

    /// Those by which certificates may be good.
    fn still_good(&self, now: SystemTime) -> impl Iterator<Item = &Signed> {
        let next = self.signed.iter().skip(1).map(|next| Some(next.since)).chain([None]);
        let good =
            move |end: Option<SystemTime>| end.is_none_or(|end| now < end + LEAVES_GONE_AFTER);
        self.signed.iter().zip(next).filter(move |(_, end)| good(*end)).map(|(signed, _)| signed)
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
        set(annotations, SIGNED_BY, text(&self.signed));
        news
    }

    /// The root that signs, where it is none of these: they are not those of this mesh, or not the newest.
    pub(super) fn signer_other_than(&self, roots: &Bundle) -> Option<String> {
        let by = &self.signed.last()?.by;
        by.is_disjoint(&roots.names()).then(|| joined(by))
    }

    /// Whether all certificates that may be good are accepted by these roots, as far as the record goes back.
    fn can_do_with(&self, roots: &BTreeSet<String>, now: SystemTime) -> bool {
        let goes_back =
            self.signed.first().is_some_and(|first| now >= first.since + LEAVES_GONE_AFTER);
        goes_back && self.still_good(now).all(|signed| !signed.by.is_disjoint(roots))
    }

    /// Whether a CA with these roots, which is under each of `signers`, may sign from now on.
    pub(super) fn may_be_followed_by(
        &self,
        roots: &Bundle,
        signers: &BTreeSet<String>,
        census: &Census,
        now: SystemTime,
    ) -> Result<(), NotYet> {
        let (known, kept) = (self.roots.names(), roots.names());
        if signers.is_disjoint(&known) {
            return Err(NotYet::Unknown);
        }
        if let Some(root) = known.difference(&kept).next()
            && !self.can_do_with(&kept, now)
        {
            return Err(NotYet::Dropped { root: root.clone() });
        }
        // Whoever accepts one that is under some of the roots that this one is under accepts this one.
        let by: BTreeSet<String> = signers.intersection(&kept).cloned().collect();
        if self.still_good(now).any(|before| before.by.is_subset(&by)) {
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

/// As it is annotated: `<since>=<root>+<root>`, one after another.
fn text(signed: &[Signed]) -> String {
    let one = |Signed { by, since }: &Signed| format!("{}={}", seconds(*since), joined(by));
    signed.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn read(text: &str) -> Option<Vec<Signed>> {
    let one = |one: &str| {
        let (since, by) = one.split_once('=')?;
        Some(Signed { by: by.split('+').map(str::to_owned).collect(), since: time(since)? })
    };
    let all: Option<Vec<Signed>> = text.split(' ').map(one).collect();
    all.filter(|all| all.is_sorted_by_key(|signed| signed.since))
}

fn joined(roots: &BTreeSet<String>) -> String {
    roots.iter().map(String::as_str).collect::<Vec<_>>().join("+")
}

fn time(text: &str) -> Option<SystemTime> {
    let at: u32 = text.parse().ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(u64::from(at)))
}

/// Whether something is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    None,
    Some,
}

#[cfg(test)]
mod tests;
