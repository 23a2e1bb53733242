//! The server that load is made against: it answers each request with as many bytes as the request asks for.

use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// A request's head: its own length (head included) and the wanted length of the answer, little endian.
pub const HEAD: usize = 8;
/// An answer of this length never ends.
pub const ENDLESS: u32 = u32::MAX;
const CHUNK: usize = 256 * 1024;

pub(crate) fn head(request: u32, answer: u32) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    let (own, wanted) = head.split_at_mut(4);
    own.copy_from_slice(&request.to_le_bytes());
    wanted.copy_from_slice(&answer.to_le_bytes());
    head
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        connections.spawn(async move {
            // A client that goes away in the middle of an answer is how most of the load ends.
            let _gone = answer(stream).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = vec![0; 64 * 1024];
    let body = vec![b'x'; CHUNK];
    loop {
        let mut own = [0; 4];
        if stream.read_exact(&mut own).await.is_err() {
            return Ok(());
        }
        let wanted = stream.read_u32_le().await?;
        let mut rest = (u32::from_le_bytes(own) as usize).saturating_sub(HEAD);
        while rest > 0 {
            let part = rest.min(request.len());
            let read = stream.read(request.get_mut(..part).unwrap_or_default()).await?;
            if read == 0 {
                return Ok(());
            }
            rest -= read;
        }
        let mut left = wanted as usize;
        while left > 0 {
            let part = left.min(CHUNK);
            stream.write_all(body.get(..part).unwrap_or_default()).await?;
            if wanted != ENDLESS {
                left -= part;
            }
        }
    }
}
