//! A container's own file system: the machine's, with the image's programs and the pod's volumes in it.
//!
//! Nobody else sees what is written there, and it goes with the container's last process.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, PodSpec, VolumeMount};

use super::image::Image;

/// What is put where.
#[derive(Debug, Clone)]
pub(super) struct Mount {
    pub(super) from: PathBuf,
    pub(super) to: PathBuf,
    pub(super) read_only: bool,
}

/// As whom the program runs.
#[derive(Debug, Clone, Copy)]
struct Rights {
    user: i64,
    group: i64,
    fs_group: Option<i64>,
    privileged: bool,
    escalation: bool,
    read_only: bool,
}

impl Rights {
    fn of(pod: &PodSpec, container: &Container) -> Self {
        let (pod, own) = (pod.security_context.as_ref(), container.security_context.as_ref());
        let user = own.and_then(|it| it.run_as_user).or(pod.and_then(|it| it.run_as_user));
        let group = own.and_then(|it| it.run_as_group).or(pod.and_then(|it| it.run_as_group));
        let is = |wish: Option<bool>| wish == Some(true);
        Self {
            user: user.unwrap_or(0),
            group: group.unwrap_or(0),
            fs_group: pod.and_then(|it| it.fs_group),
            privileged: is(own.and_then(|it| it.privileged)),
            escalation: own.and_then(|it| it.allow_privilege_escalation) != Some(false),
            read_only: is(own.and_then(|it| it.read_only_root_filesystem)),
        }
    }

    /// Of a privileged container all, of any other none: those that a runtime leaves by default no program of
    /// ours asks for.
    fn options(self) -> String {
        let mut options = format!("--pdeathsig KILL --reuid {} --regid {}", self.user, self.group);
        options += &self
            .fs_group
            .map_or_else(|| " --clear-groups".to_owned(), |it| format!(" --groups {it}"));
        if !self.privileged {
            options += " --inh-caps=-all --bounding-set=-all";
        }
        if !self.escalation {
            options += " --no-new-privs";
        }
        options
    }
}

/// The shell scripts that make a container's root and become, in it, the program that follows them: the first one
/// is outside, and given the second one. `scratch` is an empty folder.
pub(super) fn scripts(
    pod: &PodSpec,
    container: &Container,
    cgroup: &Path,
    scratch: &Path,
    mounts: &[Mount],
) -> [String; 2] {
    let (cgroup, scratch) = (cgroup.display(), scratch.display());
    let root = format!("{scratch}/root");
    let mut outside = vec![
        "set -e".to_owned(),
        format!("echo $$ > {cgroup}/cgroup.procs"),
        format!("mount -t tmpfs weft-lab {scratch}"),
        format!("mkdir {scratch}/upper {scratch}/work {root}"),
        format!(
            "mount -t overlay -o lowerdir=/,upperdir={scratch}/upper,workdir={scratch}/work lab {root}"
        ),
        // Not what is mounted below /sys: a container sees of it what its volumes show.
        format!("mount --bind /sys {root}/sys"),
        format!("mount --rbind /proc {root}/proc"),
        format!("mount --rbind /dev {root}/dev"),
        format!("mkdir {root}/.mounts"),
    ];
    // Links on the way to where something is put lead somewhere else from outside.
    let mut inside = vec!["set -e".to_owned()];
    for (n, Mount { from, to, read_only }) in mounts.iter().enumerate() {
        let (from, by, to) = (from.display(), format!("/.mounts/{n}"), to.display());
        outside.push(format!(
            "if [ -d {from} ]; then mkdir {root}{by}; else touch {root}{by}; fi
mount --rbind {from} {root}{by}"
        ));
        inside.push(format!(
            "if [ -d {by} ]; then mkdir -p {to}; else touch {to}; fi
mount --rbind {by} {to}"
        ));
        if *read_only {
            inside.push(format!("mount -o remount,bind,ro {to}"));
        }
    }
    let rights = Rights::of(pod, container);
    if rights.read_only {
        inside.push("mount -o remount,bind,ro /".to_owned());
    }
    outside.push(format!("inside=$1; shift; exec chroot {root} sh -c \"$inside\" sh \"$@\""));
    inside.push(format!("exec setpriv {} -- \"$@\"", rights.options()));
    [outside.join("\n"), inside.join("\n")]
}

/// What a container of one of our images has mounted; the outer before the inner.
pub(super) fn mounts(
    container: &Container,
    programs: Vec<(PathBuf, PathBuf)>,
    volume: impl Fn(&VolumeMount) -> Option<PathBuf>,
    hosts: PathBuf,
) -> Vec<Mount> {
    let program = |(from, to)| Mount { from, to, read_only: true };
    let names = Mount { from: hosts, to: PathBuf::from("/etc/hosts"), read_only: true };
    let volumes = container.volume_mounts.iter().flatten().filter_map(|mount| {
        let to = PathBuf::from(&mount.mount_path);
        Some(Mount { from: volume(mount)?, to, read_only: mount.read_only == Some(true) })
    });
    let mut all: Vec<Mount> = volumes.chain([names]).collect();
    all.sort_by_key(|mount| mount.to.components().count());
    all.extend(programs.into_iter().map(program));
    all
}

impl Image {
    /// Where a container's words begin: its own command, or the image's.
    pub(super) fn command(&self, container: &Container) -> Vec<String> {
        let own = container.command.clone().filter(|command| !command.is_empty());
        own.unwrap_or_else(|| self.entry_point.clone())
    }
}
