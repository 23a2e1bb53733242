//! The one task that makes Views.

use std::{
    convert::Infallible,
    future::{Future, pending},
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tokio::{
    task::JoinHandle,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};
use tracing::{debug, info, warn};
use weft_model::{Change, View};
use weft_xds::{
    codec::ResourceType,
    delta::{Answered, Client},
    proto::discovery::DeltaDiscoveryResponse,
};

use super::{
    disk::Disk,
    gate::Gate,
    link::{Link, LinkError, LinkEvent, ServerSettings},
    local::{LocalError, LocalSource},
    node::{self, MetadataError},
    status::{ControlPlane, Current, LocalFile, Status},
    views::{Publisher, Views},
};
use crate::{causes::chain, config::Config, identity::NodeCertificate, telemetry::Recorder};

/// Changes come in bursts; each is on disk this much later at most.
const KEEP_WITHIN: Duration = Duration::from_secs(1);
/// How long after a start the configuration of the last run is held back for a newer one. Connections wait
/// longer for their workload to be known, so none is refused for it.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How exact the age of a configuration that was found at a start is.
const TOUCH_EVERY: Duration = Duration::from_secs(30);
const AGE_EVERY: Duration = Duration::from_secs(1);

/// Where configuration comes from.
#[derive(Clone, Debug)]
pub struct Settings {
    pub server: Option<ServerSettings>,
    /// A file in the form of `/config_dump`. Where both it and the server have a resource, the later wins.
    pub local: Option<PathBuf>,
    /// The directory of the last good configuration; `None` keeps nothing.
    pub state_dir: Option<PathBuf>,
    pub node: weft_xds::proto::discovery::Node,
    pub cluster_id: String,
}

impl Settings {
    /// Of the configuration. `env` is the process's environment, some of which becomes node metadata.
    pub fn of(
        config: &Config,
        env: impl IntoIterator<Item = (String, String)>,
        node: NodeCertificate,
    ) -> Result<Self, MetadataError> {
        Ok(Self {
            server: ServerSettings::of(config, node),
            local: config.xds.local_path.clone(),
            state_dir: Some(config.node.state_dir.clone()),
            node: node::node(&config.node, env)?,
            cluster_id: config.node.cluster_id.clone(),
        })
    }
}

/// Makes Views of what the sources say. Run it in a task that is joined: without it nothing changes.
pub struct Feed {
    client: Client,
    link: Option<Link>,
    local: Option<LocalSource>,
    view: View,
    publisher: Publisher,
    gate: Gate,
    status: Status,
    restored: Restored,
    disk: Option<Disk>,
    keep_at: Option<Instant>,
    keeping: Option<Keeping>,
    touched: Instant,
    began: Instant,
    recorder: Recorder,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Whether there is a configuration of an earlier run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Restored {
    No,
    /// It was the newest until then.
    Until(SystemTime),
}

/// A file being written.
struct Keeping {
    generation: u64,
    write: JoinHandle<io::Result<()>>,
}

enum Event {
    Link(LinkEvent),
    Local(Result<Vec<Change>, LocalError>),
    GateDue,
    KeepDue,
    Kept(u64, io::Result<()>),
    Tick,
}

/// Makes the Views, with the configuration of the last run if there is one, and what will feed them.
pub fn open(settings: Settings, recorder: Recorder) -> (Views, Feed) {
    let status = Status {
        control_plane: match settings.server {
            Some(_) => ControlPlane::Connecting,
            None => ControlPlane::NotConfigured,
        },
        local_file: match settings.local {
            Some(_) => LocalFile::NotRead,
            None => LocalFile::NotConfigured,
        },
        current: Current::Never,
        refused: Vec::new(),
        kept: None,
    };
    let (views, publisher) = Views::new(View::default(), status.clone());
    let mut feed = Feed {
        client: Client::new(settings.node),
        disk: settings.server.as_ref().and(settings.state_dir.as_ref()).and_then(|dir| {
            Disk::open(dir, &settings.cluster_id)
                .inspect_err(|error| {
                    warn!(dir = %dir.display(), %error, "configuration will not survive a restart");
                })
                .ok()
        }),
        link: settings.server.map(Link::new),
        local: settings.local.map(LocalSource::new),
        view: View::default(),
        publisher,
        gate: Gate::default(),
        status,
        restored: Restored::No,
        keep_at: None,
        keeping: None,
        touched: Instant::now(),
        began: Instant::now(),
        recorder,
    };
    feed.restore();
    (views, feed)
}

impl Feed {
    /// Never ends. Dropping it stops all of it.
    pub async fn run(mut self) -> Infallible {
        let mut tick = interval(AGE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = self.next(&mut tick).await;
            self.handle(event);
            self.show();
        }
    }

    /// Cancel safe, as every source is.
    async fn next(&mut self, tick: &mut Interval) -> Event {
        let keep_at = self.keep_at.filter(|_| self.keeping.is_none());
        tokio::select! {
            // Biased: what is due is done before more is taken in, however fast that comes.
            biased;
            (generation, result) = kept(&mut self.keeping) => Event::Kept(generation, result),
            () = at(self.gate.due()) => Event::GateDue,
            () = at(keep_at) => Event::KeepDue,
            _ = tick.tick() => Event::Tick,
            read = next_of(self.local.as_mut().map(LocalSource::next)) => Event::Local(read),
            heard = next_of(self.link.as_mut().map(Link::next)) => Event::Link(heard),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Link(LinkEvent::DialDue) => {
                let requests = self.client.connect();
                if let Some(link) = &mut self.link {
                    link.dial(requests);
                }
            }
            Event::Link(LinkEvent::Response(response)) => self.receive(response),
            Event::Link(LinkEvent::Lost(error)) => self.lost(&error),
            Event::Local(Ok(changes)) => {
                info!(changes = changes.len(), "local configuration read");
                self.status.local_file = LocalFile::Read;
                self.apply(&changes);
            }
            Event::Local(Err(error)) => self.refuse_local(&error),
            Event::GateDue => {
                let missing = self.gate.give_up();
                warn!(?missing, "workloads list policies that are not there, and are denied");
            }
            Event::KeepDue => self.keep(),
            Event::Kept(generation, Ok(())) => self.status.kept = Some(generation),
            Event::Kept(_, Err(error)) => {
                warn!(%error, "configuration could not be kept for a restart");
                self.keep_at = Some(Instant::now() + TOUCH_EVERY);
            }
            Event::Tick => self.tick(),
        }
    }

    /// Brings to others what `handle` changed.
    fn show(&mut self) {
        self.status.current = self.current();
        if self.status.current != Current::Never && self.gate.due().is_none() {
            self.publisher.publish(&self.view);
            self.recorder.view(self.view.generation());
        }
        self.publisher.set_status(&self.status);
    }

    fn current(&self) -> Current {
        let answered = ResourceType::ALL.map(|kind| self.client.answered(kind));
        let whole = match (&self.status.control_plane, self.restored) {
            // What was kept is for when nobody answers. By it, a pod that was enrolled since would be called
            // in the clear, and a policy that came since would not hold.
            (ControlPlane::Connecting, Restored::Until(_)) => {
                self.began.elapsed() >= FIRST_ANSWER_WITHIN
            }
            (ControlPlane::NotConfigured, _) | (_, Restored::Until(_)) => true,
            (_, Restored::No) => !answered.contains(&Answered::Never),
        };
        let local = match &self.status.local_file {
            LocalFile::NotConfigured | LocalFile::Read => true,
            // A form before may be in use; at the start there was none.
            LocalFile::Refused { .. } => self.status.current != Current::Never,
            LocalFile::NotRead => false,
        };
        if !whole || !local {
            return Current::Never;
        }
        let heard = match self.status.control_plane {
            ControlPlane::NotConfigured | ControlPlane::Subscribed => true,
            ControlPlane::Connecting | ControlPlane::Lost { .. } => false,
        };
        let newest = heard && !matches!(self.status.local_file, LocalFile::Refused { .. });
        match (newest, self.status.current, self.restored) {
            (true, _, _) => Current::Now,
            (false, Current::Until(then), _) | (false, Current::Never, Restored::Until(then)) => {
                Current::Until(then)
            }
            (false, Current::Now | Current::Never, _) => Current::Until(SystemTime::now()),
        }
    }

    fn receive(&mut self, response: DeltaDiscoveryResponse) {
        let known = ResourceType::from_type_url(&response.type_url);
        let bytes = response.resources.iter().map(bytes::Bytes::len).sum();
        self.recorder.xds_message(known.map_or("other", ResourceType::type_url), bytes);
        let news = !response.resources.is_empty() || !response.removed_resources.is_empty();

        let received = self.client.receive(response);
        debug!(
            r#type = received.reply.type_url,
            changes = received.changes.len(),
            refused = received.refused.len(),
            "configuration received"
        );
        for refused in &received.refused {
            warn!(resource = ?refused.name, error = %refused.error, "configuration refused");
        }
        self.apply(&received.changes);
        if !received.refused.is_empty() || !self.status.refused.is_empty() {
            self.status.refused = self.client.refused().collect();
        }
        let answered = ResourceType::ALL.map(|kind| self.client.answered(kind));
        if answered == [Answered::OnThisStream; 2] {
            self.subscribed();
        }
        if news {
            self.keep_at.get_or_insert(Instant::now() + KEEP_WITHIN);
        }
        if let Some(link) = &mut self.link
            && let Err(error) = link.send(received.reply)
        {
            self.lost(&error);
        }
    }

    fn subscribed(&mut self) {
        if self.status.control_plane != ControlPlane::Subscribed {
            info!(
                workloads = self.view.workloads().count(),
                services = self.view.services().count(),
                policies = self.view.policies().count(),
                "control plane subscribed"
            );
            self.status.control_plane = ControlPlane::Subscribed;
        }
        if let Some(link) = &mut self.link {
            link.worked();
        }
    }

    fn lost(&mut self, error: &LinkError) {
        self.recorder.xds_terminated(error.label());
        let reason = chain(error);
        match &self.status.control_plane {
            // Said once: the attempts that follow fail for the same reason.
            ControlPlane::Lost { reason: before } if *before == reason => {
                debug!(reason, "control plane lost");
            }
            _ => warn!(reason, "control plane lost; the last configuration stays in use"),
        }
        self.status.control_plane = ControlPlane::Lost { reason };
    }

    fn refuse_local(&mut self, error: &LocalError) {
        let reason = chain(error);
        warn!(reason, "local configuration refused; the form before stays in use");
        self.status.local_file = LocalFile::Refused { reason };
    }

    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            self.view.apply(change.clone());
        }
        self.gate.changed(&self.view, changes, Instant::now());
    }

    fn tick(&mut self) {
        let age = self.status.current.age(SystemTime::now()).unwrap_or_default();
        self.recorder.config_age(age.as_secs());
        let newest = self.status.current == Current::Now && self.status.kept.is_some();
        if newest && self.touched.elapsed() >= TOUCH_EVERY {
            self.touched = Instant::now();
            if let Some(disk) = &self.disk
                && let Err(error) = disk.touch(SystemTime::now())
            {
                warn!(file = %disk.path().display(), %error, "kept configuration is not there");
                self.keep_at.get_or_insert(Instant::now());
            }
        }
    }

    fn restore(&mut self) {
        let Some(disk) = &self.disk else { return };
        let file = disk.path().display().to_string();
        let loaded = match disk.load() {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return,
            Err(error) => {
                let reason = chain(&error);
                warn!(file, reason, "kept configuration ignored");
                return;
            }
        };
        let mut changes = Vec::new();
        for resource in loaded.resources {
            let name = resource.name.clone();
            match self.client.restore(resource) {
                Ok(taken) => changes.extend(taken),
                // A part of a configuration could allow what the whole denies.
                Err(error) => {
                    warn!(file, resource = ?name, %error, "kept configuration ignored");
                    return;
                }
            }
        }
        self.apply(&changes);
        self.restored = Restored::Until(loaded.until);
        self.status.kept = Some(self.view.generation());
        info!(
            file,
            workloads = self.view.workloads().count(),
            policies = self.view.policies().count(),
            "configuration of the last run read, for when the control plane does not answer"
        );
    }

    /// Starts to write what is in force, once it is whole.
    fn keep(&mut self) {
        self.keep_at = None;
        let Some(disk) = &self.disk else { return };
        if self.status.current == Current::Never {
            return;
        }
        let (disk, bytes) = (disk.clone(), disk.encode(self.client.kept()));
        let write = tokio::task::spawn_blocking(move || disk.replace(&bytes));
        self.keeping = Some(Keeping { generation: self.view.generation(), write });
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

async fn next_of<T>(source: Option<impl Future<Output = T>>) -> T {
    match source {
        Some(source) => source.await,
        None => pending().await,
    }
}

async fn kept(keeping: &mut Option<Keeping>) -> (u64, io::Result<()>) {
    match keeping {
        Some(Keeping { generation, write }) => {
            let result = write.await.unwrap_or_else(|error| Err(io::Error::other(error)));
            let generation = *generation;
            *keeping = None;
            (generation, result)
        }
        None => pending().await,
    }
}
