//! The work behind `Identities`: asks the source when the renewal says so, and reports what came of it.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::{error, info, warn};
use weft_certs::{KeyPair, Svid};
use weft_model::Identity;

use super::{Failure, FetchError, ServiceError, Shared, Slot, Store, trusting, wall};
use crate::causes::chain;

/// A request that takes longer has failed; the next may find another replica of the CA.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Without anything to do, the renewer looks again this often. Only a bound: changes wake it.
const IDLE: Duration = Duration::from_mins(1);

/// Who signs: a certificate service on the network, or an authority in memory.
pub trait CertificateSource: Send + Sync + 'static {
    /// Answers a request (CSR in PEM) with leaf, intermediates, and last the roots, each PEM. `pods` are the
    /// uids of the local pods that have the identity; none where it was asked for without one.
    fn sign(
        &self,
        identity: &Identity,
        pods: Vec<Arc<str>>,
        request: String,
    ) -> impl Future<Output = Result<Vec<String>, ServiceError>> + Send;
}

/// Owns all requests under way. See [`Renewer::run`].
pub struct Renewer<S> {
    shared: Arc<Shared>,
    store: Option<Store>,
    source: Arc<S>,
    requests: JoinSet<(Identity, Result<Svid, FetchError>)>,
}

impl<S> std::fmt::Debug for Renewer<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewer").field("requests", &self.requests.len()).finish_non_exhaustive()
    }
}

impl<S: CertificateSource> Renewer<S> {
    pub(super) fn new(shared: Arc<Shared>, store: Option<Store>, source: S) -> Self {
        Self { shared, store, source: Arc::new(source), requests: JoinSet::new() }
    }

    /// Works until it is dropped, which ends every request under way.
    pub async fn run(mut self) {
        loop {
            let wake_in = self.step();
            tokio::select! {
                // Biased: an answer frees a place and must be served before more is asked for.
                biased;
                Some(done) = self.requests.join_next() => match done {
                    Ok((identity, Ok(svid))) => self.fetched(&identity, svid),
                    Ok((identity, Err(error))) => self.failed(&identity, error),
                    // Requests are never aborted, so this is a panic: it belongs to whoever owns us.
                    Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
                },
                () = self.shared.changed.notified() => {}
                () = sleep(wake_in) => {}
            }
        }
    }

    /// Starts and forgets what is due; returns when to look again.
    fn step(&mut self) -> Duration {
        let step = {
            let mut table = self.shared.table();
            let step = table.renewal.next(self.shared.now());
            for identity in &step.forget {
                table.forget(identity);
            }
            step
        };
        self.save();
        for identity in step.ask {
            let (source, shared) = (self.source.clone(), self.shared.clone());
            self.requests.spawn(async move {
                let result = fetch(&*source, &shared, &identity).await;
                (identity, result)
            });
        }
        step.wake_in.unwrap_or(IDLE)
    }

    fn fetched(&mut self, identity: &Identity, svid: Svid) {
        let fetched = Arc::new(svid);
        let now = self.shared.now();
        let svid = loop {
            // It may have been signed before this node said that it trusts other roots: it follows them.
            let trusted = self.shared.table().trusted.clone();
            let newer = trusted.as_ref().filter(|roots| *roots != fetched.bundle());
            let newer = newer.and_then(|roots| trusting(&fetched, roots, now.wall));
            let svid = newer.unwrap_or_else(|| fetched.clone());
            let mut table = self.shared.table();
            if table.trusted != trusted {
                continue;
            }
            let draw = (table.draw)();
            table.renewal.fetched(identity, svid.not_after(), draw, now);
            // Forgotten while the request was under way: key and certificate end here.
            let Some(slot) = table.slots.get(identity) else { return };
            slot.send_replace(Slot::Ready(svid.clone()));
            table.unsaved.insert(identity.clone());
            break svid;
        };
        let life = svid.not_after().duration_since(now.wall).unwrap_or_default();
        info!(%identity, valid_for_s = life.as_secs(), "certificate fetched");
    }

    fn failed(&mut self, identity: &Identity, error: FetchError) {
        let now = self.shared.now();
        let mut table = self.shared.table();
        let draw = (table.draw)();
        let Some(retry_in) = table.renewal.failed(identity, draw, now) else { return };
        let Some(slot) = table.slots.get(identity) else { return };
        let held = slot.borrow().svid().filter(|svid| self.shared.is_valid(svid)).cloned();
        let (why, retry_in_ms) = (chain(&error), retry_in.as_millis());
        let failure = Failure { error: Arc::new(error), retry_at: Instant::now() + retry_in };
        slot.send_replace(if let Some(svid) = held {
            report_renewal(&svid, now.wall, &why, retry_in_ms);
            Slot::Overdue { svid, failure }
        } else {
            warn!(%identity, error = why, retry_in_ms, "no certificate");
            Slot::Failed(failure)
        });
    }

    /// Brings the disk up to date. Serving goes on without one: only the next restart then needs the CA, and the
    /// control plane is not told that this node trusts other roots, since after that it would not.
    fn save(&self) {
        let unsaved = std::mem::take(&mut self.shared.table().unsaved);
        let mut failed = None;
        for identity in unsaved {
            let saved = match (self.shared.kept(&identity), &self.store) {
                (Kept::Certificate(svid), Some(store)) => store.save(&svid),
                (Kept::None, store) => {
                    info!(%identity, "certificate forgotten: no local workload has this identity");
                    store.as_ref().map_or(Ok(()), |store| store.remove(&identity))
                }
                (Kept::Asking, _) | (Kept::Certificate(_), None) => Ok(()),
            };
            if let Err(error) = saved {
                failed = Some(error);
                self.shared.table().unsaved.insert(identity);
            }
        }
        if let Some(error) = failed {
            warn!(error = chain(&error), "certificates on disk are not up to date");
        }
    }
}

/// What should be on disk of an identity.
enum Kept {
    Certificate(Arc<Svid>),
    /// Back again, or never there: whatever is there may be good.
    Asking,
    None,
}

impl Shared {
    fn kept(&self, identity: &Identity) -> Kept {
        let table = self.table();
        match (table.slots.get(identity), table.restored.get(identity)) {
            (Some(slot), _) => {
                slot.borrow().svid().cloned().map_or(Kept::Asking, Kept::Certificate)
            }
            (None, Some(svid)) => Kept::Certificate(svid.clone()),
            (None, None) => Kept::None,
        }
    }
}

async fn fetch<S: CertificateSource>(
    source: &S,
    shared: &Shared,
    identity: &Identity,
) -> Result<Svid, FetchError> {
    let failed = |source| FetchError::Key { identity: identity.clone(), source };
    // A new key each time: a key that leaked is worth half a certificate's life.
    let key = KeyPair::generate().map_err(failed)?;
    let request = key.request(identity).map_err(failed)?;
    let pods = shared.table().pods_of(identity);
    let chain =
        timeout(REQUEST_TIMEOUT, source.sign(identity, pods, request)).await.map_err(|_| {
            FetchError::Timeout { identity: identity.clone(), after: REQUEST_TIMEOUT }
        })??;
    Svid::from_pem(identity, key, &chain, wall(&*shared.clock))
        .map_err(|source| FetchError::Answer { identity: identity.clone(), source })
}

/// A renewal that fails is tried again; in the last quarter of the life somebody should look.
fn report_renewal(svid: &Svid, now: std::time::SystemTime, why: &str, retry_in_ms: u128) {
    let identity = svid.identity();
    let life = svid.not_after().duration_since(svid.not_before()).unwrap_or_default();
    let left = svid.not_after().duration_since(now).unwrap_or_default();
    let valid_for_s = left.as_secs();
    if left < life / 4 {
        error!(%identity, error = why, retry_in_ms, valid_for_s, "certificate expires soon and is not renewed");
    } else {
        warn!(%identity, error = why, retry_in_ms, valid_for_s, "certificate is not renewed yet");
    }
}
