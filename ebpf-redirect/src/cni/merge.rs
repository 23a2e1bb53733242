//! A network's configuration with weft-cni behind it.
//!
//! The original stays as it is. Ours is a copy beside it, whose name sorts right before it, so that a runtime
//! takes ours: whoever rewrites the original, as network plugins do when they start, never takes the capture
//! away, not even until we notice.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::plugin::VERSIONS;

#[cfg(test)]
mod tests;

/// The plugin's file, and so its type.
pub(super) const PLUGIN: &str = "weft-cni";
/// `-` sorts before the `.` of the original's extension.
const SUFFIX: &str = "-weft.conflist";

/// Why a file cannot be the network's configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// It is no JSON.
    #[error("CNI configuration {path} is no JSON")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// A field is not as CNI has it.
    #[error("CNI configuration {path}: {field} {wrong}")]
    Field {
        /// Which file.
        path: PathBuf,
        /// Which field.
        field: String,
        /// What is wrong with it.
        wrong: String,
    },
}

/// What the plugin is told by its entry in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where the agent listens.
    pub socket: PathBuf,
    /// Whose pods start also while the agent is away.
    pub exempt_namespaces: Vec<String>,
}

impl Entry {
    fn plugin(&self) -> Value {
        json!({
            "type": PLUGIN,
            "socket": self.socket,
            "exemptNamespaces": self.exempt_namespaces,
        })
    }
}

/// Whether a runtime would read a file of this name, and it is not ours.
pub(super) fn is_original(name: &[u8]) -> bool {
    let known = [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end.as_bytes()));
    known && !is_ours(name)
}

pub(super) fn is_ours(name: &[u8]) -> bool {
    name.ends_with(SUFFIX.as_bytes())
}

/// Where our copy of a configuration is.
pub(super) fn beside(original: &Path) -> PathBuf {
    let mut name = original.file_stem().map(OsString::from).unwrap_or_default();
    name.push(SUFFIX);
    original.with_file_name(name)
}

/// The list that `original` is or becomes, with our entry last.
pub(super) fn chained(original: &Path, text: &[u8], entry: &Entry) -> Result<Value, ConfError> {
    let parsed = serde_json::from_slice(text)
        .map_err(|source| ConfError::Parse { path: original.to_owned(), source })?;
    let wrong = |field: &str, wrong: &str| ConfError::Field {
        path: original.to_owned(),
        field: field.to_owned(),
        wrong: wrong.to_owned(),
    };
    let Value::Object(conf) = parsed else { return Err(wrong("the whole", "is no object")) };
    let is_list = original.extension().is_some_and(|end| end == "conflist");
    let mut list = if is_list { conf } else { list_of_one(conf) };
    match list.get("name") {
        Some(Value::String(name)) if !name.is_empty() => {}
        Some(_) => return Err(wrong("name", "is no name")),
        None => return Err(wrong("name", "is missing")),
    }
    let version = list.get("cniVersion").map(|version| version.as_str().unwrap_or_default());
    match version {
        Some(version) if VERSIONS.contains(&version) => {}
        Some(_) => return Err(wrong("cniVersion", &format!("is none of {}", VERSIONS.join(", ")))),
        None => return Err(wrong("cniVersion", "is missing")),
    }
    let plugins = match list.get_mut("plugins") {
        Some(Value::Array(plugins)) if !plugins.is_empty() => plugins,
        Some(Value::Array(_)) => return Err(wrong("plugins", "is empty")),
        Some(_) => return Err(wrong("plugins", "is no array")),
        None => return Err(wrong("plugins", "is missing")),
    };
    for (index, plugin) in plugins.iter().enumerate() {
        if kind(plugin).is_none_or(str::is_empty) {
            let field = if is_list { format!("plugins[{index}].type") } else { "type".to_owned() };
            return Err(wrong(&field, "is missing"));
        }
    }
    plugins.retain(|plugin| kind(plugin) != Some(PLUGIN));
    plugins.push(entry.plugin());
    Ok(Value::Object(list))
}

/// Spec: a configuration of one plugin has the list's name and version in it.
fn list_of_one(conf: Map<String, Value>) -> Map<String, Value> {
    let mut list = Map::new();
    for field in ["cniVersion", "name"] {
        if let Some(value) = conf.get(field) {
            list.insert(field.to_owned(), value.clone());
        }
    }
    list.insert("plugins".to_owned(), Value::Array(vec![Value::Object(conf)]));
    list
}

fn kind(plugin: &Value) -> Option<&str> {
    plugin.get("type")?.as_str()
}

/// Whether the copy that is there does what `wanted` does. Others may have put themselves into it, since it is
/// the first file: they are left there.
pub(super) fn holds(ours: &[u8], wanted: &Value) -> bool {
    let Ok(ours) = serde_json::from_slice::<Value>(ours) else { return false };
    let rest = |list: &Value| {
        let mut list = list.as_object().cloned().unwrap_or_default();
        list.remove("plugins");
        list
    };
    let plugins = |list: &Value| list.get("plugins").and_then(Value::as_array).cloned();
    let (Some(there), Some(wanted_plugins)) = (plugins(&ours), plugins(wanted)) else {
        return false;
    };
    let mut there = there.iter();
    rest(&ours) == rest(wanted)
        && wanted_plugins.iter().all(|plugin| there.any(|one| one == plugin))
}
