//! The pod's doors: accepts within the limits, and outlives the want of file descriptors.

use std::{cell::Cell, io, pin::pin, rc::Rc, time::Duration};

use tokio::time::timeout;
use ztunnel_core::Direction;

use crate::{
    inbound, outbound,
    pod::{Pod, Proof},
    socket::{Accepted, Listener, Sockets},
};

/// Which door a connection came in through.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Entrance {
    /// 15001: what the pod's processes open.
    Outbound,
    /// 15006: what others open to the pod in the clear.
    Plaintext,
    /// 15008: tunnels.
    Hbone,
}

const BACK_OFF_FIRST: Duration = Duration::from_millis(10);
const BACK_OFF_LAST: Duration = Duration::from_secs(1);
/// Callers cut at once when descriptors run out: enough to let the next accepts succeed.
const SHED: usize = 16;

/// A listener that was replaced gets no new connections once the agent knows that we have the new one. It knows
/// within milliseconds, unless it is killed just then: so long the old one stays open.
const BACKLOG_QUIET: Duration = Duration::from_secs(5);

/// Accepts until the node or the pod drains, or the listener was replaced and its backlog is served.
pub(super) async fn accept<S: Sockets>(pod: Rc<Pod<S>>, entrance: Entrance, listener: S::Listener) {
    let mut back_off = BACK_OFF_FIRST;
    let mut draining = pin!(pod.draining());
    let mut newest = pod.listeners.subscribe();
    loop {
        let accepted = tokio::select! {
            // Biased: once draining, no connection may be taken that the next proxy could serve.
            biased;
            () = &mut draining => return,
            accepted = next(&pod, &listener) => accepted,
            _ = newest.changed() => return serve_backlog(&pod, entrance, &listener).await,
        };
        match accepted {
            Ok((accepted, room)) => {
                back_off = BACK_OFF_FIRST;
                admit(&pod, entrance, accepted, room);
            }
            // One caller gave up while it waited; the next is not concerned.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                let shed = pod.shared.unproven.shed(SHED);
                // Once for each time that it gets worse, so that a storm does not fill the log.
                if back_off == BACK_OFF_FIRST {
                    tracing::warn!(pod = %pod.name, %error, shed, "cannot accept");
                }
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF_LAST);
            }
        }
    }
}

async fn serve_backlog<S: Sockets>(pod: &Rc<Pod<S>>, entrance: Entrance, listener: &S::Listener) {
    while let Ok(Ok((accepted, room))) = timeout(BACKLOG_QUIET, next(pod, listener)).await {
        admit(pod, entrance, accepted, room);
    }
}

/// The next connection, once there is room for it; until then it waits in the kernel's backlog.
async fn next<S: Sockets>(
    pod: &Rc<Pod<S>>,
    listener: &S::Listener,
) -> io::Result<(Accepted<S::Stream>, Room<S>)> {
    loop {
        pod.room().await;
        tokio::select! {
            // Biased: what came while memory ran out is to wait, however much of it is ready.
            biased;
            () = pod.short_of_memory() => {}
            accepted = listener.accept() => return Ok((accepted?, Room::take(pod))),
        }
    }
}

fn admit<S: Sockets>(
    pod: &Rc<Pod<S>>,
    entrance: Entrance,
    accepted: Accepted<S::Stream>,
    room: Room<S>,
) {
    let served = pod.clone();
    let open = pod.shared.outcomes.accepted(match entrance {
        Entrance::Outbound => Direction::Outbound,
        Entrance::Plaintext | Entrance::Hbone => Direction::Inbound,
    });
    match entrance {
        Entrance::Outbound => {
            pod.tasks.spawn(async move {
                outbound::serve(served, accepted).await;
                drop((room, open));
            });
        }
        Entrance::Plaintext => {
            pod.tasks.spawn(async move {
                inbound::serve_plain(served, accepted).await;
                drop((room, open));
            });
        }
        Entrance::Hbone => {
            let proof = Rc::new(Cell::new(Proof::Awaited));
            let given = proof.clone();
            let task = pod.tasks.spawn(async move {
                inbound::serve_tunnel(served, accepted, &given).await;
                // Whoever has left need not be shed either.
                given.set(Proof::Given);
                drop((room, open));
            });
            pod.shared.unproven.add(proof, task);
        }
    }
}

/// One connection's share of the limits.
struct Room<S> {
    pod: Rc<Pod<S>>,
}

impl<S> Room<S> {
    fn take(pod: &Rc<Pod<S>>) -> Self {
        pod.connections.set(pod.connections.get() + 1);
        pod.shared.connections.set(pod.shared.connections.get() + 1);
        Self { pod: pod.clone() }
    }
}

impl<S> Drop for Room<S> {
    fn drop(&mut self) {
        self.pod.connections.set(self.pod.connections.get() - 1);
        self.pod.shared.connections.set(self.pod.shared.connections.get() - 1);
        self.pod.shared.left.notify_waiters();
    }
}
