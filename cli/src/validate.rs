//! Checks a folder of manifests as the control plane would.

use std::{io::Write, path::Path};

use anyhow::{Result, bail};

use crate::{End, args::Format, output::write};

pub(crate) fn validate(dir: &Path, format: Format, out: &mut impl Write) -> Result<End> {
    if !dir.is_dir() {
        bail!("{} is not a folder; give the folder that holds the manifests", dir.display());
    }
    let problems = weft_control::validate(dir);
    write(&problems, format, out, |out| {
        for problem in &problems {
            writeln!(out, "{problem}")?;
        }
        let count = match problems.len() {
            0 => "no problems".to_owned(),
            1 => "1 problem".to_owned(),
            n => format!("{n} problems"),
        };
        writeln!(out, "{count} in {}", dir.display())?;
        Ok(())
    })?;
    Ok(if problems.is_empty() { End::Fine } else { End::Found })
}
