//! Rules of a watch, against an API server in memory and a clock that waits for nobody.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{task::JoinSet, time};
use weft_model::{Change, ResourceKey, TrustDomain};

use super::*;
use crate::{clock, compile::Mesh};

mod cut_off;
mod server;

use server::{Mood, Server};

struct Scene {
    server: Server,
    known: Arc<Known>,
    watches: Arc<Watches>,
    _tasks: JoinSet<()>,
}

impl Scene {
    fn new(server: Server) -> Self {
        let known = Known::new(Mesh::new("Kubernetes", TrustDomain::default()));
        let watches = Arc::new(Watches::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(server.client(), known.clone(), watches.clone()));
        Self { server, known, watches, _tasks: tasks }
    }

    /// Looks every moment of the paused clock, for an hour of it.
    async fn until(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let look = async {
            while !wanted(self) {
                time::sleep(Duration::from_millis(10)).await;
            }
        };
        let looked = time::timeout(Duration::from_hours(1), look).await;
        assert!(looked.is_ok(), "not in time: {what}; {:?}", self.known.problems());
    }

    async fn until_pods(&self, wanted: &[&str]) {
        self.until(&format!("pods are {wanted:?}"), |scene| scene.pods() == wanted).await;
    }

    async fn until_complete(&self) {
        self.until("everything is read", |scene| scene.known.is_complete()).await;
    }

    fn pods(&self) -> Vec<String> {
        let index = self.known.index();
        let pod = |change: &Change| match change.key() {
            ResourceKey::Workload(uid) => uid.as_str().rsplit('/').next().map(str::to_owned),
            ResourceKey::Service(_) | ResourceKey::Policy(_) => None,
        };
        index.resources().filter_map(pod).collect()
    }

    fn policies(&self) -> usize {
        let index = self.known.index();
        index.resources().filter(|change| matches!(change, Change::Policy(_))).count()
    }

    fn problems(&self) -> Vec<String> {
        self.known.problems().iter().map(ToString::to_string).collect()
    }

    /// How old the news of a resource is, in seconds.
    fn age(&self, plural: &str) -> f64 {
        let text = self.watches.text(clock::instant());
        let row = format!("weft_watch_last_event_age_seconds{{resource=\"{plural}\"}} ");
        let row = text.lines().find_map(|line| line.strip_prefix(&row)).unwrap();
        row.parse().unwrap()
    }
}

fn pod(name: &str) -> Value {
    let number: u32 = name.trim_start_matches('p').parse().unwrap();
    json!({
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": "a"},
        "status": {"podIP": std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string()},
    })
}

fn definition(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

fn policy(spec: &Value) -> Value {
    json!({"metadata": {"name": "deny", "namespace": "shop"}, "spec": spec})
}

const POLICIES: &str = "authorizationpolicies";
const POLICY_DEFINITION: &str = "authorizationpolicies.security.istio.io";

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_every_kind_was_read_once() {
    let server = Server::default();
    server.put("pods", pod("p1"));
    server.mood("endpointslices", Mood::Down);
    let scene = Scene::new(server);
    scene.until("the others are read", |s| s.watches.unread() == ["endpointslices"]).await;
    assert!(!scene.known.is_complete());
    assert_eq!(scene.pods(), Vec::<String>::new());
    let problem = "endpointslices are not heard of, what is known stays: the API server cannot be reached: ServiceError: connection refused";
    scene.until("the reason is told", |s| s.problems() == [problem]).await;
    scene.server.mood("endpointslices", None);
    scene.until_complete().await;
    assert_eq!(scene.pods(), ["p1"]);
    scene.until("the problem is over", |s| s.problems().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn what_changes_is_followed() {
    let scene = Scene::new(Server::default());
    scene.until_complete().await;
    scene.server.put("pods", pod("p1"));
    scene.server.put("pods", pod("p2"));
    scene.until_pods(&["p1", "p2"]).await;
    scene.server.delete("pods", "shop/p1");
    scene.until_pods(&["p2"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_without_streamed_lists_is_asked_for_pages_of_500() {
    let server = Server::default();
    server.moods(Mood::Paging);
    for number in 0..1001 {
        server.put("pods", pod(&format!("p{number}")));
    }
    let scene = Scene::new(server);
    scene.until_complete().await;
    assert_eq!(scene.pods().len(), 1001);
    let asked = scene.server.asked();
    let of_pods = |uri: &&String| uri.contains("/pods?") && uri.contains("limit=500");
    assert_eq!(asked.iter().filter(of_pods).count(), 3, "{asked:?}");
    scene.server.delete("pods", "shop/p7");
    scene.until("it is followed", |scene| scene.pods().len() == 1000).await;
}

#[tokio::test(start_paused = true)]
async fn after_410_what_was_deleted_meanwhile_is_gone_and_the_rest_never_was() {
    for mood in [None, Some(Mood::Paging)] {
        let server = Server::default();
        server.moods(mood);
        server.put("pods", pod("p1"));
        server.put("pods", pod("p2"));
        let scene = Scene::new(server);
        scene.until_complete().await;
        scene.server.moods(Mood::Down);
        scene.server.delete("pods", "shop/p1");
        scene.server.put("pods", pod("p3"));
        scene.server.compact();
        scene.server.moods(mood);
        scene
            .until("the list has come", |scene| {
                let pods = scene.pods();
                assert!(pods.iter().any(|pod| pod == "p2"), "{pods:?}");
                pods == ["p2", "p3"]
            })
            .await;
        assert_eq!(scene.known.check(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_is_picked_up_when_its_definition_appears_and_dropped_when_it_goes() {
    let server = Server::default();
    server.put("pods", pod("p1"));
    let scene = Scene::new(server);
    scene.until_complete().await;
    let server = &scene.server;
    for _ in 0..2 {
        assert_eq!((scene.policies(), scene.problems()), (0, vec![]));
        server.put("customresourcedefinitions", definition(POLICY_DEFINITION));
        server.put(POLICIES, policy(&json!({})));
        scene.until("the policy is served", |scene| scene.policies() == 1).await;
        // With its definition an object goes without a word of its own.
        server.mood(POLICIES, Mood::Mute);
        server.delete("customresourcedefinitions", &format!("/{POLICY_DEFINITION}"));
        scene.until("the policy is gone", |scene| scene.policies() == 0).await;
        server.delete(POLICIES, "shop/deny");
        server.mood(POLICIES, None);
    }
}

#[tokio::test(start_paused = true)]
async fn whichever_version_is_served_is_read() {
    let server = Server::default();
    server.unserved("security.istio.io/v1");
    server.put("customresourcedefinitions", definition(POLICY_DEFINITION));
    server.put(POLICIES, policy(&json!({})));
    let scene = Scene::new(server);
    scene.until_complete().await;
    assert_eq!((scene.policies(), scene.problems()), (1, vec![]));
    // None any more, though defined: what is known stays, since it may be a defect of the server's.
    scene.server.unserved("security.istio.io/v1beta1");
    scene.server.mood(POLICIES, None);
    scene.until("it is told", |scene| !scene.problems().is_empty()).await;
    assert_eq!(scene.policies(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_decoded_is_told_and_stops_no_watch() {
    let server = Server::default();
    server.put("customresourcedefinitions", definition(POLICY_DEFINITION));
    server.put("pods", pod("p1"));
    let mut bad = pod("p0");
    bad["spec"]["hostNetwork"] = "yes".into();
    server.put("pods", bad);
    let scene = Scene::new(server);
    scene.until_complete().await;
    let problem = "Pod shop/p0: spec.hostNetwork: invalid type: string \"yes\", expected a boolean: its last good form stays, if there was one";
    assert_eq!((scene.pods(), scene.problems()), (vec!["p1".to_owned()], vec![problem.to_owned()]));

    // One that was good stays as it was; the watch goes on.
    let mut bad = pod("p1");
    bad["spec"]["hostNetwork"] = "yes".into();
    scene.server.put("pods", bad);
    scene.server.put("pods", pod("p0"));
    scene.until_pods(&["p0", "p1"]).await;
    scene.until("one is told", |scene| scene.problems().len() == 1).await;
    scene.server.put("pods", pod("p1"));
    scene.until("none is told", |scene| scene.problems().is_empty()).await;
    scene.server.delete("pods", "shop/p1");
    scene.until_pods(&["p0"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_cannot_be_decoded_denies_though_it_was_good_before() {
    let server = Server::default();
    server.put("customresourcedefinitions", definition(POLICY_DEFINITION));
    server.put(POLICIES, policy(&json!({"rules": [{}]})));
    let scene = Scene::new(server);
    scene.until_complete().await;
    let allows = |scene: &Scene| {
        let index = scene.known.index();
        let mut policies = index.resources().filter_map(|change| match change {
            Change::Policy(policy) => {
                Some(policy.action == weft_model::Action::Allow && !policy.rules.is_empty())
            }
            _ => None,
        });
        policies.next().unwrap()
    };
    assert!(allows(&scene));
    scene.server.put(POLICIES, policy(&json!({"rules": [{}], "unheardOf": true})));
    scene.until("it is told", |scene| scene.problems().len() == 1).await;
    assert!(!allows(&scene));
    scene.server.put(POLICIES, policy(&json!({"rules": [{}]})));
    scene.until("it is over", |scene| scene.problems().is_empty()).await;
    assert!(allows(&scene));
}

#[tokio::test(start_paused = true)]
async fn forbidden_and_then_allowed_recovers() {
    let server = Server::default();
    server.put("pods", pod("p1"));
    server.mood("pods", Mood::Forbidden);
    let scene = Scene::new(server);
    let problem = "pods are not heard of, what is known stays: 403: the user may not";
    scene.until("it is told", |scene| scene.problems() == [problem]).await;
    time::sleep(Duration::from_mins(10)).await;
    assert!(!scene.known.is_complete());
    scene.server.mood("pods", None);
    scene.until_complete().await;
    // Also when it is taken away later: what is known stays.
    scene.server.mood("pods", Mood::Forbidden);
    scene.until("it is told again", |scene| scene.problems() == [problem]).await;
    scene.server.put("pods", pod("p2"));
    assert_eq!(scene.pods(), ["p1"]);
    scene.server.mood("pods", None);
    scene.until_pods(&["p1", "p2"]).await;
    scene.until("it is over", |scene| scene.problems().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_for_thirty_minutes_changes_nothing_and_its_age_is_told() {
    let server = Server::default();
    server.put("pods", pod("p1"));
    server.put("pods", pod("p2"));
    let scene = Scene::new(server);
    scene.until_complete().await;
    let before = scene.known.resources().borrow().generation();
    scene.server.moods(Mood::Down);
    let asked = scene.server.asked().len();
    time::sleep(Duration::from_mins(30)).await;
    let asked = scene.server.asked().len() - asked;
    assert!((60 * 7..200 * 7).contains(&asked), "7 kinds, each about every 22 seconds: {asked}");
    assert!(scene.known.is_complete(), "ready stays ready");
    assert_eq!(scene.known.resources().borrow().generation(), before);
    assert!(scene.age("pods") > 1799.0, "{}", scene.age("pods"));
    scene.server.delete("pods", "shop/p1");
    scene.server.compact();
    scene.server.moods(None);
    scene.until_pods(&["p2"]).await;
    scene.until("it is over", |scene| scene.problems().is_empty()).await;
    assert!(scene.age("pods") < 60.0);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_falls_silent_is_given_up_and_asked_anew() {
    let server = Server::default();
    let scene = Scene::new(server);
    scene.until_complete().await;
    scene.server.mood("pods", Mood::Mute);
    scene
        .until("the watch is open again", |scene| {
            scene.server.asked().iter().filter(|uri| uri.contains("/pods?")).count() == 2
        })
        .await;
    scene.server.put("pods", pod("p1"));
    let begun = clock::instant();
    scene.until_pods(&["p1"]).await;
    let waited = begun.elapsed().as_secs();
    assert!((250..=330).contains(&waited), "{waited} s");
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_are_no_storm() {
    let server = Server::default();
    server.put("pods", pod("p1"));
    server.moods(Mood::Brief);
    let scene = Scene::new(server);
    scene.until_complete().await;
    let before = scene.server.asked().len();
    time::sleep(Duration::from_mins(10)).await;
    let asked = scene.server.asked().len() - before;
    assert!(asked < 7 * 50, "7 kinds in 10 minutes: {asked}");
    assert_eq!(scene.pods(), ["p1"]);
}
