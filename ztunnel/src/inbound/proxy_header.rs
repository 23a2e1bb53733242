//! The PROXY protocol's version 2: tells an application who really calls (haproxy's proxy-protocol.txt, 2.2).

use std::net::SocketAddr;

use weft_model::{Identity, PeerAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, PROXY.
const COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// Istio's own type: the caller's SPIFFE ID.
const TLV_IDENTITY: u8 = 0xd0;

/// The header's bytes.
pub(super) fn write(from: PeerAddr, to: PeerAddr, identity: Option<&Identity>) -> Vec<u8> {
    let mut body = Vec::with_capacity(256);
    let family = match (from.0, to.0) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            body.extend(from.ip().octets());
            body.extend(to.ip().octets());
            TCP_OVER_IPV4
        }
        // One family for both: the other is written as a mapped address.
        (from, to) => {
            for address in [from, to] {
                let octets = match address.ip() {
                    std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    std::net::IpAddr::V6(v6) => v6.octets(),
                };
                body.extend(octets);
            }
            TCP_OVER_IPV6
        }
    };
    body.extend(from.port().to_be_bytes());
    body.extend(to.port().to_be_bytes());
    if let Some(identity) = identity {
        let id = identity.to_string();
        body.push(TLV_IDENTITY);
        body.extend(length(&id).to_be_bytes());
        body.extend(id.as_bytes());
    }
    let mut header = SIGNATURE.to_vec();
    header.extend([COMMAND, family]);
    header.extend(length(&body).to_be_bytes());
    header.extend(body);
    header
}

fn length(bytes: impl AsRef<[u8]>) -> u16 {
    // A SPIFFE ID is at most 2048 bytes, and the rest of a header is 36 and 3.
    u16::try_from(bytes.as_ref().len()).expect("a SPIFFE ID and two addresses are below 64 KiB")
}

#[cfg(test)]
mod tests;
