//! The bench lane: the same load over three paths, interleaved, and the ratios between them.
//!
//! ```text
//!   direct   client ------------------------------------------------> server     two plain pods
//!   floor    client -> relay (its pod) ------> relay (server's pod) -> server     two plain pods
//!   weft     client -> proxy (its pod) ======> proxy (server's pod) -> server     two enrolled pods
//! ```
//!
//! The floor has exactly the hops of the mesh and does nothing on them: no TLS, no identity, no policy.

use std::{fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    Path, cpu,
    load::{Kind, Seen},
    restart,
    table::{Cell, Row},
};
use crate::lab::{Control, LONG, Lab, Node, Pod, PodSpec, Process, binary, wait_for};

mod memory;

pub use memory::OfNode;

const PORT: u16 = 7900;
const RELAY_IN: u16 = 7901;
const RELAY_OUT: u16 = 7902;
/// Where the further addresses of each server begin.
const PLAIN_FACES: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 0);
const MESHED_FACES: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 0);
const LOOPBACK_FACES: Ipv4Addr = Ipv4Addr::new(127, 200, 0, 0);

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
    /// `faces` is how many further addresses each server has, of which every one can be a new peer once.
    pub fn new(faces: u32) -> Result<Self> {
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
        plain.iter().chain(&meshed).try_for_each(give_ports)?;
        give_faces(&plain[1], &nodes, PLAIN_FACES, faces)?;
        give_faces(&meshed[1], &nodes, MESHED_FACES, faces)?;
        let listen = format!("0.0.0.0:{PORT}");
        let servers = vec![
            start(&plain[1], "server", &["serve", &listen])?,
            start(&meshed[1], "server", &["serve", &listen])?,
        ];
        let far = format!("{}:{RELAY_OUT}", plain[1].v4());
        let relays = [
            start(&plain[0], "relay", &["relay", &format!("0.0.0.0:{RELAY_IN}"), &far])?,
            start(&plain[1], "relay", &["relay", &far, &format!("127.0.0.1:{PORT}")])?,
        ];
        meshed.iter().try_for_each(Pod::enroll)?;
        let course = Self { servers, relays, plain, meshed, nodes, control, _lab: lab };
        for path in [Path::Direct, Path::Floor, Path::Weft] {
            wait_for("the path carries", LONG, || {
                let seen = course.load(path, Kind::NewConnections { slots: 1 }, 0.1, 0).ok()?;
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

    /// Where a round of this load goes.
    fn goal(&self, path: Path, kind: Kind, round: usize) -> Result<String> {
        let Kind::NewPeers { count, .. } = kind else { return Ok(self.target(path)) };
        let (first, port) = match path {
            Path::Direct => (PLAIN_FACES, PORT),
            Path::Floor => (LOOPBACK_FACES, RELAY_IN),
            Path::Weft => (MESHED_FACES, PORT),
        };
        let address = nth_face(first, count * u32::try_from(round)?);
        Ok(format!("{address}:{port}"))
    }

    fn load(&self, path: Path, kind: Kind, seconds: f64, round: usize) -> Result<Seen> {
        let program = binary("weft-load")?;
        let (to, seconds) = (self.goal(path, kind, round)?, seconds.to_string());
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

    fn measure(&mut self, path: Path, kind: Kind, seconds: f64, round: usize) -> Result<Cell> {
        let pids = self.between(path)?;
        let spent = || -> Result<Duration> {
            Ok(pids.iter().map(|pid| cpu::spent(*pid)).sum::<std::io::Result<Duration>>()?)
        };
        let before = spent()?;
        let seen = self.load(path, kind, seconds, round)?;
        ensure!(seen.failures == 0, "{} operations failed over {path:?}, {kind:?}", seen.failures);
        let cpu = spent()?.saturating_sub(before).div_f64(1.0 + kind.warm_up());
        Ok(Cell { seen, cpu })
    }

    /// One row: `rounds` rounds, each over every path, every other one in reverse.
    pub fn row(&mut self, name: &str, kind: Kind, rounds: usize, seconds: f64) -> Result<Row> {
        if let Kind::NewPeers { count, .. } = kind {
            self.show_faces(count * u32::try_from(rounds)?)?;
        }
        let mut row = Row::new(name, kind);
        let mut order = [Path::Direct, Path::Floor, Path::Weft];
        for round in 0..rounds {
            for path in order {
                let cell = self.measure(path, kind, seconds, round)?;
                row.add(path, cell);
            }
            order.reverse();
        }
        Ok(row)
    }

    /// Tells the mesh that the server has `count` further addresses. To each leads a tunnel of its own.
    fn show_faces(&self, count: u32) -> Result<()> {
        let faces: Vec<_> = (0..count).map(|n| nth_face(MESHED_FACES, n).to_string()).collect();
        let last = faces.last().cloned().unwrap_or_default();
        let pod = pod_of_mesh("mesh-server-faces", "elsewhere", "mesh-server", &faces);
        self.control.manifests().apply("faces", &pod)?;
        self.nodes[0].dumps("knows the server's addresses", |dump| dump.contains(&last))
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

    /// Whether all servers still run: a benchmark of a dead server is none.
    pub fn check(&mut self) -> Result<()> {
        ensure!(self.servers.iter_mut().all(Process::is_running), "a server died");
        Ok(())
    }
}

/// A pod's clients use up its ports faster than the kernel gives them back by default, and looking for a free one
/// would then be all that is measured.
fn give_ports(pod: &Pod) -> Result<()> {
    // Beyond the proxies' ports, so that none of them is taken by a client.
    pod.namespace().set("net/ipv4/ip_local_port_range", "16000 65535")?;
    pod.namespace().set("net/ipv4/tcp_tw_reuse", "1")
}

/// Gives a pod of the second node many addresses, and leads the nodes to them.
fn give_faces(pod: &Pod, nodes: &[Node; 2], first: Ipv4Addr, count: u32) -> Result<()> {
    let add = |n| format!("addr add {}/32 dev eth0\n", nth_face(first, n));
    pod.namespace().ip(&(0..count).map(add).collect::<String>())?;
    nodes[1].namespace().ip(&format!("route add {first}/16 via {}", pod.v4()))?;
    nodes[0].namespace().ip(&format!("route add {first}/16 via 10.0.0.2"))
}

/// The `n`th of a server's further addresses.
fn nth_face(first: Ipv4Addr, n: u32) -> Ipv4Addr {
    // The network's own address is nobody's.
    (u32::from(first) + 1 + n).into()
}

/// A pod of a node that is not here, enrolled.
fn pod_of_mesh(name: &str, node: &str, account: &str, addresses: &[String]) -> String {
    let first = addresses.first().map_or("", String::as_str);
    let all: Vec<_> = addresses.iter().map(|ip| format!("{{ip: {ip}}}")).collect();
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: default
  uid: {name}
  annotations: {{ambient.istio.io/redirection: enabled}}
spec:
  nodeName: {node}
  serviceAccountName: {account}
  containers: [{{name: app, image: app}}]
status:
  phase: Running
  podIP: {first}
  podIPs: [{}]
  conditions: [{{type: Ready, status: \"True\"}}]
",
        all.join(", ")
    )
}

/// The kernel's count of processors and its release, for the table's caption.
pub fn machine() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cpus} processors, kernel {}", release.trim())
}
