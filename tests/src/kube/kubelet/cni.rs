//! The chain of network plugins of a node, called as a container runtime does: CNI 1.1, sections 2 to 4.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::host::Host;
use crate::lab::{LONG, Node, Sandbox, wait_for};

/// Says who the main plugin is; it is no program: the sandbox has its addresses when the chain begins.
const MAIN: &str = "lab";
const INTERFACE: &str = "eth0";
/// Where an agent that runs as a pod answers our plugin; there it is on the node's disk, not on the machine's.
const AGENT: &str = "/run/weft-cni";

/// A node's folders of configurations and plugins.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    pub(super) configurations: PathBuf,
    pub(super) plugins: PathBuf,
}

#[derive(Debug, Clone, Copy)]
enum Command {
    Add,
    Check,
    Del,
}

/// The configuration that a sandbox was made with, by which it is also taken apart.
#[derive(Debug, Deserialize)]
pub(super) struct Chain {
    #[serde(rename = "cniVersion")]
    version: String,
    name: String,
    plugins: Vec<Value>,
}

/// How a plugin says that it failed.
#[derive(Debug, Deserialize)]
struct Complaint {
    code: u32,
    msg: String,
}

/// For whom the chain is called.
#[derive(Debug)]
pub(super) struct Attachment<'a> {
    pub(super) node: &'a Arc<Node>,
    pub(super) folders: &'a Folders,
    pub(super) host: &'a Host,
    pub(super) sandbox: &'a Sandbox,
    pub(super) namespace: &'a str,
    pub(super) pod: &'a str,
    pub(super) uid: &'a str,
}

impl Folders {
    /// Makes both, with a chain of the lab's own plugin alone.
    pub(super) fn new(node: &Node) -> Result<Self> {
        let dir = node.dir().join("cni");
        let folders = Self { configurations: dir.join("net.d"), plugins: dir.join("bin") };
        for dir in [&folders.configurations, &folders.plugins] {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let chain = json!({"cniVersion": "1.0.0", "name": MAIN, "plugins": [{"type": MAIN}]});
        let path = folders.configurations.join("10-lab.conflist");
        fs::write(&path, chain.to_string()).with_context(|| format!("write {}", path.display()))?;
        Ok(folders)
    }

    /// The first configuration by name, as runtimes choose.
    pub(super) fn chain(&self) -> Result<Chain> {
        let entries = fs::read_dir(&self.configurations).context("read the node's CNI folder")?;
        let lists = entries.flatten().map(|entry| entry.path());
        let list = lists.filter(|path| path.extension().is_some_and(|x| x == "conflist")).min();
        let list = list.context("cni plugin not initialized")?;
        let text = fs::read(&list).with_context(|| format!("read {}", list.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("read {}", list.display()))
    }
}

impl Chain {
    /// Calls every plugin with what the one before it returned, and returns what the last one did.
    pub(super) fn add(&self, to: &Attachment<'_>) -> Result<Value> {
        let mut result = None;
        for plugin in &self.plugins {
            result = Some(if kind(plugin)? == MAIN {
                main(to.sandbox, &self.version)
            } else {
                let out = self.call(Command::Add, plugin, to, result.as_ref())?;
                serde_json::from_str(&out).with_context(|| {
                    format!("what {} returned is no result: {out:?}", kind(plugin).unwrap_or("?"))
                })?
            });
        }
        result.with_context(|| format!("network {} has no plugin", self.name))
    }

    /// Asks every plugin whether all is as it returned it.
    pub(super) fn check(&self, of: &Attachment<'_>, result: &Value) -> Result<()> {
        for plugin in self.chained() {
            self.call(Command::Check, plugin, of, Some(result))?;
        }
        Ok(())
    }

    /// Calls every plugin, the last one first, even when one fails. Errors: what the first one complained of.
    pub(super) fn del(&self, from: &Attachment<'_>, result: Option<&Value>) -> Result<()> {
        let all = self.chained().rev().map(|plugin| self.call(Command::Del, plugin, from, result));
        let verdicts: Vec<_> = all.collect();
        verdicts.into_iter().collect::<Result<Vec<_>>>().map(|_| ())
    }

    fn chained(&self) -> impl DoubleEndedIterator<Item = &Value> {
        self.plugins.iter().filter(|plugin| kind(plugin).is_ok_and(|kind| kind != MAIN))
    }

    fn call(
        &self,
        command: Command,
        plugin: &Value,
        to: &Attachment<'_>,
        previous: Option<&Value>,
    ) -> Result<String> {
        let name = kind(plugin)?;
        ensure!(!name.contains('/'), "plugin type {name:?} is no file name");
        let mut input = plugin.as_object().context("a plugin is an object")?.clone();
        input.insert("cniVersion".to_owned(), json!(self.version));
        input.insert("name".to_owned(), json!(self.name));
        if let Some(previous) = previous {
            input.insert("prevResult".to_owned(), previous.clone());
        }
        let child = spawn(command, &to.folders.plugins.join(name), to)?;
        converse(child, &Value::from(input).to_string())
            .with_context(|| format!("plugin {name}: {command:?}"))
    }
}

fn kind(plugin: &Value) -> Result<&str> {
    plugin
        .get("type")
        .and_then(Value::as_str)
        .with_context(|| format!("a plugin without a type: {plugin}"))
}

/// In the node's namespace, as a runtime is.
fn spawn(command: Command, program: &Path, to: &Attachment<'_>) -> Result<Child> {
    ensure!(program.is_file(), "failed to find plugin {}", program.display());
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        to.namespace,
        to.pod,
        container(to.uid),
        to.uid
    );
    let agent = to.host.path(Path::new(AGENT));
    let mut child = if agent.exists() {
        let mut command = to.node.command("unshare");
        let see = r#"mkdir -p "$1" && mount --bind "$0" "$1" && shift && exec "$@""#;
        command.args(["--mount", "sh", "-c", see]).arg(agent).arg(AGENT).arg(program);
        command
    } else {
        to.node.command(&program.to_string_lossy())
    };
    let verb = match command {
        Command::Add => "ADD",
        Command::Check => "CHECK",
        Command::Del => "DEL",
    };
    child
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", container(to.uid))
        .env("CNI_NETNS", to.sandbox.namespace().path())
        .env("CNI_IFNAME", INTERFACE)
        .env("CNI_ARGS", arguments)
        .env("CNI_PATH", &to.folders.plugins)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    child.spawn().with_context(|| format!("start {}", program.display()))
}

/// The sandbox of a pod, as runtimes name it: not by the pod's id.
fn container(uid: &str) -> String {
    uid.replace('-', "")
}

fn converse(mut child: Child, input: &str) -> Result<String> {
    // A plugin that does not read its input fails by what it says, not by this.
    let _ = child.stdin.take().context("a plugin has an input")?.write_all(input.as_bytes());
    let status = wait_for("the plugin ends", LONG, || child.try_wait().ok().flatten());
    let Ok(status) = status else {
        child.kill().context("kill a plugin that does not end")?;
        bail!("it did not end within {LONG:.0?}");
    };
    let (mut out, mut error) = (String::new(), String::new());
    child.stdout.take().context("a plugin has an output")?.read_to_string(&mut out)?;
    child.stderr.take().context("a plugin has an output")?.read_to_string(&mut error)?;
    if !status.success() {
        let said: Option<Complaint> = serde_json::from_str(&out).ok();
        let said = said.map(|Complaint { code, msg }| format!("{msg} (code {code})"));
        bail!("{status}: {}", said.unwrap_or_else(|| format!("{out}{error}")));
    }
    Ok(out)
}

/// What the lab's own plugin returns: what the sandbox already has.
fn main(sandbox: &Sandbox, version: &str) -> Value {
    json!({
        "cniVersion": version,
        "interfaces": [{"name": INTERFACE, "sandbox": sandbox.namespace().path()}],
        "ips": [
            {"address": format!("{}/24", sandbox.v4()), "interface": 0},
            {"address": format!("{}/64", sandbox.v6()), "interface": 0},
        ],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        "dns": {},
    })
}
