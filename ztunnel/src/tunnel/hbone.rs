//! HBONE: HTTP/2 CONNECT over mutual TLS 1.3, as Istio's ambient mesh speaks it.
//!
//! `client` opens tunnels and streams in them, `server` accepts both, `stream` is one CONNECT as an end of a relay,
//! `keepalive` finds dead peers. The framing is the `h2` crate's; nothing outside of this module names one of its
//! types but `h2::Error`, as the source of an error.

mod ahead;
pub mod client;
mod frames;
mod guard;
mod head;
mod keepalive;
pub mod server;
mod stream;
mod window;

pub use head::{ConnectHead, Introduction};
pub use stream::{Flow, Held, InTunnel};

use crate::config::{ByteSize, H2, Timeouts};

/// What both sides announce and keep to. The defaults are those of Istio's peers.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub h2: H2,
    pub timeouts: Timeouts,
}

impl Settings {
    fn stream_window(&self) -> u32 {
        bytes(self.h2.stream_window)
    }

    fn connection_window(&self) -> u32 {
        bytes(self.h2.connection_window)
    }

    fn frame(&self) -> u32 {
        bytes(self.h2.frame)
    }
}

/// Streams that we have reset and whose last bytes may still come. Those of a forgotten one would count as the peer's
/// mistake, and a thousand of these in a tunnel's life end it.
const RESETS_REMEMBERED: usize = 1024;

/// The configuration keeps sizes well below this bound.
fn bytes(size: ByteSize) -> u32 {
    u32::try_from(size.0).unwrap_or(u32::MAX)
}
