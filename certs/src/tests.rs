//! The crate as its callers use it: issue, prove, shake hands.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::UnixTime;
use weft_model::{Identity, TrustDomain};

use crate::{Authority, Bundle, KeyPair, Svid, server_name};

mod authority;
mod forge;
mod handshake;
mod node;
mod svid;
mod verify;

/// An instant to reckon from: 2026-01-01.
pub(crate) fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(490_896)
}

pub(crate) const DAY: Duration = Duration::from_hours(24);

pub(crate) fn identity(text: &str) -> Identity {
    text.parse().unwrap()
}

pub(crate) fn web() -> Identity {
    identity("spiffe://cluster.local/ns/shop/sa/web")
}

pub(crate) fn client() -> Identity {
    identity("spiffe://cluster.local/ns/shop/sa/client")
}

/// These roots and those.
pub(crate) fn together(one: &Bundle, other: &Bundle) -> Bundle {
    Bundle::from_pem(&(one.to_pem() + &other.to_pem())).unwrap()
}

pub(crate) fn authority() -> Authority {
    Authority::new(&TrustDomain::default(), start()).unwrap()
}

pub(crate) fn svid(authority: &Authority, identity: &Identity) -> Svid {
    svid_from(authority, identity, start())
}

/// Valid for a day from `now`.
pub(crate) fn svid_from(authority: &Authority, identity: &Identity, now: SystemTime) -> Svid {
    let key = KeyPair::generate().unwrap();
    let csr = key.request(identity).unwrap();
    let chain = authority.issue(&csr, identity, DAY, now).unwrap();
    Svid::from_pem(identity, key, &chain, now).unwrap()
}

/// A clock that stands still.
#[derive(Debug)]
pub(crate) struct At(pub(crate) SystemTime);

impl rustls::time_provider::TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(crate::time::unix(self.0))
    }
}

/// Runs a handshake in memory to its end on both sides.
pub(crate) fn shake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(client, server_name()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    // TLS 1.3 with client certificates takes two rounds; more would be a loop.
    for _ in 0..4 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

/// An error with all its causes, on one line; rustls' own wrapping taken off.
pub(crate) fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let tls = error.downcast_ref::<rustls::Error>();
    if let Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) = tls {
        return reason(&*other.0);
    }
    match error.source() {
        Some(source) => format!("{error}: {}", reason(source)),
        None => error.to_string(),
    }
}
