//! `cargo xtask tidy`: the rules of the house that no compiler knows.
//!
//! ```text
//!   arrows    the dependencies between crates are those drawn in ARCHITECTURE.md
//!   cycles    no crate has a cycle among its modules
//!   paths     what ARCHITECTURE.md and SPECIFICATION.md name exists
//!   lengths   longer files and functions have a reason in tidy.toml
//!   reasons   an `allow`, `expect` or `ignore` says why
//!   reference every configuration field and metric is in the reference pages
//!   supply    licences, sources and bans of deny.toml, without the network
//! ```
//!
//! Each check is a function from the repository's text to findings; all findings are shown.

mod arrows;
mod cycles;
mod lengths;
mod paths;
mod reasons;
mod reference;
mod source;
mod supply;

use std::{fmt, path::Path};

use anyhow::{Result, bail};

use source::Sources;

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    place: String,
    what: String,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Runs every check and prints what it found. Errors: there was something.
pub(crate) fn run(root: &Path) -> Result<()> {
    let sources = Sources::read(root)?;
    let mut findings = [
        arrows::check(root)?,
        cycles::check(&sources),
        paths::check(root, &sources)?,
        lengths::check(root, &sources)?,
        reasons::check(&sources),
        reference::check(root, &sources)?,
        supply::check(root)?,
    ]
    .concat();
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    println!("{} files of Rust are tidy", sources.files().count());
    Ok(())
}
