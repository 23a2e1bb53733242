//! A pod's network namespace, entered only for the moment in which a socket is made there.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::{
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::kernel::set_options;
use crate::{config::Tcp, descriptors::Descriptors};

/// Istio's mark: rules in the pod let sockets that carry it pass, and lead answers back to them.
const MARK: u32 = 0x539;
const BACKLOG: i32 = 1024;

/// The namespace of a pod, and of this process, to come back to.
#[derive(Debug)]
pub struct Netns {
    pod: OwnedFd,
    own: OwnedFd,
    options: Tcp,
    descriptors: Descriptors,
}

/// Who sees the pod's sockets of this kind as theirs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transparency {
    /// The pod's own address.
    None,
    /// Any address may be bound and answered from.
    Transparent,
}

impl Netns {
    pub fn new(pod: OwnedFd, options: Tcp, descriptors: Descriptors) -> io::Result<Self> {
        let own = File::open("/proc/thread-self/ns/net")?.into();
        Ok(Self { pod, own, options, descriptors })
    }

    /// Which namespace it is, as long as this value holds it open.
    pub fn id(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstat(&self.pod)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// A socket of the pod's, ready to be connected. Errors: also when only reserved descriptors are left.
    pub(super) fn socket(&self, to: SocketAddr, transparency: Transparency) -> io::Result<Socket> {
        if self.descriptors.are_short() {
            return Err(Errno::MFILE.into());
        }
        let socket = self.open(Domain::for_address(to), Type::STREAM, Protocol::TCP)?;
        if transparency == Transparency::Transparent {
            transparent(&socket, to)?;
            // Else every connection from one client's address takes a port of its own from the pod, whichever
            // program it goes to, and a busy client soon finds none left.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        }
        self.descriptors.taken(&socket);
        set_options(&SockRef::from(&socket), &self.options)?;
        Ok(socket)
    }

    /// A listening socket of the pod's, beside one of an older proxy that has not gone yet.
    pub fn listen(&self, at: SocketAddr) -> io::Result<OwnedFd> {
        let socket = self.open(Domain::for_address(at), Type::STREAM, Protocol::TCP)?;
        transparent(&socket, at)?;
        bind_shared(&socket, at)?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    }

    /// A datagram socket of the pod's, bound.
    pub fn datagrams(&self, at: SocketAddr) -> io::Result<OwnedFd> {
        let socket = self.open(Domain::for_address(at), Type::DGRAM, Protocol::UDP)?;
        bind_shared(&socket, at)?;
        Ok(socket.into())
    }

    /// A datagram socket of the pod's, to ask with. Errors: also when only reserved descriptors are left.
    pub(super) fn asker(&self, to: SocketAddr) -> io::Result<OwnedFd> {
        if self.descriptors.are_short() {
            return Err(Errno::MFILE.into());
        }
        let socket = self.open(Domain::for_address(to), Type::DGRAM, Protocol::UDP)?;
        self.descriptors.taken(&socket);
        Ok(socket.into())
    }

    fn open(&self, domain: Domain, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = self.within(|| Socket::new(domain, kind.nonblocking(), Some(protocol)))?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(true)?;
        }
        socket.set_mark(MARK)?;
        Ok(socket)
    }

    /// Runs `act` with this thread in the pod's namespace. A thread that cannot come back must not go on: it would
    /// make every later socket in a stranger's namespace.
    fn within<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        enter(&self.pod)?;
        let done = act();
        enter(&self.own).expect("the namespace that this thread came from lets it back in");
        done
    }
}

fn enter(namespace: &OwnedFd) -> io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

fn bind_shared(socket: &Socket, at: SocketAddr) -> io::Result<()> {
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())
}

fn transparent(socket: &Socket, of: SocketAddr) -> io::Result<()> {
    match of {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true),
    }
}

#[cfg(test)]
mod tests;
