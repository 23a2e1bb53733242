//! Queries that are not ours to answer, passed on as they are.
//!
//! Each query over UDP has a socket of its own, so its port is the kernel's random choice, and an id of its own;
//! an answer counts only with that id and the same question. Nobody's answer can reach another pod's query.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout_at},
};

use super::wire;

/// Makes sockets in the pod's network namespace that are not captured again.
pub trait Upstreams {
    /// A UDP socket connected to `to`, from a port that the kernel chose.
    fn udp(&self, to: SocketAddr) -> impl Future<Output = io::Result<UdpSocket>>;

    /// A TCP connection to `to`.
    fn tcp(&self, to: SocketAddr) -> impl Future<Output = io::Result<TcpStream>>;
}

/// Why a query got no answer from any upstream.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    #[error("no resolver to ask")]
    NoUpstream,
    #[error("no answer from {upstream} within {within_ms} ms")]
    Timeout { upstream: SocketAddr, within_ms: u128 },
    #[error("cannot ask {upstream}")]
    Io { upstream: SocketAddr, source: io::Error },
}

/// The resolvers that a `resolv.conf` names: the fallback where a pod's own resolver cannot be told.
pub fn resolvers(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

/// Asks the upstreams one after the other; together they have `within`.
pub(super) async fn over_udp(
    sockets: &impl Upstreams,
    upstreams: &[SocketAddr],
    query: &[u8],
    within: Duration,
) -> Result<Vec<u8>, ForwardError> {
    let end = Instant::now() + within;
    let mut last = ForwardError::NoUpstream;
    for (index, upstream) in upstreams.iter().copied().enumerate() {
        let left = u32::try_from(upstreams.len() - index).unwrap_or(u32::MAX);
        let share = end.saturating_duration_since(Instant::now()) / left;
        let asked = timeout_at(Instant::now() + share, ask(sockets, upstream, query)).await;
        match asked {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(source)) => last = ForwardError::Io { upstream, source },
            Err(_) => {
                last = ForwardError::Timeout { upstream, within_ms: share.as_millis() };
            }
        }
    }
    Err(last)
}

async fn ask(sockets: &impl Upstreams, upstream: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket = sockets.udp(upstream).await?;
    let theirs = wire::id(query).ok_or(io::ErrorKind::InvalidData)?;
    let mut ours = query.to_vec();
    wire::set_id(&mut ours, rand::random());
    socket.send(&ours).await?;
    loop {
        // No buffer while there is nothing to read: hundreds of queries may wait.
        socket.readable().await?;
        let mut answer = vec![0; usize::from(u16::MAX)];
        let length = match socket.try_recv(&mut answer) {
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e),
        };
        answer.truncate(length);
        // What does not belong to the query is somebody's guess: wait on for the true one.
        if wire::answers(&answer, &ours) {
            wire::set_id(&mut answer, theirs);
            answer.shrink_to_fit();
            return Ok(answer);
        }
    }
}

/// One upstream connection for one connection of a client.
#[derive(Debug)]
pub(super) struct TcpUpstream {
    upstream: SocketAddr,
    stream: TcpStream,
}

impl TcpUpstream {
    pub(super) async fn connect(
        sockets: &impl Upstreams,
        upstreams: &[SocketAddr],
        within: Duration,
    ) -> Result<Self, ForwardError> {
        let end = Instant::now() + within;
        let mut last = ForwardError::NoUpstream;
        for upstream in upstreams.iter().copied() {
            match timeout_at(end, sockets.tcp(upstream)).await {
                Ok(Ok(stream)) => return Ok(Self { upstream, stream }),
                Ok(Err(source)) => last = ForwardError::Io { upstream, source },
                Err(_) => {
                    let within_ms = within.as_millis();
                    return Err(ForwardError::Timeout { upstream, within_ms });
                }
            }
        }
        Err(last)
    }

    /// One message there and one back, both untouched.
    pub(super) async fn ask(
        &mut self,
        query: &[u8],
        within: Duration,
    ) -> Result<Vec<u8>, ForwardError> {
        let upstream = self.upstream;
        let exchange = async {
            write_message(&mut self.stream, query).await?;
            read_message(&mut self.stream).await?.ok_or(io::ErrorKind::UnexpectedEof.into())
        };
        match timeout_at(Instant::now() + within, exchange).await {
            Ok(answer) => answer.map_err(|source| ForwardError::Io { upstream, source }),
            Err(_) => Err(ForwardError::Timeout { upstream, within_ms: within.as_millis() }),
        }
    }

    /// From here on the two ends talk without us: a zone transfer is any number of messages.
    pub(super) async fn join(mut self, client: &mut TcpStream, query: &[u8]) -> io::Result<()> {
        write_message(&mut self.stream, query).await?;
        tokio::io::copy_bidirectional(client, &mut self.stream).await?;
        Ok(())
    }
}

/// Reads one message, or `None` at a clean end. Not cancel safe: what was read of a message is lost.
pub(super) async fn read_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let mut message = Vec::new();
    let length = u64::from(u16::from_be_bytes(length));
    // Grows with what comes, so that a length alone allocates nothing.
    (&mut *stream).take(length).read_to_end(&mut message).await?;
    if message.len() as u64 == length {
        Ok(Some(message))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_from_resolv_conf() {
        let text = "search a b\nnameserver 10.96.0.10\n  nameserver fd00::a \n#nameserver 1.1.1.1\nnameserver x\n";
        let expected: [SocketAddr; 2] =
            ["10.96.0.10:53".parse().unwrap(), "[fd00::a]:53".parse().unwrap()];
        assert_eq!(resolvers(text), expected);
    }
}
