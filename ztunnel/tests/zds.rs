//! The node agent's side of ZDS, played over a real `SOCK_SEQPACKET`.

use std::{
    io::{IoSlice, IoSliceMut, Read},
    mem::MaybeUninit,
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use prost::Message;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketType, accept, bind, listen, recvmsg, sendmsg, socket, sockopt,
};
use tokio::sync::{mpsc, oneshot, watch};
use weft_model::{Change, Network, TrustDomain, View};
use weft_xds::zds::{
    AddWorkload, DelWorkload, KeepWorkload, NeedSockets, SnapshotSent, SocketKind, Sockets,
    WorkloadInfo, WorkloadRequest, WorkloadResponse, ZdsHello, workload_request::Payload,
    workload_response,
};
use ztunnel::{
    config::Config,
    descriptors::Descriptors,
    dns,
    identity::{CertificateService, Identities, NodeCertificate, Options},
    memory::Pressure,
    pods::{Means, Pods},
    state::{Status, Views},
    telemetry::Telemetry,
    threads::{Equipment, Threads},
    tunnel::hbone::Settings,
    zds::{Knowledge, Phase, Zds},
};

use crate::fixture::{CLIENT, run, workload};

/// A node agent that does one thing at a time.
pub(crate) struct Agent {
    listener: OwnedFd,
    proxy: Option<OwnedFd>,
}

impl Agent {
    pub(crate) fn listen(path: &Path) -> Self {
        let listener = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
        listen(&listener, 8).unwrap();
        Self { listener, proxy: None }
    }

    /// Waits for a proxy's hello.
    pub(crate) fn greet(&mut self) -> ZdsHello {
        let proxy = accept(&self.listener).unwrap();
        let deadline = Some(Duration::from_secs(10));
        sockopt::set_socket_timeout(&proxy, sockopt::Timeout::Recv, deadline).unwrap();
        self.proxy = Some(proxy);
        ZdsHello::decode(&*self.receive()).unwrap()
    }

    fn receive(&self) -> Vec<u8> {
        let mut bytes = [0; 1024];
        let mut none = rustix::net::RecvAncillaryBuffer::default();
        let into = &mut [IoSliceMut::new(&mut bytes)];
        let proxy = self.proxy.as_ref().unwrap();
        let received = recvmsg(proxy, into, &mut none, RecvFlags::empty()).unwrap();
        bytes.get(..received.bytes).unwrap().to_vec()
    }

    pub(crate) fn send(&self, payload: Payload, descriptors: &[&OwnedFd]) {
        let bytes = WorkloadRequest { payload: Some(payload) }.encode_to_vec();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let borrowed: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        if !borrowed.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)));
        }
        let proxy = self.proxy.as_ref().unwrap();
        sendmsg(proxy, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::empty()).unwrap();
    }

    /// Sends a request, and answers the error of its ack: empty where all is well.
    fn ask(&self, payload: Payload, descriptors: &[&OwnedFd]) -> String {
        self.send(payload, descriptors);
        loop {
            match self.response() {
                workload_response::Payload::Ack(ack) => return ack.error,
                // Asked for by a pod of before; this agent makes none.
                workload_response::Payload::Need(_) => {}
            }
        }
    }

    /// The next response; none once the proxy has gone or is silent.
    pub(crate) fn next(&self) -> Option<workload_response::Payload> {
        let mut bytes = [0; 1024];
        let mut none = rustix::net::RecvAncillaryBuffer::default();
        let into = &mut [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(self.proxy.as_ref()?, into, &mut none, RecvFlags::empty()).ok()?;
        WorkloadResponse::decode(bytes.get(..received.bytes)?).ok()?.payload
    }

    fn response(&self) -> workload_response::Payload {
        WorkloadResponse::decode(&*self.receive()).unwrap().payload.unwrap()
    }

    fn need(&self) -> NeedSockets {
        let response = self.response();
        let workload_response::Payload::Need(need) = response else { unreachable!("{response:?}") };
        need
    }
}

fn add(uid: &str, listeners: &[SocketKind]) -> Payload {
    let text = str::to_owned;
    Payload::Add(AddWorkload {
        uid: uid.to_owned(),
        workload_info: Some(WorkloadInfo {
            name: text("client"),
            namespace: text("shop"),
            service_account: text("client"),
        }),
        listeners: listeners.iter().map(|kind| (*kind).into()).collect(),
        netns_cookie: 7,
        sockets_offered: true,
    })
}

fn keep(uid: &str) -> Payload {
    Payload::Keep(KeepWorkload { uid: uid.to_owned() })
}

pub(crate) fn own_namespace() -> OwnedFd {
    std::fs::File::open("/proc/self/ns/net").unwrap().into()
}

fn zds(path: &Path) -> Zds {
    let config = Config::default();
    let known = Change::Workload(Arc::new(workload("client", CLIENT)));
    let (views, _) = Views::new(View::from_iter([known]), Status::fixed());
    let telemetry = Telemetry::new(&config.metrics, 2, None);
    let service = CertificateService::new(None, NodeCertificate::none());
    let (identities, _) = Identities::new(Options::new(None, Duration::from_secs(1)), service);
    let equipment = Equipment {
        views: views.clone(),
        identities: identities.clone(),
        telemetry: telemetry.clone(),
        settings: Settings::default(),
        limits: config.limits.clone(),
        tcp: config.tcp.clone(),
        pressure: watch::channel(Pressure::Normal).1,
        descriptors: Descriptors::of(None),
    };
    let (needs, asked) = mpsc::unbounded_channel();
    let current = views.clone();
    let pods = Pods::new(Means {
        threads: Arc::new(Threads::start(2, &equipment).unwrap()),
        needs,
        identities,
        views,
        names: dns::Service {
            config: config.dns.clone(),
            fallback: Vec::new(),
            view: Arc::new(move || current.current()),
            recorder: telemetry.control(),
            descriptors: Descriptors::of(None),
        },
        recorder: telemetry.control(),
        network: Network::default(),
        trust_domain: TrustDomain::default(),
        tcp: config.tcp,
        descriptors: Descriptors::of(None),
    });
    Zds::new(path, pods, asked)
}

/// Runs a client of ZDS against `agent`, which has a thread of its own.
fn against(agent: impl FnOnce(&mut Agent) + Send + 'static) {
    against_a_proxy_that_is(Phase::Serving, agent);
}

fn against_a_proxy_that_is(phase: Phase, agent: impl FnOnce(&mut Agent) + Send + 'static) {
    against_a_proxy_told(phase, |listening, _| agent(listening));
}

/// The agent also tells the proxy when to drain.
fn against_a_proxy_told(
    first: Phase,
    agent: impl FnOnce(&mut Agent, &watch::Sender<Phase>) + Send + 'static,
) {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("zds.sock");
    let mut listening = Agent::listen(&path);
    let (done, is_done) = oneshot::channel();
    let (phase, phases) = watch::channel(first);
    let playing = thread::spawn(move || {
        agent(&mut listening, &phase);
        done.send(()).unwrap();
    });
    run(async move {
        tokio::select! {
            biased;
            _ = is_done => {}
            () = zds(&path).run(phases) => {}
        }
    });
    playing.join().unwrap();
}

#[test]
fn a_proxy_that_begins_to_drain_dials_anew_and_says_so() {
    against_a_proxy_told(Phase::Serving, |agent, phase| {
        assert!(!agent.greet().draining);
        let namespace = own_namespace();
        assert_eq!(agent.ask(add("uid-1", &[]), &[&namespace]), "");
        phase.send_replace(Phase::Draining);
        assert!(agent.greet().draining);
        let drains = "pod uid-1: this proxy drains, and leaves it to the next one";
        assert_eq!(agent.ask(add("uid-1", &[]), &[&namespace]), drains);
        assert_eq!(agent.ask(Payload::SnapshotSent(SnapshotSent {}), &[]), "");
    });
}

#[test]
fn a_proxy_of_a_stock_agent_does_not_dial_anew_when_it_drains() {
    against_a_proxy_told(Phase::Serving, |agent, phase| {
        agent.greet();
        phase.send_replace(Phase::Draining);
        // To that one, whoever dials last is the newest proxy.
        let Payload::Add(stock) = add("uid-1", &[]) else { unreachable!("an add is one") };
        let stock = AddWorkload { sockets_offered: false, netns_cookie: 0, ..stock };
        let drains = "pod uid-1: this proxy drains, and leaves it to the next one";
        assert_eq!(agent.ask(Payload::Add(stock), &[&own_namespace()]), drains);
        assert_eq!(agent.ask(Payload::SnapshotSent(SnapshotSent {}), &[]), "");
    });
}

#[test]
fn a_proxy_that_drains_takes_no_pod_any_more_and_says_so() {
    against_a_proxy_that_is(Phase::Draining, |agent| {
        agent.greet();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let passed = [own_namespace(), listener.into()];
        let descriptors: Vec<_> = passed.iter().collect();
        let drains = "pod uid-1: this proxy drains, and leaves it to the next one";
        assert_eq!(agent.ask(add("uid-1", &[SocketKind::OutboundV4]), &descriptors), drains);
        assert_eq!(agent.ask(Payload::SnapshotSent(SnapshotSent {}), &[]), "");
    });
}

#[test]
fn a_pod_is_served_on_the_listeners_that_the_agent_passes() {
    against(|agent| {
        let hello = agent.greet();
        assert!(hello.takes_fds);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let passed = [own_namespace(), listener.into()];
        let descriptors: Vec<_> = passed.iter().collect();
        assert_eq!(agent.ask(add("uid-1", &[SocketKind::OutboundV4]), &descriptors), "");
        assert_eq!(agent.ask(Payload::SnapshotSent(SnapshotSent {}), &[]), "");

        let mut caller = TcpStream::connect(address).unwrap();
        let need = agent.need();
        assert_eq!((need.uid.as_str(), need.kind()), ("uid-1", SocketKind::ConnectV4));
        // This agent cannot make any, and says so.
        let sockets = Sockets { uid: need.uid, kind: need.kind, count: 0 };
        agent.send(Payload::Sockets(sockets), &[]);
        let error = caller.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn sockets_are_asked_of_an_agent_that_came_back_once_it_has_told_of_the_pod() {
    against(|agent| {
        agent.greet();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let passed = [own_namespace(), listener.into()];
        let descriptors: Vec<_> = passed.iter().collect();
        assert_eq!(agent.ask(add("uid-1", &[SocketKind::OutboundV4]), &descriptors), "");
        let mut caller = TcpStream::connect(address).unwrap();
        let asked = agent.need();

        agent.proxy = None;
        agent.greet();
        agent.send(add("uid-1", &[]), &[passed.first().unwrap()]);
        let mut answers = [agent.response(), agent.response()].to_vec();
        // Which of the two is first is not promised; that neither comes before the pod was told of is.
        answers.sort_by_key(|answer| matches!(answer, workload_response::Payload::Need(_)));
        let expected = workload_response::Payload::Need(asked.clone());
        assert_eq!(answers.last(), Some(&expected));
        let sockets = Sockets { uid: asked.uid, kind: asked.kind, count: 0 };
        agent.send(Payload::Sockets(sockets), &[]);
        let error = caller.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

/// The ports on which somebody listens in this thread's namespace, over TCP and IPv4.
fn listening_ports() -> Vec<u16> {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    // "  0: 00000000:3AA0 00000000:0000 0A ...": 0A is LISTEN.
    let listening = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next()?, fields.nth(1)?);
        let port = local.rsplit_once(':')?.1;
        (state == "0A").then(|| u16::from_str_radix(port, 16).unwrap())
    };
    let mut ports: Vec<_> = table.lines().filter_map(listening).collect();
    ports.sort_unstable();
    ports
}

#[test]
fn a_stock_agent_passes_a_namespace_and_the_proxy_opens_its_own_listeners_there() {
    assert!(rustix::process::geteuid().is_root(), "entering a namespace needs root: run as root");
    against(|agent| {
        // This thread has a namespace of its own from here on, so the ports of the wire are free in it.
        #[expect(
            deprecated,
            reason = "unsafe for files and memory; of a network nothing in use is taken"
        )]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
        let namespace: OwnedFd = std::fs::File::open("/proc/thread-self/ns/net").unwrap().into();
        agent.greet();
        let stock = |uid: &str| {
            let Payload::Add(add) = add(uid, &[]) else { unreachable!("add makes an Add") };
            Payload::Add(AddWorkload { netns_cookie: 0, sockets_offered: false, ..add })
        };
        assert_eq!(agent.ask(stock("uid-1"), &[&namespace]), "");
        assert_eq!(listening_ports(), [15001, 15006, 15008, 15053]);
        // It repeats itself when it starts again.
        assert_eq!(agent.ask(stock("uid-1"), &[&namespace]), "");
        assert_eq!(listening_ports(), [15001, 15006, 15008, 15053]);
        let left = DelWorkload { uid: "uid-1".to_owned() };
        assert_eq!(agent.ask(Payload::Del(left), &[]), "");
        while !listening_ports().is_empty() {
            thread::yield_now();
        }
    });
}

#[test]
fn a_request_that_makes_no_sense_is_answered_by_its_error() {
    against(|agent| {
        agent.greet();
        let namespace = own_namespace();
        let nameless = AddWorkload { uid: "uid-1".to_owned(), ..AddWorkload::default() };
        let error = agent.ask(Payload::Add(nameless), &[&namespace]);
        assert_eq!(error, "pod uid-1 came without workload_info");
        let error = agent.ask(add("uid-1", &[]), &[]);
        assert_eq!(error, "pod uid-1 came without its network namespace");
        let error = agent.ask(add("uid-1", &[SocketKind::HboneV4]), &[&namespace]);
        assert_eq!(error, "pod uid-1 came with 1 kinds of listeners and 0 descriptors");
        assert_eq!(agent.ask(keep("uid-2"), &[]), "pod uid-2 is not known");
    });
}

#[test]
fn an_agent_that_comes_back_is_told_by_its_snapshot_which_pods_are_gone() {
    against(|agent| {
        agent.greet();
        let namespace = own_namespace();
        assert_eq!(agent.ask(add("stays", &[]), &[&namespace]), "");
        assert_eq!(agent.ask(add("goes", &[]), &[&namespace]), "");
        assert_eq!(agent.ask(Payload::SnapshotSent(SnapshotSent {}), &[]), "");

        agent.proxy = None;
        agent.greet();
        assert_eq!(agent.ask(keep("stays"), &[]), "");
        assert_eq!(agent.ask(Payload::SnapshotSent(SnapshotSent {}), &[]), "");
        assert_eq!(agent.ask(keep("stays"), &[]), "");
        assert_eq!(agent.ask(keep("goes"), &[]), "pod goes is not known");
        let left = DelWorkload { uid: "stays".to_owned() };
        assert_eq!(agent.ask(Payload::Del(left), &[]), "");
        assert_eq!(agent.ask(keep("stays"), &[]), "pod stays is not known");
    });
}

#[test]
fn the_node_is_known_once_the_agent_has_told_of_all_its_pods() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("zds.sock");
    let mut agent = Agent::listen(&path);
    let playing = thread::spawn(move || {
        agent.greet();
        assert_eq!(agent.ask(Payload::SnapshotSent(SnapshotSent {}), &[]), "");
    });
    run(async move {
        let client = zds(&path);
        let mut knowledge = client.knowledge();
        assert_eq!(*knowledge.borrow_and_update(), Knowledge::Incomplete);
        tokio::select! {
            biased;
            complete = knowledge.wait_for(|k| *k == Knowledge::Complete) => drop(complete.unwrap()),
            () = client.run(watch::channel(Phase::Serving).1) => {}
        }
    });
    playing.join().unwrap();
}
