//! A small HTTP/1 server that nobody can keep busy: bounded connections, each with deadlines.

use std::{convert::Infallible, future::Future, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};

/// For a request's head, and between two requests of one connection.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// For everything on one connection: a reader that does not read gives its place up.
const CONNECTION_WITHIN: Duration = Duration::from_mins(2);
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
/// After an accept that failed for want of descriptors: they come back when something else ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(super) type Reply = Response<Full<Bytes>>;

/// Serves `listener` until dropped. Connections beyond `connections_max` wait in the backlog.
pub(super) async fn serve<A, F>(listener: TcpListener, connections_max: usize, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < connections_max;
        tokio::select! {
            // Biased: a connection that ended makes room for the next.
            biased;
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if room => match accepted {
                Ok((stream, _)) => {
                    let answer = answer.clone();
                    connections.spawn(async move {
                        let service = service_fn(move |request| {
                            let answer = answer(request);
                            async move { Ok::<_, Infallible>(answer.await) }
                        });
                        let connection = http1::Builder::new()
                            .timer(TokioTimer::new())
                            .header_read_timeout(HEAD_WITHIN)
                            .max_buf_size(HEAD_BYTES_MAX)
                            .max_headers(HEADERS_MAX)
                            .serve_connection(TokioIo::new(stream), service);
                        // How a client breaks its own connection concerns nobody else.
                        let _ = timeout(CONNECTION_WITHIN, connection).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// An answer that no cache keeps and no browser runs or guesses the type of.
pub(super) fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
    ] {
        reply.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    reply
}

pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Reply {
    reply(status, "text/plain; charset=utf-8", body.into())
}
