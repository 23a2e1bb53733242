//! One connection's record, from its arrival to its one `Outcome`.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::time::Instant;
use weft_model::Hostname;
use ztunnel_core::{
    Carried, Carrier, Direction, End, Failure, Finish, Outcome, Parties, Refusal, Side,
};

use crate::{
    causes::chain,
    relay,
    telemetry::{self, Accepted, Live, Recorder, TunnelSide},
};

/// Where outcomes go: the access log and the metrics.
pub trait Outcomes {
    /// A connection was accepted; it is open until the value is dropped.
    fn accepted(&self, direction: Direction) -> Option<Accepted>;

    /// A tunnel is ready for streams, so long after its connection was.
    fn handshake(&self, side: TunnelSide, took: Duration);

    /// A name that an endpoint is known by is looked up for a connection of `source`.
    fn looked_up(&self, source: &Side, hostname: &Hostname);

    /// Both ends are connected. `original` is what was asked for; `pod` is the node agent's uid.
    fn opened(
        &self,
        pod: Arc<str>,
        original: SocketAddr,
        parties: &Parties,
        carried: &Arc<telemetry::Carried>,
    ) -> Option<Live>;

    /// The one end of every connection, opened or not.
    fn ended(&self, live: Option<Live>, outcome: &Outcome);
}

impl Outcomes for Recorder {
    fn accepted(&self, direction: Direction) -> Option<Accepted> {
        Some(Self::accepted(self, direction))
    }

    fn handshake(&self, side: TunnelSide, took: Duration) {
        Self::handshake(self, Carrier::Tcp, side, took);
    }

    fn looked_up(&self, source: &Side, hostname: &Hostname) {
        Self::looked_up(self, source, hostname);
    }

    fn opened(
        &self,
        pod: Arc<str>,
        original: SocketAddr,
        parties: &Parties,
        carried: &Arc<telemetry::Carried>,
    ) -> Option<Live> {
        Some(self.open(pod, original, parties, carried.clone()))
    }

    fn ended(&self, live: Option<Live>, outcome: &Outcome) {
        match live {
            Some(live) => live.ended(outcome),
            None => Self::ended(self, outcome),
        }
    }
}

/// Why a connection that is being carried may not go on.
#[derive(Debug)]
pub enum Cut {
    /// A newer policy forbids it.
    Revoked(Refusal),
    /// Its memory is needed.
    Shed,
}

/// Becomes an outcome when the connection ends, in whatever way: also when its task is dropped.
pub struct Record {
    outcomes: Rc<dyn Outcomes>,
    started: Instant,
    pub parties: Parties,
    /// What the relay has carried so far.
    pub carried: Arc<telemetry::Carried>,
    live: Option<Live>,
    state: State,
}

enum State {
    Arriving,
    /// The two ends are connected.
    Carrying,
    Ended,
}

impl Record {
    pub fn new(outcomes: Rc<dyn Outcomes>, parties: Parties) -> Self {
        let (started, carried) = (Instant::now(), Arc::default());
        Self { outcomes, started, parties, carried, live: None, state: State::Arriving }
    }

    /// Both ends are connected: from here on it counts as carried, however it ends.
    pub fn carrying(&mut self, pod: Arc<str>, original: SocketAddr) {
        self.live = self.outcomes.opened(pod, original, &self.parties, &self.carried);
        self.state = State::Carrying;
    }

    pub fn refused(mut self, refusal: Refusal) {
        self.end(End::Refused(refusal));
    }

    pub fn failed(mut self, failure: Failure) {
        self.end(End::Failed(failure));
    }

    pub fn finished(mut self, ending: relay::Ending<Cut>) {
        let finish = match ending {
            relay::Ending::Finished => Finish::Closed,
            relay::Ending::Cut(Cut::Revoked(refusal)) => Finish::Revoked(refusal),
            relay::Ending::Cut(Cut::Shed) => Finish::Shed,
            relay::Ending::Broken { by, error: relay::Broken::Reset } => match by {
                relay::Side::Client => Finish::ResetByClient,
                relay::Side::Server => Finish::ResetByServer,
            },
            relay::Ending::Broken { error, .. } => {
                Finish::Broken(Failure::Broken { error: chain(&error) })
            }
        };
        self.end_carried(finish);
    }

    fn end_carried(&mut self, finish: Finish) {
        self.end(End::Carried(Carried {
            bytes_to_server: self.carried.to_server.get(),
            bytes_to_client: self.carried.to_client.get(),
            finish,
        }));
    }

    fn end(&mut self, end: End) {
        self.state = State::Ended;
        let (parties, duration) = (self.parties.clone(), self.started.elapsed());
        self.outcomes.ended(self.live.take(), &Outcome { parties, end, duration });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        match self.state {
            State::Ended => {}
            State::Arriving => self.end(End::Failed(Failure::Stopping)),
            State::Carrying => self.end_carried(Finish::Drained),
        }
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record").field("parties", &self.parties).finish_non_exhaustive()
    }
}
