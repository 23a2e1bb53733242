//! Files over 500 lines and functions over 70 have a second idea in them, or a line in tidy.toml that says why not.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Finding, Sources};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// tidy.toml
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exceptions {
    #[serde(default)]
    exception: Vec<Exception>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    file: String,
    /// Of one function in it; without, of the file itself.
    function: Option<String>,
    reason: String,
}

pub(super) fn check(root: &Path, sources: &Sources) -> Result<Vec<Finding>> {
    let text = fs::read_to_string(root.join("tidy.toml")).context("read tidy.toml")?;
    let exceptions: Exceptions = basic_toml::from_str(&text).context("read tidy.toml")?;
    Ok(compare(&long(sources), &exceptions))
}

#[derive(Debug, PartialEq, Eq)]
struct Long {
    file: String,
    function: Option<String>,
    lines: usize,
}

fn compare(long: &[Long], exceptions: &Exceptions) -> Vec<Finding> {
    let mut findings = Vec::new();
    let fits = |long: &Long, e: &Exception| long.file == e.file && long.function == e.function;
    for long in long {
        if !exceptions.exception.iter().any(|exception| fits(long, exception)) {
            let what = long.function.as_deref().unwrap_or("the file");
            let what = format!("{what} has {} lines and no reason in tidy.toml", long.lines);
            findings.push(Finding::new(&long.file, what));
        }
    }
    for exception in &exceptions.exception {
        let what = exception.function.as_deref().unwrap_or("the file");
        if !long.iter().any(|long| fits(long, exception)) {
            let what = format!("{what} of {} needs no exception", exception.file);
            findings.push(Finding::new("tidy.toml", what));
        }
        if exception.reason.trim().is_empty() {
            findings.push(Finding::new("tidy.toml", format!("{what}: no reason")));
        }
    }
    findings
}

fn long(sources: &Sources) -> Vec<Long> {
    let mut long = Vec::new();
    for source in sources.files() {
        let file = source.path.display().to_string();
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            long.push(Long { file: file.clone(), function: None, lines });
        }
        for (function, lines) in functions(&source.code) {
            if lines > FUNCTION_LINES_MAX {
                long.push(Long { file: file.clone(), function: Some(function), lines });
            }
        }
    }
    long
}

/// Every function with its number of lines. Formatted code ends one with a brace as deep as its start.
fn functions(code: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut functions = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let is_end = |line: &&str| {
            let depth = line.len() - line.trim_start().len();
            depth == indent && (line.trim_start().starts_with('}') || line.ends_with(';'))
        };
        let one_line = line.ends_with('}') || line.ends_with(';');
        let end = lines.iter().skip(start + 1).position(is_end).filter(|_| !one_line);
        functions.push((name, end.map_or(1, |end| end + 2)));
    }
    functions
}

fn function_name(line: &str) -> Option<String> {
    let (before, after) = line.split_once("fn ")?;
    let is_word = |word: &str| {
        matches!(word, "pub" | "const" | "async" | "unsafe" | "extern") || word.starts_with("pub(")
    };
    let declared = before.split_whitespace().all(is_word);
    let end = after.find(|c: char| c != '_' && !c.is_alphanumeric())?;
    (declared && end > 0).then(|| after.split_at(end).0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_as_long_as_from_its_first_line_to_its_brace() {
        let code = "fn a() {}\nimpl X {\n    pub(crate) async fn b(\n        x: u8,\n    ) -> u8 {\n        x\n    }\n}\n";
        assert_eq!(functions(code), [("a".to_owned(), 1), ("b".to_owned(), 5)]);
    }

    #[test]
    fn an_exception_that_nothing_needs_is_a_finding() {
        let exception = |file: &str| Exception {
            file: file.to_owned(),
            function: None,
            reason: "a table".to_owned(),
        };
        let exceptions = Exceptions { exception: vec![exception("a.rs"), exception("b.rs")] };
        let long = [Long { file: "a.rs".to_owned(), function: None, lines: 501 }];
        let unneeded = Finding::new("tidy.toml", "the file of b.rs needs no exception");
        assert_eq!(compare(&long, &exceptions), [unneeded]);
        assert_eq!(compare(&long, &Exceptions::default()).len(), 1);
    }
}
