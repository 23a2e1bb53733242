//! Tells the other replicas how far the nodes are that are connected here.

use std::{sync::Arc, time::Duration};

use tokio::time::{self, Instant};

use super::{
    parts::Part,
    server::{Answer, Server},
};
use crate::{clock, mesh::Known, streams::Streams};

/// That this replica is there is said this often; news at once, but not more often than every second.
const BEAT: Duration = Duration::from_secs(10);
const BETWEEN: Duration = Duration::from_secs(1);
/// A replica that ends does not wait for longer to say so.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) struct Share {
    pub(super) known: Arc<Known>,
    pub(super) streams: Arc<Streams>,
    pub(super) server: Server,
    /// This replica's name.
    pub(super) replica: String,
}

/// When to say what is new, and when to say it though nothing is.
struct Next {
    news: Instant,
    beat: Instant,
}

impl Next {
    /// Though all the time there are news: a server in need is left alone.
    fn not_before(then: Instant) -> Self {
        Self { news: then, beat: then }
    }
}

impl Share {
    /// Tells until `stopped`.
    pub(super) async fn run(mut self, stopped: impl Future<Output = ()>) {
        tokio::select! {
            // Biased: a stop must win.
            biased;
            () = stopped => {}
            () = self.tell() => {}
        }
        // Or else its nodes would be waited for.
        time::timeout(FAREWELL, self.server.put_part(&self.replica, None)).await.ok();
    }

    async fn tell(&mut self) {
        let (mut objects, mut nodes) = (self.known.written().changes(), self.streams.changes());
        let mut last = Part::default();
        let now = clock::instant();
        let mut next = Next { news: now, beat: now };
        loop {
            objects.mark_unchanged();
            nodes.mark_unchanged();
            let mut part = Part::of(&self.known, &self.streams);
            part.beat = last.beat;
            let due = if part == last { next.beat } else { next.news };
            if clock::instant() >= due {
                next = self.put(part, &mut last).await;
            }
            tokio::select! {
                // Biased by chance only: each is a reason to look.
                biased;
                Ok(()) = objects.changed() => {}
                Ok(()) = nodes.changed() => {}
                () = time::sleep_until(next.beat) => {}
            }
            time::sleep(BETWEEN).await;
        }
    }

    async fn put(&mut self, mut part: Part, last: &mut Part) -> Next {
        part.beat += 1;
        let text = serde_json::to_string(&part).expect("a part has only texts as keys");
        match self.server.put_part(&self.replica, Some(&text)).await {
            Answer::Taken(_) | Answer::There => {
                *last = part;
                Next { news: clock::instant(), beat: clock::after(BEAT) }
            }
            Answer::Stale | Answer::Refused => Next::not_before(clock::after(BEAT)),
            Answer::Deferred(until) | Answer::Forbidden(until) | Answer::Busy(until) => {
                Next::not_before(until)
            }
        }
    }
}

#[cfg(test)]
mod tests;
