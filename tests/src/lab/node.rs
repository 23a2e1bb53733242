//! A node: a namespace with a bridge for its pods, the privileged agent, and the proxy without privileges.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Cgroup, Control, Ground, LONG, Lab, Manifests, NODES, Namespace, Process, Signal, User, binary,
    control,
    process::{NOBODY, Place},
    wait_for, ways_to_pods,
};

/// `weft` ends with it when what was asked about is refused or wrong.
const FOUND: i32 = 3;
const MOVED: u16 = 100;

/// One node of the mesh, and what runs on it for the mesh.
#[derive(Debug)]
pub struct Node {
    name: String,
    index: u8,
    agent: Option<Process>,
    proxy: Option<Process>,
    /// By how much the running proxy's own ports are moved, so that two can run at once.
    moved: u16,
    pods: AtomicU8,
    dir: PathBuf,
    manifests: Manifests,
    proxy_cgroup: Cgroup,
    agent_cgroup: Cgroup,
    cgroup: Cgroup,
    namespace: Arc<Namespace>,
    ground: Arc<Ground>,
}

impl Lab {
    /// Makes the `index`th node (from 1) and starts agent and proxy on it.
    pub fn node(&self, index: u8, control: &Control) -> Result<Node> {
        let mut node = self.furnished_node(index, control)?;
        node.start_agent()?;
        node.start_proxy()?;
        Ok(node)
    }

    /// Makes the `index`th node, with the files of agent and proxy, which do not run.
    pub fn furnished_node(&self, index: u8, control: &Control) -> Result<Node> {
        self.bare_node(index)?.furnish(control)
    }

    /// Makes the `index`th node, on which nothing of the mesh runs.
    pub fn bare_node(&self, index: u8) -> Result<Node> {
        ensure!((1..=NODES).contains(&index), "a lab has nodes 1 to {NODES}, not {index}");
        let ground = self.ground.clone();
        let name = format!("node-{index}");
        let namespace = Namespace::new(&ground, &name)?;
        self.plug(&namespace, &name, index)?;
        namespace.set("net/ipv4/ip_forward", "1")?;
        namespace.set("net/ipv6/conf/all/forwarding", "1")?;
        namespace.ip(&format!(
            "link add br0 type bridge
             link set br0 up
             addr add 10.1.{index}.1/24 dev br0
             addr add fd01:{index}::1/64 dev br0 nodad"
        ))?;
        namespace.ip(&ways_to_pods(|other| other != index))?;
        let dir = ground.dir.join(&name);
        fs::create_dir_all(dir.join("pods")).context("make the folder of pods")?;
        Ok(Node {
            cgroup: Cgroup::new(&ground, &name)?,
            agent_cgroup: Cgroup::new(&ground, &format!("{name}/host"))?,
            proxy_cgroup: Cgroup::new(&ground, &format!("{name}/proxy"))?,
            dir,
            manifests: self.manifests().clone(),
            pods: AtomicU8::new(10),
            agent: None,
            proxy: None,
            moved: 0,
            name,
            index,
            namespace: Arc::new(namespace),
            ground,
        })
    }
}

impl Node {
    /// Its name, as pods and tokens name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace: every packet to or from one of its pods passes here.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Starts the agent (again).
    pub fn start_agent(&mut self) -> Result<()> {
        let pods = format!("--pods={}", self.pods_dir().display());
        let agent = self.start_agent_told(&[format!("--node={}", self.name), pods])?;
        self.agent = Some(agent);
        Ok(())
    }

    /// Starts an agent that is told this, beside where the node's things are, and waits until it listens.
    pub(crate) fn start_agent_told(&self, told: &[String]) -> Result<Process> {
        let program = binary("weft-redirect")?;
        let args = [
            "run".to_owned(),
            format!("--host-netns={}", self.namespace.path().display()),
            format!("--cgroup={}", self.cgroup.path().display()),
            format!("--proxy-cgroup={}", self.proxy_cgroup.path().display()),
            format!("--bpffs={}", self.pins().display()),
            format!("--zds={}", self.socket().display()),
            format!("--proxy-uid={NOBODY}"),
            format!("--proxy-gid={NOBODY}"),
        ];
        let place = self.place(&self.agent_cgroup, User::Root);
        let name = format!("{}-agent", self.name);
        let mut agent = place.start(&name, &program.to_string_lossy(), |command| {
            command.args(&args).args(told);
        })?;
        let socket = self.dir.join("zds.sock");
        let listens = wait_for("the agent listens for a proxy", LONG, || {
            (socket.exists() || !agent.is_running()).then_some(())
        });
        listens
            .and_then(|()| {
                ensure!(agent.is_running(), "the agent ended at once");
                Ok(())
            })
            .with_context(|| agent.log())?;
        Ok(agent)
    }

    /// Starts the agent's program to take away what an agent of this node has left.
    pub(crate) fn start_cleanup(&self, told: &[String]) -> Result<Process> {
        let program = binary("weft-redirect")?;
        let pins = format!("--bpffs={}", self.pins().display());
        let place = self.place(&self.agent_cgroup, User::Root);
        let name = format!("{}-cleanup", self.name);
        place.start(&name, &program.to_string_lossy(), |command| {
            command.args(told).arg(pins);
        })
    }

    /// Starts the proxy (again) and waits until it is ready.
    pub fn start_proxy(&mut self) -> Result<()> {
        self.launch_proxy()?;
        let ready = wait_for("the proxy is ready", LONG, || {
            let url = format!("http://127.0.0.1:{}/healthz/ready", 15021 + self.moved);
            self.curl(&url).filter(|(code, _)| code == "200")
        });
        let _ = ready.with_context(|| self.proxy_log())?;
        Ok(())
    }

    /// Starts a second proxy beside the first, as an upgrade does, and returns the first one when both serve.
    pub fn succeed_proxy(&mut self) -> Result<Process> {
        let old = self.proxy.take().context("no proxy runs")?;
        self.moved = MOVED - self.moved;
        self.start_proxy()?;
        Ok(old)
    }

    /// Stops the proxy and starts it again.
    pub fn restart_proxy(&mut self) -> Result<()> {
        let proxy = self.proxy()?;
        proxy.signal(Signal::Term)?;
        proxy.exit(LONG)?;
        self.start_proxy()
    }

    /// Kills the proxy and waits until it is gone.
    pub fn kill_proxy(&mut self) -> Result<()> {
        self.proxy()?.kill()
    }

    /// Kills the agent and waits until it is gone.
    pub fn kill_agent(&mut self) -> Result<()> {
        self.agent()?.kill()
    }

    /// Waits until the proxy's picture of the mesh has a pod with this protocol (`HBONE` or `TCP`).
    pub fn knows(&self, pod: &str, protocol: &str) -> Result<()> {
        let what = format!("the proxy of {} knows {pod} by {protocol}", self.name);
        wait_for(&what, LONG, || {
            let text = self.weft(&["get", "workloads", "-o", "json"]).ok()?;
            let all: Vec<Value> = serde_json::from_str(&text).ok()?;
            let is_pod = |w: &&Value| w["name"] == pod && w["protocol"] == protocol;
            all.iter().find(is_pod).map(|_| ())
        })
    }

    /// Waits until what the proxy keeps on disk for its next start has this name in it.
    pub fn keeps(&self, name: &str) -> Result<()> {
        let state = self.dir.join("state");
        let holds = |file: fs::DirEntry| {
            fs::read(file.path()).is_ok_and(|bytes| {
                bytes.windows(name.len()).any(|window| window == name.as_bytes())
            })
        };
        wait_for(&format!("{} keeps {name}", self.name), LONG, || {
            fs::read_dir(&state).ok()?.flatten().any(holds).then_some(())
        })
    }

    /// The serial number of a service account's certificate.
    pub fn serial(&self, account: &str) -> Result<String> {
        let text = self.weft(&["get", "certs", "-o", "json"])?;
        let certs: Vec<Value> = serde_json::from_str(&text).context("read the certificates")?;
        let wanted = format!("/ns/default/sa/{account}");
        let is_wanted = |c: &&Value| c["identity"].as_str().is_some_and(|id| id.ends_with(&wanted));
        let serial = certs.iter().find(is_wanted).map(|c| c.pointer("/certChain/0/serialNumber"));
        let serial = serial.flatten().and_then(Value::as_str);
        Ok(serial.with_context(|| format!("no certificate of {account} in {text}"))?.to_owned())
    }

    /// Waits until a service account's certificate is another one, and returns its serial number.
    pub fn renewed(&self, account: &str, than: &str) -> Result<String> {
        wait_for(&format!("the certificate of {account} is renewed"), 2 * LONG, || {
            self.serial(account).ok().filter(|serial| serial != than)
        })
    }

    /// Starts the proxy and waits for nothing.
    pub fn launch_proxy(&mut self) -> Result<()> {
        self.proxy = Some(self.spawn_proxy()?);
        Ok(())
    }

    /// Starts a proxy that is not the node's own to stop.
    pub fn spawn_proxy(&self) -> Result<Process> {
        let program = binary("ztunnel")?;
        let config = self.dir.join(format!("ztunnel-{}.yaml", self.moved));
        let place = self.place(&self.proxy_cgroup, User::Nobody);
        let name = format!("{}-proxy", self.name);
        place.start(&name, &program.to_string_lossy(), |command| {
            command.arg("--config").arg(&config).env("RUST_LOG", "info,ztunnel=debug");
        })
    }

    /// The running agent.
    pub fn agent(&mut self) -> Result<&mut Process> {
        self.agent.as_mut().context("no agent runs")
    }

    /// The running proxy.
    pub fn proxy(&mut self) -> Result<&mut Process> {
        self.proxy.as_mut().context("no proxy runs")
    }

    /// What the proxy has logged, restarts included.
    pub fn proxy_log(&self) -> String {
        let log = self.ground.dir.join(format!("{}-proxy.log", self.name));
        fs::read_to_string(log).unwrap_or_default()
    }

    /// What the agent has logged, restarts included.
    pub fn agent_log(&self) -> String {
        let log = self.ground.dir.join(format!("{}-agent.log", self.name));
        fs::read_to_string(log).unwrap_or_default()
    }

    /// Status and body of a GET from within the node, if it was answered.
    pub fn curl(&self, url: &str) -> Option<(String, String)> {
        let place = self.place(&self.agent_cgroup, User::Root);
        let args = ["-sS", "-m", "5", "-w", "\n%{http_code}", url];
        let output = place.output("curl", &args).ok().filter(|o| o.status.success())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n')?;
        Some((code.to_owned(), body.to_owned()))
    }

    /// Waits until the proxy's `/config_dump` is as wanted.
    pub fn dumps(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        wait_for(&format!("the proxy of {} {what}", self.name), LONG, || {
            self.curl("http://127.0.0.1:15000/config_dump").filter(|(_, dump)| wanted(dump))
        })?;
        Ok(())
    }

    /// Runs `weft` against this node's proxy and returns what it printed, also when that is a refusal.
    pub fn weft(&self, args: &[&str]) -> Result<String> {
        let place = self.place(&self.agent_cgroup, User::Root);
        let admin = format!("http://127.0.0.1:{}", 15000 + self.moved);
        let args = [&["--admin", &admin], args].concat();
        let output = place.output(&binary("weft")?.to_string_lossy(), &args)?;
        let error = String::from_utf8_lossy(&output.stderr);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let answered = matches!(output.status.code(), Some(0 | FOUND));
        ensure!(answered, "weft {}: {}{out}", args.join(" "), error.trim());
        Ok(out)
    }

    /// The last byte of an address that no pod of this node has had.
    pub(crate) fn next_host(&self) -> u8 {
        self.pods.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn shared_namespace(&self) -> Arc<Namespace> {
        self.namespace.clone()
    }

    /// A command that runs in the node's own namespace, as root.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.place(&self.agent_cgroup, User::Root).command(program)
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn index(&self) -> u8 {
        self.index
    }

    pub(super) fn ground(&self) -> &Arc<Ground> {
        &self.ground
    }

    pub(super) fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// Where a file enrolls a pod.
    pub(super) fn pods_dir(&self) -> PathBuf {
        self.dir.join("pods")
    }

    /// The cgroup of everything on it.
    pub(crate) fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// Where its agent pins what it gives to the kernel.
    pub(crate) fn pins(&self) -> PathBuf {
        PathBuf::from("/sys/fs/bpf").join(format!("{}-{}", self.ground.prefix, self.name))
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("zds.sock")
    }

    fn place<'a>(&'a self, cgroup: &'a Cgroup, user: User) -> Place<'a> {
        Place { ground: &self.ground, namespace: &self.namespace, cgroup, user }
    }

    /// The files that agent and proxy are started with.
    fn furnish(self, control: &Control) -> Result<Self> {
        let state = self.dir.join("state");
        fs::DirBuilder::new().mode(0o700).create(&state).context("make the state folder")?;
        chown(&state, Some(NOBODY), Some(NOBODY))?;
        let token = self.dir.join("token");
        fs::write(&token, control.token(&self.name)?)?;
        chown(&token, Some(NOBODY), Some(NOBODY))?;
        let root = control.root_certificate();
        let (token, root, address) = (token.display(), root.display(), control::ADDRESS);
        let config = format!(
            "node:
  name: {}
  state_dir: {}
  workers: 1
zds:
  socket: {}
xds:
  address: https://{address}
  root: {root}
  token: {token}
ca:
  node_certificate: on
  address: https://{address}
  root: {root}
  token: {token}
  ttl: 60s
",
            self.name,
            state.display(),
            self.socket().display(),
        );
        for moved in [0, MOVED] {
            let [admin, metrics, ready] = [15000, 15020, 15021].map(|port| port + moved);
            let listen = format!(
                "listen: {{admin: \"127.0.0.1:{admin}\", stats: \"[::]:{metrics}\", readiness: \"[::]:{ready}\"}}\n"
            );
            fs::write(self.dir.join(format!("ztunnel-{moved}.yaml")), format!("{config}{listen}"))?;
        }
        Ok(self)
    }
}
