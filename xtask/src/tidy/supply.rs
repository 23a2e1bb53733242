//! deny.toml, as far as it can be held without a network: licences, sources, and crates that are banned.
//!
//! `cargo deny check` reads the same file and asks for advisories too.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Finding;

#[derive(Debug, Deserialize)]
struct Deny {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Debug, Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Banned>,
}

#[derive(Debug, Deserialize)]
struct Banned {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// A crate that is compiled into something of ours.
#[derive(Debug)]
struct Package {
    name: String,
    /// As cargo prints it: name, version, and where it comes from if that is not the registry.
    shown: String,
    license: String,
}

pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let text = fs::read_to_string(root.join("deny.toml")).context("read deny.toml")?;
    let deny: Deny = basic_toml::from_str(&text).context("read deny.toml")?;
    // Not the lock file: it also names what only other systems or other features would compile.
    let args = ["tree", "--workspace", "--locked", "--prefix", "none", "--format", "{p}|{l}"];
    let output =
        Command::new(env!("CARGO")).current_dir(root).args(args).output().context("run cargo")?;
    ensure!(output.status.success(), "cargo tree failed: is Cargo.lock up to date?");
    let tree = String::from_utf8(output.stdout)?;
    let lines: BTreeSet<&str> = tree.lines().filter(|line| !line.ends_with("(*)")).collect();
    Ok(lines.into_iter().filter_map(package).flat_map(|package| judge(&deny, &package)).collect())
}

fn package(line: &str) -> Option<Package> {
    let (shown, license) = line.rsplit_once('|')?;
    let name = shown.split(' ').next()?.to_owned();
    Some(Package { name, shown: shown.to_owned(), license: license.to_owned() })
}

fn judge(deny: &Deny, package: &Package) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find =
        |what: String| findings.push(Finding::new(format!("crate {}", package.name), what));
    if let Some(banned) = deny.bans.deny.iter().find(|banned| banned.name == package.name) {
        find(format!("is banned: {}", banned.reason));
    }
    if !allows(&deny.licenses.allow, &package.license) {
        find(format!("its licence, {:?}, is not in deny.toml", package.license));
    }
    if package.shown.contains("://") {
        find(format!("{} is not from the Rust registry", package.shown));
    }
    findings
}

/// Whether a licence expression can be met: OR is a choice, AND needs both, a slash is an old OR.
fn allows(allowed: &[String], expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    any(allowed, &words, &mut at) && at == words.len()
}

fn any(allowed: &[String], words: &[&str], at: &mut usize) -> bool {
    let mut met = all(allowed, words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(allowed, words, at);
    }
    met
}

fn all(allowed: &[String], words: &[&str], at: &mut usize) -> bool {
    let mut met = one(allowed, words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(allowed, words, at);
    }
    met
}

fn one(allowed: &[String], words: &[&str], at: &mut usize) -> bool {
    let word = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if word == "(" {
        let met = any(allowed, words, at);
        *at += 1;
        return met;
    }
    let mut name = word.to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{word} WITH {}", words.get(*at + 1).copied().unwrap_or_default());
        *at += 2;
    }
    allowed.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::allows;

    #[test]
    fn a_licence_expression_is_met_by_what_is_allowed() {
        let allowed =
            ["MIT".to_owned(), "ISC".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()];
        for met in [
            "MIT",
            "GPL-3.0 OR MIT",
            "Zlib/MIT",
            "(MIT OR X) AND ISC",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(allows(&allowed, met), "{met}");
        }
        for unmet in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND X", "Apache-2.0", "none"] {
            assert!(!allows(&allowed, unmet), "{unmet}");
        }
    }
}
