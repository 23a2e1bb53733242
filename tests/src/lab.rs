//! Nodes and pods as network namespaces of this machine, and the real binaries in them.
//!
//! ```text
//!            wire (bridge 10.0.0.0/24, fd00::/64)
//!      +-------------+---------------+
//!   control       node a          node b           each node: bridge 10.1.<n>.0/24, fd01:<n>::/64
//!  (weft-control) (agent, proxy)  (agent, proxy)
//!                 |       |       |      |
//!               client  intruder web-1  web-2      each pod: a namespace, a veth, a cgroup
//! ```
//!
//! Every lab has a prefix of its own, so labs run side by side; addresses are the same in all of them.

mod capture;
mod cgroup;
mod control;
mod load;
mod manifests;
mod mesh;
mod namespace;
mod node;
mod pod;
mod process;
mod sandbox;
mod sweep;
mod wait;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result};

pub use capture::{Capture, Captured};
pub use control::Control;
pub use load::{Loop, Tally};
pub use manifests::Manifests;
pub use mesh::{Mesh, Watch};
pub use namespace::Namespace;
pub use node::Node;
pub use pod::{Pod, PodSpec};
pub use process::{Process, Signal, User};
pub use sandbox::Sandbox;
pub use sweep::sweep;
pub use wait::{LONG, SHORT, wait_for};

use cgroup::Cgroup;

/// Names the folder in which the logs of every lab are kept.
const LOGS: &str = "WEFT_LAB_LOGS";

/// How many nodes a lab may have.
const NODES: u8 = 4;

/// What every part of one lab shares.
#[derive(Debug)]
pub(crate) struct Ground {
    prefix: String,
    dir: PathBuf,
    kept: AtomicBool,
}

impl Ground {
    /// A prefix that nobody else has, and its folder.
    pub(crate) fn new() -> Result<Arc<Self>> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep::dead_labs();
        let prefix =
            format!("weft-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self::named(&prefix)
    }

    /// This prefix; what an earlier one of the name left behind is removed first.
    fn named(prefix: &str) -> Result<Arc<Self>> {
        sweep(prefix);
        let dir = std::env::temp_dir().join(prefix);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        // The proxy is another user and passes through it.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        Ok(Arc::new(Self { prefix: prefix.to_owned(), dir, kept: AtomicBool::new(false) }))
    }

    /// Where files and logs are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// Copies the logs into a folder named as the running test, where a folder for that was given.
    fn save_logs(&self) {
        let Some(logs) = std::env::var_os(LOGS) else { return };
        let test = std::thread::current().name().unwrap_or("main").replace("::", "-");
        let to = Path::new(&logs).join(test);
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        // A log that cannot be copied must not fail a test that passed.
        let _ = fs::create_dir_all(&to);
        for entry in entries.flatten().filter(|e| e.path().extension().is_some_and(|x| x == "log"))
        {
            let _ = fs::copy(entry.path(), to.join(entry.file_name()));
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if !self.is_kept() {
            self.save_logs();
            sweep(&self.prefix);
        }
    }
}

/// For whoever is on the wire: pods are behind these nodes.
fn ways_to_pods(of: impl Fn(u8) -> bool) -> String {
    let way = |node| {
        format!(
            "route add 10.1.{node}.0/24 via 10.0.0.{node}
             route add fd01:{node}::/64 via fd00::{node}
"
        )
    };
    (1..=NODES).filter(|&node| of(node)).map(way).collect()
}

/// The wire between nodes, and a folder for files. Nodes, pods and control plane are made from it.
#[derive(Debug)]
pub struct Lab {
    ground: Arc<Ground>,
    wire: Namespace,
    manifests: Manifests,
}

impl Lab {
    /// A lab whose prefix nobody else has.
    pub fn new() -> Result<Self> {
        Self::on(Ground::new()?)
    }

    /// A lab of this prefix; what an earlier one of the name left behind is removed first.
    pub fn named(prefix: &str) -> Result<Self> {
        Self::on(Ground::named(prefix)?)
    }

    fn on(ground: Arc<Ground>) -> Result<Self> {
        let wire = Namespace::new(&ground, "wire")?;
        wire.ip("link add br0 type bridge
                 link set br0 up
                 addr add 10.0.0.254/24 dev br0
                 addr add fd00::254/64 dev br0 nodad")?;
        wire.ip(&ways_to_pods(|_| true))?;
        let manifests = Manifests::new(ground.dir.join("manifests"))?;
        Ok(Self { ground, wire, manifests })
    }

    /// The namespace in which all that passes between nodes can be seen.
    pub fn wire(&self) -> &Namespace {
        &self.wire
    }

    /// The folder that a control plane of this lab reads.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// Where this lab's files and logs are.
    pub fn dir(&self) -> &Path {
        &self.ground.dir
    }

    /// What the names of all that it makes begin with.
    pub fn prefix(&self) -> &str {
        &self.ground.prefix
    }

    /// Leaves everything up when the lab is dropped, until [`sweep`] is called with its prefix.
    pub fn keep(&self) {
        self.ground.kept.store(true, Ordering::Relaxed);
    }

    /// Plugs a namespace into the wire, as the `host`th of its network.
    fn plug(&self, namespace: &Namespace, name: &str, host: u8) -> Result<()> {
        self.wire.ip(&format!(
            "link add up-{name} type veth peer name eth0 netns {}
             link set up-{name} master br0 up",
            namespace.name()
        ))?;
        namespace.ip(&format!(
            "link set eth0 up
             addr add 10.0.0.{host}/24 dev eth0
             addr add fd00::{host}/64 dev eth0 nodad"
        ))
    }
}

/// A binary of this workspace, built beside the program that asks.
pub fn binary(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().context("find the path of this program")?;
    let dir = me.ancestors().skip(1).take(2).find(|dir| dir.join(name).is_file());
    let dir = dir.with_context(|| {
        format!("{name} is not built beside {}: run `cargo build --workspace --bins`", me.display())
    })?;
    Ok(dir.join(name))
}
