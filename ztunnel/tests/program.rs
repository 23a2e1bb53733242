//! The real program with one pod, `web`, and a node agent that is this test.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use h2::{RecvStream, SendStream, client::SendRequest};
use http::{Method, Request, StatusCode, Uri};
use socket2::{Domain, Socket, Type};
use tokio_rustls::TlsConnector;
use weft_model::{Change, Identity, View};
use weft_xds::zds::{
    AddWorkload, SnapshotSent, SocketKind, Sockets, WorkloadInfo, workload_request::Payload,
    workload_response,
};
use ztunnel::{
    admin,
    identity::{CertificateSource, Identities, Options, ServiceError, Store},
    worker::Svids,
};

use crate::{
    fixture::{Ca, identity, workload},
    zds::{Agent, own_namespace},
};

const WEB: [u8; 4] = [127, 0, 7, 1];

/// A running proxy whose one pod is `web`; it is killed when this is dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) ca: Rc<Ca>,
    pub(crate) hbone: SocketAddr,
    pub(crate) app: SocketAddr,
    readiness: SocketAddr,
    stats: SocketAddr,
    dir: tempfile::TempDir,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Answers the one request with what an authority signed before.
struct Signed(weft_certs::Authority);

impl CertificateSource for Signed {
    async fn sign(
        &self,
        id: &Identity,
        _pods: Vec<Arc<str>>,
        request: String,
    ) -> Result<Vec<String>, ServiceError> {
        let day = Duration::from_hours(24);
        Ok(self.0.issue(&request, id, day, SystemTime::now()).unwrap())
    }
}

/// Keeps a certificate of `web` where the program looks for it at its start.
async fn keep_certificate(ca: &Ca, state: &Path) {
    let store = Store::open(&state.join("identities")).unwrap();
    let options = Options::new(Some(store), Duration::from_secs(10));
    let roots = ca.authority.bundle().to_pem();
    let domain = ca.authority.trust_domain();
    let same = weft_certs::Authority::from_pem(domain, &roots, &ca.authority.key_pem()).unwrap();
    let (identities, renewer) = Identities::new(options, Signed(same));
    let web = identity("web");
    let _hold = identities.hold(&web, weft_certs::Priority::Warmup);
    tokio::select! {
        svid = identities.svid(&web) => drop(svid.unwrap()),
        () = renewer.run() => {}
    }
}

/// Held together until all are found, so that they differ.
fn free() -> [SocketAddr; 3] {
    let all = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    all.map(|listener| listener.local_addr().unwrap())
}

fn listening(backlog: i32) -> (OwnedFd, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::from(WEB), 0)).into()).unwrap();
    socket.listen(backlog).unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket.into(), address)
}

/// Makes sockets for as long as the proxy asks.
fn play(mut agent: Agent, hbone: &OwnedFd) {
    agent.greet();
    let web = AddWorkload {
        uid: "uid-web".to_owned(),
        workload_info: Some(WorkloadInfo {
            name: "web".to_owned(),
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
        }),
        listeners: vec![SocketKind::HboneV4.into()],
        netns_cookie: 7,
        sockets_offered: true,
    };
    agent.send(Payload::Add(web), &[&own_namespace(), hbone]);
    agent.send(Payload::SnapshotSent(SnapshotSent {}), &[]);
    while let Some(response) = agent.next() {
        let workload_response::Payload::Need(need) = response else { continue };
        // As many as one ancillary message of this agent takes.
        let made: Vec<OwnedFd> = (0..need.count.min(16))
            .map(|_| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap().into())
            .collect();
        let count = u32::try_from(made.len()).unwrap();
        let sockets = Sockets { uid: need.uid, kind: need.kind, count };
        agent.send(Payload::Sockets(sockets), &made.iter().collect::<Vec<_>>());
    }
}

impl Program {
    /// Starts it with so many descriptors, and waits until it is ready.
    pub(crate) async fn start(descriptors: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::new();
        keep_certificate(&ca, &dir.path().join("state")).await;
        let mut web = workload("web", WEB);
        web.service_account = weft_model::ServiceAccountName::new("web").unwrap();
        let pods = [web, workload("client", [127, 0, 0, 1])];
        let view = View::from_iter(pods.map(|pod| Change::Workload(Arc::new(pod))));
        let dump = admin::dump(&view, &[], &[], &[], SystemTime::now());
        fs::write(dir.path().join("mesh.json"), serde_json::to_vec(&dump).unwrap()).unwrap();

        let app = TcpListener::bind((Ipv4Addr::from(WEB), 0)).unwrap();
        let at = app.local_addr().unwrap();
        thread::spawn(move || echo(&app));
        let (listener, hbone) = listening(1024);
        let socket = dir.path().join("zds.sock");
        let agent = Agent::listen(&socket);
        thread::spawn(move || play(agent, &listener));

        let [admin, readiness, stats] = free();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "node: {{name: n, state_dir: '{}', workers: 1}}\nxds: {{local_path: '{}'}}\n\
             zds: {{socket: '{}'}}\n\
             listen: {{admin: '{admin}', stats: '{stats}', readiness: '{readiness}'}}\n",
            path("state"),
            path("mesh.json"),
            path("zds.sock"),
        );
        fs::write(dir.path().join("config.yaml"), config).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("sh")
            .args(["-c", "ulimit -n \"$0\"; exec \"$1\" --config \"$2\""])
            .arg(descriptors.to_string())
            .arg(env!("CARGO_BIN_EXE_ztunnel"))
            .arg(dir.path().join("config.yaml"))
            .env_clear()
            .stderr(log.try_clone().unwrap())
            .stdout(Stdio::from(log))
            .spawn()
            .unwrap();
        let proxy = Self { child, ca, hbone, app: at, readiness, stats, dir };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !proxy.is_ready() {
            assert!(Instant::now() < deadline, "not ready: {}", proxy.log());
            tokio::task::yield_now().await;
        }
        proxy
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    pub(crate) fn is_ready(&self) -> bool {
        get(self.readiness, "/healthz/ready").is_some_and(|answer| answer.contains(" 200 "))
    }

    /// The value of a metric that has one series.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let text = get(self.stats, "/metrics").unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(series));
        value.unwrap_or_else(|| unreachable!("{series} is not in {text}")).trim().parse().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time that it has used, of user and kernel.
    pub(crate) fn used(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // After the name, which may hold spaces: state is the first, utime and stime the 12th and 13th.
        let ticks = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.map(|text| text.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// A caller with a certificate.
    pub(crate) async fn tunnel(&self) -> SendRequest<bytes::Bytes> {
        let svid = self.ca.svid(&identity("client")).await.unwrap();
        let config = weft_certs::client_config(&svid, &[identity("web")]);
        let stream = tokio::net::TcpStream::connect(self.hbone).await.unwrap();
        let tls = TlsConnector::from(config).connect(weft_certs::server_name(), stream);
        let (requests, connection) = h2::client::handshake(tls.await.unwrap()).await.unwrap();
        tokio::task::spawn_local(async move { drop(connection.await) });
        requests
    }

    /// A stream to the application, open for as long as its halves are kept; or the status that refused it.
    pub(crate) async fn open(
        &self,
        tunnel: &SendRequest<bytes::Bytes>,
    ) -> Result<(SendStream<bytes::Bytes>, RecvStream), StatusCode> {
        let mut request = Request::builder().method(Method::CONNECT).body(()).unwrap();
        let authority = self.app.to_string();
        *request.uri_mut() = Uri::builder().authority(authority).build().unwrap();
        let mut ready = tunnel.clone().ready().await.unwrap();
        let (answer, body) = ready.send_request(request, false).unwrap();
        let answer = answer.await.unwrap();
        match answer.status() {
            StatusCode::OK => Ok((body, answer.into_body())),
            refused => Err(refused),
        }
    }

    /// A byte to the application and back.
    pub(crate) async fn exchange(&self, tunnel: &SendRequest<bytes::Bytes>) {
        let (mut send, mut receive) = match self.open(tunnel).await {
            Ok(stream) => stream,
            Err(status) => unreachable!("{status}: {}", self.log()),
        };
        send.send_data(bytes::Bytes::from_static(b"?"), true).unwrap();
        let data = receive.data().await.unwrap().unwrap();
        assert_eq!(&*data, b"?");
    }
}

fn echo(app: &TcpListener) {
    while let Ok((mut stream, _)) = app.accept() {
        thread::spawn(move || {
            let mut byte = [0];
            while stream.read(&mut byte).is_ok_and(|read| read == 1) {
                if stream.write_all(&byte).is_err() {
                    break;
                }
            }
        });
    }
}

fn get(from: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(from).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
