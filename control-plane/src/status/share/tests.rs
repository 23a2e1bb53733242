use std::{convert::Infallible, sync::Mutex};

use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::json;
use tokio::task::JoinSet;

use super::*;
use crate::{clock, compile::tests::mesh, metrics::Metrics};

#[tokio::test(start_paused = true)]
async fn a_server_in_need_is_left_alone_though_there_are_news_all_the_time() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let asking = asked.clone();
    let service = tower::service_fn(move |_: Request<Body>| {
        asking.lock().unwrap().push(clock::instant());
        let body = json!({ "code": 503, "message": "no" }).to_string().into_bytes();
        let response = Response::builder().status(503).body(Body::from(body)).unwrap();
        async move { Ok::<_, Infallible>(response) }
    });
    let metrics = Arc::new(Metrics::default());
    let server = Server::new(Client::new(service, "default"), "mesh", metrics);
    let streams = Arc::new(Streams::default());
    let share = Share {
        known: Known::new(mesh()),
        streams: streams.clone(),
        server,
        replica: "me".to_owned(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(share.run(std::future::pending()));
    let mut nodes = Vec::new();
    for second in 0..120 {
        nodes.push(Streams::open(&streams, &format!("node-{second}").into()));
        time::sleep(Duration::from_secs(1)).await;
    }
    let asked = asked.lock().unwrap().clone();
    // 1, 2, 4 to 60 s, each or half of it by chance.
    assert!((3..=12).contains(&asked.len()), "{} times in 120 s", asked.len());
}
