//! An application or a caller that does not read: the other side waits, and nothing is buffered without end.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::fixture::{Mesh, run};

/// What kernels, tunnel windows and relays may hold of one connection, in one direction.
const HELD_MAX: usize = 48 << 20;

/// Writes until nothing more is taken for a while.
async fn fill(stream: &TcpStream) -> usize {
    let much = vec![7; 256 << 10];
    let mut taken = 0;
    while timeout(Duration::from_secs(2), stream.writable()).await.is_ok() {
        taken += stream.try_write(&much).unwrap_or(0);
        assert!(taken < HELD_MAX, "{taken} bytes are held for somebody who does not read");
        tokio::task::yield_now().await;
    }
    taken
}

async fn drain(stream: &mut TcpStream, bytes: usize) {
    let mut left = bytes;
    let mut piece = vec![0; 256 << 10];
    while left > 0 {
        let read = stream.read(&mut piece).await.unwrap();
        assert_ne!(read, 0, "{left} of {bytes} bytes are lost");
        left -= read;
    }
}

#[test]
fn an_application_that_does_not_read_stops_its_caller_and_later_gets_every_byte() {
    run(async {
        let (mesh, pod, _web) = Mesh::pair();
        let app = mesh.serve_web().await;
        let client = TcpStream::connect(pod.captured).await.unwrap();
        let (mut server, _) = app.accept().await.unwrap();
        let taken = fill(&client).await;
        // Another connection in the same tunnel is not held up by it.
        let mut other = TcpStream::connect(pod.captured).await.unwrap();
        let (mut beside, _) = app.accept().await.unwrap();
        other.write_all(b"?").await.unwrap();
        beside.read_exact(&mut [0; 1]).await.unwrap();
        drain(&mut server, taken).await;
    });
}

#[test]
fn a_caller_that_does_not_read_stops_the_application_and_later_gets_every_byte() {
    run(async {
        let (mesh, pod, _web) = Mesh::pair();
        let app = mesh.serve_web().await;
        let mut client = TcpStream::connect(pod.captured).await.unwrap();
        let (server, _) = app.accept().await.unwrap();
        let taken = fill(&server).await;
        drain(&mut client, taken).await;
    });
}
