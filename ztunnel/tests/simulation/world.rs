//! Nodes, pods that come and go and reuse addresses, and policies; every node sees them a little late.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use weft_model::{
    Action, Authorization, Change, Clause, Field, Hostname, Match, Network, NetworkAddress,
    OriginalDst, PeerAddr, PolicyName, Ports, Rule, Scope, Service, ServicePort, StringMatch, View,
    Workload,
};
use ztunnel::{
    config::Limits,
    socket::Accepted,
    tunnel::hbone::Settings,
    worker::{Entrance, PodUid, Shared, Worker},
};
use ztunnel_core::{Direction, Outcome};

use super::{
    application::{ANYBODY, Violation, application, exchange},
    net::{Backlog, Door, Owner, Pipe, PodSockets, Wire, pipe},
};
use crate::fixture::{Ca, Seen, identity, workload};

const NODES: usize = 3;
const PODS_MAX: usize = 7;
const ACCOUNTS: [&str; 3] = ["ant", "bee", "cat"];
/// Fewer than pods ever made, so that addresses are reused all the time.
const ADDRESSES: u8 = 8;
const PORT: u16 = 80;

struct Node {
    views: watch::Sender<Arc<View>>,
    /// The accounts that this node's view denies.
    denied: BTreeSet<&'static str>,
    /// Addresses of pods that it knew at any time: an application may remember them for long.
    remembered: BTreeSet<IpAddr>,
    worker: Option<Rc<Worker<PodSockets>>>,
    /// Of the proxy: a connection that was open when it died is lost.
    starts: usize,
}

struct Pod {
    workload: Arc<Workload>,
    account: &'static str,
    ip: IpAddr,
    node: usize,
    outbound: Door,
    hbone: Door,
    plaintext: Door,
    application: Rc<Backlog>,
    alive: Rc<Cell<bool>>,
}

/// A connection that stays open, and what it depends on.
struct Held {
    stream: Pipe,
    client: String,
    server: String,
    wanted: &'static str,
    caller: &'static str,
    starts: [usize; 2],
    nodes: [usize; 2],
    cuts: usize,
    rotations: usize,
}

pub(super) struct World {
    random: StdRng,
    wire: Rc<Wire>,
    nodes: Vec<Node>,
    pods: BTreeMap<String, Pod>,
    made: usize,
    denied: BTreeSet<&'static str>,
    ca: RefCell<Rc<Ca>>,
    seen: Seen,
    held: Vec<Held>,
    cuts: usize,
    rotations: usize,
    /// Connections given to proxies, by entrance: each must end in one outcome.
    captured: Rc<Cell<usize>>,
    in_clear: Rc<Cell<usize>>,
    wrong_pod: Rc<RefCell<Vec<Violation>>>,
    applications: JoinSet<()>,
    /// What was tried, and how much of it was answered.
    pub(super) asked: usize,
    pub(super) answered: usize,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let nodes = (0..NODES)
            .map(|_| Node {
                views: watch::Sender::new(Arc::default()),
                denied: BTreeSet::new(),
                remembered: BTreeSet::new(),
                worker: None,
                starts: 0,
            })
            .collect();
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            wire: Rc::default(),
            nodes,
            pods: BTreeMap::new(),
            made: 0,
            denied: BTreeSet::new(),
            ca: RefCell::new(Ca::new()),
            seen: Seen::default(),
            held: Vec::new(),
            cuts: 0,
            rotations: 0,
            captured: Rc::default(),
            in_clear: Rc::default(),
            wrong_pod: Rc::default(),
            applications: JoinSet::new(),
            asked: 0,
            answered: 0,
        };
        (0..NODES).for_each(|node| world.start_proxy(node));
        (0..4).for_each(|_| world.add_pod());
        (0..NODES).for_each(|node| world.propagate(node));
        world
    }

    /// Does one thing by chance, and checks every promise.
    pub(super) async fn step(&mut self) -> Result<(), Violation> {
        match self.random.random_range(0..100) {
            0..9 => self.add_pod(),
            9..16 => self.remove_pod(),
            16..28 => self.flip_policy(),
            28..52 => {
                let node = self.random.random_range(0..NODES);
                self.propagate(node);
            }
            52..56 => {
                let node = self.random.random_range(0..NODES);
                self.start_proxy(node);
            }
            56..60 => self.rotate(),
            60..64 => {
                self.wire.cut(self.random.random_range(0..64));
                self.cuts += 1;
            }
            64..68 => {
                sleep(Duration::from_secs(self.random.random_range(1..400))).await;
            }
            68..78 => self.hold().await?,
            _ => self.ask().await?,
        }
        sleep(Duration::from_millis(50)).await;
        self.check_held().await?;
        self.check()
    }

    /// After the last step: all that was opened is closed, and every connection has had its one end.
    pub(super) async fn finish(mut self) -> Result<(), Violation> {
        self.held.clear();
        for node in &mut self.nodes {
            node.worker = None;
        }
        sleep(Duration::from_mins(1)).await;
        self.check()?;
        let outcomes = self.seen.all();
        let outbound = count(&outcomes, Direction::Outbound);
        let captured = self.captured.get();
        if outbound != captured {
            return Err(format!("{captured} connections were captured, {outbound} outcomes told"));
        }
        let inbound = count(&outcomes, Direction::Inbound);
        if inbound < self.in_clear.get() {
            return Err(format!(
                "{} connections came in the clear, {inbound} inbound outcomes told",
                self.in_clear.get()
            ));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Violation> {
        let clear = self.wire.clear_text.get();
        if clear > 0 {
            return Err(format!("{clear} writes in the clear between enrolled pods"));
        }
        self.wrong_pod.borrow().first().map_or(Ok(()), |wrong| Err(wrong.clone()))
    }

    fn add_pod(&mut self) {
        let used: BTreeSet<_> = self.pods.values().map(|pod| pod.ip).collect();
        let free: Vec<IpAddr> = (1..=ADDRESSES)
            .map(|n| Ipv4Addr::new(10, 0, 0, n).into())
            .filter(|ip| !used.contains(ip))
            .collect();
        if self.pods.len() >= PODS_MAX || free.is_empty() {
            return;
        }
        let ip = free[self.random.random_range(0..free.len())];
        let account = ACCOUNTS[self.random.random_range(0..ACCOUNTS.len())];
        let node = self.random.random_range(0..NODES);
        self.made += 1;
        let name = format!("pod-{}", self.made);
        let mut described = workload(&name, [0, 0, 0, 0]);
        described.service_account = account.parse().expect("a name");
        described.addresses = vec![ip];
        described.services.insert(service(account).key(), Ports::from([(PORT, PORT)]));
        let door = |taken: &Rc<Cell<usize>>| Door { backlog: Rc::default(), taken: taken.clone() };
        let pod = Pod {
            workload: Arc::new(described),
            account,
            ip,
            node,
            outbound: door(&self.captured),
            hbone: door(&Rc::default()),
            plaintext: door(&self.in_clear),
            application: Rc::default(),
            alive: Rc::new(Cell::new(true)),
        };
        let owner =
            Owner { hbone: pod.hbone.backlog.clone(), plaintext: pod.plaintext.backlog.clone() };
        self.wire.own(ip, owner);
        self.applications.spawn_local(application(
            name.clone(),
            account,
            pod.application.clone(),
            self.wrong_pod.clone(),
        ));
        if let Some(worker) = &self.nodes[node].worker {
            pod.enroll(worker, &name, &self.wire);
        }
        self.pods.insert(name, pod);
    }

    fn remove_pod(&mut self) {
        let Some(name) = self.any_pod() else { return };
        let Some(pod) = self.pods.remove(&name) else { return };
        pod.alive.set(false);
        self.wire.disown(pod.ip);
        if let Some(worker) = &self.nodes[pod.node].worker {
            worker.remove(&PodUid(name.as_str().into()));
        }
    }

    fn any_pod(&mut self) -> Option<String> {
        let n = self.random.random_range(0..self.pods.len().max(1));
        self.pods.keys().nth(n).cloned()
    }

    fn flip_policy(&mut self) {
        let account = ACCOUNTS[self.random.random_range(0..ACCOUNTS.len())];
        if !self.denied.remove(account) {
            self.denied.insert(account);
        }
    }

    /// The node's view becomes what is true now.
    fn propagate(&mut self, node: usize) {
        let truth = self.truth();
        let node = &mut self.nodes[node];
        node.denied.clone_from(&self.denied);
        node.remembered.extend(self.pods.values().map(|pod| pod.ip));
        node.views.send_modify(|view| {
            let mut newer = (**view).clone();
            let stale = view
                .workloads()
                .map(|w| weft_model::ResourceKey::Workload(w.uid.clone()))
                .chain(view.policies().map(|p| weft_model::ResourceKey::Policy(p.name.clone())))
                .filter(|key| !truth.iter().any(|change| change.key() == *key))
                .collect::<Vec<_>>();
            for change in truth.into_iter().chain(stale.into_iter().map(Change::Remove)) {
                newer.apply(change);
            }
            *view = Arc::new(newer);
        });
    }

    fn truth(&self) -> Vec<Change> {
        let policies = self.denied.iter().map(|account| Change::Policy(deny(account).into()));
        let services = ACCOUNTS.iter().map(|account| Change::Service(service(account).into()));
        let pods = self.pods.values().map(|pod| Change::Workload(pod.workload.clone()));
        policies.chain(services).chain(pods).collect()
    }

    /// Kills the node's proxy, if one runs, and starts one that accepts from the same backlogs.
    fn start_proxy(&mut self, node: usize) {
        let seed = self.random.random();
        let shared = Shared::new(
            self.nodes[node].views.subscribe(),
            self.ca.borrow().clone(),
            Rc::new(self.seen.clone()),
            Settings::default(),
            Limits::default(),
            seed,
        );
        let worker = Rc::new(Worker::new(Rc::new(shared)));
        for (name, pod) in self.pods.iter().filter(|(_, pod)| pod.node == node) {
            pod.enroll(&worker, name, &self.wire);
        }
        self.nodes[node].worker = Some(worker);
        self.nodes[node].starts += 1;
    }

    /// Every certificate is issued anew; the proxies take it for new tunnels.
    fn rotate(&mut self) {
        self.ca.borrow().rotate();
        self.rotations += 1;
    }

    /// Whom a client may ask for: an address or a service that its own node knows, or an address that it knew.
    fn pick(&mut self) -> Option<(String, SocketAddr, &'static str)> {
        let client = self.any_pod()?;
        let view = self.nodes[self.pods[&client].node].views.borrow().clone();
        view.pod(&"shop".parse().ok()?, &client)?;
        if self.random.random_bool(0.2) {
            let remembered = &self.nodes[self.pods[&client].node].remembered;
            let nth = self.random.random_range(0..remembered.len().max(1));
            let address = SocketAddr::new(*remembered.iter().nth(nth)?, PORT);
            return Some((client, address, ANYBODY));
        }
        if self.random.random_bool(0.5) {
            let account = ACCOUNTS[self.random.random_range(0..ACCOUNTS.len())];
            return Some((client, SocketAddr::new(vip(account), PORT), account));
        }
        let mut known: Vec<_> = view.workloads().cloned().collect();
        known.sort_by(|a, b| a.uid.cmp(&b.uid));
        let target = known.get(self.random.random_range(0..known.len().max(1)))?;
        let account = ACCOUNTS.into_iter().find(|a| *a == target.service_account.as_str())?;
        Some((client, SocketAddr::new(*target.addresses.first()?, PORT), account))
    }

    /// A connection of `client`'s application, captured.
    fn dial(&self, client: &str, to: SocketAddr) -> Pipe {
        let (near, far) = pipe(None);
        let pod = &self.pods[client];
        let peer = PeerAddr::new(SocketAddr::new(pod.ip, 60_000));
        pod.outbound.backlog.push(Accepted { stream: far, peer, to: OriginalDst::new(to) });
        near
    }

    async fn ask(&mut self) -> Result<(), Violation> {
        let Some((client, to, wanted)) = self.pick() else { return Ok(()) };
        let must = self.must_succeed(&client, to, wanted);
        let mut stream = self.dial(&client, to);
        let answer = exchange(&mut stream, wanted).await;
        self.asked += 1;
        self.answered += usize::from(answer.is_some());
        match (answer, must) {
            (None, true) => Err(format!("{client} asked {to} for {wanted} in vain")),
            _ => Ok(()),
        }
    }

    /// Whether nothing stands between `client` and an answer: both nodes know what is true.
    fn must_succeed(&self, client: &str, to: SocketAddr, wanted: &str) -> bool {
        let caller = &self.pods[client];
        let current = |node: usize| {
            let view = self.nodes[node].views.borrow().clone();
            view.workloads().count() == self.pods.len()
                && self.pods.values().all(|p| view.workload(&p.workload.uid) == Some(&p.workload))
        };
        let mut servers = self.pods.values().filter(|pod| {
            if wanted != ANYBODY && to.ip() == vip(wanted) {
                pod.account == wanted
            } else {
                pod.ip == to.ip()
            }
        });
        let denied = |pod: &Pod| self.nodes[pod.node].denied.contains(caller.account);
        let some = servers.clone().next().is_some();
        some && current(caller.node) && servers.all(|pod| current(pod.node) && !denied(pod))
    }

    async fn hold(&mut self) -> Result<(), Violation> {
        let Some((client, to, wanted)) = self.pick() else { return Ok(()) };
        let mut stream = self.dial(&client, to);
        let Some(server) = exchange(&mut stream, wanted).await else { return Ok(()) };
        let Some(pod) = self.pods.get(&server) else { return Ok(()) };
        let nodes = [self.pods[&client].node, pod.node];
        self.held.push(Held {
            stream,
            wanted,
            caller: self.pods[&client].account,
            starts: nodes.map(|node| self.nodes[node].starts),
            nodes,
            client,
            server,
            cuts: self.cuts,
            rotations: self.rotations,
        });
        Ok(())
    }

    /// A held connection answers exactly as long as it may.
    async fn check_held(&mut self) -> Result<(), Violation> {
        let mut kept = Vec::new();
        for mut held in std::mem::take(&mut self.held) {
            let answered = exchange(&mut held.stream, held.wanted).await.is_some();
            let revoked = self.nodes[held.nodes[1]].denied.contains(held.caller);
            let Held { client, server, .. } = &held;
            if answered && revoked {
                return Err(format!("{client} is still served by {server}, which denies it"));
            }
            if !answered && !revoked && self.undisturbed(&held) {
                return Err(format!("{client} lost its connection to {server} for no reason"));
            }
            if answered {
                kept.push(held);
            }
        }
        self.held = kept;
        Ok(())
    }

    fn undisturbed(&self, held: &Held) -> bool {
        let starts = held.nodes.map(|node| self.nodes[node].starts);
        self.pods.contains_key(&held.client)
            && self.pods.contains_key(&held.server)
            && starts == held.starts
            && self.cuts == held.cuts
            && self.rotations == held.rotations
    }
}

impl Pod {
    fn enroll(&self, worker: &Worker<PodSockets>, name: &str, wire: &Rc<Wire>) {
        let sockets = PodSockets {
            ip: self.ip,
            wire: wire.clone(),
            application: self.application.clone(),
            alive: self.alive.clone(),
        };
        let doors = vec![
            (Entrance::Outbound, self.outbound.clone()),
            (Entrance::Hbone, self.hbone.clone()),
            (Entrance::Plaintext, self.plaintext.clone()),
        ];
        let announced = ztunnel_core::Pod {
            namespace: self.workload.namespace.clone(),
            name: name.into(),
            service_account: self.workload.service_account.clone(),
        };
        worker.add(PodUid(name.into()), announced, sockets, doors);
    }
}

fn vip(account: &str) -> IpAddr {
    let n = ACCOUNTS.iter().position(|a| *a == account).expect("one of ours");
    Ipv4Addr::new(10, 96, 0, u8::try_from(n).expect("few") + 1).into()
}

fn service(account: &str) -> Service {
    let hostname = Hostname::new(&format!("{account}.shop.svc.cluster.local")).expect("a name");
    let mut service = Service::new(account, "shop".parse().expect("a name"), hostname);
    service.vips = vec![NetworkAddress::new(Network::default(), vip(account))];
    service.ports = vec![ServicePort {
        name: None,
        service_port: PORT,
        target_port: PORT,
        app_protocol: weft_model::AppProtocol::Unknown,
    }];
    service
}

fn deny(account: &str) -> Authorization {
    let principal = StringMatch::Exact(identity(account).principal().into());
    let matched = Match { principals: Field::any_of([principal]), ..Match::default() };
    Authorization {
        name: PolicyName::new("shop", &format!("deny-{account}")).expect("a name"),
        scope: Scope::Namespace,
        action: Action::Deny,
        rules: vec![Rule { clauses: vec![Clause { matches: vec![matched] }] }],
        dry_run: false,
    }
}

fn count(outcomes: &[Outcome], direction: Direction) -> usize {
    outcomes.iter().filter(|outcome| outcome.parties.direction == direction).count()
}
