use std::{fs, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use weft_control::{Source, start, watch::Access};

use crate::scene::{POD, Scene, options, within};

#[tokio::test]
async fn a_restart_keeps_the_root_and_says_that_it_is_ready() {
    let scene = Scene::new(&[("web.yaml", POD)]).await;
    assert_eq!(scene.page("/healthz/ready").await, "ready\n");
    let dir = scene.stop().await;
    let root = fs::read(dir.path().join("data/root-cert.pem")).unwrap();
    let scene = Scene::over(dir).await;
    scene.channel().await;
    let dir = scene.stop().await;
    assert_eq!(fs::read(dir.path().join("data/root-cert.pem")).unwrap(), root);
}

#[tokio::test]
async fn before_everything_is_read_readiness_is_503_and_no_node_is_answered() {
    // An API server that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (file, address) = (dir.path().join("kubeconfig"), silent.local_addr().unwrap());
    let config = format!(
        "{{current-context: a, contexts: [{{name: a, context: {{cluster: a, user: a}}}}], \
         clusters: [{{name: a, cluster: {{server: 'http://{address}'}}}}], users: [{{name: a, user: {{}}}}]}}"
    );
    fs::write(&file, config).unwrap();
    let mut options = options(dir.path());
    options.source = Source::Kubernetes(Access::Kubeconfig(file));
    let running = start(options).await.unwrap();
    let (listen, admin) = (running.listen(), running.admin());
    let looked = async {
        let mut page = TcpStream::connect(admin).await.unwrap();
        page.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        within("the page is read", page.read_to_string(&mut text)).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
        let root = fs::read_to_string(dir.path().join("data/root-cert.pem")).unwrap();
        let root = Certificate::from_pem(root);
        let tls = ClientTlsConfig::new().ca_certificate(root).domain_name("control.mesh");
        let node = Endpoint::new(format!("https://{listen}")).unwrap().tls_config(tls).unwrap();
        // One that is answered takes milliseconds.
        assert!(timeout(Duration::from_secs(1), node.connect()).await.is_err(), "it is answered");
    };
    within("the process ends", running.until(looked)).await.unwrap();
}

#[tokio::test]
async fn a_lost_key_stops_the_start_and_says_what_to_do() {
    let dir = Scene::new(&[]).await.stop().await;
    fs::remove_file(dir.path().join("data/ca-key.pem")).unwrap();
    let error = start(options(dir.path())).await.unwrap_err();
    assert!(error.to_string().contains("Restore the file"), "{error}");
}

#[tokio::test]
async fn a_folder_that_is_not_there_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let error = format!("{:#}", start(options(dir.path())).await.unwrap_err());
    assert!(error.contains("manifests"), "{error}");
}

#[test]
fn validation_finds_what_is_wrong_in_files_and_in_what_they_mean() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("good.yaml"), POD).unwrap();
    assert_eq!(weft_control::validate(dir.path()), []);
    let policy = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec:
  action: DENY
  rules:
  - from:
    - source:
        ipBlocks: [10.0.0.0/8, 10.0.0.0/99]
";
    fs::write(dir.path().join("p.yaml"), policy).unwrap();
    fs::write(dir.path().join("q.yaml"), "kind: Pod\n").unwrap();
    let problems: Vec<String> =
        weft_control::validate(dir.path()).iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "p.yaml:9: AuthorizationPolicy shop/p: spec.rules[0].from[0].source.ipBlocks[1]: is not an IP address or range: the condition is left out, so that more is denied (`10.0.0.0/99`)",
            "q.yaml:1: has no `apiVersion`",
        ]
    );
}
