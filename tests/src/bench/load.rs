//! Makes traffic of one kind for a while and says what it saw.

#![allow(
    clippy::print_stdout,
    reason = "the caller waits for `held`, and reads when calls were answered"
)]

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use super::server::{ENDLESS, head};

const REQUEST: u32 = 128;
const ANSWER: u32 = 1024;
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// One kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Kind {
    /// A 128 B request for 1 KiB, the next as soon as the answer is there, on each of `connections`.
    RequestResponse { connections: usize },
    /// The same at `per_second` over all connections; latency counts from when the request was due.
    OpenLoop { connections: usize, per_second: u32 },
    /// Connect, one request, close, in each of `slots`.
    NewConnections { slots: usize },
    /// The same once to each of `count` addresses from `to` on, in each of `slots`; takes as long as it takes.
    NewPeers { slots: usize, count: u32 },
    /// As many bytes as come, server to client.
    Bulk { streams: usize },
}

impl Kind {
    /// How much of it, as a share of what is counted, runs before counting begins. It costs processor time too.
    pub fn warm_up(self) -> f64 {
        match self {
            Self::RequestResponse { .. }
            | Self::OpenLoop { .. }
            | Self::NewConnections { .. }
            | Self::Bulk { .. } => 0.1,
            // What was warmed up would not be new.
            Self::NewPeers { .. } => 0.0,
        }
    }
}

/// What was seen. Latencies are of one operation.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Seen {
    pub operations: u64,
    pub failures: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
}

#[derive(Default)]
struct Tally {
    latencies: Vec<Duration>,
    failures: u64,
    bytes: u64,
}

/// Makes load of `kind` against a [`super::server`] at `to` for `long`, after its warm-up.
pub async fn run(kind: Kind, to: SocketAddr, long: Duration) -> Seen {
    let began = Instant::now();
    let start = began + long.mul_f64(kind.warm_up());
    let window = Window { start, end: start + long };
    let mut tasks = JoinSet::new();
    match kind {
        Kind::RequestResponse { connections } => {
            (0..connections).for_each(|_| drop(tasks.spawn(closed_loop(to, window))));
        }
        Kind::OpenLoop { connections, per_second } => {
            let count = u32::try_from(connections).unwrap_or(u32::MAX);
            let every = Duration::from_secs(1) * count / per_second;
            for n in 0..count {
                tasks.spawn_blocking(move || open_loop(to, window, every, every * n / count));
            }
        }
        Kind::NewConnections { slots } => {
            (0..slots).for_each(|_| drop(tasks.spawn(connecting(to, window))));
        }
        Kind::NewPeers { slots, count } => {
            let next = Arc::new(AtomicU32::new(0));
            (0..slots).for_each(|_| drop(tasks.spawn(meeting(to, count, next.clone()))));
        }
        Kind::Bulk { streams } => {
            (0..streams).for_each(|_| drop(tasks.spawn(receiving(to, window))));
        }
    }
    let mut all = Tally::default();
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(tally) => {
                all.latencies.extend(tally.latencies);
                all.failures += tally.failures;
                all.bytes += tally.bytes;
            }
            Err(_) => all.failures += 1,
        }
    }
    let counted = match kind {
        Kind::NewPeers { .. } => began.elapsed(),
        Kind::RequestResponse { .. }
        | Kind::OpenLoop { .. }
        | Kind::NewConnections { .. }
        | Kind::Bulk { .. } => long,
    };
    all.into_seen(counted)
}

/// Opens `count` connections, each proved alive by one exchange, prints `held`, and keeps them until standard
/// input closes. Errors: the first connection that fails.
pub async fn hold(to: SocketAddr, count: usize) -> anyhow::Result<()> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = connect(to).await?;
        exchange(&mut stream).await?;
        held.push(stream);
    }
    println!("held");
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    drop(held);
    Ok(())
}

/// Opens `count` connections at once, asks once on each, and prints when each was answered, as a JSON list of
/// microseconds since 1970. Errors: a connection that fails.
pub async fn call(to: SocketAddr, count: usize) -> anyhow::Result<()> {
    let mut calls = JoinSet::new();
    for _ in 0..count {
        calls.spawn(async move {
            let mut stream = connect(to).await?;
            exchange(&mut stream).await?;
            anyhow::Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())
        });
    }
    let mut answered = Vec::with_capacity(count);
    while let Some(call) = calls.join_next().await {
        answered.push(u64::try_from(call??)?);
    }
    println!("{}", serde_json::to_string(&answered)?);
    Ok(())
}

impl Tally {
    fn into_seen(mut self, long: Duration) -> Seen {
        self.latencies.sort_unstable();
        let quantile = |permille: usize| {
            let at = (self.latencies.len() * permille / 1000).min(self.latencies.len().max(1) - 1);
            self.latencies.get(at).map_or(0.0, |d| d.as_secs_f64() * 1e6)
        };
        Seen {
            operations: self.latencies.len() as u64,
            failures: self.failures,
            bytes: self.bytes,
            seconds: long.as_secs_f64(),
            p50_us: quantile(500),
            p99_us: quantile(990),
            p999_us: quantile(999),
        }
    }
}

#[derive(Clone, Copy)]
struct Window {
    start: Instant,
    end: Instant,
}

impl Window {
    fn open(self) -> bool {
        Instant::now() < self.end
    }

    fn counts(self, began: Instant) -> bool {
        began >= self.start
    }
}

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(CONNECT_WITHIN, TcpStream::connect(to)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn request() -> [u8; REQUEST as usize] {
    let mut request = [0; REQUEST as usize];
    request.iter_mut().zip(head(REQUEST, ANSWER)).for_each(|(to, from)| *to = from);
    request
}

async fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&request()).await?;
    stream.read_exact(&mut [0; ANSWER as usize]).await?;
    Ok(())
}

async fn closed_loop(to: SocketAddr, window: Window) -> Tally {
    let mut tally = Tally::default();
    let Ok(mut stream) = connect(to).await else {
        tally.failures += 1;
        return tally;
    };
    while window.open() {
        let began = Instant::now();
        if exchange(&mut stream).await.is_err() {
            tally.failures += 1;
            return tally;
        }
        if window.counts(began) {
            tally.latencies.push(began.elapsed());
        }
    }
    tally
}

/// On a thread of its own: tokio's timers ring to the millisecond, which is longer than what is measured.
fn open_loop(to: SocketAddr, window: Window, every: Duration, offset: Duration) -> Tally {
    let mut tally = Tally::default();
    let connected = std::net::TcpStream::connect_timeout(&to, CONNECT_WITHIN)
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    let Ok(mut stream) = connected else {
        tally.failures += 1;
        return tally;
    };
    let mut due = Instant::now() + offset;
    while due < window.end {
        #[expect(clippy::disallowed_methods, reason = "an open loop keeps to a schedule")]
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let answered = stream
            .write_all(&request())
            .and_then(|()| stream.read_exact(&mut [0; ANSWER as usize]));
        if answered.is_err() {
            tally.failures += 1;
            return tally;
        }
        if window.counts(due) {
            tally.latencies.push(due.elapsed());
        }
        due += every;
    }
    tally
}

async fn connecting(to: SocketAddr, window: Window) -> Tally {
    let mut tally = Tally::default();
    while window.open() {
        let began = Instant::now();
        let done = async { exchange(&mut connect(to).await?).await }.await;
        match done {
            Ok(()) if window.counts(began) => tally.latencies.push(began.elapsed()),
            Ok(()) => {}
            Err(_) => tally.failures += 1,
        }
    }
    tally
}

/// Takes the next of `count` addresses, until all are taken.
async fn meeting(first: SocketAddr, count: u32, next: Arc<AtomicU32>) -> Tally {
    let mut tally = Tally::default();
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= count {
            return tally;
        }
        let began = Instant::now();
        let met = async { exchange(&mut connect(nth(first, n)).await?).await }.await;
        match met {
            Ok(()) => tally.latencies.push(began.elapsed()),
            Err(_) => tally.failures += 1,
        }
    }
}

/// The `n`th address from `first` on.
fn nth(first: SocketAddr, n: u32) -> SocketAddr {
    let ip = match first.ip() {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) + n).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) + u128::from(n)).into()),
    };
    SocketAddr::new(ip, first.port())
}

async fn receiving(to: SocketAddr, window: Window) -> Tally {
    let mut tally = Tally::default();
    let Ok(mut stream) = connect(to).await else {
        tally.failures += 1;
        return tally;
    };
    let mut request = [0; 8];
    request.copy_from_slice(&head(8, ENDLESS));
    if stream.write_all(&request).await.is_err() {
        tally.failures += 1;
        return tally;
    }
    let mut buffer = vec![0; 256 * 1024];
    while window.open() {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                tally.failures += 1;
                return tally;
            }
            Ok(n) if window.counts(Instant::now()) => tally.bytes += n as u64,
            Ok(_) => {}
        }
    }
    tally
}
