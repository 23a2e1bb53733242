//! The plugin itself: what a runtime asks by environment and input, and how it is answered.
//!
//! Spec: CNI 1.1.0. ADD and CHECK pass on what the plugins before us made, and fail where a pod that belongs
//! into the mesh is not captured. DEL never fails: a pod must be able to go while the agent is away, and the
//! agent finds by itself what went.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::protocol::{Attachment, LINE_MAX, PATIENCE, PodName, Reply, Request};

#[cfg(test)]
mod tests;

/// Those with a `prevResult`, which is what we are about.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const NEWEST: &str = "1.1.0";

/// Spec: the codes below 100 are CNI's own.
const INCOMPATIBLE_VERSION: u32 = 1;
const INVALID_ENVIRONMENT: u32 = 4;
const IO_FAILURE: u32 = 5;
const UNREADABLE_CONFIGURATION: u32 = 6;
const INVALID_CONFIGURATION: u32 = 7;
const TRY_AGAIN_LATER: u32 = 11;
/// Ours: the agent cannot enroll the pod.
const NOT_CAPTURED: u32 = 100;

/// What the runtime says by `CNI_*` variables; read by `main`, which alone may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: Option<String>,
    /// `CNI_CONTAINERID`.
    pub container: Option<String>,
    /// `CNI_NETNS`.
    pub netns: Option<String>,
    /// `CNI_ARGS`.
    pub args: Option<String>,
}

/// An error as runtimes read it from the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniError {
    cni_version: String,
    code: u32,
    msg: String,
}

impl CniError {
    fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { cni_version: NEWEST.to_owned(), code, msg: msg.into() }
    }

    /// What to print. The plugin then ends with a failure.
    pub fn to_json(&self) -> String {
        json!({ "cniVersion": self.cni_version, "code": self.code, "msg": self.msg }).to_string()
    }
}

/// Our entry of the network's configuration, as the runtime hands it over.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conf {
    cni_version: String,
    socket: PathBuf,
    #[serde(default)]
    exempt_namespaces: Vec<String>,
    prev_result: Option<Value>,
}

/// Answers one call. What is returned is to be printed; nothing, if there is nothing to say.
pub fn answer(environment: &Environment, input: impl Read) -> Result<Option<String>, CniError> {
    let command = required(environment.command.as_deref(), "CNI_COMMAND")?;
    let mut text = Vec::new();
    let mut input = input;
    input
        .read_to_end(&mut text)
        .map_err(|error| CniError::new(IO_FAILURE, format!("stdin cannot be read: {error}")))?;
    match command {
        "VERSION" => Ok(Some(versions(&text))),
        "ADD" => {
            let conf = conf(&text)?;
            settle(environment, &conf, |pod, attachment| Request::Add { pod, attachment })
                .map_err(|error| at(&conf, error))
        }
        "CHECK" => {
            let conf = conf(&text)?;
            settle(environment, &conf, |pod, attachment| Request::Check { pod, attachment })
                .map_err(|error| at(&conf, error))?;
            Ok(None)
        }
        "DEL" => {
            delete(environment, &text);
            Ok(None)
        }
        // The agent finds by itself what went; and a node must become ready for the agent to come up on it.
        "GC" | "STATUS" => {
            conf(&text)?;
            Ok(None)
        }
        other => {
            Err(CniError::new(INVALID_ENVIRONMENT, format!("CNI_COMMAND {other:?} is unknown")))
        }
    }
}

/// Spec: an error has the version of the configuration.
fn at(conf: &Conf, error: CniError) -> CniError {
    CniError { cni_version: conf.cni_version.clone(), ..error }
}

fn versions(text: &[u8]) -> String {
    let asked = serde_json::from_slice(text)
        .ok()
        .and_then(|input: Value| Some(input.get("cniVersion")?.as_str()?.to_owned()));
    let asked = asked.unwrap_or_else(|| NEWEST.to_owned());
    json!({ "cniVersion": asked, "supportedVersions": VERSIONS }).to_string()
}

fn conf(text: &[u8]) -> Result<Conf, CniError> {
    let conf: Conf = serde_json::from_slice(text).map_err(|error| {
        CniError::new(UNREADABLE_CONFIGURATION, format!("weft-cni's configuration: {error}"))
    })?;
    if VERSIONS.contains(&conf.cni_version.as_str()) {
        Ok(conf)
    } else {
        let known = VERSIONS.join(", ");
        let msg = format!("cniVersion {:?} is none of {known}", conf.cni_version);
        Err(CniError::new(INCOMPATIBLE_VERSION, msg))
    }
}

/// ADD and CHECK: the result of the plugins before us, if the pod is as it should be.
fn settle(
    environment: &Environment,
    conf: &Conf,
    request: impl FnOnce(PodName, Attachment) -> Request,
) -> Result<Option<String>, CniError> {
    let Some(result) = &conf.prev_result else {
        let msg = "prevResult is missing: weft-cni must stand behind a network plugin";
        return Err(CniError::new(INVALID_CONFIGURATION, msg));
    };
    let passed = Some(result.to_string());
    let container = required(environment.container.as_deref(), "CNI_CONTAINERID")?;
    let netns = required(environment.netns.as_deref(), "CNI_NETNS")?;
    // Whatever runs here beside Kubernetes has no labels, and is not in the mesh.
    let Some(pod) = pod(environment.args.as_deref().unwrap_or_default()) else {
        return Ok(passed);
    };
    let attachment = Attachment {
        container: container.to_owned(),
        netns: Some(netns.into()),
        addresses: addresses(result)?,
    };
    let exempt = conf.exempt_namespaces.contains(&pod.namespace);
    let name = format!("pod {}/{}", pod.namespace, pod.name);
    match ask(&conf.socket, &request(pod, attachment)) {
        Ok(Reply::Captured | Reply::Out { .. } | Reply::Released) => Ok(passed),
        Ok(Reply::Yielded { .. }) => {
            Err(CniError::new(TRY_AGAIN_LATER, format!("{name}: weft-redirect is being replaced")))
        }
        Ok(Reply::Failed { reason }) => {
            Err(CniError::new(NOT_CAPTURED, format!("{name} is not captured by weft: {reason}")))
        }
        // Without them no node would ever come up: the agent itself may be waiting for one of these.
        Ok(Reply::Unknown { .. }) | Err(_) if exempt => Ok(passed),
        Ok(Reply::Unknown { reason }) => {
            Err(CniError::new(TRY_AGAIN_LATER, format!("{name} is not known to weft: {reason}")))
        }
        Err(error) => {
            let socket = conf.socket.display();
            let msg = format!("{name}: no answer from weft-redirect at {socket}: {error}");
            Err(CniError::new(TRY_AGAIN_LATER, msg))
        }
    }
}

fn delete(environment: &Environment, text: &[u8]) {
    let Ok(conf) = conf(text) else { return };
    let Some(pod) = pod(environment.args.as_deref().unwrap_or_default()) else { return };
    let Some(container) = environment.container.clone() else { return };
    let netns = environment.netns.as_ref().filter(|netns| !netns.is_empty()).map(PathBuf::from);
    let attachment = Attachment { container, netns, addresses: Vec::new() };
    // Spec: DEL should not fail for what is not there. The agent notices a namespace that is gone.
    let _ = ask(&conf.socket, &Request::Del { pod, attachment });
}

fn required<'a>(value: Option<&'a str>, name: &str) -> Result<&'a str, CniError> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| CniError::new(INVALID_ENVIRONMENT, format!("{name} is not set")))
}

/// `None`: not a pod of Kubernetes.
fn pod(args: &str) -> Option<PodName> {
    let value = |key: &str| {
        let pairs = args.split(';').filter_map(|pair| pair.split_once('='));
        let found =
            pairs.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).next();
        found.filter(|value| !value.is_empty())
    };
    Some(PodName {
        namespace: value("K8S_POD_NAMESPACE")?,
        name: value("K8S_POD_NAME")?,
        uid: value("K8S_POD_UID"),
    })
}

/// The addresses in a result. Spec: `ips[].address`, with the length of its network.
fn addresses(result: &Value) -> Result<Vec<IpAddr>, CniError> {
    let ips = result.get("ips").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let parse = |ip: &Value| {
        let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
        let address = text.split('/').next().unwrap_or_default();
        address.parse().map_err(|_| {
            let msg = format!("prevResult.ips has the address {text:?}");
            CniError::new(INVALID_CONFIGURATION, msg)
        })
    };
    ips.iter().map(parse).collect()
}

/// One question, one answer.
fn ask(socket: &Path, request: &Request) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    let most = u64::try_from(LINE_MAX).expect("a line's length fits");
    BufReader::new(stream).take(most).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up"));
    }
    Ok(serde_json::from_str(&answer)?)
}
