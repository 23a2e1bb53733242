//! Writes what differs, one object after another.

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use tokio::time::{self, Instant, MissedTickBehavior};
use tracing::info;

use super::{
    condition::{Condition, accepted, merged, not_served, programmed},
    events::Events,
    pace::{Due, Paces},
    parts::{self, Others},
    server::{Answer, Server},
};
use crate::{
    Problem, clock,
    mesh::Known,
    objects::ObjectKey,
    streams::{Progress, Streams},
    written::{Form, Served, conditions},
};

/// What changes together is written together.
const TOGETHER: Duration = Duration::from_millis(200);
/// Between two looks at what other replicas say.
const READ_EVERY: Duration = Duration::from_secs(2);
/// Before everything else is looked at again, however much there is to be written.
const ROUND: Duration = READ_EVERY;
/// Between two writes: at most 50 a second.
const BETWEEN: Duration = Duration::from_millis(20);
/// What the server does not take as it is, or is gone, is tried again.
const REFUSED: Duration = Duration::from_mins(5);

pub(super) struct Writer {
    known: Arc<Known>,
    streams: Arc<Streams>,
    /// Of the nodes that are connected here.
    progress: Progress,
    others: Others,
    /// Not before.
    read_after: Instant,
    /// This replica's name.
    replica: String,
    server: Server,
    paces: Paces,
    events: Events,
    /// The next round begins behind it, so that no object is tried so often that others never are.
    last: Option<ObjectKey>,
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
    pub(super) fn new(
        known: Arc<Known>,
        streams: Arc<Streams>,
        server: Server,
        replica: &str,
    ) -> Self {
        Self {
            known,
            streams,
            progress: Progress::default(),
            others: Others::default(),
            read_after: clock::instant(),
            replica: replica.to_owned(),
            server,
            paces: Paces::default(),
            events: Events::new(replica),
            last: None,
        }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        let (mut objects, mut nodes) = (self.known.written().changes(), self.streams.changes());
        let mut read = time::interval(READ_EVERY);
        read.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            objects.mark_unchanged();
            nodes.mark_unchanged();
            let again = self.round().await.unwrap_or_else(|| clock::after(Duration::MAX));
            tokio::select! {
                // Biased: others are read again, whatever goes on here.
                biased;
                _ = read.tick() => self.read().await,
                Ok(()) = objects.changed() => {}
                Ok(()) = nodes.changed() => {}
                () = time::sleep_until(again) => {}
            }
            time::sleep(TOGETHER).await;
        }
    }

    /// What the other replicas say of their nodes. One that is gone is forgotten.
    async fn read(&mut self) {
        let Some(parts) = self.server.parts().await else {
            self.read_after = clock::after(READ_EVERY);
            return;
        };
        for gone in self.others.read(&self.replica, parts, clock::instant()) {
            info!(replica = gone, "a replica is gone");
            self.server.put_part(&gone, None).await;
        }
    }

    /// Looks at everything once, or at as much as there is time for. Returns when to look again though nothing
    /// changes.
    async fn round(&mut self) -> Option<Instant> {
        let objects = self.known.written().all_served();
        // A node that has come to another replica before an object was written counts.
        let news = objects.iter().any(|(_, served)| !self.others.covers(served.at));
        if news && clock::instant() >= self.read_after {
            self.read().await;
        }
        self.progress = self.streams.progress();
        self.paces.keep(|key| objects.binary_search_by(|(there, _)| there.cmp(key)).is_ok());
        let again = match self.objects(&objects).await {
            Left::Nothing => None,
            Left::Later(at) => Some(at),
            Left::Pause(at) => return Some(at),
        };
        let told = self.events.tell(&self.known, &mut self.server).await;
        [again, told].into_iter().flatten().min()
    }

    /// From where it ended last. What others say of their nodes is read anew before it is too old.
    async fn objects(&mut self, objects: &[(ObjectKey, Served)]) -> Left {
        let after = |last: &ObjectKey| objects.partition_point(|(key, _)| key <= last);
        let start = self.last.as_ref().map_or(0, after);
        let (before, behind) = objects.split_at_checked(start).unwrap_or((objects, &[]));
        let end = clock::after(ROUND);
        let mut again: Option<Instant> = None;
        for (key, _) in behind.iter().chain(before) {
            match self.object(key).await {
                Left::Nothing => {}
                Left::Later(at) => again = Some(again.map_or(at, |before| before.min(at))),
                Left::Pause(at) => {
                    self.last = Some(key.clone());
                    return Left::Pause(at);
                }
            }
            if clock::instant() >= end {
                self.last = Some(key.clone());
                return Left::Later(clock::instant());
            }
        }
        again.map_or(Left::Nothing, Left::Later)
    }

    async fn object(&mut self, key: &ObjectKey) -> Left {
        // As it is at this moment: other objects may have taken their time.
        let Some(served) = self.known.written().served(key) else { return Left::Nothing };
        let (written, now) = (&*served.written, clock::instant());
        // Newer than the object at worst: then its version is, too, and the server refuses.
        let problems = self.known.problems();
        let mut asked = vec![accepted(of_object(&problems, key))];
        asked.extend(self.programmed(key, &served, now));
        let time = timestamp();
        let has_reached_all = asked.iter().any(Condition::is_programmed);
        let Some(all) = merged(&written.conditions, &asked, written.generation, time) else {
            if has_reached_all {
                self.known.written().has_reached_all(key, written);
            }
            return Left::Nothing;
        };
        match self.paces.due(key, written, &asked, now) {
            Due::Now => {}
            Due::No => return Left::Nothing,
            Due::At(at) => return Left::Later(at),
        }
        if let Some(until) = self.server.forbidden(written.plural) {
            return Left::Later(until);
        }
        match self.server.put_status(key, written, &all).await {
            Answer::Taken(object) => {
                if has_reached_all {
                    self.known.written().has_reached_all(key, written);
                }
                self.paces.wrote(key, written, asked, &conditions(&object), now);
            }
            Answer::There | Answer::Stale => self.paces.stale(key, written, now),
            Answer::Refused => self.paces.refused(key, written, now, now + REFUSED),
            Answer::Deferred(until) => {
                self.paces.refused(key, written, now, until);
                return Left::Later(until);
            }
            Answer::Forbidden(until) => {
                // Another one is tried first, then.
                self.last = Some(key.clone());
                return Left::Later(until);
            }
            Answer::Busy(until) => return Left::Pause(until),
        }
        time::sleep(BETWEEN).await;
        self.progress = self.streams.progress();
        Left::Nothing
    }
}

impl Writer {
    /// `None` when nothing is to be said of it now.
    fn programmed(&self, key: &ObjectKey, served: &Served, now: Instant) -> Option<Condition> {
        match served.written.form {
            Form::Unreadable => Some(not_served()),
            Form::Read => {
                let own = parts::own(&self.known, &self.progress, key, served);
                let nodes = self.progress.nodes();
                self.others.with(own, nodes, served, now).as_ref().map(programmed)
            }
        }
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

#[cfg(test)]
mod tests;
