//! Two nodes' proxies, their pods, and the certificates of both, on loopback sockets.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    panic,
    rc::Rc,
    sync::{Arc, Once},
    time::{Duration, SystemTime},
};

use futures_util::future::{FutureExt, LocalBoxFuture};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::LocalSet,
    time::timeout,
};
use weft_certs::{Authority, KeyPair, Svid};
use weft_model::{
    Change, Hostname, Identity, Namespace, OriginalDst, ServiceAccountName, TrustDomain,
    TunnelProtocol, View, Workload, WorkloadUid,
};
use ztunnel::{
    config::{Limits, Tcp},
    descriptors::Descriptors,
    outcome::Outcomes,
    socket::{Accepted, Capture, KernelListener, Listener, SocketError, Sockets, TcpEnd},
    telemetry::{self, Live, TunnelSide},
    tunnel::hbone::Settings,
    worker::{Entrance, PodUid, Shared, Svids, Worker},
};
use ztunnel_core::{Bind, Direction, Failure, Outcome, Parties, Side};

/// How long anything in a test may take before it has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

thread_local! {
    /// Panics on this thread: a task's own ends there, and would pass for a connection that was cut.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            report(panic);
        }));
    });
}

/// Runs a test on one thread, as a worker runs. No task of a proxy may panic meanwhile.
pub(crate) fn run(test: impl Future<Output = ()> + 'static) {
    run_within(DEADLINE, test);
}

/// The same, for one that has much to do.
pub(crate) fn run_within(deadline: Duration, test: impl Future<Output = ()> + 'static) {
    count_panics();
    let before = PANICS.get();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { timeout(deadline, test).await.expect("in time") });
    assert_eq!(PANICS.get(), before, "a task has panicked");
}

/// Where each address of the mesh really is. The ports of the wire (15008) are fixed; those of a test must not be.
#[derive(Clone, Default)]
pub(crate) struct Places(Rc<RefCell<HashMap<SocketAddr, SocketAddr>>>);

impl Places {
    pub(crate) fn put(&self, mesh: SocketAddr, real: SocketAddr) {
        self.0.borrow_mut().insert(mesh, real);
    }

    pub(crate) fn find(&self, mesh: SocketAddr) -> SocketAddr {
        self.0.borrow().get(&mesh).copied().unwrap_or(mesh)
    }
}

/// Loopback sockets under the mesh's addresses.
pub(crate) struct Loopback {
    places: Places,
}

impl Loopback {
    async fn dial(&self, to: SocketAddr) -> Result<TcpEnd, SocketError> {
        let to = self.places.find(to);
        let stream = TcpStream::connect(to).await.map_err(SocketError::Connect)?;
        Ok(TcpEnd::new(stream))
    }
}

impl Sockets for Loopback {
    type Stream = TcpEnd;
    type Listener = Door;

    async fn connect(&self, to: SocketAddr) -> Result<TcpEnd, SocketError> {
        self.dial(to).await
    }

    async fn deliver(&self, _: Bind, to: SocketAddr) -> Result<TcpEnd, SocketError> {
        self.dial(to).await
    }
}

/// For which workload, and which name.
pub(crate) type LookedUp = (Option<String>, Hostname);

/// Outcomes as they come.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    outcomes: Rc<RefCell<Vec<Outcome>>>,
    /// Host names that were looked up.
    pub(crate) names: Rc<RefCell<Vec<LookedUp>>>,
    more: Rc<Notify>,
}

impl Seen {
    /// Completes with the next outcome after the call.
    pub(crate) fn more(&self) -> impl Future<Output = ()> + '_ {
        let mut more = Box::pin(self.more.notified());
        more.as_mut().enable();
        more
    }

    pub(crate) fn all(&self) -> Vec<Outcome> {
        self.outcomes.borrow().clone()
    }
}

impl Outcomes for Seen {
    fn accepted(&self, _: Direction) -> Option<telemetry::Accepted> {
        None
    }

    fn handshake(&self, _: TunnelSide, _: Duration) {}

    fn looked_up(&self, source: &Side, hostname: &Hostname) {
        let workload = source.workload.as_ref().map(|w| w.name.to_string());
        self.names.borrow_mut().push((workload, hostname.clone()));
    }

    fn opened(
        &self,
        _: Arc<str>,
        _: SocketAddr,
        _: &Parties,
        _: &Arc<telemetry::Carried>,
    ) -> Option<Live> {
        None
    }

    fn ended(&self, _: Option<Live>, outcome: &Outcome) {
        self.outcomes.borrow_mut().push(outcome.clone());
        self.more.notify_waiters();
    }
}

/// Certificates of one authority, made when first asked for.
pub(crate) struct Ca {
    pub(crate) authority: Authority,
    /// It gives nothing more.
    pub(crate) refuses: Cell<bool>,
    kept: RefCell<HashMap<Identity, Arc<Svid>>>,
}

impl Ca {
    pub(crate) fn new() -> Rc<Self> {
        let authority = Authority::new(&TrustDomain::default(), SystemTime::now()).unwrap();
        Rc::new(Self { authority, refuses: Cell::default(), kept: RefCell::default() })
    }

    /// Forgets what was issued: the next certificates are new.
    pub(crate) fn rotate(&self) {
        self.kept.borrow_mut().clear();
    }

    /// The certificate of `identity`.
    pub(crate) fn issued(&self, identity: &Identity) -> Arc<Svid> {
        let mut kept = self.kept.borrow_mut();
        kept.entry(identity.clone()).or_insert_with(|| self.make(identity)).clone()
    }

    fn make(&self, identity: &Identity) -> Arc<Svid> {
        let now = SystemTime::now();
        let key = KeyPair::generate().unwrap();
        let request = key.request(identity).unwrap();
        let chain = self.authority.issue(&request, identity, Duration::from_hours(1), now).unwrap();
        Arc::new(Svid::from_pem(identity, key, &chain, now).unwrap())
    }
}

impl Svids for Ca {
    fn svid<'a>(
        &'a self,
        identity: &'a Identity,
    ) -> LocalBoxFuture<'a, Result<Arc<Svid>, Failure>> {
        if self.refuses.get() {
            let (identity, error) = (identity.clone(), "not today".to_owned());
            return async { Err(Failure::Certificate { identity, error }) }.boxed_local();
        }
        let svid = self.issued(identity);
        async move { Ok(svid) }.boxed_local()
    }
}

/// One worker on each of two nodes, and a mesh of pods on them.
pub(crate) struct Mesh {
    /// As the client's node knows it, and as the server's.
    views: [watch::Sender<Arc<View>>; 2],
    pub(crate) ca: Rc<Ca>,
    pub(crate) places: Places,
    pub(crate) seen: Seen,
    pub(crate) client_node: Rc<Worker<Loopback>>,
    pub(crate) server_node: Rc<Worker<Loopback>>,
}

pub(crate) fn name(workload: &str) -> ztunnel_core::Pod {
    ztunnel_core::Pod {
        namespace: Namespace::new("shop").unwrap(),
        name: workload.into(),
        service_account: ServiceAccountName::new(workload).unwrap(),
    }
}

pub(crate) fn identity(workload: &str) -> Identity {
    format!("spiffe://cluster.local/ns/shop/sa/{workload}").parse().unwrap()
}

/// A pod that speaks HBONE, with an identity of its own name.
pub(crate) fn workload(workload: &str, address: [u8; 4]) -> Workload {
    let uid = WorkloadUid::new(&format!("Kubernetes//Pod/shop/{workload}")).unwrap();
    let account = ServiceAccountName::new(workload).unwrap();
    let mut made = Workload::new(uid, workload, Namespace::new("shop").unwrap(), account);
    made.addresses = vec![Ipv4Addr::from(address).into()];
    made.tunnel = TunnelProtocol::Hbone;
    made
}

pub(crate) fn at(address: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(address).into(), port)
}

/// A loopback listener that stands for an address of the mesh.
pub(crate) struct Door {
    listener: KernelListener,
    stands_for: SocketAddr,
    accepted: Rc<Cell<usize>>,
}

impl Door {
    fn new(stands_for: SocketAddr) -> (Self, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let real = listener.local_addr().unwrap();
        let tcp = Tcp::default();
        let all = Descriptors::of(None);
        let listener =
            KernelListener::adopt(listener.into(), Capture::LocalAddress, &tcp, all).unwrap();
        (Self { listener, stands_for, accepted: Rc::default() }, real)
    }
}

impl Listener for Door {
    type Stream = TcpEnd;

    async fn accept(&self) -> io::Result<Accepted<TcpEnd>> {
        let accepted = self.listener.accept().await?;
        self.accepted.set(self.accepted.get() + 1);
        Ok(Accepted { to: OriginalDst::new(self.stands_for), ..accepted })
    }
}

impl Mesh {
    fn new(workloads: Vec<Workload>, settings: &Settings) -> Self {
        let changes = workloads.into_iter().map(|w| Change::Workload(Arc::new(w)));
        let view = Arc::new(changes.collect::<View>());
        let views = [watch::Sender::new(view.clone()), watch::Sender::new(view)];
        let (seen, ca) = (Seen::default(), Ca::new());
        let node = |index: usize| {
            Rc::new(Worker::new(Rc::new(Shared::new(
                views.get(index).unwrap().subscribe(),
                ca.clone(),
                Rc::new(seen.clone()),
                settings.clone(),
                Limits::default(),
                index as u64,
            ))))
        };
        let (client_node, server_node) = (node(0), node(1));
        Self { views, ca, places: Places::default(), seen, client_node, server_node }
    }

    /// On both nodes.
    pub(crate) fn change(&self, change: Change) {
        let [client, server] = &self.views;
        apply(client, change.clone());
        apply(server, change);
    }

    /// Only the client's node learns of it.
    pub(crate) fn client_change(&self, change: Change) {
        let [client, _] = &self.views;
        apply(client, change);
    }

    /// Enrolls a pod. Answers where its processes' connections to `dst` are captured, and where it takes bytes in
    /// the clear for `port`.
    pub(crate) fn enroll(
        &self,
        node: &Worker<Loopback>,
        pod: &str,
        ip: [u8; 4],
        port: u16,
        dst: SocketAddr,
    ) -> Enrolled {
        let (outbound, captured) = Door::new(dst);
        let (hbone, real) = Door::new(at(ip, 15008));
        let tunnels = hbone.accepted.clone();
        let (plain, plaintext) = Door::new(at(ip, port));
        self.places.put(at(ip, 15008), real);
        let sockets = Loopback { places: self.places.clone() };
        let doors = vec![
            (Entrance::Outbound, outbound),
            (Entrance::Hbone, hbone),
            (Entrance::Plaintext, plain),
        ];
        node.add(PodUid(pod.into()), name(pod), sockets, doors);
        Enrolled { captured, plaintext, tunnels }
    }

    /// `client` on one node, which calls `web`, port 80, on the other.
    pub(crate) fn pair() -> (Self, Enrolled, Enrolled) {
        Self::pair_with(&Settings::default())
    }

    pub(crate) fn pair_with(settings: &Settings) -> (Self, Enrolled, Enrolled) {
        let mesh = Self::new(vec![workload("client", CLIENT), workload("web", WEB)], settings);
        let client = mesh.enroll(&mesh.client_node, "client", CLIENT, 80, at(WEB, 80));
        let web = mesh.enroll(&mesh.server_node, "web", WEB, 80, at(CLIENT, 80));
        (mesh, client, web)
    }

    /// An application of `web`.
    pub(crate) async fn serve_web(&self) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.places.put(at(WEB, 80), listener.local_addr().unwrap());
        listener
    }

    /// The outcomes, once there are `count`.
    pub(crate) async fn outcomes(&self, count: usize) -> Vec<Outcome> {
        loop {
            let more = self.seen.more.notified();
            let all = self.seen.all();
            if all.len() >= count {
                return all;
            }
            more.await;
        }
    }
}

fn apply(view: &watch::Sender<Arc<View>>, change: Change) {
    view.send_modify(|view| {
        let mut newer = (**view).clone();
        newer.apply(change);
        *view = Arc::new(newer);
    });
}

pub(crate) const CLIENT: [u8; 4] = [10, 0, 0, 1];
pub(crate) const WEB: [u8; 4] = [10, 0, 0, 2];

/// Where an enrolled pod's doors really are.
pub(crate) struct Enrolled {
    pub(crate) captured: SocketAddr,
    pub(crate) plaintext: SocketAddr,
    /// How many tunnels have been opened to it.
    pub(crate) tunnels: Rc<Cell<usize>>,
}
