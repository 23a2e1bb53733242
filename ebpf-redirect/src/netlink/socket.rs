//! A netlink socket: one request, its answer.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send,
    socket_with,
};

use super::wire::{Message, NLM_F_CREATE, NLM_F_EXCL, NLMSG_DONE, Reply};

/// The kernel answers within the call; this is for the case that it never does.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const DATAGRAM_MAX: usize = 64 * 1024;

/// A socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// For addresses, links, rules and routes.
    pub(super) fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// For sockets.
    pub(super) fn diag() -> io::Result<Self> {
        Self::open(Some(netlink::SOCK_DIAG))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_WITHIN))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// All that there is of a kind.
    pub(super) fn dump(&mut self, message: Message) -> io::Result<Vec<Reply>> {
        let sequence = self.send(message, 0)?;
        let mut all = Vec::new();
        loop {
            for reply in self.receive()? {
                if reply.sequence != sequence {
                    continue;
                }
                if reply.kind == NLMSG_DONE {
                    return Ok(all);
                }
                if let Some(errno) = reply.error() {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                all.push(reply);
            }
        }
    }

    /// Creates what the message says. `false`: it was there already.
    pub(super) fn create(&mut self, message: Message) -> io::Result<bool> {
        match self.acknowledged(message, NLM_F_CREATE | NLM_F_EXCL)? {
            0 => Ok(true),
            // A machine without IPv6 has nothing that could leave by it.
            libc::EEXIST | libc::EAFNOSUPPORT => Ok(false),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Deletes one of what the message says. `false`: there was none.
    pub(super) fn delete(&mut self, message: Message) -> io::Result<bool> {
        match self.acknowledged(message, 0)? {
            0 => Ok(true),
            libc::ENOENT | libc::ESRCH | libc::EAFNOSUPPORT => Ok(false),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn acknowledged(&mut self, message: Message, flags: u16) -> io::Result<i32> {
        let sequence = self.send(message, flags)?;
        loop {
            let replies = self.receive()?;
            let mut ours = replies.iter().filter(|reply| reply.sequence == sequence);
            if let Some(errno) = ours.find_map(Reply::error) {
                return Ok(errno);
            }
        }
    }

    fn send(&mut self, message: Message, flags: u16) -> io::Result<u32> {
        self.sequence += 1;
        send(&self.fd, &message.finish(flags, self.sequence), SendFlags::empty())?;
        Ok(self.sequence)
    }

    fn receive(&self) -> io::Result<Vec<Reply>> {
        let mut datagram = vec![0; DATAGRAM_MAX];
        let (length, _) = recv(&self.fd, &mut datagram[..], RecvFlags::empty())?;
        Ok(Reply::all(datagram.get(..length).unwrap_or_default()))
    }
}
