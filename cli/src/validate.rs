//! Checks a folder of manifests as the control plane would.

use std::{io::Write, path::Path};

use anyhow::{Result, bail};

use crate::{End, analyze, args::Format};

pub(crate) fn validate(dir: &Path, format: Format, out: &mut impl Write) -> Result<End> {
    if !dir.is_dir() {
        bail!("{} is not a folder; give the folder that holds the manifests", dir.display());
    }
    analyze::files(dir, None, format, out)
}
