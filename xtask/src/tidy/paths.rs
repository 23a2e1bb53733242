//! What the pages name exists: files and folders of ARCHITECTURE.md, tests of SPECIFICATION.md.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{Finding, Sources};

/// Instead of a test's name, where nothing proves the promise.
const UNPROVED: &str = "no test yet";

pub(super) fn check(root: &Path, sources: &Sources) -> Result<Vec<Finding>> {
    let read =
        |page: &str| fs::read_to_string(root.join(page)).with_context(|| format!("read {page}"));
    let mut findings = Vec::new();
    for page in ["README.md", "ARCHITECTURE.md", "SPECIFICATION.md"] {
        for path in quoted(&read(page)?).filter(|word| is_path(word)) {
            if !root.join(path).exists() {
                findings.push(Finding::new(page, format!("{path} does not exist")));
            }
        }
    }
    for (promise, test) in promises(&read("SPECIFICATION.md")?) {
        let declared = format!("fn {test}(");
        let exists = sources.files().any(|source| source.code.contains(&declared));
        if test != UNPROVED && !exists {
            let what = format!("\"{promise}\" names {test}, which is no test");
            findings.push(Finding::new("SPECIFICATION.md", what));
        }
    }
    Ok(findings)
}

fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// `model/`, `xtask/src/tidy.rs`: relative, with a slash, and nothing that a path of ours has not.
fn is_path(word: &str) -> bool {
    let ours = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    word.contains('/') && !word.starts_with(['/', '.']) && word.chars().all(ours)
}

/// Rows of the tables: the first cell is the promise, the last one the test.
fn promises(page: &str) -> impl Iterator<Item = (&str, &str)> {
    page.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').collect();
        let (promise, test) = (cells.first()?.trim(), cells.last()?.trim());
        let is_head = test == "Test" || test.starts_with("--");
        (!is_head).then(|| (promise, test.trim_matches('`')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_ends_in_the_test_that_proves_it() {
        let page =
            "| Promise | Test |\n|---|---|\n| a, 5 ms | `a_is_fast` |\n| b | no test yet |\n";
        let rows: Vec<_> = promises(page).collect();
        assert_eq!(rows, [("a, 5 ms", "a_is_fast"), ("b", UNPROVED)]);
    }

    #[test]
    fn only_relative_paths_are_looked_up() {
        let words = ["model/", "xtask/src/tidy.rs", "/sys/fs/bpf", "a -> b", "tests", "<uid>/x"];
        let paths: Vec<_> = words.into_iter().filter(|word| is_path(word)).collect();
        assert_eq!(paths, ["model/", "xtask/src/tidy.rs"]);
    }
}
