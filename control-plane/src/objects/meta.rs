//! What every object carries.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Deserializer, de::Error};

use super::Name;

pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    pub name: Arc<str>,
    /// Empty for what belongs to the whole cluster.
    pub namespace: Arc<str>,
    pub uid: Arc<str>,
    pub labels: Labels,
    /// Those that we know of: others can be longer than all the rest of the object.
    #[serde(deserialize_with = "known_annotations")]
    pub annotations: Labels,
    /// RFC 3339, so that text order is the order of time. Empty in a manifest that was never in a cluster.
    pub creation_timestamp: Arc<str>,
    /// Present while the object is being deleted.
    pub deletion_timestamp: Option<Arc<str>>,
    pub owner_references: Vec<OwnerReference>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    pub kind: Arc<str>,
    pub name: Arc<str>,
    pub controller: bool,
}

fn known_annotations<'de, D: Deserializer<'de>>(from: D) -> Result<Labels, D::Error> {
    let mut all = Labels::deserialize(from)?;
    all.retain(|key, _| is_known_annotation(key));
    Ok(all)
}

/// Whether it may mean something to us.
pub(crate) fn is_known_annotation(key: &str) -> bool {
    ["istio.io/", "weft.mesh/", "topology.kubernetes.io/"].iter().any(|domain| key.contains(domain))
}

impl ObjectMeta {
    pub fn key(&self) -> Name {
        Name { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    pub fn label(&self, key: &str) -> Option<&Arc<str>> {
        self.labels.get(key)
    }

    pub fn annotation(&self, key: &str) -> Option<&Arc<str>> {
        self.annotations.get(key)
    }

    /// Older first; in one moment, or without one, by name.
    pub fn age(&self) -> (Arc<str>, Name) {
        (self.creation_timestamp.clone(), self.key())
    }
}

/// The labels of a selector. One that no object can have is refused: such a selector would select nothing, and
/// what was to be guarded by it would be open.
pub(super) fn selecting<'de, D: Deserializer<'de>>(from: D) -> Result<Labels, D::Error> {
    let labels = Labels::deserialize(from)?;
    for (key, value) in &labels {
        if !is_label(key, value) {
            let label = crate::escape::shown(&format!("{key}: {value}"));
            return Err(D::Error::custom(format!("`{label}` is no label that an object can have")));
        }
    }
    Ok(labels)
}

/// Spec: labels: `[<RFC 1123 subdomain>/]<name>`, and a value that is as a name or empty.
fn is_label(key: &str, value: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').unwrap_or(("unsaid", key));
    let of_name = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    let is_name = |text: &str| {
        let ends = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        text.len() <= 63
            && bytes.iter().copied().all(of_name)
            && ends(bytes.first())
            && ends(bytes.last())
    };
    is_subdomain(prefix) && is_name(name) && (value.is_empty() || is_name(value))
}

fn is_subdomain(text: &str) -> bool {
    let is_part = |part: &str| {
        let of_part = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(of_part)
    };
    text.len() <= 253 && text.split('.').all(is_part)
}

/// Whether a label selector of the `matchLabels` form selects `labels`. An empty one selects everything.
pub(crate) fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
