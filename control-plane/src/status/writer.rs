//! Writes what differs, one object after another.

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use tokio::time::{self, Instant};

use super::{
    condition::{accepted, merged},
    events::Events,
    pace::{Due, Paces},
    server::{Answer, Server},
};
use crate::{Problem, clock, mesh::Known, objects::ObjectKey, written::conditions};

/// What changes together is written together.
const TOGETHER: Duration = Duration::from_millis(200);
/// Between two writes: at most 50 a second.
const BETWEEN: Duration = Duration::from_millis(20);
/// What the server does not take as it is, or is gone, is tried again.
const REFUSED: Duration = Duration::from_mins(5);

pub(super) struct Writer {
    known: Arc<Known>,
    server: Server,
    paces: Paces,
    events: Events,
}

/// What is left to do.
enum Left {
    Nothing,
    /// This object, then.
    Later(Instant),
    /// Everything, then.
    Pause(Instant),
}

impl Writer {
    pub(super) fn new(known: Arc<Known>, server: Server, replica: &str) -> Self {
        Self { known, server, paces: Paces::default(), events: Events::new(replica) }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        let mut changes = self.known.written().changes();
        loop {
            changes.mark_unchanged();
            let again = self.round().await.unwrap_or_else(|| clock::after(Duration::MAX));
            tokio::select! {
                // Biased by chance only: either is a reason to look.
                biased;
                Ok(()) = changes.changed() => {}
                () = time::sleep_until(again) => {}
            }
            time::sleep(TOGETHER).await;
        }
    }

    /// Looks at everything once. Returns when to look again though nothing changes.
    async fn round(&mut self) -> Option<Instant> {
        let objects = self.known.written().all_served();
        self.paces.keep(|key| objects.binary_search(key).is_ok());
        let mut again: Option<Instant> = None;
        for key in &objects {
            match self.object(key).await {
                Left::Nothing => {}
                Left::Later(at) => again = Some(again.map_or(at, |before| before.min(at))),
                Left::Pause(at) => return Some(at),
            }
        }
        let told = self.events.tell(&self.known, &mut self.server).await;
        [again, told].into_iter().flatten().min()
    }

    async fn object(&mut self, key: &ObjectKey) -> Left {
        // As it is at this moment: other objects may have taken their time.
        let Some(written) = self.known.written().served(key) else { return Left::Nothing };
        let (written, now) = (&*written, clock::instant());
        // Newer than the object at worst: then its version is, too, and the server refuses.
        let problems = self.known.problems();
        let asked = vec![accepted(of_object(&problems, key))];
        let time = timestamp();
        let Some(all) = merged(&written.conditions, &asked, written.generation, time) else {
            return Left::Nothing;
        };
        match self.paces.due(key, written, &asked, now) {
            Due::Now => {}
            Due::No => return Left::Nothing,
            Due::At(at) => return Left::Later(at),
        }
        match self.server.put_status(key, written, &all).await {
            Answer::Taken(object) => {
                self.paces.wrote(key, written, asked, &conditions(&object), now);
            }
            Answer::There | Answer::Stale => self.paces.stale(key, written, now),
            Answer::Refused => self.paces.refused(key, written, now, now + REFUSED),
            Answer::Forbidden(until) => return Left::Later(until),
            Answer::Busy(until) => return Left::Pause(until),
        }
        time::sleep(BETWEEN).await;
        Left::Nothing
    }
}

/// Of all problems, which are in the order of objects.
fn of_object<'a>(problems: &'a [Problem], key: &ObjectKey) -> &'a [Problem] {
    let before = |problem: &Problem| problem.object.as_ref() < Some(key);
    let upto = |problem: &Problem| problem.object.as_ref() <= Some(key);
    let (start, end) = (problems.partition_point(before), problems.partition_point(upto));
    problems.get(start..end).unwrap_or_default()
}

fn timestamp() -> Timestamp {
    let now = Timestamp::try_from(clock::now()).unwrap_or_default();
    // To the second, as everybody else.
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
