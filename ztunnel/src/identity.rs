//! The identities of this node's workloads, each with a certificate that is good at this moment.
//!
//! ```text
//!   pods, connections --hold, svid--> Identities <--- slots, one watch each --- Renewer
//!                                                                             |  asks when `Renewal` says so
//!                                                        store (disk) <-------+-------> service (the CA)
//! ```
//!
//! What is decided (when to ask, how long to wait) is `weft_certs::Renewal`; this is its shell. A certificate
//! that is held is served until it expires, whatever becomes of the CA; then the identity fails closed.

mod ask;
mod counted;
mod error;
mod node;
mod renewer;
mod service;
mod store;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};
use weft_certs::{Bundle, Now, Priority, Released, Renewal, Svid};
use weft_model::Identity;

pub use ask::CaSettings;
pub use counted::Counted;
pub use error::{FetchError, IdentityError, NodeCertificateError, ServiceError, StoreError};
pub use node::{NodeCertificate, NodeRenewer};
pub use renewer::{CertificateSource, Renewer};
pub use service::CertificateService;
pub use store::Store;

/// Where certificates are kept, and by which clocks they live.
pub struct Options {
    /// Keys and chains on disk, so that a restart needs no CA. `None` forgets them with the process.
    pub store: Option<Store>,
    /// What certificates are dated by.
    pub clock: Arc<dyn TimeProvider>,
    /// How long a connection waits for the first certificate of its identity.
    pub wait: Duration,
    /// Numbers in 0..1, for jitter.
    pub draw: Box<dyn FnMut() -> f64 + Send>,
}

impl Options {
    /// The system's clock and randomness.
    pub fn new(store: Option<Store>, wait: Duration) -> Self {
        Self { store, clock: Arc::new(DefaultTimeProvider), wait, draw: Box::new(rand::random) }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("wait", &self.wait).finish_non_exhaustive()
    }
}

/// What there is for one identity. A certificate in it may have expired since it came.
#[derive(Debug, Clone)]
pub enum Slot {
    /// Asked for, nothing came yet.
    Pending,
    /// The newest certificate.
    Ready(Arc<Svid>),
    /// A certificate whose renewal fails. It is served until it expires.
    Overdue {
        /// The certificate.
        svid: Arc<Svid>,
        /// Why it is not renewed.
        failure: Failure,
    },
    /// None is held and the last request failed.
    Failed(Failure),
}

/// The last failure, and when the request is repeated.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Why.
    pub error: Arc<FetchError>,
    /// When it is tried again.
    pub retry_at: Instant,
}

impl Slot {
    /// The certificate, expired or not.
    pub fn svid(&self) -> Option<&Arc<Svid>> {
        match self {
            Self::Ready(svid) | Self::Overdue { svid, .. } => Some(svid),
            Self::Pending | Self::Failed(_) => None,
        }
    }

    /// Why the last request failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Overdue { failure, .. } | Self::Failed(failure) => Some(failure),
            Self::Pending | Self::Ready(_) => None,
        }
    }
}

/// A handle on all identities of the node. Cheap to clone, and good on any thread and runtime.
#[derive(Debug, Clone)]
pub struct Identities {
    shared: Arc<Shared>,
}

/// One local workload's claim on its identity. Dropping the last one forgets certificate and key.
#[derive(Debug)]
#[must_use = "the identity is forgotten when this is dropped"]
pub struct Hold {
    identity: Identity,
    /// For which pod, where that is known.
    pod: Option<Arc<str>>,
    shared: Arc<Shared>,
}

impl Identities {
    /// The handle, and the work behind it: somebody must own and run the [`Renewer`].
    ///
    /// Reads what the store holds, so it touches the disk.
    pub fn new<S: CertificateSource>(options: Options, source: S) -> (Self, Renewer<S>) {
        let Options { store, clock, wait, draw } = options;
        let wall = wall(&*clock);
        let restored = store.as_ref().map(|s| s.load(wall)).unwrap_or_default();
        let table = Table { restored, draw, ..Table::default() };
        let shared = Arc::new(Shared {
            table: Mutex::new(table),
            changed: Notify::new(),
            clock,
            started: Instant::now(),
            wait,
        });
        (Self { shared: shared.clone() }, Renewer::new(shared, store, source))
    }

    /// A local workload has this identity: fetch and renew its certificate until the [`Hold`] is dropped.
    pub fn hold(&self, identity: &Identity, priority: Priority) -> Hold {
        self.held(identity, priority, None)
    }

    /// [`Self::hold`], for the pod with this uid: the certificate service may ask whether it runs here.
    pub fn hold_for(&self, identity: &Identity, priority: Priority, pod: &Arc<str>) -> Hold {
        self.held(identity, priority, Some(pod.clone()))
    }

    fn held(&self, identity: &Identity, priority: Priority, pod: Option<Arc<str>>) -> Hold {
        let mut table = self.shared.table();
        table.renewal.hold(identity, priority);
        if let Some(pod) = &pod {
            table.pods.entry(identity.clone()).or_default().push(pod.clone());
        }
        table.slot(identity, self.shared.now().wall);
        drop(table);
        self.shared.changed.notify_one();
        Hold { identity: identity.clone(), pod, shared: self.shared.clone() }
    }

    /// All identities verify their peers against these roots from now on, also after a restart. One whose own
    /// certificate would not be accepted by them keeps its own roots until it is renewed.
    pub fn trust(&self, bundle: &Bundle) {
        let now = self.shared.now().wall;
        let held: Vec<(Identity, Arc<Svid>)> = {
            let mut table = self.shared.table();
            // First: what comes from now on is verified by it.
            table.trusted = Some(bundle.clone());
            table.all().filter(|(_, svid)| svid.bundle() != bundle).collect()
        };
        // Without the lock: connections look their certificates up under it.
        for (identity, svid) in held {
            let Some(newer) = trusting(&svid, bundle, now) else {
                tracing::warn!(%identity, "certificate is not good by the newest roots");
                continue;
            };
            self.shared.table().follow(&identity, &svid, newer);
        }
        self.shared.changed.notify_one();
    }

    /// Whether every certificate that is held verifies by these roots, and would after a restart.
    pub fn all_trust(&self, bundle: &Bundle) -> bool {
        let table = self.shared.table();
        let mut good = table.all().filter(|(_, svid)| self.shared.is_valid(svid));
        table.unsaved.is_empty() && good.all(|(_, svid)| svid.bundle() == bundle)
    }

    /// A certificate that is good at this moment; waits for the first one, at most [`Options::wait`].
    ///
    /// Cancel safe: dropping it leaves the request under way for the next caller.
    pub async fn svid(&self, identity: &Identity) -> Result<Arc<Svid>, IdentityError> {
        if let Some(svid) = self.current(identity) {
            return Ok(svid);
        }
        let mut slot = self.watch(identity);
        let deadline = Instant::now() + self.shared.wait;
        loop {
            let failure = {
                let slot = slot.borrow_and_update();
                if let Some(svid) = slot.svid().filter(|svid| self.shared.is_valid(svid)) {
                    return Ok(svid.clone());
                }
                slot.failure().cloned()
            };
            // The next attempt is after the deadline: waiting for it would only delay the refusal.
            if let Some(failure) = failure.as_ref().filter(|f| f.retry_at >= deadline) {
                return Err(unavailable(identity, failure));
            }
            match timeout_at(deadline, slot.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => {
                    return Err(IdentityError::Forgotten { identity: identity.clone() });
                }
                Err(_) => {
                    let (identity, waited) = (identity.clone(), self.shared.wait);
                    return Err(failure.map_or(
                        IdentityError::Timeout { identity: identity.clone(), waited },
                        |failure| unavailable(&identity, &failure),
                    ));
                }
            }
        }
    }

    /// The certificate that is held, if it is good at this moment. Never waits, asks for nothing.
    pub fn current(&self, identity: &Identity) -> Option<Arc<Svid>> {
        let table = self.shared.table();
        let slot = table.slots.get(identity)?.borrow();
        slot.svid().filter(|svid| self.shared.is_valid(svid)).cloned()
    }

    /// Asks for it, and tells of each change. The channel closes when the identity is forgotten.
    pub fn watch(&self, identity: &Identity) -> watch::Receiver<Slot> {
        let mut table = self.shared.table();
        table.renewal.want(identity, Priority::RealTime);
        let slot = table.slot(identity, self.shared.now().wall).subscribe();
        drop(table);
        self.shared.changed.notify_one();
        slot
    }

    /// All of them, ordered by name, as `/config_dump` shows them.
    pub fn all(&self) -> Vec<(Identity, Slot)> {
        let table = self.shared.table();
        let mut all: Vec<_> =
            table.slots.iter().map(|(id, slot)| (id.clone(), slot.borrow().clone())).collect();
        drop(table);
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut table = self.shared.table();
        if let Some(pod) = &self.pod {
            table.left(&self.identity, pod);
        }
        match table.renewal.release(&self.identity) {
            Released::StillHeld => {}
            Released::Forgotten => table.forget(&self.identity),
        }
        drop(table);
        self.shared.changed.notify_one();
    }
}

/// What handles and renewer share. The lock is held for look-ups only, never across an await.
struct Shared {
    table: Mutex<Table>,
    /// Rings when the renewal may have something to do.
    changed: Notify,
    clock: Arc<dyn TimeProvider>,
    started: Instant,
    wait: Duration,
}

struct Table {
    renewal: Renewal,
    slots: HashMap<Identity, watch::Sender<Slot>>,
    /// The uids of the pods that hold each.
    pods: HashMap<Identity, Vec<Arc<str>>>,
    /// From disk, until its identity is asked for.
    restored: HashMap<Identity, Arc<Svid>>,
    /// The newest roots, if anybody has told them.
    trusted: Option<Bundle>,
    /// Of which the disk does not have what is held, or has what is not: for the renewer.
    unsaved: BTreeSet<Identity>,
    draw: Box<dyn FnMut() -> f64 + Send>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            renewal: Renewal::default(),
            slots: HashMap::new(),
            pods: HashMap::new(),
            restored: HashMap::new(),
            trusted: None,
            unsaved: BTreeSet::new(),
            draw: Box::new(rand::random),
        }
    }
}

impl Table {
    /// The slot of an identity that the renewal knows; a new one starts with what came from disk.
    fn slot(&mut self, identity: &Identity, now: SystemTime) -> &watch::Sender<Slot> {
        let Self { renewal, slots, restored, trusted, draw, .. } = self;
        slots.entry(identity.clone()).or_insert_with(|| {
            let Some(svid) = restored.remove(identity) else {
                return watch::Sender::new(Slot::Pending);
            };
            renewal.restored(identity, svid.not_before(), svid.not_after(), draw());
            let newer = trusted.as_ref().and_then(|roots| trusting(&svid, roots, now));
            let svid = newer.unwrap_or(svid);
            watch::Sender::new(Slot::Ready(svid))
        })
    }

    /// Every certificate that is held, or was when the process before this one ended.
    fn all(&self) -> impl Iterator<Item = (Identity, Arc<Svid>)> {
        let slots = self.slots.iter();
        let held = slots.filter_map(|(id, slot)| Some((id.clone(), slot.borrow().svid()?.clone())));
        held.chain(self.restored.iter().map(|(id, svid)| (id.clone(), svid.clone())))
    }

    /// The same certificate with other roots takes the place of `before`, if that is still held.
    fn follow(&mut self, identity: &Identity, before: &Arc<Svid>, newer: Arc<Svid>) {
        let follow = |held: &mut Arc<Svid>| {
            let same = Arc::ptr_eq(held, before);
            if same {
                *held = newer;
            }
            same
        };
        let followed = match (self.slots.get(identity), self.restored.get_mut(identity)) {
            (Some(slot), _) => slot.send_if_modified(|slot| match slot {
                Slot::Ready(held) | Slot::Overdue { svid: held, .. } => follow(held),
                Slot::Pending | Slot::Failed(_) => false,
            }),
            (None, Some(held)) => follow(held),
            (None, None) => false,
        };
        if followed {
            self.unsaved.insert(identity.clone());
        }
    }

    fn pods_of(&self, identity: &Identity) -> Vec<Arc<str>> {
        self.pods.get(identity).cloned().unwrap_or_default()
    }

    fn left(&mut self, identity: &Identity, pod: &Arc<str>) {
        let Some(pods) = self.pods.get_mut(identity) else { return };
        // One of them: a pod that was made again under its uid holds it twice for a moment.
        if let Some(at) = pods.iter().position(|held| held == pod) {
            pods.swap_remove(at);
        }
        if pods.is_empty() {
            self.pods.remove(identity);
        }
    }

    fn forget(&mut self, identity: &Identity) {
        self.slots.remove(identity);
        self.unsaved.insert(identity.clone());
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves the table whole: each change to it is complete when its call returns.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        Now { wall: wall(&*self.clock), steady: self.started.elapsed() }
    }

    fn is_valid(&self, svid: &Svid) -> bool {
        wall(&*self.clock) <= svid.not_after()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("wait", &self.wait).finish_non_exhaustive()
    }
}

/// A clock that cannot be read counts as the end of time: nothing is valid then.
fn wall(clock: &dyn TimeProvider) -> SystemTime {
    let seconds = clock.current_time().map_or(u64::from(u32::MAX), |t| t.as_secs());
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// The same certificate, verifying others by these roots; none where it is not good by them itself.
fn trusting(svid: &Svid, bundle: &Bundle, now: SystemTime) -> Option<Arc<Svid>> {
    svid.trusting(bundle, now).ok().map(Arc::new)
}

/// What certificates of the node itself are dated by.
fn system_now() -> SystemTime {
    wall(&DefaultTimeProvider)
}

fn unavailable(identity: &Identity, failure: &Failure) -> IdentityError {
    IdentityError::Unavailable { identity: identity.clone(), source: failure.error.clone() }
}

#[cfg(test)]
mod tests;
