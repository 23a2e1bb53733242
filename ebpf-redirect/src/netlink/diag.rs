//! How many connections of a namespace are still captured.

use std::io;

use weft_redirect_abi::{CAPTURE_MARK, MARK_MASK};

use super::socket::Socket;
use super::wire::{self, AF_INET, AF_INET6, IPPROTO_TCP, Message};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_MARK: u16 = 15;
const REPLY_HEADER: usize = 72;

/// All TCP states but `TIME_WAIT`, `CLOSE` and `LISTEN`: those that may still send what an application wrote.
const LIVE_STATES: u32 = 0xfff & !(1 << 6) & !(1 << 7) & !(1 << 10) & !1 | (1 << 12);

/// TCP connections in this thread's namespace whose socket carries the capture mark.
pub fn marked_connections() -> io::Result<usize> {
    let mut socket = Socket::diag()?;
    let mut marked = 0;
    for family in [AF_INET, AF_INET6] {
        let mut request = vec![family, IPPROTO_TCP, 0, 0];
        request.extend(LIVE_STATES.to_ne_bytes());
        request.extend([0; 48]);
        for reply in socket.dump(Message::dump(SOCK_DIAG_BY_FAMILY, &request))? {
            let Some(body) = reply.of_kind(SOCK_DIAG_BY_FAMILY, REPLY_HEADER) else { continue };
            let mark = body.attribute(INET_DIAG_MARK).map_or(0, wire::u32_of);
            if mark & MARK_MASK == CAPTURE_MARK {
                marked += 1;
            }
        }
    }
    Ok(marked)
}
