//! What is known of this node's pods: what the API server says, where their namespaces are, what became of them.
//!
//! A plain value: others tell it what they learnt and ask it what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use kube::runtime::watcher::Event;
use weft_model::enrollment::{
    Candidate, Enrollment, PodLife, PodNetwork, Reason, Wish, enrollment,
};

use super::listed::Listed;
use super::objects::{Announced, End, Facts};
use crate::agent::wanted::{Out, Standing, Status, Wanted, WantedPod};
use crate::cni::protocol::{Attachment, PodName};
use crate::pod::PodUid;

#[cfg(test)]
mod tests;

/// A pod's sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sandbox {
    Up(Place),
    /// The runtime took it down. Another one may come.
    Down,
}

/// Where a pod's network namespace is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The sandbox's id, if a runtime told it.
    pub(super) container: Option<String>,
    pub(super) netns: PathBuf,
    pub(super) addresses: Vec<IpAddr>,
}

/// A change of a pod's announcement that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Announcement {
    pub(super) uid: PodUid,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) announced: Announced,
}

/// A change of a pod's condition that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) uid: PodUid,
    pub(super) namespace: String,
    pub(super) name: String,
    /// `None`: none any more.
    pub(super) trouble: Option<String>,
}

#[derive(Debug)]
pub(super) struct Cluster {
    namespaces: Listed<String, Wish>,
    pods: Listed<PodUid, Facts>,
    sandboxes: BTreeMap<PodUid, Sandbox>,
    states: BTreeMap<PodUid, Status>,
    /// Why pods that are to be captured are not, or not as they are to be.
    troubles: BTreeMap<PodUid, String>,
}

impl Cluster {
    pub(super) fn new() -> Self {
        Self {
            namespaces: Listed::new(),
            pods: Listed::new(),
            sandboxes: BTreeMap::new(),
            states: BTreeMap::new(),
            troubles: BTreeMap::new(),
        }
    }

    pub(super) fn namespace_event(&mut self, event: Event<(String, Wish)>) {
        self.namespaces.apply(event);
        self.tidy();
    }

    pub(super) fn pod_event(&mut self, event: Event<(PodUid, Facts)>) {
        for (uid, facts) in self.pods.apply(event) {
            // Deleted by force, its processes may still run: it stays captured as long as its sandbox is there.
            let is_up = matches!(self.sandboxes.get(&uid), Some(Sandbox::Up(_)));
            if is_up && is_wanted(&self.namespaces, &facts) {
                self.pods.keep(uid, Facts { end: End::Passed, ..facts });
            } else {
                self.drop_pod(&uid);
            }
        }
        self.tidy();
    }

    pub(super) fn learn_namespace(&mut self, name: &str, wish: Wish) {
        self.namespaces.learn(&name.to_owned(), &wish);
    }

    pub(super) fn learn_pod(&mut self, uid: &PodUid, facts: &Facts) {
        self.pods.learn(uid, facts);
    }

    fn drop_pod(&mut self, uid: &PodUid) {
        self.pods.remove(uid);
        self.sandboxes.remove(uid);
        self.troubles.remove(uid);
    }

    /// A pod that is not to be captured has no trouble.
    fn tidy(&mut self) {
        let Self { namespaces, pods, troubles, .. } = self;
        troubles.retain(|uid, _| pods.get(uid).is_some_and(|pod| is_wanted(namespaces, pod)));
    }

    /// The pod that a runtime means.
    pub(super) fn find(&self, pod: &PodName) -> Option<(&PodUid, &Facts)> {
        self.pods.iter().find(|(uid, facts)| facts.is_meant(uid, pod))
    }

    /// Whether a pod is to be captured. `None`: its namespace is not known yet, and would decide.
    pub(super) fn decide(&self, pod: &Facts) -> Option<Enrollment> {
        decide(&self.namespaces, pod)
    }

    /// Where the pod is, as far as nobody else has told meanwhile.
    pub(super) fn place(&mut self, uid: &PodUid, place: Place) {
        self.sandboxes.entry(uid.clone()).or_insert(Sandbox::Up(place));
    }

    pub(super) fn knows(&self, uid: &PodUid) -> bool {
        self.pods.get(uid).is_some()
    }

    pub(super) fn is_captured(&self, uid: &PodUid) -> bool {
        matches!(self.states.get(uid), Some(Status::Captured { .. } | Status::Ready { .. }))
    }

    /// A runtime says where it put the pod.
    pub(super) fn attach(&mut self, uid: &PodUid, place: Place) {
        self.sandboxes.insert(uid.clone(), Sandbox::Up(place));
    }

    /// A runtime takes a sandbox down. One that has been replaced meanwhile is nobody's.
    pub(super) fn detach(&mut self, pod: &PodName, gone: &Attachment) -> Option<PodUid> {
        let is_meant = |(uid, sandbox): &(&PodUid, &Sandbox)| {
            let Sandbox::Up(place) = sandbox else { return false };
            if let Some(container) = &place.container {
                return *container == gone.container;
            }
            let told = pod.uid.as_deref() == Some(uid.as_str());
            told && gone.netns.as_ref().is_none_or(|netns| *netns == place.netns)
        };
        let uid = self.sandboxes.iter().find(is_meant)?.0.clone();
        self.sandboxes.insert(uid.clone(), Sandbox::Down);
        self.bury(&uid);
        Some(uid)
    }

    /// What was said to be a pod's namespace is not.
    pub(super) fn misplaced(&mut self, uid: &PodUid) {
        self.sandboxes.remove(uid);
        self.bury(uid);
    }

    /// A pod that was only kept for its sandbox goes with it.
    fn bury(&mut self, uid: &PodUid) {
        if self.pods.get(uid).is_some_and(|facts| facts.end == End::Passed) {
            self.drop_pod(uid);
        }
    }

    /// What became of a pod.
    pub(super) fn say(&mut self, uid: &PodUid, status: Status) {
        match &status {
            Status::Failed { error } | Status::Kept { error } => {
                let error = error.clone().unwrap_or_default();
                self.troubles.insert(uid.clone(), error);
            }
            Status::Captured { .. } | Status::Ready { .. } | Status::Draining { .. } => {
                self.troubles.remove(uid);
            }
        }
        self.states.insert(uid.clone(), status);
    }

    pub(super) fn forget(&mut self, uid: &PodUid) {
        self.states.remove(uid);
    }

    pub(super) fn state(&self, uid: &PodUid) -> Option<&Status> {
        self.states.get(uid)
    }

    /// Its namespace cannot be found.
    pub(super) fn not_found(&mut self, uid: &PodUid, trouble: String) {
        if self.pods.get(uid).is_some() {
            self.troubles.insert(uid.clone(), trouble);
        }
    }

    /// Why pods that are to be captured are not, or not as they are to be.
    pub(super) fn troubles(&self) -> Vec<(PodUid, Facts, String)> {
        let with_facts = |(uid, trouble): (&PodUid, &String)| {
            Some((uid.clone(), self.pods.get(uid)?.clone(), trouble.clone()))
        };
        self.troubles.iter().filter_map(with_facts).collect()
    }

    /// The conditions that are not true, or that are missing.
    pub(super) fn complaints(&self) -> Vec<Complaint> {
        let due = |(uid, facts): (&PodUid, &Facts)| {
            let trouble = self.troubles.get(uid).cloned();
            let over =
                self.is_captured(uid) || matches!(self.decide(facts), Some(Enrollment::Out(_)));
            let is_due = facts.complaint != trouble && (trouble.is_some() || over);
            (is_due && facts.end == End::Unseen).then(|| Complaint {
                uid: uid.clone(),
                namespace: facts.namespace.clone(),
                name: facts.name.clone(),
                trouble,
            })
        };
        self.pods.iter().filter_map(due).collect()
    }

    /// The API server took a condition.
    pub(super) fn complained(&mut self, done: &Complaint) {
        if let Some(facts) = self.pods.get_mut(&done.uid) {
            facts.complaint.clone_from(&done.trouble);
        }
    }

    /// Pods that are to be captured and whose namespace nobody has told.
    pub(super) fn unplaced(&self) -> Vec<(PodUid, Facts)> {
        let is_unplaced = |(uid, facts): &(&PodUid, &Facts)| {
            is_wanted(&self.namespaces, facts)
                && !facts.addresses.is_empty()
                && !self.sandboxes.contains_key(*uid)
        };
        let owned = |(uid, facts): (&PodUid, &Facts)| (uid.clone(), facts.clone());
        self.pods.iter().filter(is_unplaced).map(owned).collect()
    }

    /// For the keeper.
    pub(super) fn wanted(&self) -> Wanted {
        let (mut pods, mut elsewhere, mut out) =
            (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        for (uid, facts) in self.pods.iter() {
            match (self.decide(facts), self.sandboxes.get(uid)) {
                (Some(Enrollment::Out(_)), _) | (_, Some(Sandbox::Down)) => {
                    out.insert(uid.clone());
                }
                (Some(Enrollment::Enrolled), Some(Sandbox::Up(place))) => {
                    pods.insert(uid.clone(), wanted_pod(facts, place));
                }
                (Some(Enrollment::Enrolled), None) | (None, _) => {
                    elsewhere.insert(uid.clone());
                }
            }
        }
        let whole = self.namespaces.is_complete() && self.pods.is_complete();
        let standing = if whole { Standing::Whole } else { Standing::Partial };
        Wanted { pods, elsewhere, out: Out::These(out), standing }
    }

    /// The announcements that are not true, or that are missing.
    pub(super) fn announcements(&self) -> Vec<Announcement> {
        let due = |(uid, facts): (&PodUid, &Facts)| {
            let announced = self.due(uid, facts)?;
            (facts.announced != announced).then(|| Announcement {
                uid: uid.clone(),
                namespace: facts.namespace.clone(),
                name: facts.name.clone(),
                announced,
            })
        };
        self.pods.iter().filter_map(due).collect()
    }

    /// `None`: as it is. What an earlier agent captured is captured, also before we took it up; and a pod stays
    /// announced while its proxy restarts or a change of it fails, since callers can wait, but must not call it in the
    /// clear.
    fn due(&self, uid: &PodUid, facts: &Facts) -> Option<Announced> {
        if facts.end == End::Passed || facts.life == PodLife::Finished {
            return None;
        }
        match (self.states.get(uid), self.decide(facts)?) {
            (Some(Status::Ready { .. }), Enrollment::Enrolled) => Some(Announced::Yes),
            // Let go by its labels, but not by the keeper yet.
            (Some(Status::Ready { .. }), Enrollment::Out(_))
            | (Some(Status::Captured { .. } | Status::Kept { .. }), _)
            | (None, Enrollment::Enrolled) => None,
            (Some(Status::Failed { .. } | Status::Draining { .. }), _)
            | (None, Enrollment::Out(_)) => Some(Announced::No),
        }
    }

    /// The API server took an announcement.
    pub(super) fn announced(&mut self, done: &Announcement) {
        if let Some(facts) = self.pods.get_mut(&done.uid) {
            facts.announced = done.announced;
        }
    }
}

fn decide(namespaces: &Listed<String, Wish>, pod: &Facts) -> Option<Enrollment> {
    if pod.end == End::Passed {
        // Kept as it was: captured.
        return Some(Enrollment::Enrolled);
    }
    let namespace = namespaces.get(&pod.namespace).copied();
    let answer = enrollment(Candidate {
        namespace: namespace.unwrap_or_default(),
        pod: pod.wish,
        network: pod.network,
        life: pod.life,
    });
    // Only that answer would be another one with the namespace's labels.
    (namespace.is_some() || answer != Enrollment::Out(Reason::NotAsked)).then_some(answer)
}

fn is_wanted(namespaces: &Listed<String, Wish>, pod: &Facts) -> bool {
    decide(namespaces, pod) == Some(Enrollment::Enrolled)
}

fn wanted_pod(facts: &Facts, place: &Place) -> WantedPod {
    debug_assert_ne!(facts.network, PodNetwork::Host, "a pod of the host is never enrolled");
    WantedPod {
        namespace: facts.namespace.clone(),
        name: facts.name.clone(),
        service_account: facts.service_account.clone(),
        netns: place.netns.clone(),
        dns: facts.dns,
        addresses: place.addresses.clone(),
    }
}
