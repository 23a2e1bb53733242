//! Which path shows or does what.

use std::{sync::Arc, time::Duration};

use hyper::{Method, Request, StatusCode, Uri, body::Incoming, header};

use super::{
    Service, guard, heap,
    http::{Reply, reply, text},
    profile,
};
use crate::telemetry::Format;

const JSON: &str = "application/json";

const INDEX: &str = "<!doctype html><title>ztunnel</title><h1>ztunnel</h1><ul>\
<li><a href=\"config_dump\">config_dump</a>: workloads, services, policies, certificates, connections\
<li><a href=\"config\">config</a>: the settings in use\
<li>logging: POST ?level=info, ?level=scope:debug or ?reset\
<li><a href=\"debug/pprof/profile\">debug/pprof/profile</a>?seconds=10&amp;frequency=100\
<li><a href=\"debug/pprof/heap\">debug/pprof/heap</a>?seconds=10\
<li>debug/pprof/heap/profiling: POST ?activate=true or ?activate=false\
<li>quitquitquit: POST</ul>";

pub(super) async fn admin(service: Arc<Service>, request: Request<Incoming>) -> Reply {
    if let Err(foreign) = guard::check(request.uri(), request.headers()) {
        return text(StatusCode::FORBIDDEN, format!("{foreign}\n"));
    }
    let uri = request.uri();
    match (uri.path(), Asks::by(request.method())) {
        ("/", Asks::ToRead) => reply(StatusCode::OK, "text/html; charset=utf-8", INDEX),
        ("/config_dump", Asks::ToRead) => config_dump(&service).await,
        ("/config", Asks::ToRead) => json(&service.config),
        ("/debug/pprof/profile", Asks::ToRead) => cpu(uri).await,
        ("/debug/pprof/heap", Asks::ToRead) => held(uri).await,
        ("/debug/pprof/heap/profiling", Asks::ToChange) => sampling(uri),
        ("/logging", Asks::ToChange) => logging(&service, uri),
        ("/quitquitquit", Asks::ToChange) => {
            tracing::info!("asked to stop over the admin address");
            (service.stop)();
            text(StatusCode::OK, "shutting down\n")
        }
        ("/logging" | "/quitquitquit" | "/debug/pprof/heap/profiling", _) => not_allowed("POST"),
        ("/" | "/config_dump" | "/config" | "/debug/pprof/profile" | "/debug/pprof/heap", _) => {
            not_allowed("GET, HEAD")
        }
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

pub(super) async fn stats(service: Arc<Service>, request: Request<Incoming>) -> Reply {
    match (request.uri().path(), Asks::by(request.method())) {
        ("/metrics" | "/stats/prometheus", Asks::ToRead) => {
            let accept = request.headers().get(header::ACCEPT).and_then(|a| a.to_str().ok());
            let format = match accept {
                Some(accept) if accept.contains("application/openmetrics-text") => {
                    Format::OpenMetrics
                }
                Some(_) | None => Format::Prometheus,
            };
            let written = blocking(move || service.telemetry.render(format)).await;
            written.map_or_else(|e| e, |body| reply(StatusCode::OK, format.content_type(), body))
        }
        ("/metrics" | "/stats/prometheus", _) => not_allowed("GET, HEAD"),
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

#[expect(clippy::unused_async, reason = "a route is a future, whether it waits or not")]
pub(super) async fn readiness(service: Arc<Service>, request: Request<Incoming>) -> Reply {
    match (request.uri().path(), Asks::by(request.method())) {
        ("/healthz/ready", Asks::ToRead) => {
            let pending = (service.pending)();
            if pending.is_empty() {
                return text(StatusCode::OK, "ready\n");
            }
            let body = format!("not ready, pending: {}\n", pending.join(", "));
            text(StatusCode::INTERNAL_SERVER_ERROR, body)
        }
        ("/healthz/ready", _) => not_allowed("GET, HEAD"),
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

/// What a method is good for here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asks {
    ToRead,
    ToChange,
    SomethingElse,
}

impl Asks {
    fn by(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD => Self::ToRead,
            Method::POST => Self::ToChange,
            _ => Self::SomethingElse,
        }
    }
}

fn not_allowed(allowed: &'static str) -> Reply {
    let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, format!("allowed: {allowed}\n"));
    reply.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    reply
}

/// A mesh of ten thousand workloads takes a while to write: other requests go on meanwhile.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Reply> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "an admin answer could not be made");
        text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made; see the log\n")
    })
}

async fn config_dump(service: &Arc<Service>) -> Reply {
    let dump = service.dump.clone();
    match blocking(move || serde_json::to_vec_pretty(&dump())).await {
        Ok(Ok(body)) => reply(StatusCode::OK, JSON, body),
        Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        Err(reply) => reply,
    }
}

fn json(value: &serde_json::Value) -> Reply {
    reply(StatusCode::OK, JSON, format!("{value:#}\n"))
}

fn logging(service: &Service, uri: &Uri) -> Reply {
    let changed = if parameter(uri, "reset").is_some() {
        service.logging.reset()
    } else if let Some(level) = parameter(uri, "level") {
        service.logging.set(&level)
    } else {
        Ok(())
    };
    match changed {
        Ok(()) => {
            let level = service.logging.level();
            text(StatusCode::OK, format!("current log level is {level}\n"))
        }
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

async fn cpu(uri: &Uri) -> Reply {
    let asked = number(uri, "seconds", 10, 1..=60)
        .and_then(|s| Ok((s, number(uri, "frequency", 100, 1..=1000)?)));
    let (seconds, frequency) = match asked {
        Ok(asked) => asked,
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    match profile::cpu(Duration::from_secs(seconds.into()), frequency).await {
        Ok(body) => reply(StatusCode::OK, "application/octet-stream", body),
        Err(error @ profile::ProfileError::Busy) => {
            text(StatusCode::CONFLICT, format!("{error}\n"))
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

async fn held(uri: &Uri) -> Reply {
    match number(uri, "seconds", 10, 1..=600) {
        Ok(seconds) => match heap::profile(Duration::from_secs(seconds.into())).await {
            Ok(body) => reply(StatusCode::OK, "application/octet-stream", body),
            Err(error) => unsampled(&error),
        },
        Err(error) => text(StatusCode::BAD_REQUEST, error),
    }
}

fn sampling(uri: &Uri) -> Reply {
    let changed = match parameter(uri, "activate").as_deref() {
        Some("true") => heap::keep_sampling().map(|()| "allocations are sampled\n"),
        Some("false") => heap::stop_sampling().map(|()| "allocations are not sampled\n"),
        Some(_) | None => return text(StatusCode::BAD_REQUEST, "activate is not true or false\n"),
    };
    changed.map_or_else(|error| unsampled(&error), |said| text(StatusCode::OK, said))
}

fn unsampled(error: &heap::HeapError) -> Reply {
    let status = match error {
        heap::HeapError::Off => StatusCode::NOT_IMPLEMENTED,
        heap::HeapError::Busy => StatusCode::CONFLICT,
        heap::HeapError::Refused(_) | heap::HeapError::Dump(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    text(status, format!("{error}\n"))
}

fn number(
    uri: &Uri,
    name: &str,
    default: u32,
    range: std::ops::RangeInclusive<u32>,
) -> Result<u32, String> {
    let Some(text) = parameter(uri, name) else { return Ok(default) };
    let parsed = text.parse().ok().filter(|n| range.contains(n));
    let (low, high) = (range.start(), range.end());
    parsed.ok_or_else(|| {
        format!("{name} = `{}` is not a number of {low} to {high}\n", text.escape_debug())
    })
}

/// A parameter of the query, percent-decoded; without `=` it is empty.
fn parameter(uri: &Uri, name: &str) -> Option<String> {
    uri.query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| decoded(value))
    })
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = hex.and_then(|h| u8::from_str_radix(str::from_utf8(h).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = if byte.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
