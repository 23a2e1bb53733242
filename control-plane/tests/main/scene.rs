//! A folder, a control plane over it, and clients.

use std::{collections::BTreeMap, fs, future::Future, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time,
};
use tonic::{
    Request,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use weft_control::{Keys, Mesh, Options, Source, node_token, start};
use weft_model::TrustDomain;
use weft_xds::proto::discovery::Node;

use crate::program::Program;

pub(crate) const HOUR: Duration = Duration::from_hours(1);
const DEADLINE: Duration = Duration::from_mins(1);

pub(crate) struct Scene {
    dir: TempDir,
    listen: std::net::SocketAddr,
    admin: std::net::SocketAddr,
    process: Process,
}

enum Process {
    Here { stop: oneshot::Sender<()>, ends: JoinHandle<anyhow::Result<()>> },
    Apart(Program),
}

pub(crate) fn options(dir: &Path) -> Options {
    let any = "127.0.0.1:0".parse().unwrap();
    Options {
        source: Source::Folder(dir.join("manifests")),
        data: dir.join("data"),
        keys: Keys::DataFolder,
        listen: any,
        server_names: vec!["control.mesh".to_owned()],
        admin: any,
        mesh: Mesh::new("Kubernetes", TrustDomain::default()),
        self_check: HOUR,
    }
}

impl Scene {
    pub(crate) async fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("manifests")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join("manifests").join(name), text).unwrap();
        }
        Self::over(dir).await
    }

    pub(crate) async fn over(dir: TempDir) -> Self {
        let running = start(options(dir.path())).await.unwrap();
        let (listen, admin) = (running.listen(), running.admin());
        let (stop, stopped) = oneshot::channel();
        let until = async {
            stopped.await.ok();
        };
        let ends = tokio::spawn(running.until(until));
        Self { dir, listen, admin, process: Process::Here { stop, ends } }
    }

    /// The real program, in a process of its own.
    pub(crate) async fn program(dir: TempDir) -> Self {
        let mut program = Program::start(dir.path());
        let (listen, admin) = within("the program serves", program.serves()).await;
        Self { dir, listen, admin, process: Process::Apart(program) }
    }

    /// A program is killed, as SIGKILL does it.
    pub(crate) async fn stop(self) -> TempDir {
        match self.process {
            Process::Here { stop, ends } => {
                stop.send(()).unwrap();
                within("the process ends", ends).await.unwrap().unwrap();
            }
            Process::Apart(program) => drop(program),
        }
        self.dir
    }

    /// The next warning of a program.
    pub(crate) async fn warning(&mut self) -> String {
        match &mut self.process {
            Process::Here { .. } => panic!("its log is ours"),
            Process::Apart(program) => within("a warning", program.warning()).await,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// As an editor does: whole or not at all.
    pub(crate) fn write(&self, name: &str, text: &str) {
        write(self.path(), name, text);
    }

    pub(crate) fn token(&self, node: &str, ttl: Duration) -> String {
        node_token(&self.dir.path().join("data"), node, ttl).unwrap()
    }

    pub(crate) async fn channel(&self) -> Channel {
        within("the client connects", self.endpoint(self.tls()).connect()).await.unwrap()
    }

    /// Of a client that has a certificate.
    pub(crate) async fn channel_with(
        &self,
        chain: &str,
        key: &str,
    ) -> Result<Channel, tonic::transport::Error> {
        let tls = self.tls().identity(Identity::from_pem(chain, key));
        within("the client connects", self.endpoint(tls).connect()).await
    }

    fn tls(&self) -> ClientTlsConfig {
        let root = fs::read_to_string(self.dir.path().join("data/root-cert.pem")).unwrap();
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(root))
            .domain_name("control.mesh")
    }

    fn endpoint(&self, tls: ClientTlsConfig) -> Endpoint {
        let address = format!("https://{}", self.listen);
        Endpoint::new(address).unwrap().tls_config(tls).unwrap()
    }

    /// The body of an admin page.
    pub(crate) async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        within("the page is read", stream.read_to_string(&mut text)).await.unwrap();
        text.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Waits until a page says something.
    pub(crate) async fn until_page(&self, path: &str, says: &str) {
        let look = async { while !self.page(path).await.contains(says) {} };
        within(&format!("{path} says {says}"), look).await;
    }
}

pub(crate) fn write(dir: &Path, name: &str, text: &str) {
    let folder = dir.join("manifests");
    fs::write(folder.join(".new"), text).unwrap();
    fs::rename(folder.join(".new"), folder.join(name)).unwrap();
}

pub(crate) async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    time::timeout(DEADLINE, event).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

pub(crate) fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

pub(crate) fn node(name: &str) -> Node {
    let metadata =
        prost_types::Struct { fields: BTreeMap::from([("NODE_NAME".into(), text(name))]) };
    Node { metadata: Some(metadata), ..Node::default() }
}

pub(crate) fn text(text: &str) -> prost_types::Value {
    prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text.to_owned())) }
}

pub(crate) const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {nodeName: a, serviceAccountName: web}
status: {podIP: 10.0.0.1, phase: Running}
";

pub(crate) const POLICY: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
";
