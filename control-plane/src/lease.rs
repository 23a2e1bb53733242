//! Duties that one replica has at a time, each by a Lease of its own.
//!
//! ```text
//!             not held by anybody, or not renewed for `duration`
//!   waiting ---------------------------------------------------> holding
//!      ^                                                            |
//!      +-- not renewed for `renew_within`, taken by another, stop --+
//! ```
//!
//! Who cannot renew stops before anybody else may begin: its bound is shorter, and counts from before the
//! request. Whether another still holds a lease is judged by our own steady clock alone: clocks may differ.
//! Losing a lease stops its duty and nothing else.

use std::{future::Future, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease as Record, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tracing::{debug, info, warn};

use crate::{clock, escape::shown};

/// How fast leases change hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Without renewal for so long, another may take a lease. Whole seconds.
    pub duration: Duration,
    /// Without renewal for so long, a holder stops. Shorter than `duration`.
    pub renew_within: Duration,
    /// Between two attempts to renew or to take.
    pub attempt_every: Duration,
}

impl Default for Pace {
    /// As Kubernetes' own controllers have it.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_within: Duration::from_secs(10),
            attempt_every: Duration::from_secs(2),
        }
    }
}

/// Competes for one duty. See [`Lease::run`].
pub struct Lease {
    records: Api<Record>,
    /// The duty: the Lease object's name.
    name: String,
    /// This replica: another name at each start, so that an earlier life of it is somebody else.
    holder: String,
    pace: Pace,
    held: watch::Sender<bool>,
    /// The newest record that was seen, and when it was first seen as it is.
    seen: Option<(String, Instant)>,
}

/// Whether this replica has the duty.
#[derive(Debug, Clone)]
pub struct Held(watch::Receiver<bool>);

impl Held {
    /// At this moment.
    pub fn now(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when the duty is held; never, once nobody competes for it any more. Cancel safe.
    pub async fn gained(&mut self) {
        self.until(true).await;
    }

    /// Returns when the duty is not held. Cancel safe.
    pub async fn lost(&mut self) {
        // A sender that is gone has said that it holds nothing.
        self.0.wait_for(|held| !held).await.ok();
    }

    async fn until(&mut self, wanted: bool) {
        if self.0.wait_for(|held| *held == wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Works while the duty is held, each time anew: what is under way when it is lost is dropped.
pub async fn while_held<F: Future<Output = ()>>(mut held: Held, mut work: impl FnMut() -> F) {
    loop {
        held.gained().await;
        tokio::select! {
            // Biased: another may have the duty by now.
            biased;
            () = held.lost() => {}
            () = work() => held.lost().await,
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease")
            .field("name", &self.name)
            .field("holder", &self.holder)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("the API server gave no answer in time")]
    Late,
    #[error("the API server refused: {reason}")]
    Refused { reason: String },
}

/// What an attempt came to.
enum Attempt {
    Held,
    /// By another, or it was faster.
    Others,
}

impl Lease {
    /// The competition for a duty, and its standing. `holder` must be of this process alone.
    pub fn new(
        client: Client,
        namespace: &str,
        duty: &str,
        holder: &str,
        pace: Pace,
    ) -> (Self, Held) {
        let held = watch::Sender::new(false);
        let standing = Held(held.subscribe());
        let records = Api::namespaced(client, namespace);
        let (name, holder) = (duty.to_owned(), holder.to_owned());
        (Self { records, name, holder, pace, held, seen: None }, standing)
    }

    /// Competes until `stopped`, then gives the duty up.
    pub async fn run(mut self, stopped: impl Future<Output = ()>) {
        tokio::select! {
            // Biased: a stop must win.
            biased;
            () = stopped => {}
            () = self.compete() => {}
        }
        if self.held.send_replace(false) {
            self.give_up().await;
        }
    }

    async fn compete(&mut self) {
        loop {
            let asked = self.wait().await;
            info!(lease = self.name, holder = self.holder, "duty is ours");
            self.held.send_replace(true);
            let why = self.hold(asked).await;
            self.held.send_replace(false);
            warn!(lease = self.name, holder = self.holder, why, "duty is lost");
        }
    }

    /// Until the duty is ours; says when it was asked for.
    async fn wait(&mut self) -> Instant {
        loop {
            // From before the request: whoever sees it taken has seen it later.
            let asked = clock::instant();
            match self.attempt(self.pace.renew_within).await {
                Ok(Attempt::Held) => return asked,
                Ok(Attempt::Others) => {}
                Err(error) => debug!(lease = self.name, error = %error, "lease not taken"),
            }
            time::sleep(self.pace.attempt_every).await;
        }
    }

    /// Renews what was asked for at that time until that fails for too long; says why.
    async fn hold(&mut self, taken: Instant) -> &'static str {
        let mut good_until = taken + self.pace.renew_within;
        loop {
            time::sleep_until((clock::instant() + self.pace.attempt_every).min(good_until)).await;
            let asked = clock::instant();
            if asked >= good_until {
                return "it could not be renewed";
            }
            match self.attempt(good_until - asked).await {
                Ok(Attempt::Held) => good_until = asked + self.pace.renew_within,
                Ok(Attempt::Others) => return "another has it",
                Err(error) => warn!(lease = self.name, error = %error, "lease not renewed"),
            }
        }
    }

    async fn attempt(&mut self, within: Duration) -> Result<Attempt, LeaseError> {
        time::timeout(within, self.take()).await.map_err(|_| LeaseError::Late)?
    }

    /// Takes or renews the lease, if it is ours, free or given up by its holder.
    async fn take(&mut self) -> Result<Attempt, LeaseError> {
        let found = self.records.get_opt(&self.name).await.map_err(|error| refused(&error))?;
        let post = PostParams::default();
        let answer = match found {
            None => self.records.create(&post, &self.record(None)).await,
            Some(found) if self.may_take(&found) => {
                let record = self.record(Some(found));
                self.records.replace(&self.name, &post, &record).await
            }
            Some(_) => return Ok(Attempt::Others),
        };
        match answer {
            Ok(_) => Ok(Attempt::Held),
            // Another was faster. The next look tells who.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Attempt::Others),
            Err(error) => Err(refused(&error)),
        }
    }

    fn may_take(&mut self, found: &Record) -> bool {
        let holder = holder_of(found);
        if holder.is_empty() || holder == self.holder {
            return true;
        }
        let now = clock::instant();
        let version = found.metadata.resource_version.as_deref().unwrap_or_default();
        match &self.seen {
            Some((seen, since)) if seen == version => {
                // The longer of what it promises and what we would: replicas may be of two versions.
                let promised = found.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
                let promised = promised.and_then(|s| u64::try_from(s).ok()).unwrap_or_default();
                now - *since >= self.pace.duration.max(Duration::from_secs(promised))
            }
            _ => {
                self.seen = Some((version.to_owned(), now));
                false
            }
        }
    }

    /// The record that says that we hold it. Of what was found, the version is kept: the API server refuses
    /// ours if another has written since.
    fn record(&self, found: Option<Record>) -> Record {
        let now = MicroTime(timestamp());
        let fresh = || Record {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: None,
        };
        let mut record = found.unwrap_or_else(fresh);
        let before = record.spec.take().unwrap_or_default();
        let ours = before.holder_identity.as_deref() == Some(&self.holder);
        let transitions = before.lease_transitions.unwrap_or(0);
        let seconds = i32::try_from(self.pace.duration.as_secs()).unwrap_or(i32::MAX);
        record.spec = Some(LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: Some(seconds),
            acquire_time: before.acquire_time.filter(|_| ours).or_else(|| Some(now.clone())),
            lease_transitions: Some(if ours { transitions } else { transitions.saturating_add(1) }),
            renew_time: Some(now),
            ..before
        });
        record
    }

    /// So that the next need not wait. If it fails, it waits.
    async fn give_up(&self) {
        let given_up = async {
            let mut record = self.records.get(&self.name).await.map_err(|error| refused(&error))?;
            if holder_of(&record) != self.holder {
                return Ok(());
            }
            if let Some(spec) = &mut record.spec {
                spec.holder_identity = None;
            }
            let replaced = self.records.replace(&self.name, &PostParams::default(), &record).await;
            replaced.map(|_| ()).map_err(|error| refused(&error))
        };
        match time::timeout(self.pace.attempt_every, given_up).await {
            Ok(Ok(())) => info!(lease = self.name, "duty is given up"),
            Ok(Err(error)) => debug!(lease = self.name, error = %error, "lease not given up"),
            Err(_) => debug!(lease = self.name, "lease not given up in time"),
        }
    }
}

fn holder_of(record: &Record) -> &str {
    record.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

fn timestamp() -> Timestamp {
    Timestamp::try_from(clock::now()).unwrap_or_default()
}

fn refused(error: &kube::Error) -> LeaseError {
    LeaseError::Refused { reason: shown(&error.to_string()) }
}

#[cfg(test)]
mod tests;
