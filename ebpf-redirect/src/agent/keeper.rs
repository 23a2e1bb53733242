//! The owner of the node and its pods: enrolls, repairs, releases, and says what became of each.

mod left;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::capture::{Watches, capture, watch};
use super::chain;
use super::inheritance::Inheritance;
use super::roster::{News, Roster};
use super::source::Source;
use super::unseen::Unseen;
use super::wanted::{Ask, Claim, Standing, Status, WantedPod};
use crate::netns::{Netns, Verdict};
use crate::node::Node;
use crate::pod::{Capture, Drained, Draining, Pod, PodError, PodUid};
use left::Pins;

/// How often guards are read, lost namespaces noticed, draining pods asked.
const TICK: Duration = Duration::from_millis(200);
/// A pod whose enrolment failed is tried again after this, then after twice as long, and so on.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What the keeper holds of one pod.
#[derive(Debug)]
enum Held {
    /// Captured.
    Enrolled { wanted: WantedPod, pod: Box<Pod>, watch: AbortHandle },
    /// To be captured, but that failed.
    Failed { wanted: WantedPod, again: Instant, delay: Duration },
    /// Released; its captured connections run on.
    Draining(Option<Box<Draining>>),
}

#[derive(Debug)]
pub(super) struct Keeper {
    node: Node,
    source: Source,
    roster: Roster,
    news: mpsc::Sender<News>,
    pods: BTreeMap<PodUid, Held>,
    watches: Watches,
    /// Pods whose network changed since the last repair.
    touched: HashSet<PodUid>,
    inheritance: Inheritance,
    pins: Pins,
    /// Captured by an earlier agent and deleted by force since: closed as long as their namespaces are there. Each is
    /// looked for once, which may take a search of all processes, and then held.
    deleted: BTreeMap<PodUid, Option<Netns>>,
    unseen: Unseen,
}

impl Keeper {
    pub(super) fn new(
        node: Node,
        source: Source,
        roster: Roster,
        news: mpsc::Sender<News>,
    ) -> Self {
        Self {
            node,
            source,
            roster,
            news,
            pods: BTreeMap::new(),
            watches: Watches::default(),
            touched: HashSet::new(),
            inheritance: Inheritance::Unknown,
            pins: Pins::Listed,
            deleted: BTreeMap::new(),
            unseen: Unseen::default(),
        }
    }

    /// Keeps pods as their source says, for ever.
    pub(super) async fn keep(
        &mut self,
        mut news: mpsc::Receiver<News>,
        mut asks: mpsc::Receiver<Ask>,
    ) {
        self.follow().await;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Biased: a change of network may be a hole in the capture; the tick finds the rest.
            tokio::select! {
                biased;
                Some(news) = news.recv() => self.hear(news),
                Some(ask) = asks.recv() => self.settle(ask).await,
                changed = self.source.changed() => match changed {
                    Ok(()) => self.follow().await,
                    Err(error) => error!(%error, "the pods folder cannot be watched"),
                },
                _ = tick.tick() => {
                    self.look_around();
                    if self.pins == Pins::Unseen {
                        self.follow().await;
                    }
                }
            }
        }
    }

    /// Proxies may be told that they know all, once we do.
    fn conclude(&mut self) {
        let is_taken_up = |uid: &PodUid| matches!(self.pods.get(uid), Some(Held::Enrolled { .. }));
        let Some(missing) = self.inheritance.settle(is_taken_up, Instant::now()) else { return };
        for uid in missing {
            error!(pod = %uid, "the pod is captured and cannot be served: it is closed");
        }
        self.roster.complete();
    }

    async fn follow(&mut self) {
        let wanted = match self.source.read() {
            Ok(wanted) => wanted,
            Err(error) => {
                error!(%error, "the pods folder cannot be read");
                return;
            }
        };
        let unwanted: Vec<PodUid> = self
            .pods
            .iter()
            .filter(|(uid, held)| match held {
                // Nobody knows where it is by this time: it stays captured where we have it.
                Held::Enrolled { .. } | Held::Failed { .. } => wanted.claim(uid) != Claim::Wanted,
                Held::Draining(_) => false,
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in unwanted {
            self.release(&uid);
        }
        for uid in &wanted.elsewhere {
            // Where it was said to be it is not: it is not tried there again.
            if let Some(Held::Failed { .. }) = self.pods.get(uid) {
                self.pods.remove(uid);
                self.forget(uid);
            }
        }
        if wanted.standing == Standing::Whole {
            self.inherit(&wanted);
        }
        for (uid, wanted) in wanted.pods {
            match self.pods.get(&uid) {
                Some(Held::Enrolled { wanted: held, .. } | Held::Failed { wanted: held, .. })
                    if *held == wanted => {}
                // Whatever is there of it already is taken over: changed, or wanted again, it is never open.
                Some(Held::Enrolled { .. } | Held::Failed { .. } | Held::Draining(_)) | None => {
                    self.enroll(&uid, wanted, RETRY);
                    // Proxies are served between two of many pods.
                    yield_now().await;
                }
            }
        }
        self.conclude();
    }

    async fn settle(&mut self, ask: Ask) {
        self.follow().await;
        if let Some(Held::Failed { wanted, delay, .. }) = self.pods.get(&ask.uid) {
            let (wanted, delay) = (wanted.clone(), *delay);
            self.enroll(&ask.uid, wanted, delay);
        }
        // Whoever asked may have given up.
        let _ = ask.done.send(());
    }

    /// `delay`: how long to wait before the next attempt, should this one fail.
    fn enroll(&mut self, uid: &PodUid, wanted: WantedPod, delay: Duration) {
        let started = Instant::now();
        let before = self.roster.offer(uid);
        match capture(&mut self.node, uid, &wanted, before.as_deref()) {
            Ok((pod, offer)) => {
                let watch = self.watches.begin(watch(&pod, self.news.clone()));
                info!(
                    pod = %uid, netns = %wanted.netns.display(), cookie = pod.netns().cookie(),
                    duration_us = started.elapsed().as_micros(), "enrolled"
                );
                self.hold(uid, Held::Enrolled { wanted, pod: Box::new(pod), watch });
                self.say(uid, &Status::Captured { error: None });
                self.roster.add(offer);
            }
            Err(error) => {
                let misplaced =
                    matches!(error, PodError::Stranger { .. }) || error.verdict() == Verdict::Gone;
                let error = chain(&error);
                let known = matches!(self.pods.get(uid), Some(Held::Failed { .. }));
                if !known {
                    error!(pod = %uid, error, "enrolment failed, trying again");
                }
                self.fail(uid, wanted, delay);
                let status = self.trouble(uid, error);
                if let Status::Failed { .. } = status {
                    // A proxy must not go on accepting where the pod was.
                    self.roster.remove(uid);
                }
                self.say(uid, &status);
                if misplaced {
                    self.source.misplaced(uid);
                }
            }
        }
    }

    fn fail(&mut self, uid: &PodUid, wanted: WantedPod, delay: Duration) {
        let again = Instant::now() + delay;
        let delay = (delay * 2).min(RETRY_MAX);
        self.hold(uid, Held::Failed { wanted, again, delay });
    }

    /// Why the pod is not as it is to be, and whether it is captured all the same.
    fn trouble(&self, uid: &PodUid, error: String) -> Status {
        let error = Some(error);
        match Draining::capture(&self.node, uid) {
            Ok(Capture::None) => Status::Failed { error },
            // What cannot be told is as it was.
            Ok(Capture::Stands) | Err(_) => Status::Kept { error },
        }
    }

    fn hold(&mut self, uid: &PodUid, held: Held) {
        if let Some(Held::Enrolled { watch, .. }) = self.pods.insert(uid.clone(), held) {
            watch.abort();
        }
    }

    fn release(&mut self, uid: &PodUid) {
        let Some(held) = self.pods.remove(uid) else { return };
        match held {
            Held::Enrolled { pod, watch, .. } => {
                watch.abort();
                let unenrolled = pod.unenroll(&mut self.node);
                // Not before: a proxy that has let go accepts nothing that is still captured.
                self.roster.remove(uid);
                match unenrolled {
                    Ok(draining) => self.drain(uid.clone(), draining),
                    Err(error) => {
                        // Its pins are found again when we next look, or by `cleanup`.
                        error!(pod = %uid, error = chain(&error), "un-enrolment failed");
                        self.say(uid, &Status::Draining { error: Some(chain(&error)) });
                    }
                }
            }
            Held::Failed { .. } => self.resume(uid),
            Held::Draining(draining) => {
                self.pods.insert(uid.clone(), Held::Draining(draining));
            }
        }
    }

    fn drain(&mut self, uid: PodUid, draining: Draining) {
        match draining.finish(&mut self.node) {
            Ok(Drained::Completely) => {
                info!(pod = %uid, "un-enrolled");
                self.pods.remove(&uid);
                self.forget(&uid);
            }
            Ok(Drained::Not { pod, connections }) => {
                if !matches!(self.pods.get(&uid), Some(Held::Draining(_))) {
                    info!(pod = %uid, connections, "un-enrolled; captured connections run on");
                    self.say(&uid, &Status::Draining { error: None });
                }
                self.pods.insert(uid, Held::Draining(Some(Box::new(pod))));
            }
            Err(error) => {
                error!(pod = %uid, error = chain(&error), "a released pod cannot be cleaned");
                self.pods.remove(&uid);
                self.say(&uid, &Status::Draining { error: Some(chain(&error)) });
            }
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Touched(uid) => self.repair(&uid),
            News::Confirmed(uid) => self.hand_over(&uid),
            News::Declined(uid, error) => {
                warn!(pod = %uid, error, "the proxy cannot serve the pod yet");
                self.say(&uid, &Status::Captured { error: Some(error) });
            }
            // Its cgroup may have been made after we looked.
            News::Joined => {
                if let Err(error) = self.node.exempt_proxies() {
                    warn!(error = chain(&error), "the proxy's cgroups cannot be exempted");
                }
            }
            News::AllGone => {
                warn!("no proxy serves; captured connections wait");
                self.fill_listeners();
                let enrolled = |(uid, held): (&PodUid, &Held)| {
                    matches!(held, Held::Enrolled { .. }).then(|| uid.clone())
                };
                for uid in self.pods.iter().filter_map(enrolled).collect::<Vec<_>>() {
                    self.say(&uid, &Status::Captured { error: None });
                }
            }
        }
    }

    /// A proxy accepts on the pod's listeners.
    fn hand_over(&mut self, uid: &PodUid) {
        let Some(Held::Enrolled { pod, .. }) = self.pods.get_mut(uid) else { return };
        let Some(offer) = self.roster.offer(uid) else { return };
        match pod.hand_over(&offer.listeners) {
            Ok(()) => self.say(uid, &Status::Ready { error: None }),
            Err(error) => {
                let error = chain(&error);
                error!(pod = %uid, error, "the pod's listeners cannot be handed over");
                self.say(uid, &Status::Captured { error: Some(error) });
            }
        }
    }

    /// Listeners that an earlier agent opened go with the proxy that held them.
    fn fill_listeners(&mut self) {
        for (uid, held) in &mut self.pods {
            if let Held::Enrolled { pod, .. } = held
                && let Some(offer) = self.roster.offer(uid)
                && let Err(error) = pod.fill(&offer.listeners)
            {
                error!(pod = %uid, error = chain(&error), "the pod's listeners cannot be set");
            }
        }
    }

    fn look_around(&mut self) {
        self.fill_listeners();
        let (mut touched, mut gone, mut again) = (Vec::new(), Vec::new(), Vec::new());
        for (uid, held) in &mut self.pods {
            match held {
                Held::Enrolled { pod, .. } => match pod.verify().and_then(|()| pod.newly_guarded())
                {
                    Ok(0) => self.unseen.over(uid),
                    Ok(packets) => {
                        error!(pod = %uid, packets, "captured packets met the guard");
                        touched.push(uid.clone());
                    }
                    Err(error) if error.verdict() == Verdict::Gone => gone.push(uid.clone()),
                    Err(error @ PodError::Netns(_)) => self.unseen.tell(uid, &error),
                    Err(error) => {
                        error!(pod = %uid, error = chain(&error), "the guard cannot be read");
                    }
                },
                Held::Failed { again: when, .. } if *when <= Instant::now() => {
                    again.push(uid.clone());
                }
                Held::Failed { .. } | Held::Draining(_) => {}
            }
        }
        touched.extend(self.touched.iter().cloned());
        for uid in touched {
            self.repair(&uid);
        }
        for uid in gone {
            self.lose(&uid);
        }
        for uid in again {
            if let Some(Held::Failed { wanted, delay, .. }) = self.pods.get(&uid) {
                let (wanted, delay) = (wanted.clone(), *delay);
                self.enroll(&uid, wanted, delay);
            }
        }
        self.drain_further();
        for uid in self.deleted.keys().cloned().collect::<Vec<_>>() {
            self.bury(&uid);
        }
        let Self { pods, deleted, unseen, .. } = self;
        unseen.retain(|uid| pods.contains_key(uid) || deleted.contains_key(uid));
        self.conclude();
    }

    fn drain_further(&mut self) {
        let draining: Vec<(PodUid, Box<Draining>)> = self
            .pods
            .iter_mut()
            .filter_map(|(uid, held)| match held {
                Held::Draining(pod) => Some((uid.clone(), pod.take()?)),
                Held::Enrolled { .. } | Held::Failed { .. } => None,
            })
            .collect();
        for (uid, pod) in draining {
            self.drain(uid, *pod);
        }
    }

    fn repair(&mut self, uid: &PodUid) {
        let is_known = self.touched.remove(uid);
        let Some(Held::Enrolled { pod, .. }) = self.pods.get_mut(uid) else { return };
        match pod.repair(&mut self.node) {
            Ok(repaired) if repaired.rules + repaired.routes > 0 => {
                error!(
                    pod = %uid, rules = repaired.rules, routes = repaired.routes,
                    "somebody removed rules of the pod's capture; they are back"
                );
            }
            Ok(_) => {}
            // Addresses come and go; the tick looks again.
            Err(error) => {
                if !is_known {
                    let error = chain(&error);
                    warn!(pod = %uid, error, "the pod's capture cannot be repaired, trying again");
                }
                self.touched.insert(uid.clone());
            }
        }
    }

    /// The namespace went with all that was in it, or its name leads to another one. Where the pod stays wanted, that one
    /// is enrolled.
    fn lose(&mut self, uid: &PodUid) {
        let Some(Held::Enrolled { wanted, pod, watch }) = self.pods.remove(uid) else { return };
        watch.abort();
        warn!(pod = %uid, netns = %wanted.netns.display(), "the pod's namespace is gone");
        self.roster.remove(uid);
        self.fail(uid, wanted, RETRY);
        // Of one that never had a name, nobody knows whether the next process comes: it stays closed.
        if !pod.netns().is_a_process_s()
            && let Err(error) = Draining::resume(&mut self.node, uid)
        {
            error!(pod = %uid, error = chain(&error), "a lost pod's pins cannot be removed");
        }
        let error = Some("its network namespace is gone".to_owned());
        self.say(uid, &Status::Failed { error });
        self.source.misplaced(uid);
    }

    fn forget(&self, uid: &PodUid) {
        if let Err(error) = self.source.forget(uid) {
            warn!(pod = %uid, %error, "the pod's status cannot be removed");
        }
    }

    fn say(&self, uid: &PodUid, status: &Status) {
        if let Err(error) = self.source.say(uid, status) {
            warn!(pod = %uid, %error, "the pod's status cannot be written");
        }
    }
}
