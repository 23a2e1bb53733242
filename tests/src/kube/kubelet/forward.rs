//! A port of a pod, over a WebSocket of its own.
//!
//! Every message begins with its channel: 0 has the bytes of the port, 1 what is wrong with it. The first of each
//! names the port.

use std::net::{Ipv4Addr, TcpStream as Stream};

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use http::Uri;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::worker::{Key, Places, lock};

pub(super) const PROTOCOLS: &[&str] = &["v4.channel.k8s.io"];
const BYTES: u8 = 0;
const TROUBLE: u8 = 1;

/// Which port of which pod.
#[derive(Debug)]
pub(super) struct Ask {
    key: Key,
    port: u16,
}

pub(super) async fn serve(
    mut socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>,
    places: &Places,
    ask: Ask,
) -> Result<()> {
    let Ask { key, port } = ask;
    for channel in [BYTES, TROUBLE] {
        let [low, high] = port.to_le_bytes();
        socket.send(Message::binary(vec![channel, low, high])).await?;
    }
    match reach(places, key, port).await {
        Ok(pod) => carry(socket, pod).await,
        Err(error) => {
            let told = [&[TROUBLE][..], format!("{error:#}").as_bytes()].concat();
            socket.send(Message::binary(told)).await?;
            Ok(socket.close(None).await?)
        }
    }
}

/// From `/portForward/<namespace>/<pod>?port=<port>`.
pub(super) fn asked_for(uri: &Uri) -> Result<Ask> {
    let asked = || {
        let (namespace, pod) = uri.path().strip_prefix("/portForward/")?.split_once('/')?;
        let port = uri.query()?.split('&').find_map(|it| it.strip_prefix("port="))?;
        Some(Ask { key: (namespace.to_owned(), pod.to_owned()), port: port.parse().ok()? })
    };
    asked().with_context(|| format!("{uri} names no port of a pod"))
}

async fn reach(places: &Places, key: Key, port: u16) -> Result<TcpStream> {
    let sandbox = lock(places).get(&key).cloned();
    let sandbox = sandbox.with_context(|| format!("no pod {}/{} is here", key.0, key.1))?;
    let connect = move || Stream::connect((Ipv4Addr::LOCALHOST, port));
    let connected = tokio::task::spawn_blocking(move || sandbox.namespace().enter(connect));
    let stream = connected.await??.with_context(|| format!("connect to port {port}"))?;
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream)?)
}

async fn carry(
    mut socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>,
    mut pod: TcpStream,
) -> Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        // Fair: neither direction may starve the other.
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    if let Some((&BYTES, bytes)) = bytes.split_first() {
                        pod.write_all(bytes).await?;
                    }
                }
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
            },
            read = pod.read(&mut buffer) => {
                let read = read?;
                if read == 0 {
                    return Ok(socket.close(None).await?);
                }
                let bytes = buffer.get(..read).unwrap_or_default();
                socket.send(Message::binary([&[BYTES][..], bytes].concat())).await?;
            }
        }
    }
}
