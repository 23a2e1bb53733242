//! What users are told of what they wrote: conditions in the status of their objects, and Events.
//!
//! ```text
//!   condition  what is said of an object, put among what others say
//!   events     what a user must act on
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
    watch,
};

mod condition;
mod events;
mod pace;
mod server;
mod writer;

use server::Server;
use writer::Writer;

/// The Lease of whoever writes statuses.
const DUTY: &str = "weft-status";

/// The work of a replica, which needs the mesh's namespace for its Lease: without one nobody writes.
pub(crate) async fn open(
    keys: &Keys,
    known: Arc<Known>,
    metrics: Arc<Metrics>,
    stop: &Stop,
) -> Result<Vec<(&'static str, Task)>> {
    let Keys::Cluster { access, accounts, .. } = keys else { return Ok(Vec::new()) };
    let client = watch::connect(access).await?;
    let replica = holder()?;
    let (lease, held) =
        Lease::new(client.clone(), &accounts.namespace, DUTY, &replica, Pace::default());
    let (mut write, mut compete) = (stop.clone(), stop.clone());
    let work = move || {
        let server = Server::new(client.clone(), metrics.clone());
        Writer::new(known.clone(), server, &replica).run()
    };
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
        ("the lease of statuses", Box::pin(compete)),
    ])
}
