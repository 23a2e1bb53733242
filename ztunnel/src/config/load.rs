//! From a YAML file and the environment to a valid `Config`, or the field that is wrong.

use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

use serde::{Deserialize, Deserializer, de};

use super::{Config, NotSet, Value};

/// Why a configuration was refused. Someone must change it; trying again does not help.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read configuration {file}")]
    Read { file: String, source: std::io::Error },
    #[error("configuration {file} is not YAML of sections and fields")]
    NotYaml { file: String, source: Box<serde_saphyr::Error> },
    #[error("unknown field `{path}` in {origin}{nearest}")]
    Unknown { path: String, origin: String, nearest: Nearest },
    #[error("`{path}` = `{value}` in {origin}: {reason}; it takes {range}")]
    Bad { path: String, value: String, origin: String, reason: String, range: String },
    #[error("`{path}` is missing: {reason}")]
    Missing { path: &'static str, reason: &'static str },
    #[error("`{path}` = `{value}` does not go with `{other}` = `{limit}`: {reason}")]
    Conflict {
        path: &'static str,
        value: String,
        other: &'static str,
        limit: String,
        reason: &'static str,
    },
}

/// The field that was probably meant.
#[derive(Debug)]
pub struct Nearest(Option<String>);

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(name) => write!(f, "; did you mean `{name}`?"),
            None => Ok(()),
        }
    }
}

type Document = BTreeMap<String, Option<BTreeMap<String, Scalar>>>;

impl Config {
    /// Reads `file` if one is given, then takes `env` over it, then checks the whole.
    ///
    /// `env` is the process's environment as main read it; names that are not ours are passed over.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some(file) = file {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file)
                .map_err(|source| ConfigError::Read { file: name.clone(), source })?;
            config.take_yaml(&name, &text)?;
        }
        config.take_env(env)?;
        config.check()?;
        Ok(config)
    }

    pub(super) fn take_yaml(&mut self, file: &str, text: &str) -> Result<(), ConfigError> {
        // An empty document is a configuration of defaults, not an error.
        let document: Option<Document> = serde_saphyr::from_str(text).map_err(|source| {
            ConfigError::NotYaml { file: file.to_owned(), source: Box::new(source) }
        })?;
        for (section, fields) in document.unwrap_or_default() {
            for (field, Scalar(value)) in fields.unwrap_or_default() {
                self.put(&section, &field, &value, file.to_owned())?;
            }
        }
        Ok(())
    }

    pub(super) fn take_env(
        &mut self,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        let known: BTreeMap<_, _> =
            self.fields().into_iter().filter_map(|f| Some((f.env?, (f.section, f.name)))).collect();
        for (name, value) in env {
            let Some((section, field)) = known.get(name.as_str()) else { continue };
            let value = match name.as_str() {
                "TERMINATION_GRACE_PERIOD_SECONDS" => within_grace(&value),
                _ => value,
            };
            self.put(section, field, &value, format!("environment variable {name}"))?;
        }
        Ok(())
    }

    fn put(
        &mut self,
        section: &str,
        field: &str,
        value: &str,
        origin: String,
    ) -> Result<(), ConfigError> {
        let path = format!("{section}.{field}");
        self.set(section, field, value).map_err(|e| match e {
            NotSet::Unknown => {
                let nearest = Nearest(self.nearest(section, field));
                ConfigError::Unknown { path: path.escape_debug().to_string(), origin, nearest }
            }
            NotSet::Bad { reason, range } => {
                let value = value.escape_debug().to_string();
                ConfigError::Bad { path, value, origin, reason, range }
            }
        })
    }

    /// The same field in another section, or one that starts alike.
    fn nearest(&self, section: &str, field: &str) -> Option<String> {
        let start = field.get(..3).unwrap_or(field);
        let fields = self.fields();
        let found = fields.iter().find(|f| f.name == field).or_else(|| {
            fields.iter().find(|f| f.section == section && f.name.starts_with(start))
        })?;
        Some(format!("{}.{}", found.section, found.name))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let missing = |path, reason| Err(ConfigError::Missing { path, reason });
        if self.node.name.is_empty() {
            return missing("node.name", "set it, or NODE_NAME");
        }
        if self.xds.address.is_none() && self.xds.local_path.is_none() {
            return missing("xds.address", "set it, or XDS_ADDRESS, or xds.local_path");
        }
        if self.limits.pod_connections > self.limits.node_connections {
            return Err(ConfigError::Conflict {
                path: "limits.pod_connections",
                value: self.limits.pod_connections.text(),
                other: "limits.node_connections",
                limit: self.limits.node_connections.text(),
                reason: "one pod may not use more than its node has",
            });
        }
        if !self.listen.admin.ip().is_loopback() {
            return Err(ConfigError::Bad {
                path: "listen.admin".to_owned(),
                value: self.listen.admin.text(),
                origin: "the configuration".to_owned(),
                reason: "whoever reaches the admin address can stop the proxy".to_owned(),
                range: "a loopback address and port".to_owned(),
            });
        }
        Ok(())
    }

    /// Every field as JSON, by section. Nothing in it is secret.
    pub fn to_json(&self) -> serde_json::Value {
        let mut sections = serde_json::Map::new();
        for field in self.fields() {
            let section = sections
                .entry(field.section)
                .or_insert_with(|| serde_json::Value::Object(serde_json::Map::new()));
            if let serde_json::Value::Object(fields) = section {
                fields.insert(field.name.to_owned(), field.value.into());
            }
        }
        serde_json::Value::Object(sections)
    }
}

/// Istio's variable is kubelet's grace; draining must end before it, or the kernel cuts what is left.
fn within_grace(seconds: &str) -> String {
    match seconds.trim().parse::<u64>() {
        Ok(n) => Duration::from_secs(n.saturating_sub(if n > 10 { 5 } else { 1 })).text(),
        Err(_) => seconds.to_owned(),
    }
}

/// A YAML scalar by its text, or a list of them joined by commas.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> de::Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, on or off, or a list of them")
    }

    fn visit_str<E>(self, v: &str) -> Result<Scalar, E> {
        Ok(Scalar(v.to_owned()))
    }

    fn visit_bool<E>(self, v: bool) -> Result<Scalar, E> {
        Ok(Scalar(v.to_string()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Scalar, E> {
        Ok(Scalar(v.to_string()))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Scalar, E> {
        Ok(Scalar(v.to_string()))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Scalar, E> {
        Ok(Scalar(v.to_string()))
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar(String::new()))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        let mut parts = Vec::new();
        while let Some(Scalar(part)) = seq.next_element()? {
            parts.push(part);
        }
        Ok(Scalar(parts.join(",")))
    }
}
