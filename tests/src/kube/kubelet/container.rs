//! One container: a program in the pod's sandbox, run again as its pod wishes, and probed.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use k8s_openapi::{
    api::core::v1::{Container as Spec, Pod, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{field::lookup, files::Files, image::Image};
use crate::lab::{Node, Process, Sandbox, Signal, User, binary};

/// A Kubernetes probe runs every 10 s; tests would wait for that.
const BETWEEN_PROBES: Duration = Duration::from_millis(200);
const PROBE: Duration = Duration::from_secs(1);
const BETWEEN_STARTS: Duration = Duration::from_millis(500);

/// What became of its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Waiting(String),
    Running,
    Ended(i32),
}

#[derive(Debug)]
pub(super) struct Container {
    pub(super) spec: Spec,
    pub(super) state: State,
    pub(super) ready: bool,
    pub(super) restarts: i32,
    process: Option<Process>,
    started: Instant,
    probed: Instant,
}

impl Container {
    pub(super) fn new(spec: Spec) -> Self {
        let state = State::Waiting("ContainerCreating".to_owned());
        let now = Instant::now();
        Self { spec, state, ready: false, restarts: 0, process: None, started: now, probed: now }
    }

    /// Starts its program; a program that cannot be started is tried again as one that ended.
    pub(super) fn start(&mut self, pod: &Pod, sandbox: &Sandbox, files: &Files) {
        self.started = Instant::now();
        match self.launch(pod, sandbox, files) {
            Ok(process) => {
                self.process = Some(process);
                self.state = State::Running;
            }
            Err(error) => self.state = State::Waiting(format!("CreateContainerError: {error:#}")),
        }
    }

    /// Starts it again unless it was started just now.
    pub(super) fn start_again(&mut self, pod: &Pod, sandbox: &Sandbox, files: &Files) {
        if self.started.elapsed() > BETWEEN_STARTS {
            self.restarts += 1;
            self.start(pod, sandbox, files);
        }
    }

    /// Looks at its program and at its readiness.
    pub(super) fn look(&mut self, node: &Arc<Node>, sandbox: &Sandbox) {
        if let Some(status) = self.process.as_mut().and_then(|it| it.exit(Duration::ZERO).ok()) {
            // As shells count those that were killed.
            self.state = State::Ended(status.code().unwrap_or(137));
            self.process = None;
        }
        if self.state != State::Running {
            self.ready = false;
            return;
        }
        let Some(probe) = &self.spec.readiness_probe else {
            self.ready = true;
            return;
        };
        if self.probed.elapsed() > BETWEEN_PROBES {
            self.ready = answers(probe, &self.spec, node, sandbox);
            self.probed = Instant::now();
        }
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) {
        // It may have ended just now.
        let _ = self.process.as_ref().map(|process| process.signal(Signal::Term));
    }

    /// Whether it is an init container that goes on beside those that follow it.
    pub(super) fn is_sidecar(&self) -> bool {
        self.spec.restart_policy.as_deref() == Some("Always")
    }

    /// Its program's process.
    pub(super) fn process(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    pub(super) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    fn launch(&self, pod: &Pod, sandbox: &Sandbox, files: &Files) -> Result<Process> {
        let environment = self.environment(pod, sandbox);
        let expand = |text: &String| {
            environment.iter().fold(text.clone(), |text, (name, value)| {
                text.replace(&format!("$({name})"), value)
            })
        };
        let image = self.spec.image.as_deref().unwrap_or_default();
        let ours = Image::of(image);
        let mut words = match &ours {
            Some(image) => image.command(&self.spec),
            None => self.spec.command.clone().unwrap_or_else(|| vec![name(image).to_owned()]),
        };
        words.extend(self.spec.args.clone().unwrap_or_default());
        if ours.is_some() {
            words.extend(files.told(words.first().map(String::as_str)));
        }
        let words: Vec<String> = words.iter().map(expand).collect();
        let given = |command: &mut Command| {
            command.env_remove("KUBECONFIG").envs(environment.iter().cloned());
        };
        let Some(image) = ours else { return self.launch_on_machine(pod, sandbox, &words, given) };
        let scripts = files.scripts(pod, &self.spec, &image, sandbox)?;
        let name = &self.spec.name;
        let node = files.node.cgroup();
        sandbox.start_contained(node, name, scripts, |command| {
            command.args(&words);
            given(command);
        })
    }

    /// A program of the machine, or of this workspace by its name: it needs no files of its own.
    fn launch_on_machine(
        &self,
        pod: &Pod,
        sandbox: &Sandbox,
        words: &[String],
        given: impl FnOnce(&mut Command),
    ) -> Result<Process> {
        let (program, args) = words.split_first().context("a container has a command")?;
        let program = binary(program).unwrap_or_else(|_| PathBuf::from(program));
        let inherited =
            pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.run_as_user);
        let id = self.spec.security_context.as_ref().and_then(|context| context.run_as_user);
        let user = if id.or(inherited).unwrap_or(0) == 0 { User::Root } else { User::Nobody };
        sandbox.start_as(user, &self.spec.name, &program.to_string_lossy(), |command| {
            command.args(args);
            given(command);
        })
    }

    fn environment(&self, pod: &Pod, sandbox: &Sandbox) -> Vec<(String, String)> {
        let api = [("KUBERNETES_SERVICE_HOST", "10.0.0.254"), ("KUBERNETES_SERVICE_PORT", "6443")];
        let api = api.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let own = self.spec.env.iter().flatten().map(|variable| {
            let field = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref());
            let value = field.map(|field| lookup(field, pod, sandbox)).or(variable.value.clone());
            (variable.name.clone(), value.unwrap_or_default())
        });
        api.into_iter().chain(own).collect()
    }
}

/// An image that is none of ours is only a name: that of a program of the workspace, or of one on the machine.
fn name(image: &str) -> &str {
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split(['@', ':']).next().unwrap_or_default()
}

/// Whether a readiness probe succeeds: from the node, as kubelets probe.
fn answers(probe: &Probe, of: &Spec, node: &Arc<Node>, sandbox: &Sandbox) -> bool {
    let (port, path) = match (&probe.tcp_socket, &probe.http_get) {
        (Some(tcp), _) => (&tcp.port, None),
        (_, Some(http)) => (&http.port, Some(http.path.clone().unwrap_or_default())),
        // Of the other kinds no test has a use.
        (None, None) => return false,
    };
    let Some(port) = number(port, of) else { return false };
    let Ok(address) = format!("{}:{port}", sandbox.v4()).parse() else { return false };
    node.namespace().enter(move || ask(address, path.as_deref())).is_ok_and(|answer| answer.is_ok())
}

fn number(port: &IntOrString, of: &Spec) -> Option<i32> {
    match port {
        IntOrString::Int(port) => Some(*port),
        IntOrString::String(name) => {
            let mut ports = of.ports.iter().flatten();
            ports.find(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port)
        }
    }
}

fn ask(address: SocketAddr, path: Option<&str>) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE)?;
    let Some(path) = path else { return Ok(()) };
    stream.set_read_timeout(Some(PROBE))?;
    let path = path.trim_start_matches('/');
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    let code = std::str::from_utf8(&head)?.rsplit(' ').next().and_then(|code| code.parse().ok());
    anyhow::ensure!(code.is_some_and(|code: u16| (200..400).contains(&code)), "answered {code:?}");
    Ok(())
}
