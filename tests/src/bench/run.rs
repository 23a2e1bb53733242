//! The bench lane: the same load over three paths, interleaved, and the ratios between them.
//!
//! ```text
//!   direct   client ------------------------------------------------> server     two plain pods
//!   floor    client -> relay (its pod) ------> relay (server's pod) -> server     two plain pods
//!   weft     client -> proxy (its pod) ======> proxy (server's pod) -> server     two enrolled pods
//! ```
//!
//! The floor has exactly the hops of the mesh and does nothing on them: no TLS, no identity, no policy.

use std::{fs, ops::RangeBounds, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    Path, cpu,
    load::{Kind, Seen},
    restart,
    table::{Cell, Row},
};
use crate::lab::{Control, LONG, Lab, Node, Pod, PodSpec, Process, binary, wait_for};

const PORT: u16 = 7900;
const RELAY_IN: u16 = 7901;
const RELAY_OUT: u16 = 7902;

/// All three paths, up and warm.
///
/// Fields are dropped from the first to the last: processes and pods before nodes, nodes before the lab.
#[derive(Debug)]
pub struct Course {
    servers: Vec<Process>,
    relays: [Process; 2],
    plain: [Pod; 2],
    meshed: [Pod; 2],
    nodes: [Node; 2],
    control: Control,
    _lab: Lab,
}

impl Course {
    pub fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let control = lab.control()?;
        let nodes = [lab.node(1, &control)?, lab.node(2, &control)?];
        let pod =
            |node: &Node, name: &str| node.pod(PodSpec { name, service_account: name, app: name });
        let plain = [pod(&nodes[0], "plain-client")?, pod(&nodes[1], "plain-server")?];
        let meshed = [pod(&nodes[0], "mesh-client")?, pod(&nodes[1], "mesh-server")?];
        let program = binary("weft-load")?;
        let start = |pod: &Pod, name: &str, args: &[&str]| {
            pod.start(name, &program.to_string_lossy(), args)
        };
        let listen = format!("0.0.0.0:{PORT}");
        let servers = vec![
            start(&plain[1], "server", &["serve", &listen])?,
            start(&meshed[1], "server", &["serve", &listen])?,
        ];
        let far = format!("{}:{RELAY_OUT}", plain[1].v4());
        let relays = [
            start(&plain[0], "relay", &["relay", &format!("127.0.0.1:{RELAY_IN}"), &far])?,
            start(&plain[1], "relay", &["relay", &far, &format!("127.0.0.1:{PORT}")])?,
        ];
        meshed.iter().try_for_each(Pod::enroll)?;
        let course = Self { servers, relays, plain, meshed, nodes, control, _lab: lab };
        for path in [Path::Direct, Path::Floor, Path::Weft] {
            wait_for("the path carries", LONG, || {
                let seen = course.load(path, Kind::NewConnections { slots: 1 }, 0.1).ok()?;
                (seen.operations > 0 && seen.failures == 0).then_some(())
            })
            .with_context(|| format!("{path:?}"))?;
        }
        Ok(course)
    }

    fn client(&self, path: Path) -> &Pod {
        match path {
            Path::Direct | Path::Floor => &self.plain[0],
            Path::Weft => &self.meshed[0],
        }
    }

    fn target(&self, path: Path) -> String {
        match path {
            Path::Direct => format!("{}:{PORT}", self.plain[1].v4()),
            Path::Floor => format!("127.0.0.1:{RELAY_IN}"),
            Path::Weft => format!("{}:{PORT}", self.meshed[1].v4()),
        }
    }

    fn load(&self, path: Path, kind: Kind, seconds: f64) -> Result<Seen> {
        let program = binary("weft-load")?;
        let (to, seconds) = (self.target(path), seconds.to_string());
        let kind = serde_json::to_string(&kind)?;
        let args = ["load", &to, "--seconds", &seconds, "--kind", &kind];
        let output = self.client(path).run(&program.to_string_lossy(), &args)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "load over {path:?}: {error}");
        serde_json::from_slice(&output.stdout).context("read what the load saw")
    }

    /// The processes between client and server on this path.
    fn between(&mut self, path: Path) -> Result<Vec<u32>> {
        Ok(match path {
            Path::Direct => Vec::new(),
            Path::Floor => self.relays.iter().map(Process::pid).collect(),
            Path::Weft => {
                self.nodes.iter_mut().map(|n| Ok(n.proxy()?.pid())).collect::<Result<_>>()?
            }
        })
    }

    fn measure(&mut self, path: Path, kind: Kind, seconds: f64) -> Result<Cell> {
        let pids = self.between(path)?;
        let spent = || -> Result<Duration> {
            Ok(pids.iter().map(|pid| cpu::spent(*pid)).sum::<std::io::Result<Duration>>()?)
        };
        let before = spent()?;
        let seen = self.load(path, kind, seconds)?;
        ensure!(seen.failures == 0, "{} operations failed over {path:?}, {kind:?}", seen.failures);
        // The warm-up is a tenth more; it costs as much as the rest does.
        let cpu = spent()?.saturating_sub(before).div_f64(1.1);
        Ok(Cell { seen, cpu })
    }

    /// One row: `rounds` rounds, each over every path, every other one in reverse.
    pub fn row(&mut self, name: &str, kind: Kind, rounds: usize, seconds: f64) -> Result<Row> {
        let mut row = Row::new(name, kind);
        let mut order = [Path::Direct, Path::Floor, Path::Weft];
        for _ in 0..rounds {
            for path in order {
                let cell = self.measure(path, kind, seconds)?;
                row.add(path, cell);
            }
            order.reverse();
        }
        Ok(row)
    }

    fn proxies_pss(&mut self) -> Result<u64> {
        let pids = self.between(Path::Weft)?;
        Ok(pids.iter().map(|pid| cpu::pss_bytes(*pid)).sum::<std::io::Result<u64>>()?)
    }

    /// Bytes of both proxies together that one idle connection costs.
    pub fn idle_connection_bytes(&mut self, count: u32) -> Result<u64> {
        let program = binary("weft-load")?;
        let (to, number) = (self.target(Path::Weft), count.to_string());
        let before = self.proxies_pss()?;
        let mut holder = self.meshed[0].start_with_input(
            "hold",
            &program.to_string_lossy(),
            &["hold", &to, &number],
        )?;
        wait_for("the connections are held", LONG, || holder.log().contains("held").then_some(()))
            .with_context(|| holder.log())?;
        let held = self.proxies_pss()?;
        drop(holder.input());
        holder.exit(LONG)?;
        Ok(held.saturating_sub(before) / u64::from(count))
    }

    /// Bytes of one proxy that `count` further workloads of the mesh cost.
    pub fn workloads_bytes(&mut self, count: u32) -> Result<u64> {
        let pid = self.nodes[0].proxy()?.pid();
        let before = cpu::pss_bytes(pid)?;
        self.control.manifests().apply("many", &many_pods(count))?;
        self.know_of_many(count as usize..)?;
        let after = cpu::pss_bytes(pid)?;
        self.control.manifests().delete("many")?;
        // What follows would be measured while they go.
        self.know_of_many(..1)?;
        Ok(after.saturating_sub(before))
    }

    /// Waits until both proxies know this many of the [`many_pods`].
    fn know_of_many(&self, wanted: impl RangeBounds<usize>) -> Result<()> {
        for node in &self.nodes {
            wait_for("the proxies know the workloads", LONG, || {
                let dump = node.curl("http://127.0.0.1:15000/config_dump")?.1;
                wanted.contains(&dump.matches("\"many-").count()).then_some(())
            })?;
        }
        Ok(())
    }

    /// For how long each of `count` connections waited for the next proxy, over `kills` of the client's: all of
    /// them, shortest first.
    pub fn restarts(&mut self, kills: usize, count: usize) -> Result<Vec<Duration>> {
        let to = self.target(Path::Weft);
        let mut all = Vec::new();
        for _ in 0..kills {
            all.extend(restart::waits(&mut self.nodes[0], &self.meshed[0], &to, count)?);
        }
        all.sort_unstable();
        Ok(all)
    }

    /// What the proxies use before anything happened: bytes of one.
    pub fn idle_proxy_bytes(&mut self) -> Result<u64> {
        Ok(self.proxies_pss()? / 2)
    }

    /// Whether all servers still run: a benchmark of a dead server is none.
    pub fn check(&mut self) -> Result<()> {
        ensure!(self.servers.iter_mut().all(Process::is_running), "a server died");
        Ok(())
    }
}

fn many_pods(count: u32) -> String {
    (0..count).map(far_pod).collect()
}

/// One of many pods of nodes that are not here.
fn far_pod(n: u32) -> String {
    let (high, low) = (n / 250, n % 250 + 1);
    let (node, second, third) = (n % 100, 100 + high / 250, high % 250);
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: many-{n}
  namespace: default
  uid: many-{n}
  annotations: {{ambient.istio.io/redirection: enabled}}
spec:
  nodeName: elsewhere-{node}
  serviceAccountName: many
  containers: [{{name: app, image: app}}]
status:
  phase: Running
  podIP: 10.{second}.{third}.{low}
  conditions: [{{type: Ready, status: \"True\"}}]
"
    )
}

/// The kernel's count of processors and its release, for the table's caption.
pub fn machine() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cpus} processors, kernel {}", release.trim())
}
