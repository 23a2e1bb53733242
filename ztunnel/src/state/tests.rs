//! The feed against real control planes on loopback.

mod server;

use std::{path::Path, sync::Arc, time::Duration};

use server::{ControlPlaneServer, Heard, roots};
use tokio::task::JoinSet;
use weft_model::{
    Action, Authorization, Change, Namespace, PolicyName, Rule, Scope, ServiceAccountName, View,
    Workload, WorkloadUid,
};
use weft_xds::{codec::ResourceType, proto::discovery};

use super::*;
use crate::{config, remote::Remote, telemetry::Telemetry};

/// No test waits longer for anything.
const DEADLINE: Duration = Duration::from_secs(20);

fn uid(i: u8) -> WorkloadUid {
    WorkloadUid::new(&format!("K//Pod/shop/web-{i}")).unwrap()
}

fn workload(i: u8) -> Change {
    let (namespace, account) =
        (Namespace::new("shop").unwrap(), ServiceAccountName::new("web").unwrap());
    Change::Workload(Arc::new(Workload::new(uid(i), "web", namespace, account)))
}

fn policy(action: Action) -> Change {
    Change::Policy(Arc::new(Authorization {
        name: PolicyName::new("shop", "p").unwrap(),
        scope: Scope::Namespace,
        action,
        rules: vec![Rule::default()],
        dry_run: false,
    }))
}

/// A proxy's configuration: its files, and where its control plane is.
struct Node {
    dir: tempfile::TempDir,
    port: u16,
}

/// A proxy that runs until it is dropped.
struct Running {
    views: Views,
    _feed: JoinSet<std::convert::Infallible>,
}

impl Node {
    fn new(port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("root.pem"), roots()).unwrap();
        std::fs::write(dir.path().join("token"), "secret\n").unwrap();
        Self { dir, port }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn settings(&self) -> Settings {
        Settings {
            server: Some(ServerSettings {
                node: crate::identity::NodeCertificate::none(),
                remote: Remote {
                    address: format!("https://localhost:{}", self.port),
                    server_name: None,
                    root: self.path("root.pem"),
                    token: self.path("token"),
                    cluster_id: "c1".to_owned(),
                },
            }),
            local: None,
            state_dir: Some(self.path("state")),
            node: discovery::Node { id: "ztunnel~10.0.0.1~z.d~d.svc".into(), ..Default::default() },
            cluster_id: "c1".to_owned(),
        }
    }

    fn start(&self) -> Running {
        start(self.settings())
    }
}

fn start(settings: Settings) -> Running {
    let (views, feed) =
        open(settings, Telemetry::new(&config::Metrics::default(), 0, None).control());
    let mut tasks = JoinSet::new();
    tasks.spawn(feed.run());
    Running { views, _feed: tasks }
}

impl Running {
    async fn view(&self, what: &str, holds: impl Fn(&View) -> bool) -> Arc<View> {
        let mut views = self.views.subscribe();
        let found = tokio::time::timeout(DEADLINE, views.wait_for(|view| holds(view))).await;
        found.unwrap_or_else(|_| panic!("no view with {what}")).unwrap().clone()
    }

    async fn status(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let mut status = self.views.subscribe_status();
        let found = tokio::time::timeout(DEADLINE, status.wait_for(|status| holds(status))).await;
        let shown = || format!("no status with {what}, but {:?}", self.views.status());
        found.unwrap_or_else(|_| panic!("{}", shown())).unwrap().clone()
    }

    /// Until what is in force is on disk.
    async fn kept(&self) {
        let generation = self.views.current().generation();
        self.status("the configuration kept", |s| s.kept >= Some(generation)).await;
    }
}

fn subscribed(status: &Status) -> bool {
    status.control_plane == ControlPlane::Subscribed
}

fn lost(status: &Status) -> bool {
    matches!(status.control_plane, ControlPlane::Lost { .. })
}

#[tokio::test]
async fn an_empty_control_plane_makes_the_proxy_ready_and_is_told_who_asks() {
    let server = ControlPlaneServer::start(0);
    let node = Node::new(server.port);
    let running = node.start();
    assert_eq!(
        running.views.readiness(),
        Readiness::Pending("configuration from the control plane")
    );
    let status = running.status("a subscription", subscribed).await;
    assert_eq!((status.readiness(), status.current), (Readiness::Ready, Current::Now));
    let first = server.heard(|heard| matches!(heard, Heard::Request { .. })).await;
    let Heard::Request { request, metadata } = first else { panic!("{first:?}") };
    assert_eq!(request.node.unwrap().id, "ztunnel~10.0.0.1~z.d~d.svc");
    assert_eq!(metadata["authorization"], "Bearer secret");
    assert_eq!(metadata["clusterid"], "c1");
}

#[tokio::test]
async fn no_view_is_used_before_policies_and_addresses_are_both_there() {
    let server = ControlPlaneServer::start(0);
    server.answer_only(ResourceType::Address);
    server.put(&workload(1));
    let node = Node::new(server.port);
    let running = node.start();
    server.heard(|heard| heard.acknowledges(ResourceType::Address)).await;
    assert_eq!(running.views.current().workloads().count(), 0);
    assert_ne!(running.views.readiness(), Readiness::Ready);
    server.put(&policy(Action::Deny));
    server.answer_all();
    let view = running.view("the workload", |view| view.workloads().count() == 1).await;
    assert_eq!(view.policies().count(), 1);
}

#[tokio::test]
async fn what_cannot_be_decoded_is_refused_and_the_last_good_form_stays() {
    let server = ControlPlaneServer::start(0);
    server.put(&workload(1));
    server.put(&policy(Action::Allow));
    let node = Node::new(server.port);
    let running = node.start();
    running.view("all", |v| v.workloads().count() == 1 && v.policies().count() == 1).await;

    server.put_undecodable(ResourceType::Authorization, "shop/p");
    server.put(&workload(2));
    let view = running.view("the second workload", |v| v.workload(&uid(2)).is_some()).await;
    assert_eq!(view.policies().next().unwrap().action, Action::Allow);
    let refusal = server.heard(|heard| heard.refuses().is_some()).await;
    let message = refusal.refuses().unwrap();
    assert!(message.starts_with("shop/p: "), "{message}");
    let status = running.status("the refusal", |s| s.refused.len() == 1).await;
    assert_eq!(&*status.refused[0].name, "shop/p");

    server.put(&policy(Action::Deny));
    running.view("the new policy", |v| v.policies().all(|p| p.action == Action::Deny)).await;
    running.status("no refusal", |s| s.refused.is_empty()).await;
}

#[tokio::test]
async fn after_a_server_vanished_and_came_back_only_differences_are_sent() {
    let server = ControlPlaneServer::start(0);
    let node = Node::new(server.port);
    (1..=3).for_each(|i| server.put(&workload(i)));
    let running = node.start();
    running.view("three workloads", |view| view.workloads().count() == 3).await;
    running.status("a subscription", subscribed).await;

    let resources = server.stop();
    let status = running.status("the loss", lost).await;
    assert_eq!(status.readiness(), Readiness::Ready);
    assert!(matches!(status.current, Current::Until(_)));
    assert_eq!(running.views.current().workloads().count(), 3);

    let server = ControlPlaneServer::start_with(node.port, resources);
    server.remove(ResourceType::Address, uid(1).as_str());
    server.put(&workload(4));
    running.view("the fourth", |v| v.workload(&uid(4)).is_some()).await;
    assert!(running.views.current().workload(&uid(1)).is_none());
    assert_eq!(server.sent(), 1, "the workloads that did not change were sent again");
    running.status("a subscription", subscribed).await;
}

/// Time goes by, and what is due in it happens.
async fn pass(time: Duration) {
    tokio::time::pause();
    let until = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < until {
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    tokio::time::resume();
}

#[tokio::test]
async fn a_control_plane_that_is_away_for_an_hour_changes_nothing_and_is_found_again() {
    let server = ControlPlaneServer::start(0);
    server.put(&workload(1));
    server.put(&policy(Action::Deny));
    let node = Node::new(server.port);
    let running = node.start();
    running.view("all", |v| v.workloads().count() == 1 && v.policies().count() == 1).await;
    running.status("a subscription", subscribed).await;
    let before = running.views.current();

    let resources = server.stop();
    running.status("the loss", lost).await;
    pass(Duration::from_hours(1)).await;
    assert!(Arc::ptr_eq(&before, &running.views.current()));
    assert_eq!(running.views.readiness(), Readiness::Ready);
    assert!(running.views.config_age(std::time::SystemTime::now()).is_some());

    let server = ControlPlaneServer::start_with(node.port, resources);
    server.put(&workload(2));
    pass(Duration::from_mins(1)).await;
    running.view("the second workload", |v| v.workload(&uid(2)).is_some()).await;
}

#[tokio::test]
async fn rubbish_from_a_server_changes_nothing() {
    let server = ControlPlaneServer::start(0);
    server.put(&workload(1));
    let node = Node::new(server.port);
    let running = node.start();
    running.view("the workload", |view| view.workloads().count() == 1).await;
    let before = running.views.current();

    server.say_rubbish();
    let refusal = server.heard(|heard| heard.refuses().is_some()).await;
    assert!(refusal.refuses().unwrap().contains("envelope"), "{refusal:?}");
    assert!(Arc::ptr_eq(&before, &running.views.current()));
    // And the stream is as good as before.
    server.put(&workload(2));
    running.view("the second workload", |v| v.workload(&uid(2)).is_some()).await;
}

#[tokio::test]
async fn what_is_no_control_plane_at_all_is_tried_again_and_changes_nothing() {
    use std::io::Write as _;
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let node = Node::new(listener.local_addr().unwrap().port());
    let (seen, mut attempts) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(&[0xff; 4096]);
            if seen.send(()).is_err() {
                break;
            }
        }
    });
    let running = node.start();
    for _ in 0..4 {
        tokio::time::timeout(DEADLINE, attempts.recv()).await.unwrap().unwrap();
    }
    let status = running.status("a failure", lost).await;
    assert_eq!(status.readiness(), Readiness::Pending("configuration from the control plane"));
}

#[tokio::test]
async fn a_restart_without_a_server_serves_what_was_kept() {
    let server = ControlPlaneServer::start(0);
    server.put(&workload(1));
    server.put(&policy(Action::Deny));
    let node = Node::new(server.port);
    let running = node.start();
    running.view("all", |v| v.workloads().count() == 1 && v.policies().count() == 1).await;
    running.kept().await;
    let before = running.views.current();
    let resources = server.stop();
    drop(running);

    let running = node.start();
    let status = running.status("readiness", |s| s.readiness() == Readiness::Ready).await;
    assert!(lost(&status) && matches!(status.current, Current::Until(_)), "{status:?}");
    assert_eq!(*running.views.current(), *before);
    assert!(running.views.config_age(std::time::SystemTime::now()).is_some());

    // And the server that comes back sends nothing that is not new.
    let server = ControlPlaneServer::start_with(node.port, resources);
    running.status("a subscription", subscribed).await;
    assert_eq!(server.sent(), 0);
}

#[tokio::test]
async fn a_restart_decides_nothing_by_what_was_kept_while_a_server_is_about_to_answer() {
    let server = ControlPlaneServer::start(0);
    server.put(&workload(1));
    let node = Node::new(server.port);
    let before = node.start();
    before.view("the workload", |v| v.workloads().count() == 1).await;
    before.kept().await;
    drop(before);
    server.heard(|heard| heard.acknowledges(ResourceType::Address)).await;

    server.answer_only(ResourceType::Address);
    server.put(&policy(Action::Deny));
    server.put(&workload(2));
    let running = node.start();
    server.heard(|heard| heard.acknowledges(ResourceType::Address)).await;
    assert_eq!(running.views.current().workloads().count(), 0);
    server.answer_all();
    let view = running.view("a workload", |v| v.workloads().count() > 0).await;
    assert_eq!((view.workloads().count(), view.policies().count()), (2, 1));
}

#[tokio::test]
async fn a_damaged_file_is_ignored_and_configuration_comes_from_the_server() {
    let server = ControlPlaneServer::start(0);
    server.put(&workload(1));
    let node = Node::new(server.port);
    let file: &Path = &node.path("state/configuration");
    {
        let running = node.start();
        running.view("the workload", |view| view.workloads().count() == 1).await;
        running.kept().await;
    }
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(file, bytes).unwrap();

    let running = node.start();
    assert_ne!(running.views.readiness(), Readiness::Ready);
    running.view("the workload", |view| view.workloads().count() == 1).await;
}

#[tokio::test]
async fn a_server_with_another_root_is_not_believed() {
    let server = ControlPlaneServer::start(0);
    server.put(&workload(1));
    let node = Node::new(server.port);
    let now = std::time::SystemTime::now();
    let other = weft_certs::Authority::new(&weft_model::TrustDomain::default(), now).unwrap();
    std::fs::write(node.path("root.pem"), other.bundle().to_pem()).unwrap();
    let running = node.start();
    running.status("the failure", lost).await;
    assert_eq!(running.views.current().workloads().count(), 0);

    // The file is read for each attempt.
    std::fs::write(node.path("root.pem"), roots()).unwrap();
    running.view("the workload", |view| view.workloads().count() == 1).await;
}

#[tokio::test]
async fn the_token_is_read_again_for_each_stream() {
    let server = ControlPlaneServer::start(0);
    let node = Node::new(server.port);
    let running = node.start();
    running.status("a subscription", subscribed).await;
    std::fs::write(node.path("token"), "newer").unwrap();
    let resources = server.stop();
    let server = ControlPlaneServer::start_with(node.port, resources);
    let heard = server.heard(|heard| matches!(heard, Heard::Request { .. })).await;
    let Heard::Request { metadata, .. } = heard else { panic!("{heard:?}") };
    assert_eq!(metadata["authorization"], "Bearer newer");
}

#[tokio::test]
async fn a_local_file_alone_is_a_whole_configuration_and_is_watched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    let settings = Settings {
        server: None,
        local: Some(path.clone()),
        state_dir: None,
        node: discovery::Node::default(),
        cluster_id: "c1".to_owned(),
    };
    let running = start(settings);
    let refused = |s: &Status| matches!(s.local_file, LocalFile::Refused { .. });
    let status = running.status("the missing file", refused).await;
    assert_eq!(status.readiness(), Readiness::Pending("local configuration file"));

    let line = |i: u8| {
        let uid = uid(i);
        format!("- {{uid: {uid}, name: w, namespace: shop, serviceAccount: a, protocol: HBONE}}\n")
    };
    std::fs::write(&path, format!("workloads:\n{}", line(1))).unwrap();
    running.view("one workload", |view| view.workloads().count() == 1).await;
    assert_eq!(running.views.readiness(), Readiness::Ready);

    std::fs::write(&path, "workloads: nonsense").unwrap();
    running.status("the refusal", refused).await;
    assert_eq!(running.views.current().workloads().count(), 1);
    assert_eq!(running.views.readiness(), Readiness::Ready);

    std::fs::write(&path, format!("workloads:\n{}{}", line(1), line(2))).unwrap();
    running.view("two workloads", |view| view.workloads().count() == 2).await;
}

#[tokio::test]
async fn who_waits_for_a_newer_view_gets_it() {
    let (views, publisher) = Views::new(View::default(), Status::fixed());
    let mut view = View::default();
    view.apply(workload(1));
    let waiting = views.newer(0);
    publisher.publish(&view);
    let newer = tokio::time::timeout(DEADLINE, waiting).await.unwrap();
    assert_eq!(newer.workloads().count(), 1);
}
