use std::{
    convert::Infallible,
    sync::{Mutex, PoisonError},
};

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::*;
use crate::{
    compile::tests::mesh,
    metrics::Metrics,
    objects::{Kind, Name},
    written::Written,
};

/// What the API server was asked, and when.
#[derive(Debug, Clone)]
struct Asked {
    at: Instant,
    method: Method,
    /// The last part of the path but for `status`.
    object: String,
}

struct Scene {
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Statuses as they are written, by the objects' names.
    statuses: Arc<Mutex<Vec<(String, Value)>>>,
    _writer: JoinSet<()>,
}

impl Scene {
    /// Entries that wait for their status, of an API server that takes so long for each, and answers with a code.
    fn new(names: &[String], takes: Duration, code: fn(&str) -> u16) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let statuses = Arc::new(Mutex::new(Vec::new()));
        let (asking, writing) = (asked.clone(), statuses.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let path = request.uri().path().trim_end_matches("/status").to_owned();
            let object = path.rsplit('/').next().unwrap_or_default().to_owned();
            let method = request.method().clone();
            let one =
                Asked { at: clock::instant(), method: method.clone(), object: object.clone() };
            asking.lock().unwrap_or_else(PoisonError::into_inner).push(one);
            let writing = writing.clone();
            async move {
                let body = request.into_body().collect_bytes().await.unwrap();
                let (code, answer) = if method == Method::PATCH {
                    time::sleep(takes).await;
                    let code = code(&object);
                    let written: Value = serde_json::from_slice(&body).unwrap();
                    if code == 200 {
                        writing.lock().unwrap().push((object, written["status"].clone()));
                    }
                    (code, json!({ "status": written["status"], "code": code, "message": "no" }))
                } else {
                    (200, json!({ "metadata": {}, "data": {} }))
                };
                let answer = Body::from(answer.to_string().into_bytes());
                Ok::<_, Infallible>(Response::builder().status(code).body(answer).unwrap())
            }
        });
        let metrics = Arc::new(Metrics::default());
        let server = Server::new(kube::Client::new(service, "default"), "mesh", metrics);
        let known = Known::new(mesh());
        for name in names {
            known.written().put(key(name), written(name));
        }
        known.written().published(1, clock::instant());
        let writer = Writer::new(known, Arc::default(), server, "me");
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            // Later than what was published, on a clock that moves only when all wait.
            time::sleep(Duration::from_millis(1)).await;
            writer.run().await;
        });
        Self { asked, statuses, _writer: tasks }
    }

    fn asked_for(&self, object: &str) -> Vec<Instant> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.object == object).map(|asked| asked.at).collect()
    }

    fn is_written(&self, name: &str) -> bool {
        self.statuses.lock().unwrap().iter().any(|(written, _)| written == name)
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::ServiceEntry, name: Name::new("shop", name) }
}

fn written(name: &str) -> Written {
    Written {
        api_version: "networking.istio.io/v1".into(),
        plural: "serviceentries",
        uid: name.into(),
        generation: 1,
        marks: 0,
        version: "1".into(),
        form: Form::Read,
        conditions: Vec::new(),
    }
}

fn named(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// However one object is refused, the others are written at once, and it is not tried in a storm.
#[tokio::test(start_paused = true)]
async fn an_object_that_is_refused_or_fails_holds_up_no_other() {
    let wrong: [fn(&str) -> u16; 2] =
        [|name| if name == "a" { 403 } else { 200 }, |name| if name == "a" { 500 } else { 200 }];
    for code in wrong {
        let scene = Scene::new(&named(&["a", "b", "c"]), Duration::ZERO, code);
        time::sleep(Duration::from_secs(2)).await;
        assert!(scene.is_written("b") && scene.is_written("c") && !scene.is_written("a"));
        assert_eq!(scene.asked_for("a").len(), 1);
        time::sleep(Duration::from_mins(1)).await;
        assert!((2..8).contains(&scene.asked_for("a").len()), "{:?}", scene.asked_for("a"));
    }
}

#[tokio::test(start_paused = true)]
async fn several_objects_that_are_refused_or_fail_hold_up_the_others_for_30_seconds_at_most() {
    let wrong: [fn(&str) -> u16; 2] =
        [|name| if name == "d" { 200 } else { 403 }, |name| if name == "d" { 200 } else { 500 }];
    for code in wrong {
        let scene = Scene::new(&named(&["a", "b", "c", "d"]), Duration::ZERO, code);
        time::sleep(Duration::from_secs(65)).await;
        assert!(scene.is_written("d"), "{:?}", scene.asked.lock().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_long_round_all_objects_are_told_of_nodes_as_they_are_meanwhile() {
    let names: Vec<String> = (0..200).map(|i| format!("e{i:03}")).collect();
    let scene = Scene::new(&names, Duration::from_millis(200), |_| 200);
    time::sleep(Duration::from_secs(90)).await;
    let statuses = scene.statuses.lock().unwrap().clone();
    for name in &names {
        let first = statuses.iter().find(|(written, _)| written == name);
        let (_, status) = first.unwrap_or_else(|| panic!("{name} is not written"));
        let kinds = status["conditions"].as_array().unwrap().iter().map(|c| c["type"].clone());
        assert_eq!(kinds.collect::<Vec<_>>(), ["Accepted", "Programmed"], "{name}");
    }
    let reads = scene.asked.lock().unwrap().clone();
    let reads: Vec<_> = reads.iter().filter(|asked| asked.method == Method::GET).collect();
    let apart = reads.windows(2).map(|two| two[1].at - two[0].at).max().unwrap();
    assert!(apart < Duration::from_secs(5), "others were not read for {apart:?}");
}
