//! A pod's place on its node: a namespace with addresses, a cgroup, and programs that know nothing of the mesh.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};

use super::{
    Cgroup, Ground, LONG, Namespace, Node, Process, User, binary, process::Place, wait_for,
};

/// A namespace on a node's bridge, and a cgroup.
#[derive(Debug)]
pub struct Sandbox {
    name: String,
    v4: String,
    v6: String,
    cgroup: Cgroup,
    namespace: Arc<Namespace>,
    ground: Arc<Ground>,
}

impl Node {
    /// Makes a place with the `host`th address of this node; `id` is nobody else's in this lab.
    pub(crate) fn sandbox(&self, name: &str, id: &str, host: u8) -> Result<Sandbox> {
        let index = self.index();
        let namespace = Namespace::new(self.ground(), id)?;
        let (v4, v6) = (format!("10.1.{index}.{host}"), format!("fd01:{index}::{host}"));
        let link = link(id);
        self.namespace()
            .ip(&format!("link add {link} type veth peer name eth0 netns {}", namespace.name()))?;
        let plugged =
            self.namespace().ip(&format!("link set {link} master br0 up")).and_then(|()| {
                namespace.ip(&format!(
                    "link set eth0 up
                 addr add {v4}/24 dev eth0
                 addr add {v6}/64 dev eth0 nodad
                 route add default via 10.1.{index}.1
                 route add default via fd01:{index}::1"
                ))
            });
        if plugged.is_err() {
            // It would be in the way of the next try for as long as the kernel takes.
            let _ = self.namespace().ip(&format!("link del {link}"));
        }
        plugged?;
        self.sandbox_in(Arc::new(namespace), name, id, [v4, v6])
    }

    /// Takes a place off the node's bridge, whoever still holds its namespace. Its addresses are free from then on,
    /// or already another's.
    pub(crate) fn unplug(&self, id: &str, place: &Sandbox) -> Result<()> {
        let (link, v4, v6) = (link(id), place.v4(), place.v6());
        self.namespace().ip(&format!(
            "link del {link}
             neigh flush to {v4} dev br0
             neigh flush to {v6} dev br0"
        ))
    }

    /// Makes a place in the node's own namespace, with its addresses.
    pub(crate) fn host_sandbox(&self, name: &str, id: &str) -> Result<Sandbox> {
        let index = self.index();
        let at = [format!("10.0.0.{index}"), format!("fd00::{index}")];
        self.sandbox_in(self.shared_namespace(), name, id, at)
    }

    fn sandbox_in(
        &self,
        namespace: Arc<Namespace>,
        name: &str,
        id: &str,
        [v4, v6]: [String; 2],
    ) -> Result<Sandbox> {
        let ground = self.ground().clone();
        let cgroup = Cgroup::new(&ground, &format!("{}/pods/{id}", self.name()))?;
        Ok(Sandbox { name: name.to_owned(), v4, v6, cgroup, namespace, ground })
    }
}

/// The node's end of a place's cable. The kernel allows 15 characters.
fn link(id: &str) -> String {
    format!("v-{id}").chars().take(15).collect()
}

impl Sandbox {
    /// As it was called when it was made.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A shell command that runs another one in this pod, its cgroup included.
    pub fn how_to_run(&self, command: &str) -> String {
        let (cgroup, namespace) = (self.cgroup.path().display(), self.namespace.name());
        format!("sh -c 'echo $$ > {cgroup}/cgroup.procs; exec ip netns exec {namespace} {command}'")
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> &str {
        &self.v4
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> &str {
        &self.v6
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Runs a program inside to its end.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<Output> {
        self.place().output(program, args)
    }

    /// Runs a program inside to its end and returns what it printed. Errors: it failed.
    pub fn says(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self.run(program, args)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} in {}: {}", self.name, error.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The body of a GET. Errors: what curl said.
    pub fn curl(&self, url: &str) -> Result<String> {
        self.says("curl", &["-sS", "-m", "10", url]).with_context(|| format!("curl {url}"))
    }

    /// Starts a program inside; its output is `<pod>-<name>.log`.
    pub fn start(&self, name: &str, program: &str, args: &[&str]) -> Result<Process> {
        let name = format!("{}-{name}", self.name);
        self.place().start(&name, program, |command| {
            command.args(args);
        })
    }

    /// Starts a program as a user; it may be given more by `with`.
    pub(crate) fn start_as(
        &self,
        user: User,
        name: &str,
        program: &str,
        with: impl FnOnce(&mut Command),
    ) -> Result<Process> {
        let place = Place { user, ..self.place() };
        place.start(&format!("{}-{name}", self.name), program, with)
    }

    /// Starts what the scripts become, in a cgroup of its own below this one's. `node` is what the process takes for
    /// the top of all cgroups.
    pub(crate) fn start_contained(
        &self,
        node: &Path,
        name: &str,
        scripts: [String; 2],
        with: impl FnOnce(&mut Command),
    ) -> Result<Process> {
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo $$ > "$0" && exec "$@""#])
            .arg(node.join("cgroup.procs"))
            .arg("nsenter")
            .arg(format!("--net={}", self.namespace.path().display()))
            .args(["unshare", "--cgroup", "--mount", "--propagation", "slave", "sh", "-c"]);
        let [outside, inside] = scripts;
        command.args([&outside, "sh", &inside]);
        Process::start(&self.ground, &format!("{}-{name}", self.name), command, with)
    }

    /// A command to which a program and its words are to be added, and which becomes that beside a container's process:
    /// in its namespaces, root and cgroup, with its environment, and as who it is.
    pub(crate) fn beside(&self, process: u32, container: &str) -> Result<Command> {
        let own = self.cgroup.path().join(container);
        let cgroup = if own.is_dir() { &own } else { self.cgroup.path() };
        let about = |what: &str| {
            let path = format!("/proc/{process}/{what}");
            fs::read_to_string(&path).with_context(|| format!("read {path}"))
        };
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]).arg(cgroup.join("cgroup.procs"));
        command.arg("nsenter").arg(format!("--target={process}"));
        command.args(["--net", "--mount", "--cgroup", "--root", "--wd"]);
        command.args(["setpriv", "--pdeathsig", "KILL"]).args(rights(&about("status")?)).arg("--");
        command.env_clear();
        command.envs(about("environ")?.split('\0').filter_map(|one| one.split_once('=')));
        Ok(command)
    }

    /// The cgroup of one of its containers, which is made.
    pub(crate) fn cgroup_of(&self, container: &str) -> Result<PathBuf> {
        let path = self.cgroup.path().join(container);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// The same, with a pipe to its standard input: [`Process::input`].
    pub fn start_with_input(&self, name: &str, program: &str, args: &[&str]) -> Result<Process> {
        let name = format!("{}-{name}", self.name);
        self.place().start(&name, program, |command| {
            command.args(args).stdin(Stdio::piped());
        })
    }

    /// Starts our small server, which answers with this pod's name, and waits until it listens.
    pub fn serve(&self, port: u16) -> Result<Process> {
        let (program, port_arg) = (binary("weft-app")?, port.to_string());
        let args = ["serve", "--port", &port_arg, "--name", &self.name];
        self.serve_with(port, &program.to_string_lossy(), &args)
    }

    /// Starts any server and waits until it listens.
    pub fn serve_with(&self, port: u16, program: &str, args: &[&str]) -> Result<Process> {
        let server = self.start(&format!("serve-{port}"), program, args)?;
        let listens = || self.listens(port).then_some(());
        wait_for("the server listens", LONG, listens).with_context(|| server.log())?;
        Ok(server)
    }

    /// Whether a TCP listener of this port is in the pod's namespace.
    fn listens(&self, port: u16) -> bool {
        !self.listeners(port).is_empty()
    }

    /// How many connections wait in the pod's listeners of this port until somebody accepts them.
    pub fn backlog(&self, port: u16) -> usize {
        let waiting = |line: &String| {
            let (_, received) = line.split_whitespace().nth(4)?.split_once(':')?;
            usize::from_str_radix(received, 16).ok()
        };
        self.listeners(port).iter().filter_map(waiting).sum()
    }

    /// The kernel's lines about them.
    fn listeners(&self, port: u16) -> Vec<String> {
        let wanted = format!(":{port:04X} ");
        let read = || {
            let v4 = fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default();
            v4 + &fs::read_to_string("/proc/thread-self/net/tcp6").unwrap_or_default()
        };
        let tables = self.namespace.enter(read).unwrap_or_default();
        let listens = |line: &&str| line.contains(&wanted) && line.contains(" 0A ");
        tables.lines().filter(listens).map(str::to_owned).collect()
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place {
            ground: &self.ground,
            namespace: &self.namespace,
            cgroup: &self.cgroup,
            user: User::Root,
        }
    }

    /// Kills what runs inside.
    pub fn evict(&self) {
        self.cgroup.clear();
    }

    pub(super) fn is_kept(&self) -> bool {
        self.ground.is_kept()
    }
}

/// By which setpriv gives a program what a process has, of which this is the status.
fn rights(status: &str) -> Vec<String> {
    let words = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().split_whitespace().collect::<Vec<_>>()
    };
    let first = |name: &str| words(name).first().copied().unwrap_or("0").to_owned();
    let mut rights =
        ["--reuid".to_owned(), first("Uid:"), "--regid".to_owned(), first("Gid:")].to_vec();
    match words("Groups:")[..] {
        [] => rights.push("--clear-groups".to_owned()),
        ref groups => rights.extend(["--groups".to_owned(), groups.join(",")]),
    }
    if first("CapBnd:").chars().all(|digit| digit == '0') {
        rights.extend(["--inh-caps=-all", "--bounding-set=-all"].map(str::to_owned));
    }
    if first("NoNewPrivs:") == "1" {
        rights.push("--no-new-privs".to_owned());
    }
    rights
}
