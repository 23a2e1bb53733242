//! Netlink messages as bytes: to build one, and to look into one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
pub(super) const IPPROTO_TCP: u8 = 6;
pub(super) const IPPROTO_UDP: u8 = 17;

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;

pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;

const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;

const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

/// A message to be sent.
#[derive(Debug, Clone)]
pub(super) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// A request that is acknowledged.
    pub(super) fn request(kind: u16, header: &[u8]) -> Self {
        Self { kind, flags: NLM_F_REQUEST | NLM_F_ACK, body: padded(header.to_vec()) }
    }

    /// A request for all of a kind.
    pub(super) fn dump(kind: u16, header: &[u8]) -> Self {
        Self { kind, flags: NLM_F_REQUEST | NLM_F_DUMP, body: padded(header.to_vec()) }
    }

    /// Adds an attribute.
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length =
            u16::try_from(ATTRIBUTE_HEADER + value.len()).expect("our attributes are short");
        self.body.extend(length.to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body = padded(self.body);
        self
    }

    /// Adds an attribute that is a number.
    pub(super) fn with_u32(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    /// The bytes to send, with further flags and a number by which the answer is known.
    pub(super) fn finish(self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(HEADER + self.body.len()).expect("our messages are short");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend((self.flags | flags).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        // From us, whoever that is: the kernel knows.
        bytes.extend([0; 4]);
        bytes.extend(self.body);
        bytes
    }
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(aligned(bytes.len()), 0);
    bytes
}

/// A message that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    body: Vec<u8>,
}

impl Reply {
    /// Takes a datagram apart; what does not add up ends it.
    pub(super) fn all(mut datagram: &[u8]) -> Vec<Self> {
        let mut replies = Vec::new();
        while let Some((header, _)) = datagram.split_first_chunk::<HEADER>() {
            let length = u32_of(&header[..4]) as usize;
            let Some(body) = datagram.get(HEADER..length) else { break };
            replies.push(Self {
                kind: u16::from_ne_bytes([header[4], header[5]]),
                sequence: u32_of(&header[8..12]),
                body: body.to_vec(),
            });
            datagram = datagram.get(aligned(length)..).unwrap_or_default();
        }
        replies
    }

    /// The error number of an acknowledgement, zero for success.
    pub(super) fn error(&self) -> Option<i32> {
        let bytes = self.body.first_chunk::<4>()?;
        (self.kind == NLMSG_ERROR).then(|| -i32::from_ne_bytes(*bytes))
    }

    /// The message's body, if it is of this kind and not cut short.
    pub(super) fn of_kind(&self, kind: u16, header: usize) -> Option<Body<'_>> {
        let (fixed, attributes) = self.body.split_at_checked(aligned(header))?;
        (self.kind == kind).then_some(Body { fixed, attributes })
    }
}

/// A body: a header of known size, then attributes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Body<'a> {
    fixed: &'a [u8],
    attributes: &'a [u8],
}

impl<'a> Body<'a> {
    /// A byte of the header; zero behind its end.
    pub(super) fn u8_at(&self, offset: usize) -> u8 {
        self.fixed.get(offset).copied().unwrap_or_default()
    }

    /// A number of the header; zero behind its end.
    pub(super) fn u32_at(&self, offset: usize) -> u32 {
        self.fixed.get(offset..offset + 4).map(u32_of).unwrap_or_default()
    }

    /// The value of the first attribute of this kind.
    pub(super) fn attribute(&self, kind: u16) -> Option<&'a [u8]> {
        let mut rest = self.attributes;
        while let Some((header, _)) = rest.split_first_chunk::<ATTRIBUTE_HEADER>() {
            let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let value = rest.get(ATTRIBUTE_HEADER..length)?;
            if u16::from_ne_bytes([header[2], header[3]]) == kind {
                return Some(value);
            }
            rest = rest.get(aligned(length)..).unwrap_or_default();
        }
        None
    }
}

/// A number from its four bytes; zero if there are not four.
pub(super) fn u32_of(bytes: &[u8]) -> u32 {
    bytes.try_into().map(u32::from_ne_bytes).unwrap_or_default()
}

/// An address from its bytes.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

/// The bytes of an address.
pub(super) fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The number of an address's family.
pub(super) fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// `struct fib_rule_port_range`
pub(super) fn port_range(first: u16, last: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), last.to_ne_bytes());
    [a, b, c, d]
}
