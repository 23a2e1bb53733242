//! What a machine needs that has never seen the project.
//!
//! Every need knows how it is recognised and which Debian packages bring it. As root on Debian the missing ones
//! are installed; elsewhere they are named, and the command ends.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::shell::{cargo, run, succeeds};

const BPF_LINKER: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";

/// Everything that any command of ours needs of the machine.
pub(crate) fn run_all() -> Result<()> {
    programs(&[BUILD, EBPF, FETCH, NAMESPACES].concat())?;
    linker()?;
    mounts()
}

/// Something that must be on the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    what: &'static str,
    found: fn() -> bool,
    from: From,
}

/// Who brings it.
#[derive(Debug, Clone, Copy)]
enum From {
    /// These packages.
    Debian(&'static [&'static str]),
    /// These components of the toolchain.
    Rustup(&'static [&'static str]),
}

impl From {
    fn debian(self) -> &'static [&'static str] {
        match self {
            Self::Debian(packages) => packages,
            Self::Rustup(_) => &[],
        }
    }

    fn rustup(self) -> &'static [&'static str] {
        match self {
            Self::Debian(_) => &[],
            Self::Rustup(components) => components,
        }
    }
}

/// To compile: the cryptography is C.
pub(crate) const BUILD: &[Need] = &[
    Need {
        what: "a C compiler",
        found: || succeeds("cc", &["--version"]),
        from: From::Debian(&["gcc", "libc6-dev"]),
    },
    Need {
        what: "a C++ compiler",
        found: || succeeds("c++", &["--version"]),
        from: From::Debian(&["g++"]),
    },
    Need {
        what: "make",
        found: || succeeds("make", &["--version"]),
        from: From::Debian(&["make"]),
    },
    Need { what: "git", found: || succeeds("git", &["--version"]), from: From::Debian(&["git"]) },
    Need {
        what: "cmake",
        found: || succeeds("cmake", &["--version"]),
        from: From::Debian(&["cmake"]),
    },
    Need {
        what: "rustfmt and clippy",
        found: || {
            succeeds("cargo", &["fmt", "--version"]) && succeeds("cargo", &["clippy", "--version"])
        },
        from: From::Rustup(&["rustfmt", "clippy"]),
    },
];

/// To compile for the kernel.
pub(crate) const EBPF: &[Need] = &[
    Need {
        what: "rustc with core for bpfel-unknown-none",
        found: || {
            Path::new("/usr/bin/rustc").exists()
                && Path::new("/usr/lib/rustlib/bpfel-unknown-none").exists()
        },
        from: From::Debian(&["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"]),
    },
    Need {
        what: "LLVM 22's headers for bpf-linker",
        found: || linker_found() || Path::new(LLVM).join("bin/llvm-config").exists(),
        from: From::Debian(&["llvm-22-dev"]),
    },
];

/// To bring Envoy, and to call and serve in the pods.
pub(crate) const FETCH: &[Need] = &[
    Need {
        what: "curl",
        found: || succeeds("curl", &["--version"]),
        from: From::Debian(&["curl", "ca-certificates"]),
    },
    Need {
        what: "python3",
        found: || succeeds("python3", &["--version"]),
        from: From::Debian(&["python3"]),
    },
    Need {
        what: "pip",
        found: || succeeds("python3", &["-m", "pip", "--version"]),
        from: From::Debian(&["python3-pip"]),
    },
];

/// To run nodes and pods as network namespaces.
pub(crate) const NAMESPACES: &[Need] = &[
    Need { what: "ip", found: || succeeds("ip", &["-V"]), from: From::Debian(&["iproute2"]) },
    Need {
        what: "ping",
        found: || succeeds("ping", &["-V"]),
        from: From::Debian(&["iputils-ping"]),
    },
    Need {
        what: "nsenter and setpriv",
        found: || succeeds("nsenter", &["--version"]) && succeeds("setpriv", &["--version"]),
        from: From::Debian(&["util-linux"]),
    },
];

/// Installs what is missing, or says what is.
pub(crate) fn programs(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.found)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what: Vec<_> = missing.iter().map(|need| need.what).collect();
    println!("missing: {}", what.join(", "));
    let packages: Vec<_> = missing.iter().flat_map(|need| need.from.debian()).copied().collect();
    if !packages.is_empty() {
        install(&packages)?;
    }
    let components: Vec<_> = missing.iter().flat_map(|need| need.from.rustup()).collect();
    if !components.is_empty() {
        run(Command::new("rustup").args(["component", "add"]).args(components))?;
    }
    let still: Vec<_> = missing.iter().filter(|need| !(need.found)()).map(|n| n.what).collect();
    ensure!(still.is_empty(), "installed, but still missing: {}", still.join(", "));
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    let by_hand = format!("install what brings it; on Debian: apt-get install {list}");
    ensure!(succeeds("apt-get", &["--version"]), "this is no Debian: {by_hand}");
    ensure!(is_root(), "not root: {by_hand}");
    let apt = |args: &[&str]| {
        run(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(args))
    };
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"], packages].concat())
}

/// bpf-linker is built once against LLVM, into cargo's own bin folder.
pub(crate) fn linker() -> Result<()> {
    if linker_found() {
        return Ok(());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = vec![Path::new(LLVM).join("bin")];
    dirs.extend(std::env::split_paths(&path));
    // In a folder of its own: cargo would otherwise build it by our lock file's neighbour settings.
    run(cargo(Path::new("/"))
        .env("LLVM_PREFIX", LLVM)
        .env("PATH", std::env::join_paths(dirs)?)
        .env_remove("CARGO_TARGET_DIR")
        .args(["install", "bpf-linker", "--locked", "--version", BPF_LINKER]))
}

fn linker_found() -> bool {
    let home = std::env::home_dir().unwrap_or_default().join(".cargo/bin/bpf-linker");
    home.exists() || succeeds("bpf-linker", &["--version"])
}

/// What the kernel must show: cgroup v2 and bpffs.
pub(crate) fn mounts() -> Result<()> {
    ensure!(is_root(), "namespaces and eBPF need root: run this as root");
    let mounted = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    let has = |kind: &str| mounted.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    if !has("cgroup2") {
        let at = "/sys/fs/cgroup/unified";
        fs::create_dir_all(at).with_context(|| format!("make {at}"))?;
        run(Command::new("mount").args(["-t", "cgroup2", "cgroup2", at]))?;
    }
    if !has("bpf") {
        run(Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))?;
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        bail!("this kernel has no BTF (/sys/kernel/btf/vmlinux): it needs CONFIG_DEBUG_INFO_BTF=y");
    }
    Ok(())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
