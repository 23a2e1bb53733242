//! The mesh's CA on Kubernetes: roots and issuing CA in Secrets, the roots for all to read in a ConfigMap.
//!
//! ```text
//!   weft-root-ca (Secret)     the root, and during a change the next or the one before     rotation, stored
//!   weft-issuing-ca (Secret)  what signs leaves; renewed at half its life
//!   weft-trust-bundle         what nodes trust, and the wish for another root (annotation)
//!   weft-node-trust           what nodes have said to trust                                  nodes
//!   ClusterTrustBundle        the roots once more, for pods of all namespaces                cluster_bundle
//!   any Secret                a CA that others keep                                          plugin
//! ```
//!
//! Every replica reads and signs; one at a time writes, and each write names the version that it replaces.
//! A root is made once. Where one is missing that was there, or another one is there, nobody signs by another
//! without being told to.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use serde_json::{Value, json};
use tokio::time;
use tracing::{debug, info, warn};
use weft_model::TrustDomain;

use crate::{
    causes::chain,
    clock,
    heard::Heard,
    metrics::{CaWork, Metrics},
    signing::{Signer, Signing, changing},
};

mod cluster_bundle;
mod error;
mod failing;
mod nodes;
mod place;
mod plugin;
mod published;
mod rotation;
mod status;
mod stored;

use cluster_bundle::ClusterBundle;
pub(crate) use error::TrustError;
use error::api_error;
use failing::Failing;
use nodes::Nodes;
use place::{MadeOf, Opened, Place};
use published::Published;
use rotation::{Census, Due, Roots};
use stored::{ISSUING, ROOT};

/// Also where nothing says that it has changed: whoever cannot look for long must not sign.
const LOOK_EVERY: Duration = Duration::from_mins(5);
/// Between two looks of the replica that writes.
const TEND_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at whether the whole cluster has the roots.
const SHARE_EVERY: Duration = Duration::from_secs(10);
/// Between two reports of a replica of what it heard, and two attempts to take up a CA that cannot be had.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// For each piece of work with the API server, which is some requests long.
const API_WITHIN: Duration = Duration::from_secs(15);

/// Whose CA signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaSource {
    /// Our own, made when the mesh is.
    Own,
    /// That of a Secret, which others keep: `cacerts` or one of cert-manager's.
    Secret(String),
}

/// What to do when the root is gone that nodes may trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostRoot {
    /// Refuse to start and say so.
    Refuse,
    /// Begin with another one. Every node must be given it.
    Replace,
}

/// The CA of a mesh on Kubernetes.
pub(crate) struct Trust {
    place: Place,
    source: CaSource,
    signer: Signer,
    in_force: Mutex<MadeOf>,
    nodes: Nodes,
    cluster_bundle: ClusterBundle,
    failing: Failing,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Where a change of our own roots is.
struct Change {
    secret: Secret,
    roots: Roots,
    census: Census,
    due: Due,
}

impl Trust {
    /// The CA that is kept, or the first one of the mesh. Errors: it cannot be had, or is not usable; then
    /// nothing may be signed.
    pub(crate) async fn open(
        client: Client,
        namespace: &str,
        domain: &TrustDomain,
        source: CaSource,
        lost: LostRoot,
        heard: Arc<Heard>,
        metrics: Arc<Metrics>,
    ) -> Result<(Arc<Self>, Signing), TrustError> {
        let secrets = Api::namespaced(client.clone(), namespace);
        let cluster_bundle = ClusterBundle::new(client.clone(), namespace);
        let place =
            Place { secrets, maps: Api::namespaced(client, namespace), domain: domain.clone() };
        let nodes = Nodes::new(place.maps.clone(), heard);
        let opened = within("open the CA", async {
            nodes.make().await.map_err(of_nodes)?;
            match &source {
                CaSource::Own => place.first(lost).await,
                CaSource::Secret(name) => first_of_others(&place, &nodes, name, lost).await,
            }
        });
        let Opened { authority, of } = opened.await?;
        let (signer, signing) = changing(authority);
        let (in_force, failing) = (Mutex::new(of), Failing::new(metrics));
        let trust = Self { place, source, signer, in_force, nodes, cluster_bundle, failing };
        Ok((Arc::new(trust), signing))
    }

    fn in_force(&self) -> MutexGuard<'_, MadeOf> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For people: what signs, where a change of roots is, and whom it waits for. Asked of the API server each
    /// time, so that every replica says the same; but for what fails in this one.
    pub(crate) async fn status(&self) -> Value {
        let asked = within("read the CA's state", async {
            match &self.source {
                CaSource::Own => {
                    let kept = self.place.kept().await?;
                    let change = self.change().await?;
                    status::own(&change, &change.roots.authority(&self.place.domain)?, &kept)
                }
                CaSource::Secret(name) => {
                    let (published, _) = self.place.published().await?;
                    let follows = self.of_others(name).await;
                    Ok(status::plugged_in(name, published.as_ref(), follows))
                }
            }
        });
        let mut told = asked.await.unwrap_or_else(|error| json!({ "error": chain(&error) }));
        if let Some(told) = told.as_object_mut() {
            told.insert("failing".to_owned(), self.failing.told());
        }
        told
    }

    /// Takes up what the Secrets hold whenever they change, and writes what nodes said. Never ends.
    pub(crate) async fn follow(&self) {
        let names = match &self.source {
            CaSource::Own => vec![ROOT, ISSUING],
            CaSource::Secret(name) => vec![name.as_str()],
        };
        let mut changes = stream::select_all(names.into_iter().map(|name| self.changes(name)));
        let mut every = time::interval(REPORT_EVERY);
        loop {
            tokio::select! {
                // Biased: another CA is rarer, and counts more.
                biased;
                Some(()) = changes.next() => self.reload().await,
                _ = every.tick() => {
                    // A change is told once, whatever came of it.
                    if self.failing.is(CaWork::Read) || self.signer.unseen() >= LOOK_EVERY {
                        self.reload().await;
                    }
                    let reported = within("write what nodes trust", self.report()).await;
                    self.failing.note(CaWork::Report, &reported);
                }
            }
        }
    }

    fn changes(&self, name: &str) -> impl Stream<Item = ()> + Unpin + Send + use<> {
        let changes = watch_object(self.place.secrets.clone(), name).default_backoff();
        Box::pin(changes.filter_map(async |found| match found {
            Ok(_) => Some(()),
            Err(error) => {
                debug!(error = %error, "the watch of a CA's Secret is broken");
                None
            }
        }))
    }

    async fn reload(&self) {
        let kept = within("read the CA", async {
            match &self.source {
                CaSource::Own => self.place.kept().await,
                CaSource::Secret(name) => self.of_others(name).await,
            }
        });
        let kept = kept.await;
        self.failing.note(CaWork::Read, &kept);
        match kept {
            Ok(Opened { authority, of }) => {
                let mut in_force = self.in_force();
                if in_force.is_same_ca(&of) {
                    self.signer.seen();
                } else {
                    self.signer.replace(authority);
                    info!("another CA is in force");
                }
                *in_force = of;
            }
            Err(TrustError::Api { .. } | TrustError::Late { .. }) => {}
            // It was looked at: the last good one stays.
            Err(_) => self.signer.seen(),
        }
    }

    async fn of_others(&self, name: &str) -> Result<Opened, TrustError> {
        let in_force = self.in_force().clone();
        of_others(&self.place, &self.nodes, name, Some(&in_force)).await
    }

    async fn report(&self) -> Result<(), TrustError> {
        self.nodes.write().await.map_err(of_nodes)
    }

    /// What one replica does: issues the issuing CA anew, changes roots step by step, publishes them. Never ends.
    pub(crate) async fn tend(&self) {
        // Side by side: whatever becomes of the second, the first goes on.
        tokio::join!(self.care(), self.share());
    }

    /// Gives the whole cluster the roots that are published.
    async fn share(&self) {
        let mut every = time::interval(SHARE_EVERY);
        loop {
            every.tick().await;
            let shared = within("give the cluster the roots", async {
                match self.place.published().await? {
                    (Some(published), _) => self.cluster_bundle.write(&published.roots).await,
                    (None, _) => Ok(()),
                }
            });
            self.failing.note(CaWork::Share, &shared.await);
        }
    }

    async fn care(&self) {
        let mut every = time::interval(TEND_EVERY);
        loop {
            every.tick().await;
            let tended = within("tend the CA", async {
                match &self.source {
                    CaSource::Own => self.tend_own().await,
                    CaSource::Secret(name) => self.tend_plugged_in(name).await,
                }
            });
            self.failing.note(CaWork::Tend, &tended.await);
        }
    }

    async fn tend_plugged_in(&self, name: &str) -> Result<(), TrustError> {
        let now = clock::now();
        self.nodes.make().await.map_err(of_nodes)?;
        self.report().await?;
        self.nodes.forget(now).await.map_err(of_nodes)?;
        if let (None, _) = self.place.published().await? {
            let in_force = self.in_force().clone();
            self.place.publish(&in_force.roots, &in_force.signers, now).await?;
        }
        let Opened { of, .. } = self.of_others(name).await?;
        self.place.publish(&of.roots, &of.signers, now).await
    }

    async fn tend_own(&self) -> Result<(), TrustError> {
        let (place, now) = (&self.place, clock::now());
        let (_, roots) = place.own_roots().await?;
        place.issuing(&roots, now).await?;
        place.publish_own(&roots, now).await?;
        self.nodes.make().await.map_err(of_nodes)?;
        self.report().await?;
        self.nodes.forget(now).await.map_err(of_nodes)?;
        let Change { secret, roots, due, .. } = self.change().await?;
        let next = match due {
            Due::Nothing | Due::Wait(_) => return Ok(()),
            Due::Grant => return place.granted().await,
            Due::Prepare => roots.prepared(&place.domain, now)?,
            Due::Activate => roots.activated(now),
            Due::Retire => roots.retired(now),
        };
        info!(stage = %status::stage(&next.stage), "the change of roots goes on");
        place.replace(ROOT, secret, stored::of_roots(&next)).await
    }

    async fn change(&self) -> Result<Change, TrustError> {
        let now = clock::now();
        let (secret, roots) = self.place.roots().await?;
        let wish = self.place.wish().await?;
        let made = secret.metadata.creation_timestamp.as_ref();
        let census = self.nodes.census(made, now).await.map_err(of_nodes)?;
        let due = roots.due(wish, &census, &roots.bundle()?.fingerprint(), now);
        Ok(Change { secret, roots, census, due })
    }
}

/// The CA of a Secret that others keep, if it may follow what is published, or is in force where nothing is.
async fn of_others(
    place: &Place,
    nodes: &Nodes,
    name: &str,
    in_force: Option<&MadeOf>,
) -> Result<Opened, TrustError> {
    let now = clock::now();
    let (published, made) = place.published().await?;
    let unpublished = || in_force.map(|of| Published::after(None, &of.roots, &of.signers, now));
    let before = published.or_else(unpublished);
    let opened = place.plugged_in(name, before.as_ref(), now).await?;
    if let Some(before) = before {
        let census = nodes.census(made.as_ref(), now).await.map_err(of_nodes)?;
        let follows = before.may_be_followed_by(&opened.of.roots, &opened.of.signers, &census, now);
        follows.map_err(|source| TrustError::NotYet { name: name.to_owned(), source })?;
    }
    Ok(opened)
}

/// At the start. What is there is published before anything is signed: the next CA is held against it.
async fn first_of_others(
    place: &Place,
    nodes: &Nodes,
    name: &str,
    lost: LostRoot,
) -> Result<Opened, TrustError> {
    let opened = match lost {
        LostRoot::Refuse => of_others(place, nodes, name, None).await?,
        LostRoot::Replace => {
            warn!(name, "this CA signs, as --reset-trust says: every node must be given its root");
            place.plugged_in(name, None, clock::now()).await?
        }
    };
    place.publish(&opened.of.roots, &opened.of.signers, clock::now()).await?;
    Ok(opened)
}

/// No work with the API server waits for ever: a lost connection must not be the end of all care.
async fn within<T>(
    doing: &'static str,
    work: impl Future<Output = Result<T, TrustError>>,
) -> Result<T, TrustError> {
    time::timeout(API_WITHIN, work).await.unwrap_or(Err(TrustError::Late { doing }))
}

fn of_nodes(source: kube::Error) -> TrustError {
    api_error("read or write", "what nodes trust", source)
}

#[cfg(test)]
mod tests;
