//! An API server in memory: lists, pages, streamed lists, watches, compaction, and every way to fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

type Chunk = Result<Frame<Bytes>, Infallible>;
type Streamed = Response<StreamBody<UnboundedReceiverStream<Chunk>>>;
type Answer = Result<Streamed, io::Error>;

/// How a resource is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mood {
    Down,
    Forbidden,
    /// Asks to be left alone for a day.
    Busy,
    /// A streamed list is refused, as by a server that does not have them.
    Paging,
    /// Watches are opened and nothing is ever said on them.
    Mute,
    /// Watches end at once.
    Brief,
}

#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    version: u64,
    compacted: u64,
    objects: BTreeMap<(String, String), Value>,
    log: Vec<(u64, String, Value)>,
    moods: BTreeMap<&'static str, Mood>,
    watchers: Vec<(String, mpsc::UnboundedSender<Chunk>)>,
    asked: Vec<String>,
    unserved: BTreeSet<&'static str>,
}

impl Server {
    pub(super) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = server.answer(&request.uri().to_string());
            async move { answer }
        });
        Client::new(service, "default")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Of one resource; `None` is the usual one.
    pub(super) fn mood(&self, plural: &'static str, mood: impl Into<Option<Mood>>) {
        let mut state = self.state();
        match mood.into() {
            Some(mood) => state.moods.insert(plural, mood),
            None => state.moods.remove(plural),
        };
        state.watchers.retain(|(of, _)| of != plural);
    }

    /// Of all resources; what is open is cut.
    pub(super) fn moods(&self, mood: impl Into<Option<Mood>> + Copy) {
        for resource in &super::super::resource::RESOURCES {
            self.mood(resource.plural, mood);
        }
    }

    /// A version of a group is not served: for example `security.istio.io/v1`.
    pub(super) fn unserved(&self, version: &'static str) {
        self.state().unserved.insert(version);
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    /// History up to here is forgotten.
    pub(super) fn compact(&self) {
        let mut state = self.state();
        state.version += 1;
        state.compacted = state.version;
        state.log.clear();
    }

    pub(super) fn put(&self, plural: &str, object: Value) {
        let name =
            |object: &Value, field| object["metadata"][field].as_str().unwrap_or("").to_owned();
        let key = (plural.to_owned(), name(&object, "namespace") + "/" + &name(&object, "name"));
        let mut state = self.state();
        let event = if state.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        let object = state.logged(plural, event, object);
        state.objects.insert(key, object);
    }

    pub(super) fn delete(&self, plural: &str, name: &str) {
        let mut state = self.state();
        let object = state.objects.remove(&(plural.to_owned(), name.to_owned())).unwrap();
        state.logged(plural, "DELETED", object);
    }

    fn answer(&self, uri: &str) -> Answer {
        let mut state = self.state();
        state.asked.push(uri.to_owned());
        let (path, query) = uri.split_once('?').unwrap();
        let (group, plural) = path.rsplit_once('/').unwrap();
        let query: BTreeMap<&str, &str> =
            query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let mood = state.moods.iter().find(|(of, _)| **of == plural).map(|(_, mood)| *mood);
        match mood {
            Some(Mood::Down) => return Err(io::ErrorKind::ConnectionRefused.into()),
            Some(Mood::Forbidden) => return Ok(status(403, "the user may not")),
            Some(Mood::Busy) => {
                let mut busy = status(429, "too many requests");
                busy.headers_mut().insert("retry-after", 86_400.into());
                return Ok(busy);
            }
            Some(Mood::Paging) if query.contains_key("sendInitialEvents") => {
                return Ok(status(422, "sendInitialEvents is forbidden"));
            }
            Some(Mood::Paging | Mood::Mute | Mood::Brief) | None => {}
        }
        if !state.is_served(group, plural) {
            return Ok(status(404, "the server could not find the requested resource"));
        }
        if !query.contains_key("watch") {
            return Ok(state.page(plural, query.get("continue").copied()));
        }
        let (tell, told) = mpsc::unbounded_channel();
        let since = query.get("resourceVersion").and_then(|version| version.parse::<u64>().ok());
        let lines = match since {
            None => state.everything(plural),
            Some(since) if since < state.compacted => {
                vec![json!({"type": "ERROR", "object": {"code": 410, "message": "too old"}})]
            }
            Some(since) => state.after(plural, since),
        };
        for line in &lines {
            say(&tell, line);
        }
        match mood {
            Some(Mood::Mute) => state.watchers.push(("nobody".to_owned(), tell)),
            Some(Mood::Brief) => {}
            Some(Mood::Down | Mood::Forbidden | Mood::Busy | Mood::Paging) | None => {
                state.watchers.push((plural.to_owned(), tell));
            }
        }
        Ok(Response::new(StreamBody::new(UnboundedReceiverStream::new(told))))
    }
}

impl State {
    fn logged(&mut self, plural: &str, event: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let line = json!({"type": event, "object": object.clone()});
        for (_, tell) in self.watchers.iter().filter(|(of, _)| of == plural) {
            say(tell, &line);
        }
        self.log.push((self.version, plural.to_owned(), line));
        object
    }

    fn is_served(&self, group: &str, plural: &str) -> bool {
        let (domain, _) = group.trim_start_matches("/apis/").rsplit_once('/').unwrap();
        let definition = format!("/{plural}.{domain}");
        let custom = domain.ends_with("istio.io");
        let defined =
            self.objects.contains_key(&("customresourcedefinitions".to_owned(), definition));
        (!custom || defined) && !self.unserved.contains(group.trim_start_matches("/apis/"))
    }

    fn of(&self, plural: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |((of, _), _)| of == plural).map(|(_, object)| object)
    }

    fn page(&self, plural: &str, after: Option<&str>) -> Streamed {
        let from: usize = after.map_or(0, |token| token.parse().unwrap());
        let items: Vec<&Value> = self.of(plural).skip(from).take(500).collect();
        let more = self.of(plural).count() > from + items.len();
        let next = if more { (from + items.len()).to_string() } else { String::new() };
        let metadata = json!({"resourceVersion": self.version.to_string(), "continue": next});
        body(200, &json!({"metadata": metadata, "items": items}))
    }

    fn everything(&self, plural: &str) -> Vec<Value> {
        let mut lines: Vec<Value> =
            self.of(plural).map(|object| json!({"type": "ADDED", "object": object})).collect();
        let end = json!({"k8s.io/initial-events-end": "true"});
        let metadata = json!({"resourceVersion": self.version.to_string(), "annotations": end});
        lines.push(json!({"type": "BOOKMARK", "object": {"metadata": metadata}}));
        lines
    }

    fn after(&self, plural: &str, since: u64) -> Vec<Value> {
        let later = self.log.iter().filter(|(version, of, _)| *version > since && of == plural);
        later.map(|(_, _, line)| line.clone()).collect()
    }
}

fn say(tell: &mpsc::UnboundedSender<Chunk>, line: &Value) {
    // In pieces, as a network does.
    let mut text = Bytes::from(format!("{line}\n"));
    let first = text.split_to(text.len() / 2);
    for piece in [first, text] {
        tell.send(Ok(Frame::data(piece))).ok();
    }
}

fn status(code: u16, message: &str) -> Streamed {
    body(code, &json!({"kind": "Status", "code": code, "message": message}))
}

fn body(code: u16, value: &Value) -> Streamed {
    let (tell, told) = mpsc::unbounded_channel();
    say(&tell, value);
    let mut response = Response::new(StreamBody::new(UnboundedReceiverStream::new(told)));
    *response.status_mut() = code.try_into().unwrap();
    response
}
