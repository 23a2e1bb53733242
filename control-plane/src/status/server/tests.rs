use std::{convert::Infallible, sync::Mutex};

use http::{Request, Response};
use kube::client::Body;
use serde_json::json;

use super::*;
use crate::{
    objects::{Kind, Name},
    written::Form,
};

/// Answers as it is told to, and counts.
struct Scene {
    server: Server,
    answers: Arc<Mutex<(u16, Value, usize)>>,
    metrics: Arc<Metrics>,
}

impl Scene {
    fn new() -> Self {
        let answers = Arc::new(Mutex::new((200, json!({}), 0)));
        let answering = answers.clone();
        let service = tower::service_fn(move |_: Request<Body>| {
            let mut answer = answering.lock().unwrap();
            answer.2 += 1;
            let body = Body::from(answer.1.to_string().into_bytes());
            let response = Response::builder().status(answer.0).body(body).unwrap();
            async move { Ok::<_, Infallible>(response) }
        });
        let metrics = Arc::new(Metrics::default());
        let server = Server::new(Client::new(service, "default"), "mesh", metrics.clone());
        Self { server, answers, metrics }
    }

    async fn put(&mut self, code: u16, retry_after: u32) -> Answer {
        self.put_to("pay", code, retry_after).await
    }

    async fn put_to(&mut self, name: &str, code: u16, retry_after: u32) -> Answer {
        let details = json!({ "retryAfterSeconds": retry_after });
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "no", "reason": "No", "code": code, "details": details,
        });
        {
            let mut answer = self.answers.lock().unwrap();
            (answer.0, answer.1) = (code, status);
        }
        let key = ObjectKey { kind: Kind::ServiceEntry, name: Name::new("shop", name) };
        let written = Written {
            api_version: "networking.istio.io/v1".into(),
            plural: "serviceentries",
            uid: "u".into(),
            generation: 1,
            marks: 0,
            version: "1".into(),
            form: Form::Read,
            conditions: Vec::new(),
        };
        self.server.put_status(&key, &written, &[]).await
    }

    fn asked(&self) -> usize {
        self.answers.lock().unwrap().2
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_too_much_to_do_is_left_alone_for_as_long_as_it_says_and_ever_longer() {
    let mut scene = Scene::new();
    let mut waits = Vec::new();
    for (code, retry_after) in [(429, 7), (503, 0), (502, 0), (429, 1)] {
        let now = clock::instant();
        let Answer::Busy(until) = scene.put(code, retry_after).await else { panic!("{code}") };
        waits.push((until - now).as_secs_f64());
    }
    let [named, second, third, fourth] = waits[..] else { panic!("{waits:?}") };
    assert!((7.0..7.1).contains(&named), "{waits:?}");
    // By chance between half and all of 2, 4 and 8 s.
    assert!((1.0..=2.1).contains(&second) && (2.0..=4.1).contains(&third), "{waits:?}");
    assert!((4.0..=8.1).contains(&fourth), "{waits:?}");
    let text = scene.metrics.text(0, 0);
    assert!(text.contains("{what=\"condition\",result=\"busy\"} 4"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_is_forbidden_is_not_asked_for_again_before_30_seconds() {
    let mut scene = Scene::new();
    // It may be about this object only, until another one is refused so.
    for _ in 0..2 {
        assert!(matches!(scene.put(403, 0).await, Answer::Deferred(_)));
    }
    let Answer::Forbidden(until) = scene.put_to("two", 403, 0).await else { panic!() };
    assert!(until - clock::instant() > Duration::from_secs(29));
    assert!(matches!(scene.put_to("three", 403, 0).await, Answer::Forbidden(_)));
    assert_eq!(scene.asked(), 3);
    time::sleep(FORBIDDEN * 2).await;
    assert!(matches!(scene.put_to("four", 403, 0).await, Answer::Forbidden(_)));
    assert_eq!(scene.asked(), 4);
    time::sleep(FORBIDDEN * 2).await;
    assert!(matches!(scene.put_to("five", 200, 0).await, Answer::Taken(_)));
    assert!(matches!(scene.put_to("six", 403, 0).await, Answer::Deferred(_)));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_at_one_object_is_asked_for_others_and_one_that_fails_at_two_is_not() {
    let mut scene = Scene::new();
    for _ in 0..3 {
        assert!(matches!(scene.put(500, 0).await, Answer::Deferred(_)));
    }
    assert!(matches!(scene.put_to("two", 200, 0).await, Answer::Taken(_)));
    assert!(matches!(scene.put_to("three", 500, 0).await, Answer::Deferred(_)));
    assert!(matches!(scene.put_to("four", 500, 0).await, Answer::Busy(_)));
}

#[tokio::test(start_paused = true)]
async fn what_a_namespace_that_ends_refuses_is_no_lack_of_rights() {
    let mut scene = Scene::new();
    let cause = json!({ "reason": "NamespaceTerminating", "field": "metadata.namespace" });
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Forbidden",
        "message": "it is being terminated", "code": 403, "details": { "causes": [cause] },
    });
    {
        let mut answer = scene.answers.lock().unwrap();
        (answer.0, answer.1) = (403, status);
    }
    for name in ["a", "b"] {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let event = Event { metadata, ..Event::default() };
        assert!(matches!(scene.server.make_event("shop", &event).await, Answer::Refused));
    }
    assert!(matches!(scene.put(200, 0).await, Answer::Taken(_)));
}

#[tokio::test]
async fn a_forbidden_read_of_what_other_replicas_say_is_told_once() {
    let mut scene = Scene::new();
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).finish();
    let _log = tracing::subscriber::set_default(subscriber);
    for code in [403, 403, 403, 200, 403] {
        let status =
            json!({ "metadata": {}, "code": code, "message": "no", "reason": "Forbidden" });
        {
            let mut answer = scene.answers.lock().unwrap();
            (answer.0, answer.1) = (code, status);
        }
        scene.server.parts().await;
    }
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let told = text.matches("how far the nodes of other replicas are is not read").count();
    assert_eq!(told, 2, "once each time that it begins: {text}");
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn another_state_of_an_object_is_waited_for_and_what_is_gone_or_invalid_is_left() {
    let mut scene = Scene::new();
    assert!(matches!(scene.put(409, 0).await, Answer::Stale));
    for code in [400, 404, 422] {
        assert!(matches!(scene.put(code, 0).await, Answer::Refused), "{code}");
    }
}
