//! The plugin in the node's CNI folders: put there, kept there, taken away.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::merge::{self, ConfError, Entry, PLUGIN};
use crate::inotify::Inotify;

#[cfg(test)]
mod tests;

/// A folder that cannot be written is tried again after this, then after twice as long, and so on.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_mins(2);

/// Why the plugin is not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file or folder cannot be used.
    #[error("{path} cannot be {done}")]
    Path {
        /// What was to be done.
        done: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What is installed, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Where runtimes look for configurations.
    pub conf_dir: PathBuf,
    /// Where they look for plugins.
    pub bin_dir: PathBuf,
    /// The plugin to copy.
    pub plugin: PathBuf,
    /// What it is told.
    pub entry: Entry,
}

/// What came of it.
#[derive(Debug)]
pub struct Installed {
    /// Our configuration. `None`: there is no network yet behind which to stand.
    pub conf: Option<PathBuf>,
    /// Files that a runtime would read and that are no configurations.
    pub bad: Vec<ConfError>,
}

impl Installation {
    /// Keeps the plugin installed, for ever.
    pub async fn keep(&self) {
        let (mut said, mut delay) = (String::new(), RETRY);
        loop {
            if let Err(error) = self.follow(&mut said, &mut delay).await {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                let now = format!("{error}: {source:?}");
                if said != now {
                    error!(%error, source, "the CNI plugin is not installed, trying again");
                    said = now;
                }
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_MAX);
            }
        }
    }

    async fn follow(&self, said: &mut String, delay: &mut Duration) -> Result<(), InstallError> {
        for folder in [&self.conf_dir, &self.bin_dir] {
            fs::create_dir_all(folder).map_err(failed("made", folder))?;
        }
        // Before looking, so that what changes meanwhile is news.
        let watch = Inotify::open(&[&self.conf_dir, &self.bin_dir])
            .map_err(failed("watched", &self.conf_dir))?;
        loop {
            // Not on the agent's one thread: files are synchronised, and disks take their time.
            let this = self.clone();
            let installed = spawn_blocking(move || this.install()).await;
            let panicked = |error| Err(failed("followed", &self.conf_dir)(io::Error::other(error)));
            let installed = installed.unwrap_or_else(panicked)?;
            *delay = RETRY;
            let now = format!("{installed:?}");
            if *said != now {
                installed.tell();
                *said = now;
            }
            let ours = |name: &[u8]| {
                merge::is_original(name) || merge::is_ours(name) || name == PLUGIN.as_bytes()
            };
            watch.changed(ours).await.map_err(failed("watched", &self.conf_dir))?;
        }
    }

    /// Puts the plugin and its configuration there, where they are not.
    pub fn install(&self) -> Result<Installed, InstallError> {
        self.copy_plugin()?;
        let mut installed = Installed { conf: None, bad: Vec::new() };
        for original in originals(&self.conf_dir)? {
            let text = match fs::read(&original) {
                Ok(text) => text,
                // It went while we looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("read", &original)(error)),
            };
            match merge::chained(&original, &text, &self.entry) {
                Ok(list) => {
                    installed.conf = Some(put(&original, &list)?);
                    break;
                }
                Err(error) => installed.bad.push(error),
            }
            // Half written, as by a network plugin that starts: without its copy the network would be used as soon
            // as it is whole, and pods would pass us by.
            let copy = merge::beside(&original);
            if copy.exists() {
                installed.conf = Some(copy);
                break;
            }
        }
        remove_ours(&self.conf_dir, installed.conf.as_deref())?;
        Ok(installed)
    }

    /// Takes the plugin away: the configuration first, which calls it.
    pub fn remove(conf_dir: &Path, bin_dir: &Path) -> Result<(), InstallError> {
        remove_ours(conf_dir, None)?;
        remove(&bin_dir.join(PLUGIN))
    }

    fn copy_plugin(&self) -> Result<(), InstallError> {
        let wanted = fs::read(&self.plugin).map_err(failed("read", &self.plugin))?;
        let path = self.bin_dir.join(PLUGIN);
        if fs::read(&path).is_ok_and(|there| there == wanted) {
            return Ok(());
        }
        write_whole(&path, &wanted, 0o755)
    }
}

impl Installed {
    fn tell(&self) {
        for error in &self.bad {
            let source = std::error::Error::source(error).map(ToString::to_string);
            error!(%error, source, "a file is passed over");
        }
        match &self.conf {
            Some(conf) => info!(conf = %conf.display(), "the CNI plugin is installed"),
            None => {
                warn!("no CNI configuration is there yet; new pods are captured after they start");
            }
        }
    }
}

/// Our copy of a configuration, unless it is there.
fn put(original: &Path, list: &serde_json::Value) -> Result<PathBuf, InstallError> {
    let path = merge::beside(original);
    if !fs::read(&path).is_ok_and(|there| merge::holds(&there, list)) {
        let text = format!("{list:#}\n");
        // Configurations may hold credentials: who cannot read the original cannot read the copy.
        let mode = fs::metadata(original).map_or(0o600, |meta| meta.permissions().mode());
        write_whole(&path, text.as_bytes(), mode & 0o777)?;
    }
    Ok(path)
}

/// What a runtime would read, in its order.
fn originals(conf_dir: &Path) -> Result<Vec<PathBuf>, InstallError> {
    named(conf_dir, merge::is_original)
}

fn remove_ours(conf_dir: &Path, kept: Option<&Path>) -> Result<(), InstallError> {
    let ours = named(conf_dir, merge::is_ours)?;
    ours.iter().filter(|path| Some(path.as_path()) != kept).try_for_each(|path| remove(path))
}

fn named(folder: &Path, is: fn(&[u8]) -> bool) -> Result<Vec<PathBuf>, InstallError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if is(entry.file_name().as_encoded_bytes()) {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    };
    list().map_err(failed("listed", folder))
}

fn remove(path: &Path) -> Result<(), InstallError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("removed", path)(error))
        }
        _ => Ok(()),
    }
}

/// A file that is seen whole or not at all, also after the machine lost its power.
fn write_whole(path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // An ending that no runtime reads.
    let hidden = path.with_file_name(format!(".{name}.new"));
    let write = || -> io::Result<()> {
        let mut file = File::create(&hidden)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&hidden, path)
    };
    write().map_err(failed("written", path))
}

fn failed(done: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::Path { done, path, source }
}
