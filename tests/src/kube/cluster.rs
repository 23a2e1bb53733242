//! etcd, kube-apiserver and kube-controller-manager as processes of the test.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use http::{HeaderName, Request};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use super::{
    Relay,
    assets::{asset, mortal},
    authority::Authority,
    eventually,
};
use crate::lab::{Ground, LONG, Namespace, Process, Signal};

/// Names the kubeconfig of a cluster that is there already.
const GIVEN: &str = "KUBECONFIG";

/// What the API server also answers to: the service's address, and the wire of a lab.
const SERVICE: &str = "10.96.0.1";
const WIRE: &str = "10.0.0.254";
const API_PORT: u16 = 6443;
const STORE_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// On a machine that does other things, too, a start of 5 s takes much longer.
const START: Duration = LONG.saturating_mul(3);

/// Those that tests lean on; above all not the one that evicts pods of nodes that send no heartbeats.
const CONTROLLERS: &str = "namespace-controller,serviceaccount-controller,\
    root-ca-certificate-publisher-controller,endpointslice-controller,\
    endpointslice-mirroring-controller,garbage-collector-controller,deployment-controller,\
    replicaset-controller,daemonset-controller,job-controller";

/// A Kubernetes control plane.
#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    config: Config,
    machinery: Machinery,
}

#[derive(Debug)]
enum Machinery {
    /// Somebody's cluster, which is only asked.
    Given,
    Ours(Box<Servers>),
}

/// Dropped from the first to the last: who stores goes after who writes.
#[derive(Debug)]
struct Servers {
    controllers: Option<Process>,
    api: Option<Process>,
    _store: Process,
    /// Of the API server, where they are not the usual ones.
    resources: String,
    address: Ipv4Addr,
    authority: Authority,
    ground: Arc<Ground>,
}

impl Cluster {
    /// The cluster that `KUBECONFIG` names, or one of our own.
    pub async fn start() -> Result<Self> {
        match std::env::var_os(GIVEN) {
            Some(path) => Self::given(PathBuf::from(path)).await,
            None => Self::own().await,
        }
    }

    /// etcd and an API server, with nothing in them; RBAC and admission are as anywhere.
    pub async fn own() -> Result<Self> {
        let servers = Servers::start()?;
        let admin = servers.authority.client("admin", "system:masters")?;
        let kubeconfig = servers.authority.kubeconfig("admin", &servers.url(), &admin)?;
        let config = configuration(&kubeconfig).await?;
        let machinery = Machinery::Ours(Box::new(servers));
        let mut cluster = Self { kubeconfig, config, machinery };
        cluster.restart().await?;
        Ok(cluster)
    }

    async fn given(kubeconfig: PathBuf) -> Result<Self> {
        let config = configuration(&kubeconfig).await?;
        Ok(Self { kubeconfig, config, machinery: Machinery::Given })
    }

    /// How an administrator reaches it.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// How an administrator reaches it, to be changed.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// An administrator's client, of the runtime in which this is called.
    pub fn client(&self) -> Result<Client> {
        Client::try_from(self.config()).context("make a client of the API server")
    }

    /// How this user of these groups reaches it, with no more than their rights.
    pub fn config_as(&self, user: &str, groups: &[&str]) -> Result<Config> {
        let mut config = self.config();
        let user = ("impersonate-user", user);
        for (header, value) in
            groups.iter().map(|&group| ("impersonate-group", group)).chain([user])
        {
            let value = value.parse().with_context(|| format!("impersonate {value:?}"))?;
            config.headers.push((HeaderName::from_static(header), value));
        }
        Ok(config)
    }

    /// Runs kubectl as the administrator and returns what it printed. Errors: what it complained of.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_with(args, "")
    }

    /// Starts kube-controller-manager: endpoint slices, service accounts, the root's `ConfigMap`, the end of
    /// namespaces, owners' dependents, deployments and daemon sets.
    pub fn control(&mut self) -> Result<()> {
        let servers = self.ours()?;
        servers.controllers = Some(servers.start_controllers()?);
        Ok(())
    }

    /// Stops the API server from answering, connections and all.
    pub fn pause(&mut self) -> Result<()> {
        self.api()?.signal(Signal::Stop)
    }

    /// Lets a paused API server go on.
    pub fn resume(&mut self) -> Result<()> {
        self.api()?.signal(Signal::Continue)
    }

    /// Kills the API server; connections to it are refused from then on.
    pub fn stop(&mut self) -> Result<()> {
        self.api()?.kill()?;
        self.ours()?.api = None;
        Ok(())
    }

    /// Starts the API server (again) at the same address, and waits until it is ready.
    pub async fn restart(&mut self) -> Result<()> {
        let servers = self.ours()?;
        servers.api = Some(servers.start_api()?);
        self.is_ready().await
    }

    /// Starts the API server anew with (or, by `=false`, without) these resources: `<group>/<version>/<resource>`.
    pub async fn serve(&mut self, resources: &str) -> Result<()> {
        self.stop()?;
        resources.clone_into(&mut self.ours()?.resources);
        self.restart().await
    }

    /// Forgets all that was before: a watch that goes on from there is answered 410, as is a list's next page.
    pub async fn forget(&mut self) -> Result<()> {
        // The API server keeps a window of its own, beside that of its store.
        self.stop()?;
        let servers = self.ours()?;
        let url = format!("http://{}:{STORE_PORT}", servers.address);
        let store = Client::try_from(Config::new(url.parse()?))?;
        let ask = |path: &str, body: &Value| {
            Request::post(format!("/v3/kv/{path}")).body(body.to_string().into_bytes())
        };
        // A revision that nobody has seen: the last one that somebody did is to be forgotten, too.
        let (key, value) = ("d2VmdA==", "Zm9yZ2V0");
        let put: Value = store.request(ask("put", &json!({"key": key, "value": value}))?).await?;
        let revision = put.pointer("/header/revision").context("etcd names no revision")?;
        let compact = json!({"revision": revision, "physical": true});
        let _: Value = store.request(ask("compaction", &compact)?).await.context("compact etcd")?;
        self.restart().await
    }

    /// Where our own API server listens.
    pub fn address(&self) -> Result<SocketAddr> {
        match &self.machinery {
            Machinery::Ours(servers) => Ok((servers.address, API_PORT).into()),
            Machinery::Given => bail!("the cluster of {GIVEN} is only asked"),
        }
    }

    /// Another way to the API server, which can be held and cut, and the kubeconfig that takes it.
    pub fn relay(&self) -> Result<(Relay, PathBuf)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        self.relay_by(listener)
    }

    /// A way to the API server for those on the wire of a lab, nodes and pods.
    pub fn relay_on(&self, wire: &Namespace) -> Result<(Relay, PathBuf)> {
        let bind = || TcpListener::bind((WIRE, API_PORT));
        let listener = wire.enter(bind)?.context("listen on the wire")?;
        self.relay_by(listener)
    }

    fn relay_by(&self, listener: TcpListener) -> Result<(Relay, PathBuf)> {
        let to = self.address()?;
        let relay = Relay::new(listener, to)?;
        let name = format!("relay-{}", relay.address());
        let Machinery::Ours(servers) = &self.machinery else { bail!("no cluster of ours") };
        // Of its own: others read the files of those that there are.
        let admin = servers.authority.client(&name, "system:masters")?;
        let url = format!("https://{}", relay.address());
        let kubeconfig = servers.authority.kubeconfig(&name, &url, &admin)?;
        Ok((relay, kubeconfig))
    }

    async fn is_ready(&mut self) -> Result<()> {
        let client = self.client()?;
        let mut last = String::new();
        let servers = self.ours()?;
        let api = servers.api.as_mut().context("no API server runs")?;
        let ready = eventually("the API server is ready", START, async || {
            if !api.is_running() {
                return Some(Err("it ended at once"));
            }
            let asked = client.request_text(Request::get("/readyz").body(Vec::new()).ok()?).await;
            match asked {
                Ok(_) => Some(Ok(())),
                Err(error) => {
                    last = error.to_string();
                    None
                }
            }
        });
        let verdict = ready.await.and_then(|ready| ready.map_err(anyhow::Error::msg));
        verdict.with_context(|| format!("{last}; its log ends: {}", tail(&api.log())))
    }

    fn api(&mut self) -> Result<&mut Process> {
        self.ours()?.api.as_mut().context("the API server is stopped")
    }

    fn ours(&mut self) -> Result<&mut Servers> {
        match &mut self.machinery {
            Machinery::Ours(servers) => Ok(servers),
            Machinery::Given => bail!("the cluster of {GIVEN} is only asked"),
        }
    }
}

impl Servers {
    fn start() -> Result<Self> {
        let ground = Ground::new()?;
        let address = own_address();
        let authority = Authority::new(ground.dir())?;
        let (client, peer) =
            (format!("http://{address}:{STORE_PORT}"), format!("http://{address}:{PEER_PORT}"));
        let mut command = mortal(&asset("etcd")?);
        command.args([
            &format!("--data-dir={}", ground.dir().join("etcd").display()),
            &format!("--listen-client-urls={client}"),
            &format!("--advertise-client-urls={client}"),
            &format!("--listen-peer-urls={peer}"),
            &format!("--initial-advertise-peer-urls={peer}"),
            &format!("--initial-cluster=default={peer}"),
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]);
        let store = Process::start(&ground, "etcd", command, |_| ())?;
        let (controllers, api, resources) = (None, None, String::new());
        Ok(Self { controllers, api, _store: store, resources, address, authority, ground })
    }

    fn url(&self) -> String {
        format!("https://{}:{API_PORT}", self.address)
    }

    fn start_api(&self) -> Result<Process> {
        let (address, authority) = (self.address, &self.authority);
        let names = [
            &address.to_string(),
            "127.0.0.1",
            SERVICE,
            WIRE,
            "localhost",
            "kubernetes.default.svc",
        ];
        let server = authority.server("apiserver", &names)?;
        let mut command = mortal(&asset("kube-apiserver")?);
        command.args([
            &format!("--etcd-servers=http://{address}:{STORE_PORT}"),
            &format!("--runtime-config={}", self.resources),
            &format!("--bind-address={address}"),
            &format!("--secure-port={API_PORT}"),
            &format!("--tls-cert-file={}", server.certificate.display()),
            &format!("--tls-private-key-file={}", server.key.display()),
            &format!("--client-ca-file={}", authority.root().display()),
            &format!("--service-account-key-file={}", authority.token_public_key().display()),
            &format!("--service-account-signing-key-file={}", authority.token_key().display()),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-cluster-ip-range=10.96.0.0/16,fd96::/108",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            // Kubelets are in the test, wherever their nodes are.
            "--kubelet-preferred-address-types=ExternalIP",
            // Its own address is a loopback one, which no endpoint may be.
            "--endpoint-reconciler-type=none",
            "--profiling=false",
        ]);
        Process::start(&self.ground, "kube-apiserver", command, |_| ())
    }

    fn start_controllers(&self) -> Result<Process> {
        let who =
            self.authority.client("system:kube-controller-manager", "system:authenticated")?;
        let config = self.authority.kubeconfig("controllers", &self.url(), &who)?;
        let mut command = mortal(&asset("kube-controller-manager")?);
        command.args([
            &format!("--kubeconfig={}", config.display()),
            &format!("--root-ca-file={}", self.authority.root().display()),
            &format!("--service-account-private-key-file={}", self.authority.token_key().display()),
            &format!("--controllers={CONTROLLERS}"),
            // Each controller under an account and the rights of its own.
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--secure-port=0",
            "--concurrent-gc-syncs=2",
        ]);
        Process::start(&self.ground, "kube-controller-manager", command, |_| ())
    }
}

/// Nobody else's: of the process by its id, of the cluster by its number.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    // 127.0.0.0/16 is where everybody else is, and the last of 127.0.0.0/8 is the broadcast address.
    Ipv4Addr::new(127, 1 + NEXT.fetch_add(1, Ordering::Relaxed) % 250, high, low)
}

async fn configuration(kubeconfig: &Path) -> Result<Config> {
    let read = Kubeconfig::read_from(kubeconfig);
    let read = read.with_context(|| format!("read {}", kubeconfig.display()))?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    config.with_context(|| format!("use {}", kubeconfig.display()))
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().rev().take(10).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
