//! What proxies are to be told: which pods there are, and which proxy is the newest.
//!
//! A pod that joins is told to the newest proxy only, since two must not accept for one pod; a pod that
//! leaves is told to all that know it. A proxy that becomes the newest because that one left is told of
//! the pods that it does not know. "That is all" is said only when it is, and to whom all was told: a proxy drops
//! whatever it was not told of. A proxy that drains is told of all pods, since it needs sockets, and is never the
//! newest.

use std::collections::{BTreeMap, HashMap};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::mpsc;
use weft_xds::zds::WorkloadInfo;

use crate::netns::Netns;
use crate::pod::PodUid;
use crate::sockets::Listener;

#[cfg(test)]
mod tests;

/// Orders that a proxy has not taken yet. One that lets so many pile up is cut off, and then told anew.
const ORDERS_MAX: usize = 8192;

/// What a proxy gets of a pod.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) uid: PodUid,
    pub(super) info: WorkloadInfo,
    pub(super) netns: Netns,
    pub(super) listeners: Vec<Listener>,
}

/// What one proxy is to be told next.
#[derive(Debug, Clone)]
pub(super) enum Order {
    Add(Arc<Offer>),
    Delete(PodUid),
    SnapshotSent,
}

/// What the keeper learns of proxies.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A proxy serves the pod.
    Confirmed(PodUid),
    /// A proxy cannot serve the pod.
    Declined(PodUid, String),
    /// A proxy said hello.
    Joined,
    /// No proxy is connected that serves.
    AllGone,
    /// Something about a pod's network changed.
    Touched(PodUid),
}

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProxyId(u64);

/// What a proxy is here for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bearing {
    /// It accepts for the pods that it is told of.
    Serving,
    /// It finishes its connections.
    Draining,
}

#[derive(Debug)]
struct Proxy {
    bearing: Bearing,
    orders: mpsc::Sender<Order>,
    /// The pods that it was told of, and with which listeners.
    told: HashMap<PodUid, Weak<Offer>>,
    snapshot: Snapshot,
}

/// Whether a proxy was told that it knows all pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Snapshot {
    Owed,
    Sent,
}

/// Whether the pods that are offered are all there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Extent {
    /// This agent has just begun: of others nobody knows yet.
    #[default]
    Growing,
    Whole,
}

/// The proxy's queue is full, or it went.
#[derive(Debug)]
struct CutOff;

impl Proxy {
    /// Nothing is lost when it is full: its end is then closed, and the proxy comes back for a snapshot.
    fn tell(&mut self, order: Order) -> Result<(), CutOff> {
        match &order {
            Order::Add(offer) => {
                self.told.insert(offer.uid.clone(), Arc::downgrade(offer));
            }
            Order::Delete(uid) => {
                self.told.remove(uid);
            }
            Order::SnapshotSent => self.snapshot = Snapshot::Sent,
        }
        self.orders.try_send(order).map_err(|_| CutOff)
    }

    /// Tells of the pods that it does not know, and that these are all, if they are.
    fn tell_all(
        &mut self,
        all: &BTreeMap<PodUid, Arc<Offer>>,
        extent: Extent,
    ) -> Result<(), CutOff> {
        for offer in all.values() {
            let told = self.told.get(&offer.uid);
            if !told.is_some_and(|told| ptr::eq(told.as_ptr(), Arc::as_ptr(offer))) {
                self.tell(Order::Add(Arc::clone(offer)))?;
            }
        }
        match (extent, self.snapshot) {
            (Extent::Whole, Snapshot::Owed) => self.tell(Order::SnapshotSent),
            (Extent::Whole, Snapshot::Sent) | (Extent::Growing, _) => Ok(()),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    offers: BTreeMap<PodUid, Arc<Offer>>,
    extent: Extent,
    /// In the order in which they came: the last that serves is the newest.
    proxies: BTreeMap<ProxyId, Proxy>,
    next: u64,
}

impl State {
    fn newest(&self) -> Option<ProxyId> {
        let serves = |(_, proxy): &(_, &Proxy)| proxy.bearing == Bearing::Serving;
        self.proxies.iter().rfind(serves).map(|(id, _)| *id)
    }

    /// Whoever is to know all is told what it does not know. The other proxies were not told of the pods that came
    /// after a newer one: they hear what they missed when they are the newest.
    fn tell(&mut self) {
        let newest = self.newest();
        let Self { offers, extent, proxies, .. } = self;
        proxies.retain(|id, proxy| {
            let is_to_know = Some(*id) == newest || proxy.bearing == Bearing::Draining;
            !is_to_know || proxy.tell_all(offers, *extent).is_ok()
        });
    }
}

/// Shared by the keeper and the proxies' connections.
#[derive(Debug, Clone)]
pub(super) struct Roster {
    state: Arc<Mutex<State>>,
    news: mpsc::Sender<News>,
}

impl Roster {
    pub(super) fn new(news: mpsc::Sender<News>) -> Self {
        Self { state: Arc::default(), news }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A proxy said hello: from here on it is the newest, if it serves, and it is told of all pods that are known.
    pub(super) fn join(&self, bearing: Bearing) -> (ProxyId, mpsc::Receiver<Order>) {
        let (orders, taken) = mpsc::channel(ORDERS_MAX);
        let mut state = self.state();
        let id = ProxyId(state.next);
        state.next += 1;
        let (told, snapshot) = (HashMap::new(), Snapshot::Owed);
        state.proxies.insert(id, Proxy { bearing, orders, told, snapshot });
        // More pods than orders: the proxy is closed at once, by its queue's end.
        state.tell();
        (id, taken)
    }

    /// A proxy hung up. The newest of the others hears what it does not know.
    pub(super) fn leave(&self, id: ProxyId) {
        let mut state = self.state();
        state.proxies.remove(&id);
        if state.newest().is_none() {
            drop(state);
            self.tell_keeper(News::AllGone);
            return;
        }
        state.tell();
    }

    /// All pods are offered that are to be: whoever waits to hear it hears it.
    pub(super) fn complete(&self) {
        let mut state = self.state();
        state.extent = Extent::Whole;
        state.tell();
    }

    /// A pod joined, or has new listeners.
    pub(super) fn add(&self, offer: Offer) {
        let mut state = self.state();
        state.offers.insert(offer.uid.clone(), Arc::new(offer));
        state.tell();
    }

    /// A pod left. Its listeners are closed when the last order that has them is done.
    pub(super) fn remove(&self, uid: &PodUid) {
        let mut state = self.state();
        state.offers.remove(uid);
        state.proxies.retain(|_, proxy| {
            !proxy.told.contains_key(uid) || proxy.tell(Order::Delete(uid.clone())).is_ok()
        });
    }

    /// A pod that is offered.
    pub(super) fn offer(&self, uid: &PodUid) -> Option<Arc<Offer>> {
        self.state().offers.get(uid).cloned()
    }

    /// Told or, when the keeper is far behind, lost: it looks at everything again at each tick.
    pub(super) fn tell_keeper(&self, news: News) {
        if let Err(error) = self.news.try_send(news) {
            tracing::warn!(%error, "news for the keeper was lost");
        }
    }
}
