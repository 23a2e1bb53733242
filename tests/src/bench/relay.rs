//! The floor: a relay that copies bytes and does nothing else. Two in a row cost what any pair of proxies must.

use std::{io, net::SocketAddr};

use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

const BUFFER: usize = 64 * 1024;

/// Relays every connection to `to` until the process ends.
pub async fn relay(listener: TcpListener, to: SocketAddr) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (mut from, _) = listener.accept().await?;
        connections.spawn(async move {
            from.set_nodelay(true)?;
            let mut onward = TcpStream::connect(to).await?;
            onward.set_nodelay(true)?;
            copy_bidirectional_with_sizes(&mut from, &mut onward, BUFFER, BUFFER).await
        });
        while connections.try_join_next().is_some() {}
    }
}
