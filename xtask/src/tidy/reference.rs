//! Every configuration field and every metric stands in the reference pages.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{Finding, Sources};

const CONFIG: &str = "ztunnel/src/config.rs";
const METRICS: &str = "ztunnel/src/telemetry/table.rs";

pub(super) fn check(root: &Path, sources: &Sources) -> Result<Vec<Finding>> {
    let pages = [("docs/configuration.md", CONFIG), ("docs/metrics.md", METRICS)];
    let mut findings = Vec::new();
    for (page, table) in pages {
        let Ok(text) = fs::read_to_string(root.join(page)) else {
            findings.push(Finding::new(page, "does not exist"));
            continue;
        };
        let source = sources.at(Path::new(table)).with_context(|| format!("find {table}"))?;
        let names = if table == CONFIG { fields(&source.text) } else { metrics(&source.text) };
        if names.is_empty() {
            findings.push(Finding::new(table, "declares nothing that this check understands"));
        }
        let missing = names.into_iter().filter(|name| !text.contains(&format!("`{name}`")));
        findings.extend(missing.map(|name| Finding::new(page, format!("{name} is missing"))));
    }
    Ok(findings)
}

/// `section.field` of each declaration `field: Type = default, …` in a `section! { … Name, "section" { … } }`.
fn fields(text: &str) -> Vec<String> {
    let mut fields = Vec::new();
    for section in text.split("\nsection! {").skip(1) {
        let section = section.split("\n}").next().unwrap_or_default();
        let name =
            section.lines().find_map(|line| line.split('"').nth(1).filter(|_| line.ends_with('{')));
        for line in section.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            if let (Some(name), Some((field, _))) = (name, line.split_once(": "))
                && field.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
            {
                fields.push(format!("{name}.{field}"));
            }
        }
    }
    fields
}

/// Names in Istio's or our form, declared as literals.
fn metrics(text: &str) -> Vec<String> {
    let literals = text.split('"').skip(1).step_by(2);
    let is_metric = |name: &&str| {
        (name.starts_with("istio_") || name.starts_with("weft_")) && !name.contains(' ')
    };
    literals.filter(is_metric).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_metrics_are_found_in_their_declarations() {
        let config = "\nsection! {\n    /// Where: here.\n    Node, \"node\" {\n        /// The node: its name.\n        name: String = x, Any(\"y\");\n    }\n}\n";
        assert_eq!(fields(config), ["node.name"]);
        let table = "counter(Family::Pods, \"weft_pods\", \"weft_pods that are\")";
        assert_eq!(metrics(table), ["weft_pods"]);
    }
}
