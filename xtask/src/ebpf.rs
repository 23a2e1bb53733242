//! `cargo xtask ebpf`: the programs for the kernel, built when their sources changed.
//!
//! They need another compiler target than everything else, so they are no part of the workspace; what comes
//! out lies in `ebpf-redirect/objects`, where weft-redirect's build picks it up.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{setup, shell::run};

const OBJECTS: [&str; 2] = ["node", "pod"];
const TARGET: &str = "bpfel-unknown-none";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none";

/// BTF, so that tools can name what is loaded; and loops over bytes left as the verifier likes them.
const FLAGS: &str = concat!(
    "-Cdebuginfo=2 -Clink-arg=--btf -Clink-arg=--disable-expand-memcpy-in-order ",
    "--cfg=bpf_target_arch="
);

/// Builds the programs, unless those that are there are of the same sources.
pub(crate) fn build(root: &Path) -> Result<()> {
    let redirect = root.join("ebpf-redirect");
    let objects = redirect.join("objects");
    let stamp = objects.join("stamp");
    let sources = digest(&redirect)?;
    let there = OBJECTS.iter().all(|object| objects.join(object).is_file());
    if there && fs::read_to_string(&stamp).is_ok_and(|built| built == sources) {
        return Ok(());
    }
    let package = redirect.join("ebpf");
    compile(&package)?;
    for object in OBJECTS {
        let built = package.join("target").join(TARGET).join("release").join(object);
        fs::copy(&built, objects.join(object))
            .with_context(|| format!("copy {}", built.display()))?;
    }
    fs::write(&stamp, sources).with_context(|| format!("write {}", stamp.display()))?;
    println!("built {} for the kernel, in {}", OBJECTS.join(" and "), objects.display());
    Ok(())
}

fn compile(package: &Path) -> Result<()> {
    let mut cargo = if Path::new(DEBIAN_CORE).exists() || !nightly() {
        setup::programs(setup::EBPF)?;
        debian()
    } else {
        let mut cargo = Command::new("rustup");
        cargo.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
        cargo
    };
    setup::linker()?;
    let home = std::env::home_dir().unwrap_or_default().join(".cargo/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([home].into_iter().chain(std::env::split_paths(&path)))?;
    let flags = format!("{FLAGS}\"{}\"", std::env::consts::ARCH);
    cargo.args(["--release", "--locked", "--target", TARGET, "--target-dir", "target"]);
    run(cargo.current_dir(package).env("PATH", path).env("RUSTFLAGS", flags))
}

/// Debian's compiler has core for the kernel's target prebuilt; the rest of the build uses rustup's.
fn debian() -> Command {
    let mut cargo = Command::new("/usr/bin/cargo");
    cargo.arg("build").env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
    cargo.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC_WRAPPER");
    cargo
}

/// A nightly compiler is of use only with the source of core.
fn nightly() -> bool {
    let args = ["component", "list", "--toolchain", "nightly", "--installed"];
    let listed = Command::new("rustup").args(args).output();
    listed.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("rust-src"))
}

/// What the objects depend on.
fn digest(redirect: &Path) -> Result<String> {
    let mut files = Vec::new();
    for part in ["ebpf/src", "abi/src", "ebpf/Cargo.toml", "ebpf/Cargo.lock", "abi/Cargo.toml"] {
        list(&redirect.join(part), &mut files)?;
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    FLAGS.hash(&mut hasher);
    for file in files {
        let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        file.strip_prefix(redirect)?.hash(&mut hasher);
        text.hash(&mut hasher);
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}

fn list(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let entries = fs::read_dir(path).with_context(|| format!("list {}", path.display()))?;
    for entry in entries {
        list(&entry?.path(), files)?;
    }
    Ok(())
}
