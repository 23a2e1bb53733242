//! The dependencies between crates are those drawn in ARCHITECTURE.md, in its block ```` ```arrows ````.
//!
//! A line is `crate -> crate, crate`; a crate without arrows stands alone on its line. What only tests use is
//! not drawn.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Finding;

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<String>,
}

type Arrows = BTreeMap<String, Vec<String>>;

pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).context("read ARCHITECTURE.md")?;
    let drawn = drawn(&page);
    ensure!(!drawn.is_empty(), "ARCHITECTURE.md has no block ```arrows");
    Ok(compare(&drawn, &real(root)?))
}

fn compare(drawn: &Arrows, real: &Arrows) -> Vec<Finding> {
    let mut findings = Vec::new();
    let empty = Vec::new();
    for name in drawn.keys().chain(real.keys().filter(|name| !drawn.contains_key(*name))) {
        if drawn.get(name).unwrap_or(&empty) != real.get(name).unwrap_or(&empty)
            || drawn.contains_key(name) != real.contains_key(name)
        {
            let list =
                |arrows: &Arrows| arrows.get(name).map_or("nothing".to_owned(), |to| to.join(", "));
            let what = format!("{name} -> {} is drawn, {} is real", list(drawn), list(real));
            findings.push(Finding::new("ARCHITECTURE.md", what));
        }
    }
    findings
}

fn drawn(page: &str) -> Arrows {
    let block = page.split("```arrows\n").nth(1).and_then(|rest| rest.split("```").next());
    let lines = block.unwrap_or_default().lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let (from, to) = line.split_once("->").unwrap_or((line, ""));
            let to = to.split(',').map(str::trim).filter(|name| !name.is_empty());
            let mut to: Vec<_> = to.map(str::to_owned).collect();
            to.sort();
            (from.trim().to_owned(), to)
        })
        .collect()
}

fn real(root: &Path) -> Result<Arrows> {
    let args = ["metadata", "--no-deps", "--format-version", "1"];
    let output =
        Command::new(env!("CARGO")).current_dir(root).args(args).output().context("run cargo")?;
    ensure!(output.status.success(), "cargo metadata failed");
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let arrows = |package: Package| {
        let ours = |d: &Dependency| d.path.is_some() && d.kind.as_deref() != Some("dev");
        let mut to: Vec<_> =
            package.dependencies.into_iter().filter(ours).map(|d| d.name).collect();
        to.sort();
        (package.name, to)
    };
    Ok(metadata.packages.into_iter().map(arrows).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_that_is_not_drawn_or_not_real_is_found() {
        let drawn = drawn("text\n```arrows\na -> c, b\nb -> c\nc\n```\nmore");
        assert_eq!(compare(&drawn, &drawn), []);
        let mut real = drawn.clone();
        real.insert("b".to_owned(), Vec::new());
        let finding = Finding::new("ARCHITECTURE.md", "b -> c is drawn,  is real");
        assert_eq!(compare(&drawn, &real), [finding]);
    }
}
