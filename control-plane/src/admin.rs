//! Pages for people and probes: readiness, metrics, problems, what is served.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};
use tracing::warn;
use weft_xds::codec::ResourceType;

use crate::{
    clock,
    config::{Config, Connected},
    mesh::Known,
    metrics::Metrics,
    stop::Stop,
    streams::Streams,
    trust::Trust,
    watch::Watches,
};

const CONNECTIONS_MAX: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Of a whole connection, however slowly it is read.
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the pages show.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    pub(crate) known: Arc<Known>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) streams: Arc<Streams>,
    /// Of an API server; empty when a folder is served.
    pub(crate) watches: Arc<Watches>,
    /// The CA, where a cluster keeps it.
    pub(crate) trust: Option<Arc<Trust>>,
}

pub(crate) async fn serve(listener: TcpListener, pages: Pages, mut stop: Stop) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Biased: a stop wins, and ended connections are reaped before more are taken.
            biased;
            () = stop.stopped() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, pages.clone()));
                }
                Err(error) => {
                    warn!(error = %error, "cannot accept");
                    time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn connection(stream: TcpStream, pages: Pages) {
    let service = service_fn(move |request: Request<Incoming>| {
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(pages.answer(request.method(), request.uri().path()).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    // How it ended concerns nobody but its client.
    time::timeout(CONNECTION_TIMEOUT, connection).await.ok();
}

impl Pages {
    async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if *method != Method::GET {
            return response(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".into());
        }
        match path {
            "/livez" => response(StatusCode::OK, "text/plain", "alive\n".into()),
            // Ready stays ready: who loses the API server goes on serving what it knows, and says how old it is.
            "/healthz/ready" | "/readyz" if self.known.is_complete() => {
                response(StatusCode::OK, "text/plain", "ready\n".into())
            }
            "/healthz/ready" | "/readyz" => response(
                StatusCode::SERVICE_UNAVAILABLE,
                "text/plain",
                format!("not everything is read yet: {}\n", self.watches.unread().join(", ")),
            ),
            "/metrics" => {
                response(StatusCode::OK, "text/plain; version=0.0.4", self.metrics_text())
            }
            "/ca" => page(&match &self.trust {
                Some(trust) => trust.status().await,
                None => Value::Null,
            }),
            "/problems" => page(&json!(*self.known.problems())),
            "/debug/config" => page(&json!(Config::of(&self.known.resources().borrow().clone()))),
            "/debug/nodes" => page(&json!(self.connected())),
            _ => response(StatusCode::NOT_FOUND, "text/plain", "no such page\n".into()),
        }
    }

    fn metrics_text(&self) -> String {
        let resources = self.known.resources();
        let resources = resources.borrow();
        let count = ResourceType::ALL.into_iter().map(|kind| resources.iter(kind).count()).sum();
        let text = self.metrics.text(count, self.known.problems().len());
        text + &self.watches.text(clock::instant())
    }

    fn connected(&self) -> Connected {
        // Before the nodes, so that none is behind what it could not have been sent yet.
        let generation = self.known.resources().borrow().generation();
        Connected { generation, nodes: self.streams.progress().applied() }
    }
}

fn page(value: &Value) -> Response<Full<Bytes>> {
    response(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
