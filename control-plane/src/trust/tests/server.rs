//! Secrets and `ConfigMap`s of one namespace as an API server keeps them, in memory.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use k8s_openapi::jiff::Timestamp;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

type Chunk = Result<Frame<Bytes>, Infallible>;
type Streamed = Response<StreamBody<UnboundedReceiverStream<Chunk>>>;

/// How requests are answered, but for watches that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mood {
    #[default]
    Good,
    Down,
    Silent,
}

#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    mood: Mood,
    version: u64,
    /// By the path of each.
    objects: BTreeMap<String, Value>,
    watchers: Vec<(String, mpsc::UnboundedSender<Chunk>)>,
    /// Written by somebody else right before the next write to it.
    faster: Option<(String, Value)>,
}

impl Server {
    pub(super) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let mood = server.state().mood;
                match mood {
                    Mood::Good => {}
                    Mood::Down => {
                        return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
                    }
                    Mood::Silent => std::future::pending().await,
                }
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let query = head.uri.query().unwrap_or_default();
                let mut state = server.state();
                Ok::<_, tower::BoxError>(state.answer(&head.method, head.uri.path(), query, &body))
            }
        });
        Client::new(service, "mesh")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    pub(super) fn get(&self, plural: &str, name: &str) -> Option<Value> {
        self.state().objects.get(&path(plural, name)).cloned()
    }

    pub(super) fn put(&self, plural: &str, name: &str, object: Value) {
        self.state().store(&path(plural, name), object);
    }

    pub(super) fn delete(&self, plural: &str, name: &str) {
        self.state().objects.remove(&path(plural, name)).unwrap();
    }

    /// Somebody else will have written this right before us.
    pub(super) fn faster(&self, plural: &str, name: &str, object: Value) {
        self.state().faster = Some((path(plural, name), object));
    }
}

fn path(plural: &str, name: &str) -> String {
    format!("/api/v1/namespaces/mesh/{plural}/{name}")
}

impl State {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let before = self.objects.get(path).map(|before| before["metadata"].clone());
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.insert("resourceVersion".to_owned(), json!(self.version.to_string()));
        let of_before = |field: &str| before.as_ref().map(|before| before[field].clone());
        let uid = of_before("uid").unwrap_or_else(|| json!(format!("u-{}", self.version)));
        metadata.insert("uid".to_owned(), uid);
        // Whole seconds, as in a real one.
        let fresh = || json!(Timestamp::from_second(Timestamp::now().as_second()).unwrap());
        let created = metadata.get("creationTimestamp").cloned();
        let created = created.or_else(|| of_before("creationTimestamp")).unwrap_or_else(fresh);
        metadata.insert("creationTimestamp".to_owned(), created);
        self.objects.insert(path.to_owned(), object.clone());
        let event = json!({"type": "MODIFIED", "object": object}).to_string() + "\n";
        self.watchers.retain(|(of, watcher)| {
            of != path || watcher.send(Ok(Frame::data(event.clone().into()))).is_ok()
        });
        object
    }

    fn answer(&mut self, method: &Method, path: &str, query: &str, body: &[u8]) -> Streamed {
        if *method == Method::GET {
            return self.read(path, query);
        }
        let written: Value = serde_json::from_slice(body).unwrap();
        let name = written["metadata"]["name"].as_str().unwrap_or_default();
        let of = if *method == Method::POST { format!("{path}/{name}") } else { path.to_owned() };
        if let Some((_, object)) = self.faster.take_if(|(faster, _)| *faster == of) {
            self.store(&of, object);
        }
        let found = self.objects.get(&of).cloned();
        match (method.as_str(), found) {
            ("POST", None) => answer(201, &self.store(&of, written)),
            ("POST", Some(_)) => failure(409, "AlreadyExists"),
            ("PUT", Some(found)) => {
                let (ours, theirs) = (&written["metadata"], &found["metadata"]);
                if ours["resourceVersion"] != theirs["resourceVersion"] {
                    return failure(409, "Conflict");
                }
                answer(200, &self.store(&of, written))
            }
            ("PATCH", Some(mut found)) => {
                let (ours, theirs) = (&written["metadata"], &found["metadata"]);
                let version = ours.get("resourceVersion");
                if version.is_some_and(|version| *version != theirs["resourceVersion"]) {
                    return failure(409, "Conflict");
                }
                merge(&mut found, &written);
                answer(200, &self.store(&of, found))
            }
            (_, None) => failure(404, "NotFound"),
            (other, Some(_)) => panic!("{other} is not served"),
        }
    }

    fn read(&mut self, path: &str, query: &str) -> Streamed {
        let Some((_, name)) = query.split_once("fieldSelector=metadata.name%3D") else {
            return match self.objects.get(path) {
                Some(object) => answer(200, object),
                None => failure(404, "NotFound"),
            };
        };
        let of = format!("{path}/{}", name.split('&').next().unwrap());
        if query.contains("watch=true") {
            let (watcher, body) = mpsc::unbounded_channel();
            self.watchers.push((of, watcher));
            return Response::new(StreamBody::new(UnboundedReceiverStream::new(body)));
        }
        let items: Vec<_> = self.objects.get(&of).into_iter().collect();
        let version = self.version.to_string();
        answer(
            200,
            &json!({"kind": "List", "metadata": {"resourceVersion": version}, "items": items}),
        )
    }
}

/// RFC 7396.
fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let into = into.as_object_mut().unwrap();
    for (field, value) in patch {
        if value.is_null() {
            into.remove(field);
        } else {
            merge(into.entry(field).or_insert(Value::Null), value);
        }
    }
}

fn answer(status: u16, body: &Value) -> Streamed {
    let (sender, receiver) = mpsc::unbounded_channel();
    sender.send(Ok(Frame::data(body.to_string().into()))).unwrap();
    let body = StreamBody::new(UnboundedReceiverStream::new(receiver));
    Response::builder().status(status).body(body).unwrap()
}

fn failure(code: u16, reason: &str) -> Streamed {
    let status = json!({"kind": "Status", "status": "Failure", "message": "", "reason": reason, "code": code});
    answer(code, &status)
}
