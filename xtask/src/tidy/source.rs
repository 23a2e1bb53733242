//! The repository's Rust, and the same with comments and literals blanked, so that text can be searched for code.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// One file of Rust.
#[derive(Debug)]
pub(super) struct Source {
    /// From the root of the repository.
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// The text with comments and the insides of literals as blanks; every line is where it was.
    pub(super) code: String,
}

/// All files of Rust that git knows or would know, generated ones apart.
#[derive(Debug)]
pub(super) struct Sources(Vec<Source>);

impl Sources {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let args = ["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"];
        let output =
            Command::new("git").current_dir(root).args(args).output().context("run git")?;
        ensure!(output.status.success(), "git ls-files failed");
        let mut sources = Vec::new();
        for path in String::from_utf8(output.stdout)?.lines().map(PathBuf::from) {
            // Deleted but not yet committed.
            let Ok(text) = fs::read_to_string(root.join(&path)) else { continue };
            if !path.starts_with("xds/src/proto") {
                let code = blank(&text);
                sources.push(Source { path, text, code });
            }
        }
        Ok(Self(sources))
    }

    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let source = |(path, text): &(&str, &str)| Source {
            path: PathBuf::from(path),
            text: (*text).to_owned(),
            code: blank(text),
        };
        Self(files.iter().map(source).collect())
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Source> {
        self.0.iter()
    }

    pub(super) fn at(&self, path: &Path) -> Option<&Source> {
        self.0.iter().find(|source| source.path == path)
    }
}

/// Where in the text we are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Code,
    Line,
    Block(usize),
    Text,
    Raw(usize),
}

/// Comments and the insides of strings and characters become blanks.
pub(super) fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let (mut within, mut at) = (Within::Code, 0);
    while let Some(&c) = chars.get(at) {
        let rest = chars.get(at..).unwrap_or_default();
        let (next, taken) = step(within, rest);
        let stays = within == Within::Code && next == Within::Code && taken == 1;
        for taken in rest.iter().take(taken) {
            let kept = *taken == '\n' || stays;
            out.push(if kept { *taken } else { ' ' });
        }
        debug_assert!(taken > 0, "stuck at {c:?}");
        (within, at) = (next, at + taken);
    }
    out
}

/// What follows, and how many characters belong to the step.
fn step(within: Within, rest: &[char]) -> (Within, usize) {
    let starts = |text: &str| text.chars().zip(rest).filter(|(a, b)| a == *b).count() == text.len();
    match within {
        Within::Code if starts("//") => (Within::Line, 2),
        Within::Code if starts("/*") => (Within::Block(1), 2),
        Within::Code if starts("\"") => (Within::Text, 1),
        Within::Code => raw(rest).or_else(|| character(rest)).unwrap_or((Within::Code, 1)),
        Within::Line if starts("\n") => (Within::Code, 1),
        Within::Block(depth) if starts("/*") => (Within::Block(depth + 1), 2),
        Within::Block(1) if starts("*/") => (Within::Code, 2),
        Within::Block(depth) if starts("*/") => (Within::Block(depth - 1), 2),
        Within::Text if starts("\\") => (within, 2),
        Within::Text if starts("\"") => (Within::Code, 1),
        Within::Raw(hashes) if ends_raw(rest, hashes) => (Within::Code, 1 + hashes),
        Within::Line | Within::Block(_) | Within::Text | Within::Raw(_) => (within, 1),
    }
}

fn raw(rest: &[char]) -> Option<(Within, usize)> {
    let prefix = rest.iter().take_while(|c| matches!(c, 'b' | 'c' | 'r')).count();
    let hashes = rest.get(prefix..)?.iter().take_while(|c| **c == '#').count();
    let is_raw = rest.get(..prefix)?.contains(&'r') && rest.get(prefix + hashes) == Some(&'"');
    is_raw.then_some((Within::Raw(hashes), prefix + hashes + 1))
}

fn ends_raw(rest: &[char], hashes: usize) -> bool {
    rest.first() == Some(&'"')
        && rest.iter().skip(1).take(hashes).filter(|c| **c == '#').count() == hashes
}

/// A character literal, as opposed to a lifetime.
fn character(rest: &[char]) -> Option<(Within, usize)> {
    if rest.first() != Some(&'\'') {
        return None;
    }
    let length = if rest.get(1) == Some(&'\\') {
        rest.iter().skip(3).position(|c| *c == '\'')? + 4
    } else if rest.get(2) == Some(&'\'') {
        3
    } else {
        return None;
    };
    Some((Within::Code, length))
}

#[cfg(test)]
mod tests {
    use super::blank;

    #[test]
    fn comments_and_literals_are_blank_and_code_is_not() {
        let text = "use a; // use b;\nlet s = \"use \\\" c\"; /* x /* y */ z */ fn f<'a>() { '{' }\nr#\"}\"#";
        let code =
            "use a;          \nlet s =           ;                   fn f<'a>() {     }\n      ";
        assert_eq!(blank(text), code);
    }
}
