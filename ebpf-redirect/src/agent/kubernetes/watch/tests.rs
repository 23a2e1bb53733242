use std::cell::Cell;
use std::convert::Infallible;

use futures_util::stream;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn waits_for_the_api_server_double_up_to_five_seconds_and_chance_spreads_them() {
    let waits = async || {
        let mut asked = Vec::new();
        // As while nothing answers: each try is a list that does not come to anything.
        let tries = stream::iter((0..12).flat_map(|_| {
            let failed: watcher::Result<Event<()>> = Err(watcher::Error::NoResourceVersion);
            [Ok(Event::Init), failed]
        }));
        follow("nothing", tries, |_| asked.push(Instant::now())).await;
        asked.windows(2).map(|two| two[1].duration_since(two[0])).collect::<Vec<_>>()
    };
    let (one, other) = (waits().await, waits().await);
    let mut most = FIRST_WAIT;
    for wait in &one {
        // The timer's own millisecond.
        assert!((most / 2..=most + Duration::from_millis(2)).contains(wait), "{one:?}");
        most = (most * 2).min(LONGEST_WAIT);
    }
    assert_eq!(most, Duration::from_secs(5));
    assert_ne!(one, other);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_answers_again_is_tried_soon_when_it_fails_again() {
    let failed = || Err(watcher::Error::NoResourceVersion);
    let fails = (0..6).map(|_| failed());
    let tries = fails.chain([Ok(Event::Apply(()))]).chain([failed(), Ok(Event::Apply(()))]);
    let (answered, waited) = (Cell::new(None), Cell::new(Duration::ZERO));
    follow("nothing", stream::iter(tries), |_| {
        if let Some(before) = answered.replace(Some(Instant::now())) {
            waited.set(before.elapsed());
        }
    })
    .await;
    assert!(waited.get() <= FIRST_WAIT + Duration::from_millis(2), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_nobody_ends_is_asked_for_again_after_two_minutes() {
    let (ask, mut asked) = mpsc::unbounded_channel();
    let server = tower::service_fn(move |request: Request<Body>| {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let body = if query.contains("watch=true") {
            ask.send((Instant::now(), query)).unwrap();
            stream::pending().left_stream()
        } else {
            let list = br#"{"metadata":{"resourceVersion":"7"},"items":[]}"#;
            stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(list)))])
                .right_stream()
        };
        std::future::ready(Ok::<_, Infallible>(Response::new(StreamBody::new(body))))
    });
    let (client, shared) = (Client::new(server, "default"), Shared::new());
    let watching = async {
        tokio::join!(namespaces(client.clone(), &shared), pods(client.clone(), "one", &shared))
    };
    let twice = async {
        for _ in 0..2 {
            asked.recv().await;
        }
        let first = Instant::now();
        for _ in 0..2 {
            let (again, query) = asked.recv().await.unwrap();
            assert!(query.contains("timeoutSeconds=120"), "{query}");
            assert!(again - first < Duration::from_secs(130), "{:?}", again - first);
        }
    };
    tokio::select! {
        _ = watching => panic!("it ended"),
        () = twice => {}
    }
}
