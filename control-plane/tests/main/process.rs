use std::fs;

use weft_control::start;

use crate::scene::{POD, Scene, options};

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
