//! What operators, Prometheus and the kubelet ask a running proxy.
//!
//! ```text
//!   127.0.0.1:15000  admin      /config_dump /config /logging /quitquitquit /debug/pprof/*
//!   [::]:15020       stats      /metrics /stats/prometheus
//!   [::]:15021       readiness  /healthz/ready
//! ```
//!
//! Runs beside the data path, never on it. Each address has a bounded number of connections, and each of those
//! a deadline. Invariants: nobody but the node itself reaches admin, not even through a browser or a proxy on
//! it; no private key is in any answer.

mod dump;
mod guard;
mod heap;
mod http;
mod profile;
mod routes;

use std::{fmt, io, net::SocketAddr, sync::Arc};

pub use dump::{PodState, PodStatus, dump};
use tokio::net::TcpListener;
use weft_model::dump::Dump;

use crate::{
    config::Listen,
    telemetry::{Logging, Telemetry},
};

/// What there is to show and to do.
#[derive(Clone)]
pub struct Service {
    /// From [`crate::config::Config::to_json`].
    pub config: serde_json::Value,
    /// Makes the whole of `/config_dump`: see [`dump`]. May take a while; called on a blocking thread.
    pub dump: Arc<dyn Fn() -> Dump + Send + Sync>,
    pub logging: Arc<Logging>,
    pub telemetry: Arc<Telemetry>,
    /// What readiness still waits for, by name. Empty: ready.
    pub pending: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Begins the same end as SIGTERM.
    pub stop: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("logging", &self.logging).finish_non_exhaustive()
    }
}

/// The three bound addresses.
#[derive(Debug)]
pub struct Listeners {
    pub admin: TcpListener,
    pub stats: TcpListener,
    pub readiness: TcpListener,
}

/// Why an address could not be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {field} = {address}")]
pub struct ListenError {
    field: &'static str,
    address: SocketAddr,
    source: io::Error,
}

impl Listeners {
    pub async fn bind(config: &Listen) -> Result<Self, ListenError> {
        Ok(Self {
            admin: bind("listen.admin", config.admin).await?,
            stats: bind("listen.stats", config.stats).await?,
            readiness: bind("listen.readiness", config.readiness).await?,
        })
    }
}

async fn bind(field: &'static str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    let first = TcpListener::bind(address).await;
    let bound = match first {
        // A machine without IPv6: its wildcard is IPv4's.
        Err(_) if address.ip().is_ipv6() && address.ip().is_unspecified() => {
            TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        done => done,
    };
    bound.map_err(|source| ListenError { field, address, source })
}

/// Serves all three until dropped, each with at most `connections_max` connections at once.
pub async fn serve(service: Service, listeners: Listeners, connections_max: usize) {
    let Listeners { admin, stats, readiness } = listeners;
    let service = Arc::new(service);
    let (for_stats, for_readiness) = (service.clone(), service.clone());
    tokio::join!(
        http::serve(admin, connections_max, move |request| {
            routes::admin(service.clone(), request)
        }),
        http::serve(stats, connections_max, move |request| {
            routes::stats(for_stats.clone(), request)
        }),
        http::serve(readiness, connections_max, move |request| {
            routes::readiness(for_readiness.clone(), request)
        }),
    );
}

#[cfg(test)]
mod tests;
