//! When something about a pod's network changed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

const GROUP_LINK: u32 = 1;
const GROUP_IPV4_ADDRESS: u32 = 0x10;
const GROUP_IPV4_ROUTE: u32 = 0x40;
const GROUP_IPV4_RULE: u32 = 0x80;
const GROUP_IPV6_ADDRESS: u32 = 0x100;
const GROUP_IPV6_ROUTE: u32 = 0x400;
const GROUP_IPV6_RULE: u32 = 1 << 18;

/// Becomes readable when links, addresses, routes or rules of a namespace change.
#[derive(Debug)]
pub struct Monitor(OwnedFd);

impl Monitor {
    /// Watches the namespace of the calling thread, also after that thread is gone.
    pub fn open() -> io::Result<Self> {
        let groups = GROUP_LINK
            | GROUP_IPV4_ADDRESS
            | GROUP_IPV4_ROUTE
            | GROUP_IPV4_RULE
            | GROUP_IPV6_ADDRESS
            | GROUP_IPV6_ROUTE
            | GROUP_IPV6_RULE;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self(fd))
    }

    /// Forgets what was told so far. Whoever asks looks at everything afterwards, so the news itself does
    /// not matter, nor does it matter that some was lost.
    pub fn drain(&self) {
        let mut datagram = [0; 4096];
        // ENOBUFS means that news was lost, and that there is more to read.
        while !matches!(
            recv(&self.0, &mut datagram[..], RecvFlags::empty()),
            Err(error) if error != rustix::io::Errno::NOBUFS
        ) {}
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
