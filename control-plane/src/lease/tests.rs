//! Two replicas and an API server in memory, by a clock that waits for nobody.

use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::*;

/// One record, and how often it was written.
type Stored = Arc<Mutex<Option<(Value, u64)>>>;

/// How the API server answers one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Good,
    /// What is written is answered so late, and nothing after it.
    LateThenDead(Duration),
    Dead,
}

fn replica(stored: &Stored, name: &str, line: Line) -> (Held, JoinSet<()>) {
    let (stored, line) = (stored.clone(), Arc::new(Mutex::new(line)));
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (stored, line) = (stored.clone(), line.clone());
        async move {
            let answered = *line.lock().unwrap();
            if answered == Line::Dead {
                return std::future::pending().await;
            }
            let is_write = request.method() != http::Method::GET;
            let body = request.into_body().collect().await?.to_bytes();
            let (status, body) = answer(&mut stored.lock().unwrap(), &body);
            if let (Line::LateThenDead(late), true) = (answered, is_write) {
                *line.lock().unwrap() = Line::Dead;
                time::sleep(late).await;
            }
            let body = Full::new(Bytes::from(body.to_string()));
            Ok::<_, tower::BoxError>(http::Response::builder().status(status).body(body)?)
        }
    });
    let client = Client::new(service, "default");
    let (lease, held) = Lease::new(client, "default", "duty", name, Pace::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(lease.run(std::future::pending()));
    (held, tasks)
}

/// A write names the version that it replaces, a read has no body.
fn answer(stored: &mut Option<(Value, u64)>, written: &[u8]) -> (u16, Value) {
    let version = stored.as_ref().map_or(0, |(_, version)| *version);
    if let Ok(mut record) = serde_json::from_slice::<Value>(written) {
        let replaced = record["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        if replaced.unwrap_or_else(|| "0".to_owned()) != version.to_string() {
            return (409, failure(409, "Conflict"));
        }
        record["metadata"]["resourceVersion"] = json!((version + 1).to_string());
        *stored = Some((record, version + 1));
    }
    match stored {
        Some((record, _)) => (200, record.clone()),
        None => (404, failure(404, "NotFound")),
    }
}

fn failure(code: u16, reason: &str) -> Value {
    let message = "no";
    json!({"kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": code})
}

#[tokio::test(start_paused = true)]
async fn one_whose_lease_was_granted_late_stops_before_another_begins() {
    let stored = Stored::default();
    let late = Line::LateThenDead(Duration::from_secs(9));
    let (mut one, _one) = replica(&stored, "one", late);
    // It asks first: the other finds its record.
    while stored.lock().unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    let (mut two, _two) = replica(&stored, "two", Line::Good);
    time::timeout(Duration::from_secs(10), one.gained()).await.expect("it was granted");
    time::timeout(Duration::from_mins(1), two.gained()).await.expect("the other never has it");
    assert!(!one.now(), "two have it");
}
