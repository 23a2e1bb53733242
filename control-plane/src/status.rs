//! What users are told of what they wrote: conditions in the status of their objects, and Events.
//!
//! ```text
//!   condition  what is said of an object, put among what others say
//!   said       what that means, to who reads it
//!   events     what a user must act on
//!   parts      how far objects have come at the nodes, each replica's part of it
//!   share      tells the other replicas how far the nodes are that are connected here
//!   pace       when an object may be written again
//!   server     one request to the API server, and what came of it
//!   writer     the holder of Lease `weft-status`: writes what differs
//! ```
//!
//! Invariants: nothing is written that is there already; of a status only the conditions that are ours are
//! changed, over the very state that was read; whatever the API server answers, nothing else stops for it.

use std::sync::Arc;

use anyhow::Result;

use crate::{
    credentials::{Keys, Task, holder},
    lease::{Lease, Pace, while_held},
    mesh::Known,
    metrics::Metrics,
    stop::Stop,
    streams::Streams,
    watch,
};

mod condition;
mod events;
mod pace;
mod parts;
mod said;
mod server;
mod share;
mod writer;

pub use said::{Said, said};
use server::Server;
use share::Share;
use writer::Writer;

/// The Lease of whoever writes statuses.
const DUTY: &str = "weft-status";

/// The work of a replica, which needs the mesh's namespace for its Lease: without one nobody writes.
pub(crate) async fn open(
    keys: &Keys,
    known: Arc<Known>,
    streams: Arc<Streams>,
    metrics: Arc<Metrics>,
    stop: &Stop,
) -> Result<Vec<(&'static str, Task)>> {
    let Keys::Cluster { access, accounts, .. } = keys else { return Ok(Vec::new()) };
    let client = watch::connect(access).await?;
    let replica = holder()?;
    let (lease, held) =
        Lease::new(client.clone(), &accounts.namespace, DUTY, &replica, Pace::default());
    let (mut write, mut compete, mut tell) = (stop.clone(), stop.clone(), stop.clone());
    let namespace = accounts.namespace.clone();
    let server = move || Server::new(client.clone(), &namespace, metrics.clone());
    let share = Share {
        known: known.clone(),
        streams: streams.clone(),
        server: server(),
        replica: replica.clone(),
    };
    let share = async move { share.run(tell.stopped()).await };
    let work = move || Writer::new(known.clone(), streams.clone(), server(), &replica).run();
    let write = async move {
        tokio::select! {
            // Biased: a stop must win.
            biased;
            () = write.stopped() => {}
            () = while_held(held, work) => {}
        }
    };
    let compete = async move { lease.run(compete.stopped()).await };
    Ok(vec![
        ("the writing of statuses", Box::pin(write)),
        ("the telling of nodes' progress", Box::pin(share)),
        ("the lease of statuses", Box::pin(compete)),
    ])
}
