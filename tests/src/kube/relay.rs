//! The way to the API server, which can be held and cut.
//!
//! Held, connections stay up and no byte passes; cut, they end and none is made. Those that are forgotten, as by a
//! firewall, stay up for ever without a byte, and new ones are as good as before.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

/// Between two tries to accept.
const BETWEEN: Duration = Duration::from_millis(20);

/// A listener whose connections lead to another address; gone when dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    gate: Arc<Gate>,
    listener: Arc<TcpListener>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Held,
    Cut,
}

#[derive(Debug)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// How many connections there have been, and how many of those are forgotten.
    made: u64,
    forgotten: u64,
    /// Both ends of every connection that goes on, to end them by.
    streams: Vec<Weak<TcpStream>>,
}

impl Relay {
    /// Carries all that comes in by the listener, which may be of another namespace, to this address of ours.
    pub(super) fn new(listener: TcpListener, to: SocketAddr) -> Result<Self> {
        let address = listener.local_addr().context("find the relay's own address")?;
        let state =
            Mutex::new(State { mode: Mode::Open, made: 0, forgotten: 0, streams: Vec::new() });
        let gate = Arc::new(Gate { state, changed: Condvar::new() });
        let listener = Arc::new(listener);
        let (gate2, listener2) = (gate.clone(), listener.clone());
        let accepting = Some(thread::spawn(move || accept(&listener2, to, &gate2)));
        Ok(Self { address, gate, listener, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets no byte pass any more, in either direction, and says nothing of it.
    pub fn hold(&self) {
        self.gate.turn(Mode::Held);
    }

    /// Lets no byte of the connections that there are pass any more, and says nothing of it. New ones go on.
    pub fn forget(&self) {
        let mut state = self.gate.lock();
        state.forgotten = state.made;
    }

    /// Ends every connection, and each new one at once.
    pub fn cut(&self) {
        self.gate.turn(Mode::Cut);
    }

    /// Lets everything pass again, also what was held.
    pub fn open(&self) {
        self.gate.turn(Mode::Open);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
        // Wakes the accepting thread, which nothing else would.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Gate {
    fn turn(&self, mode: Mode) {
        let mut state = self.lock();
        state.mode = mode;
        if mode == Mode::Cut {
            for stream in state.streams.drain(..).filter_map(|stream| stream.upgrade()) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.changed.notify_all();
    }

    /// Waits while this connection is held; false when it is to end.
    fn pass(&self, connection: u64) -> bool {
        let mut state = self.lock();
        while state.mode == Mode::Held
            || (state.mode == Mode::Open && connection <= state.forgotten)
        {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.mode == Mode::Open
    }

    /// Both ends of a connection are noted, and it is numbered; not where no connection is to be.
    fn admit(&self, streams: [&Arc<TcpStream>; 2]) -> Option<u64> {
        let mut state = self.lock();
        if state.mode == Mode::Cut {
            return None;
        }
        state.streams.retain(|stream| stream.strong_count() > 0);
        state.streams.extend(streams.map(Arc::downgrade));
        state.made += 1;
        Some(state.made)
    }

    fn is_cut(&self) -> bool {
        self.lock().mode == Mode::Cut
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(listener: &TcpListener, to: SocketAddr, gate: &Arc<Gate>) {
    for near in listener.incoming() {
        let near = match near {
            Ok(near) => Arc::new(near),
            // As when it is shut down; any other want passes.
            Err(_) if gate.is_cut() => return,
            Err(error) => {
                eprintln!("a relay cannot accept: {error}");
                thread::park_timeout(BETWEEN);
                continue;
            }
        };
        // An API server that is not there refuses: so does the relay, by ending the connection.
        let Ok(far) = TcpStream::connect(to).map(Arc::new) else { continue };
        let Some(connection) = gate.admit([&near, &far]) else { continue };
        for (from, into) in [(near.clone(), far.clone()), (far, near)] {
            let gate = gate.clone();
            // Ends with its connection, which the gate's cut ends at the latest.
            thread::spawn(move || carry(&from, &into, &gate, connection));
        }
    }
}

fn carry(mut from: &TcpStream, mut into: &TcpStream, gate: &Gate, connection: u64) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = match from.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok(read) if read > 0 => read,
            _ => break,
        };
        if !gate.pass(connection) || into.write_all(buffer.get(..read).unwrap_or_default()).is_err()
        {
            break;
        }
    }
    // A held connection keeps its end to itself, too.
    gate.pass(connection);
    let _ = into.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
