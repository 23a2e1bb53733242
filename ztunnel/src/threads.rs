//! The workers' threads, and the orders that they take from the control runtime.

use std::{io, os::fd::OwnedFd, rc::Rc, sync::Arc, thread};

use tokio::{
    runtime,
    sync::{mpsc, oneshot, watch},
    task::LocalSet,
    time::Instant,
};

use crate::{
    config::{Limits, Tcp},
    descriptors::Descriptors,
    identity::Identities,
    memory::Pressure,
    socket::{Capture, KernelListener, PodSockets},
    state::Views,
    telemetry::Telemetry,
    tunnel::hbone::Settings,
    uid::PodUid,
    worker::{Entrance, Shared, Worker},
};

/// A listening socket, and what it is for.
#[derive(Debug)]
pub struct Door {
    pub entrance: Entrance,
    pub capture: Capture,
    pub socket: OwnedFd,
}

/// A pod that is to be served.
#[derive(Clone, Debug)]
pub struct NewPod {
    pub uid: PodUid,
    pub name: ztunnel_core::Pod,
    pub sockets: PodSockets,
}

/// What a worker is told. It answers when it is done.
enum Order {
    Add(NewPod, Vec<Door>, oneshot::Sender<io::Result<()>>),
    Replace(PodUid, Vec<Door>, oneshot::Sender<io::Result<()>>),
    Remove(PodUid),
    Drain(Instant, oneshot::Sender<()>),
}

/// What every worker gets.
#[derive(Clone)]
pub struct Equipment {
    pub views: Views,
    pub identities: Identities,
    pub telemetry: Arc<Telemetry>,
    pub settings: Settings,
    pub limits: Limits,
    pub tcp: Tcp,
    pub pressure: watch::Receiver<Pressure>,
    pub descriptors: Descriptors,
}

/// The running workers.
#[derive(Debug)]
pub struct Threads {
    orders: Vec<mpsc::UnboundedSender<Order>>,
}

impl Threads {
    /// Starts `count` threads.
    pub fn start(count: usize, equipment: &Equipment) -> io::Result<Self> {
        let mut started = Self { orders: Vec::new() };
        for index in 0..count {
            let (orders, taken) = mpsc::unbounded_channel();
            let equipment = equipment.share(count);
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let work = move || {
                LocalSet::new().block_on(&runtime, work(index, equipment, taken));
            };
            // Not joined: a worker's end is seen by its orders, and `drain` waits for its answer.
            thread::Builder::new().name(format!("worker-{index}")).spawn(work)?;
            started.orders.push(orders);
        }
        Ok(started)
    }

    /// Every worker serves the pod from now on, on its own duplicates of the listeners.
    pub async fn add(&self, pod: NewPod, doors: Vec<Door>) -> io::Result<()> {
        self.each(doors, |doors, done| Order::Add(pod.clone(), doors, done)).await
    }

    /// Every worker serves what waits in the pod's old listeners, and accepts on these.
    pub async fn replace(&self, uid: &PodUid, doors: Vec<Door>) -> io::Result<()> {
        self.each(doors, |doors, done| Order::Replace(uid.clone(), doors, done)).await
    }

    async fn each(
        &self,
        doors: Vec<Door>,
        order: impl Fn(Vec<Door>, oneshot::Sender<io::Result<()>>) -> Order,
    ) -> io::Result<()> {
        let mut answers = Vec::new();
        for orders in &self.orders {
            let (done, answer) = oneshot::channel();
            let own: io::Result<Vec<_>> = doors.iter().map(Door::duplicate).collect();
            orders.send(order(own?, done)).map_err(|_| gone())?;
            answers.push(answer);
        }
        for answer in answers {
            answer.await.map_err(|_| gone())??;
        }
        Ok(())
    }

    pub fn remove(&self, uid: &PodUid) {
        for orders in &self.orders {
            // A worker that has gone serves no pod.
            drop(orders.send(Order::Remove(uid.clone())));
        }
    }

    /// Takes no more connections, waits for the open ones until `deadline`, cuts the rest.
    pub async fn drain(&self, deadline: Instant) {
        let mut answers = Vec::new();
        for orders in &self.orders {
            let (done, answer) = oneshot::channel();
            if orders.send(Order::Drain(deadline, done)).is_ok() {
                answers.push(answer);
            }
        }
        for answer in answers {
            // An error is a worker that has ended: drained all the more.
            drop(answer.await);
        }
    }

    /// Completes when a worker has ended, which it does only by order or by a bug.
    pub async fn crippled(&self) {
        let ended = self.orders.iter().map(|orders| Box::pin(orders.closed()));
        futures_util::future::select_all(ended).await;
    }
}

fn gone() -> io::Error {
    io::Error::other("a worker thread has ended")
}

impl Door {
    fn duplicate(&self) -> io::Result<Self> {
        let socket = self.socket.try_clone()?;
        Ok(Self { entrance: self.entrance, capture: self.capture, socket })
    }
}

impl Equipment {
    /// The node's limits, divided: what one worker may use without asking another.
    fn share(&self, workers: usize) -> Self {
        let mut share = self.clone();
        let part = |whole: usize| whole.div_ceil(workers).max(1);
        share.limits.node_connections = part(share.limits.node_connections);
        share.limits.pod_connections = part(share.limits.pod_connections);
        share
    }

    fn shared(&self, index: usize) -> Rc<Shared> {
        let shared = Shared::new(
            self.views.subscribe(),
            Rc::new(self.identities.clone()),
            Rc::new(self.telemetry.worker(index)),
            self.settings.clone(),
            self.limits.clone(),
            rand::random(),
        );
        Rc::new(shared.under(self.pressure.clone()))
    }
}

impl std::fmt::Debug for Equipment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Equipment").field("limits", &self.limits).finish_non_exhaustive()
    }
}

async fn work(index: usize, equipment: Equipment, mut orders: mpsc::UnboundedReceiver<Order>) {
    let adopt = |doors| adopt(doors, &equipment);
    let worker = Worker::new(equipment.shared(index));
    let mut tending = std::pin::pin!(worker.tend());
    loop {
        let order = tokio::select! {
            // Biased: an order is waited for by the agent, and by the pod that it starts.
            biased;
            order = orders.recv() => order,
            () = &mut tending => None,
        };
        match order {
            Some(Order::Add(pod, doors, done)) => {
                let listening = adopt(doors);
                let added =
                    listening.map(|doors| worker.add(pod.uid, pod.name, pod.sockets, doors));
                // Who asked may have gone meanwhile.
                drop(done.send(added));
            }
            Some(Order::Replace(uid, doors, done)) => {
                let listening = adopt(doors);
                drop(done.send(listening.map(|doors| worker.replace_listeners(&uid, doors))));
            }
            Some(Order::Remove(uid)) => worker.remove(&uid),
            Some(Order::Drain(deadline, done)) => {
                worker.drain(deadline).await;
                // Nobody may wait for it any more.
                let _ = done.send(());
                return;
            }
            None => return,
        }
    }
}

fn adopt(doors: Vec<Door>, with: &Equipment) -> io::Result<Vec<(Entrance, KernelListener)>> {
    let adopt = |door: Door| {
        let descriptors = with.descriptors.clone();
        let listener = KernelListener::adopt(door.socket, door.capture, &with.tcp, descriptors)?;
        Ok((door.entrance, listener))
    };
    doors.into_iter().map(adopt).collect()
}
