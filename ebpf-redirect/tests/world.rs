//! A node and three pods as network namespaces, with the agent in its own cgroup.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_redirect::netns::Netns;

/// Everything here happens within milliseconds; this is for a machine that does much else.
pub(crate) const LONG: Duration = Duration::from_secs(20);

const AGENT: &str = env!("CARGO_BIN_EXE_weft-redirect");
/// The user that the proxy runs as: nobody, with no capability.
const NOBODY: u32 = 65534;

thread_local! {
    static WORLDS: RefCell<u32> = const { RefCell::new(0) };
}

/// What must be there before any test: root, a BPF file system, cgroups of version 2, the programs.
pub(crate) fn machine() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("they make network namespaces and load programs: run them as root".into());
    }
    if !Path::new("/sys/fs/bpf").is_dir() || !mounts().contains(" /sys/fs/bpf bpf ") {
        return Err("no BPF file system: mount -t bpf bpf /sys/fs/bpf".into());
    }
    if cgroup_mount().is_none() {
        return Err("no cgroup of version 2 is mounted: run `cargo xtask setup`".into());
    }
    let objects = Path::new(env!("CARGO_MANIFEST_DIR")).join("objects/pod");
    if !objects.is_file() {
        return Err("the programs are not built: run `cargo xtask ebpf`".into());
    }
    for group in ["agent", "pods", "proxy"] {
        fs::create_dir_all(cgroup().join(group)).map_err(|error| error.to_string())?;
    }
    // We play the applications: our sockets belong to the pods' cgroup from here on.
    enter("pods", std::process::id());
    Ok(())
}

/// Takes us out of the cgroups and removes them.
pub(crate) fn leave() {
    let top = cgroup_mount().unwrap();
    fs::write(top.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    let groups = ["agent", "pods", "proxy"].map(|group| cgroup().join(group));
    for path in groups.iter().chain([&cgroup()]) {
        // The kernel buries a process that was reaped in its own time.
        until("the cgroup is empty", || fs::remove_dir(path).ok());
    }
}

fn mounts() -> String {
    fs::read_to_string("/proc/mounts").unwrap_or_default()
}

fn cgroup_mount() -> Option<PathBuf> {
    mounts().lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields[2] == "cgroup2").then(|| PathBuf::from(fields[1]))
    })
}

fn cgroup() -> PathBuf {
    cgroup_mount().unwrap().join(format!("weft-redirect-{}", std::process::id()))
}

/// A cgroup of these tests.
pub(crate) fn group(name: &str) -> PathBuf {
    cgroup().join(name)
}

fn enter(group: &str, process: u32) {
    fs::write(cgroup().join(group).join("cgroup.procs"), process.to_string()).unwrap();
}

/// Waits for something to become true.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        pause(Duration::from_millis(5));
    }
}

/// Lets others run before the next look at something that has no event to wait for.
pub(crate) fn pause(time: Duration) {
    let time = Timespec::try_from(time).unwrap();
    let _ = poll(&mut [], Some(&time));
}

pub(crate) fn ip(command: &str) {
    let done = Command::new("ip").args(command.split(' ')).output().expect("iproute2 is installed");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {command}: {said}");
}

pub(crate) fn ip_says(command: &str) -> String {
    let done = Command::new("ip").args(command.split(' ')).output().expect("iproute2 is installed");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// One of the three pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    A,
    B,
    C,
}

impl Who {
    fn index(self) -> u8 {
        10 + self as u8
    }

    pub(crate) fn v4(self) -> IpAddr {
        Ipv4Addr::new(10, 77, 0, self.index()).into()
    }

    pub(crate) fn v6(self) -> IpAddr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(self.index())).into()
    }

    /// Its IPv4 address as an IPv6 socket has it.
    pub(crate) fn mapped(self) -> IpAddr {
        match self.v4() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
            IpAddr::V6(_) => unreachable!("v4 is IPv4"),
        }
    }

    pub(crate) fn uid(self) -> String {
        format!("pod-{}", self.name())
    }

    fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
        }
    }
}

pub(crate) fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

pub(crate) struct World {
    prefix: String,
    dir: TempDir,
    agent: Option<Child>,
}

impl World {
    /// Namespaces, and an agent that runs.
    pub(crate) fn new() -> Self {
        let number = WORLDS.with_borrow_mut(|worlds| {
            *worlds += 1;
            *worlds
        });
        let prefix = format!("wr{}x{number}", std::process::id());
        let dir = tempfile::Builder::new().prefix("weft-redirect").tempdir().unwrap();
        // The proxy, as nobody, must reach the socket.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path(), open).unwrap();
        let mut world = Self { prefix, dir, agent: None };
        world.wire();
        world.start_agent();
        world
    }

    fn wire(&self) {
        let node = self.node_name();
        ip(&format!("netns add {node}"));
        ip(&format!("-n {node} link set lo up"));
        ip(&format!("-n {node} link add br0 type bridge"));
        ip(&format!("-n {node} link set br0 up"));
        ip(&format!("-n {node} addr add 10.77.0.1/24 dev br0"));
        ip(&format!("-n {node} addr add fd77::1/64 dev br0 nodad"));
        for who in [Who::A, Who::B, Who::C] {
            self.wire_pod(who);
        }
    }

    /// Makes a pod's namespace, with an interface on the node's bridge.
    pub(crate) fn wire_pod(&self, who: Who) {
        let (node, pod, port) = (self.node_name(), self.name(who), format!("v{}", who.name()));
        ip(&format!("netns add {pod}"));
        ip(&format!("-n {pod} link set lo up"));
        ip(&format!("link add eth0 netns {pod} type veth peer name {port} netns {node}"));
        ip(&format!("-n {node} link set {port} master br0 up"));
        ip(&format!("-n {pod} link set eth0 up"));
        ip(&format!("-n {pod} addr add {}/24 dev eth0", who.v4()));
        ip(&format!("-n {pod} addr add {}/64 dev eth0 nodad", who.v6()));
        ip(&format!("-n {pod} route add default via 10.77.0.1"));
        ip(&format!("-n {pod} -6 route add default via fd77::1"));
    }

    /// Deletes a pod's namespace, as a runtime does: interfaces first.
    pub(crate) fn unwire_pod(&self, who: Who) {
        ip(&format!("-n {} link del v{}", self.node_name(), who.name()));
        ip(&format!("netns del {}", self.name(who)));
    }

    fn node_name(&self) -> String {
        format!("{}n", self.prefix)
    }

    /// The pod's namespace, as `ip` knows it.
    pub(crate) fn name(&self, who: Who) -> String {
        format!("{}{}", self.prefix, who.name())
    }

    pub(crate) fn netns(&self, who: Who) -> Netns {
        Netns::open(Path::new(&format!("/run/netns/{}", self.name(who)))).unwrap()
    }

    /// Runs something as a program of the pod.
    pub(crate) fn inside<T: Send>(&self, who: Who, work: impl FnOnce() -> T + Send) -> T {
        self.netns(who).run(work).unwrap()
    }

    /// Runs something as a process of the host.
    pub(crate) fn on_node<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.node_name());
        Netns::open(Path::new(&path)).unwrap().run(work).unwrap()
    }

    pub(crate) fn zds(&self) -> PathBuf {
        self.dir.path().join("zds.sock")
    }

    pub(crate) fn bpffs(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(&self.prefix)
    }

    /// Where the agent's pins of a pod are.
    pub(crate) fn pins(&self, who: Who) -> PathBuf {
        self.bpffs().join("v1/pods").join(who.uid())
    }

    pub(crate) fn agent_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }

    pub(crate) fn start_agent(&mut self) {
        self.start_agent_with(&[]);
    }

    /// With further arguments.
    pub(crate) fn start_agent_with(&mut self, arguments: &[&str]) {
        let path = self.dir.path().join("agent.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        let _ = fs::remove_file(self.zds());
        // A shell enters the cgroup first: a socket keeps the cgroup in which it was made. Few open files, as runtimes
        // allow them to begin with.
        let script = "ulimit -S -n 256 && echo $$ > \"$0\"/cgroup.procs && exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(cgroup().join("agent")).arg(AGENT);
        command.args(["run", "--node=test"]);
        command.arg(format!("--host-netns=/run/netns/{}", self.node_name()));
        command.arg(format!("--cgroup={}", cgroup().display()));
        command.arg(format!("--proxy-cgroup={}", cgroup().join("proxy").display()));
        command.arg(format!("--bpffs={}", self.bpffs().display()));
        command.arg(format!("--zds={}", self.zds().display()));
        command.arg(format!("--pods={}", self.dir.path().join("pods").display()));
        command.args([format!("--proxy-uid={NOBODY}"), format!("--proxy-gid={NOBODY}")]);
        command.args(arguments);
        self.agent = Some(command.stderr(log).spawn().unwrap());
        until("the agent listens", || {
            let ended = self.agent.as_mut().and_then(|agent| agent.try_wait().unwrap());
            assert!(ended.is_none(), "the agent ended:\n{}", self.agent_log());
            self.zds().exists().then_some(())
        });
    }

    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent.as_ref().expect("the agent runs").id()
    }

    pub(crate) fn kill_agent(&mut self) {
        let mut agent = self.agent.take().expect("the agent runs");
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// As a supervisor does, and as it expects.
    pub(crate) fn stop_agent(&mut self) {
        let mut agent = self.agent.take().expect("the agent runs");
        let pid = Pid::from_raw(i32::try_from(agent.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert!(agent.wait().unwrap().success(), "{}", self.agent_log());
    }

    fn pod_file(&self, who: Who) -> PathBuf {
        self.dir.path().join("pods").join(format!("{}.json", who.uid()))
    }

    /// Puts the pod into the folder, and waits until the kernel captures it.
    pub(crate) fn enroll(&self, who: Who) {
        self.ask_to_enroll(who);
        self.reaches(who, "captured");
    }

    pub(crate) fn ask_to_enroll(&self, who: Who) {
        self.ask_to_enroll_with(who, &json!({}));
    }

    /// With further fields in the pod's file.
    pub(crate) fn ask_to_enroll_with(&self, who: Who, fields: &Value) {
        let mut pod = json!({
            "uid": who.uid(), "namespace": "default", "name": who.name(),
            "serviceAccount": "account", "netns": format!("/run/netns/{}", self.name(who)),
        });
        for (name, value) in fields.as_object().expect("fields have names") {
            pod[name] = value.clone();
        }
        let hidden = self.dir.path().join("pods/.new");
        fs::write(&hidden, pod.to_string()).unwrap();
        fs::rename(&hidden, self.pod_file(who)).unwrap();
    }

    /// Has the pod's file hold nothing that can be read, as when a disk is full.
    pub(crate) fn spoil_file(&self, who: Who) {
        fs::write(self.pod_file(who), "{").unwrap();
    }

    pub(crate) fn unenroll(&self, who: Who) {
        fs::remove_file(self.pod_file(who)).unwrap();
    }

    /// What the agent says of a pod. `None`: nothing any more.
    pub(crate) fn status(&self, who: Who) -> Option<Value> {
        let path = self.pod_file(who).with_extension("status.json");
        Some(serde_json::from_slice(&fs::read(path).ok()?).unwrap())
    }

    /// Waits for a state; "captured" is also what comes before "ready".
    pub(crate) fn reaches(&self, who: Who, state: &str) -> Value {
        until(&format!("{who:?} is {state}:\n{}", self.agent_log()), || {
            let status = self.status(who)?;
            let is = status["state"].as_str()?;
            (is == state || (state == "captured" && is == "ready")).then_some(status)
        })
    }

    /// Waits until nothing is said of the pod.
    pub(crate) fn forgets(&self, who: Who) {
        until(&format!("{who:?} is forgotten"), || self.status(who).is_none().then_some(()));
    }

    /// A counter of the node (`"node"`) or of a pod, by its name.
    pub(crate) fn counter(&self, place: &str, counter: &str) -> u64 {
        let bpffs = format!("--bpffs={}", self.bpffs().display());
        let output = Command::new(AGENT).args(["counters", &bpffs]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let line = said.lines().find_map(|line| line.strip_prefix(&format!("{place} {counter} ")));
        line.unwrap_or_else(|| panic!("no counter {place} {counter} in:\n{said}")).parse().unwrap()
    }

    /// Starts a proxy, in its cgroup, as nobody.
    pub(crate) fn proxy(&self) -> Proxy {
        let ours = std::env::current_exe().unwrap();
        // Nobody cannot reach into a developer's home: it runs a copy.
        let copy = self.dir.path().join("proxy");
        if !copy.exists() {
            fs::copy(ours, &copy).unwrap();
        }
        let mut command = Command::new(copy);
        command.arg("proxy").arg(self.zds());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        std::os::unix::process::CommandExt::uid(&mut command, NOBODY);
        std::os::unix::process::CommandExt::gid(&mut command, NOBODY);
        let mut child = command.spawn().unwrap();
        enter("proxy", child.id());
        let mut input = child.stdin.take().unwrap();
        writeln!(input, "go").unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut proxy = Proxy { child, input: Some(input), output };
        assert_eq!(proxy.says(), "ready", "{}", self.agent_log());
        proxy
    }

    pub(crate) fn cleanup(&self) {
        let bpffs = format!("--bpffs={}", self.bpffs().display());
        let output = Command::new(AGENT).args(["cleanup", &bpffs]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("-- the agent said:\n{}", self.agent_log());
        }
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let bpffs = format!("--bpffs={}", self.bpffs().display());
        let _ = Command::new(AGENT).args(["cleanup", &bpffs]).output();
        let _ = fs::remove_dir(self.bpffs());
        for namespace in ["a", "b", "c", "n"] {
            let name = format!("{}{namespace}", self.prefix);
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

/// A running proxy.
pub(crate) struct Proxy {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Proxy {
    /// The next line that it says. Waits at most [`LONG`].
    pub(crate) fn says(&mut self) -> String {
        if self.output.buffer().is_empty() {
            let time = Timespec::try_from(LONG).unwrap();
            let output = self.output.get_ref();
            let ready = poll(&mut [PollFd::new(output, rustix::event::PollFlags::IN)], Some(&time));
            assert_eq!(ready.unwrap(), 1, "the proxy says nothing");
        }
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it finish its connections and end.
    pub(crate) fn stop(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
    }

    /// As a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
