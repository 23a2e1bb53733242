//! One network namespace.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Ground;

/// The folder of the namespaces' own files for `/etc`.
pub(super) const FILES: &str = "/etc/netns";

/// A named network namespace with loopback up; deleted when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    ground: Arc<Ground>,
}

impl Namespace {
    pub(super) fn new(ground: &Arc<Ground>, name: &str) -> Result<Self> {
        let namespace = Self { name: format!("{}-{name}", ground.prefix), ground: ground.clone() };
        batch(&["-batch", "-"], &format!("netns add {}", namespace.name))?;
        namespace.ip("link set lo up")?;
        // The machine's default may be BBR, whose pacing needs fq and halves everything without it.
        // Not cubic: where BBR is the default, only the machine's own settings can allow it.
        namespace.set("net/ipv4/tcp_congestion_control", "reno")?;
        Ok(namespace)
    }

    /// As `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file by which it can be entered.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs lines of `ip` commands inside.
    pub fn ip(&self, lines: &str) -> Result<()> {
        batch(&["-n", &self.name, "-batch", "-"], lines)
            .with_context(|| format!("in namespace {}", self.name))
    }

    /// Sets a sysctl of this namespace, named by its path under /proc/sys.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        let (key, value) = (format!("/proc/sys/{key}"), value.to_owned());
        self.enter(move || fs::write(&key, value).with_context(|| format!("write {key}")))?
    }

    /// Runs a function on a thread that is inside: sockets that it opens are of this namespace.
    pub fn enter<T: Send + 'static>(&self, run: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        enter(&self.path(), run)
    }

    /// Has programs that are run inside look up names as this `resolv.conf` says.
    pub fn resolve_by(&self, resolv_conf: &str) -> Result<()> {
        let dir = self.files();
        let written =
            fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join("resolv.conf"), resolv_conf));
        written.with_context(|| format!("write {}", dir.display()))
    }

    /// The words before those of a command that is to run inside.
    pub(super) fn entry(&self) -> Vec<String> {
        if self.files().exists() {
            return ["ip", "netns", "exec", &self.name].map(str::to_owned).into();
        }
        vec!["nsenter".to_owned(), format!("--net={}", self.path().display())]
    }

    /// What `ip netns exec` puts over the machine's `/etc`.
    fn files(&self) -> PathBuf {
        Path::new(FILES).join(&self.name)
    }

    /// Deletes it, whoever is still inside.
    pub fn delete(&self) {
        let _ = fs::remove_dir_all(self.files());
        let _ =
            Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.ground.is_kept() {
            self.delete();
        }
    }
}

/// Runs a function on a thread that is inside the namespace of this file.
pub(super) fn enter<T: Send + 'static>(
    path: &Path,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let inside = std::thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .context("enter the namespace")?;
        Ok(run())
    });
    inside.join().map_err(|_| anyhow!("a thread in {} panicked", path.display()))?
}

fn batch(args: &[&str], lines: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start ip (Debian: iproute2)")?;
    child.stdin.take().context("ip has an input")?.write_all(lines.as_bytes())?;
    let output = child.wait_with_output().context("wait for ip")?;
    ensure!(
        output.status.success(),
        "ip failed: {}; it was told:\n{lines}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
