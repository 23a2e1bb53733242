//! What one application does to its connection reaches the other as if there were no proxies between them.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::fixture::{Mesh, run};

/// How a side leaves, after the greetings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    /// Says that it has sent all, and goes on reading.
    Finish,
    /// Is gone at once, all read.
    Close,
    /// Breaks it: RST.
    Reset,
    /// Says that it has sent all, then breaks it while nothing else happens.
    FinishThenReset,
}

const ACTS: [Act; 4] = [Act::Finish, Act::Close, Act::Reset, Act::FinishThenReset];

/// What a side notices.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Saw {
    /// These bytes, then the end.
    End(Vec<u8>),
    Reset,
    /// It could not write any more.
    NobodyReads,
}

async fn greet(client: &mut TcpStream, server: &mut TcpStream) {
    client.write_all(b"hello").await.unwrap();
    server.read_exact(&mut [0; 5]).await.unwrap();
    server.write_all(b"world").await.unwrap();
    client.read_exact(&mut [0; 5]).await.unwrap();
}

async fn to_end(stream: &mut TcpStream) -> Saw {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes).await {
        Ok(_) => Saw::End(bytes),
        Err(_) => Saw::Reset,
    }
}

/// Writes until it fails; a closed peer answers the first bytes with RST.
async fn until_nobody_reads(stream: &mut TcpStream) -> Saw {
    while stream.write_all(b"x").await.is_ok() {
        let error = stream.ready(Interest::ERROR);
        drop(timeout(Duration::from_millis(5), error).await);
    }
    Saw::NobodyReads
}

/// Does the first half of an act. What is left of the stream, if anything.
async fn leave(mut stream: TcpStream, act: Act) -> Option<TcpStream> {
    match act {
        Act::Finish | Act::FinishThenReset => {
            stream.shutdown().await.unwrap();
            Some(stream)
        }
        Act::Close => None,
        Act::Reset => {
            stream.set_zero_linger().unwrap();
            None
        }
    }
}

/// The client leaves first; then the server, if it still can. What each notices, in order.
async fn play(mut client: TcpStream, mut server: TcpStream, acts: (Act, Act)) -> Vec<Saw> {
    greet(&mut client, &mut server).await;
    let left = leave(client, acts.0).await;
    let mut saw = vec![to_end(&mut server).await];
    let mut client = match (left, acts.0) {
        (Some(client), Act::FinishThenReset) => {
            client.set_zero_linger().unwrap();
            None
        }
        (left, _) => left,
    };
    let Some(client) = &mut client else {
        if saw != [Saw::Reset] {
            saw.push(until_nobody_reads(&mut server).await);
        }
        return saw;
    };
    server.write_all(b"more").await.unwrap();
    let mut more = [0; 4];
    client.read_exact(&mut more).await.unwrap();
    let left = leave(server, acts.1).await;
    saw.push(to_end(client).await);
    if let (Some(server), Act::FinishThenReset) = (&left, acts.1) {
        server.set_zero_linger().unwrap();
    }
    drop(left);
    saw
}

async fn direct(acts: (Act, Act)) -> Vec<Saw> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    play(client, server, acts).await
}

#[test]
fn ends_and_resets_reach_the_other_side_as_over_direct_tcp() {
    run(async {
        let (mesh, pod, _web) = Mesh::pair();
        let app = mesh.serve_web().await;
        for first in ACTS {
            for second in ACTS {
                let client = TcpStream::connect(pod.captured).await.unwrap();
                let (server, _) = app.accept().await.unwrap();
                let carried = play(client, server, (first, second)).await;
                assert_eq!(carried, direct((first, second)).await, "{first:?}, {second:?}");
            }
        }
        // One record a side for each connection, and none is left open.
        mesh.outcomes(2 * ACTS.len() * ACTS.len()).await;
    });
}

/// Bytes that differ at every place where a mistake could shift them.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i * 31 + i / 251) % 256).unwrap()).collect()
}

#[test]
fn much_is_carried_whole_both_ways_at_once() {
    run(async {
        let (mesh, pod, _web) = Mesh::pair();
        let app = mesh.serve_web().await;
        let client = TcpStream::connect(pod.captured).await.unwrap();
        let (server, _) = app.accept().await.unwrap();
        let sent = pattern(12 << 20);
        let both = [client, server].map(|stream| {
            let sent = sent.clone();
            async move {
                let (mut read, mut write) = stream.into_split();
                let mut received = Vec::with_capacity(sent.len());
                let writing = async {
                    write.write_all(&sent).await.unwrap();
                    write.shutdown().await.unwrap();
                };
                let reading = async { read.read_to_end(&mut received).await.unwrap() };
                tokio::join!(writing, reading);
                assert!(received == sent, "what came is not what was sent");
            }
        });
        futures_util::future::join_all(both).await;
    });
}

/// All that comes before the connection breaks.
async fn until_broken(stream: &mut TcpStream) -> Vec<u8> {
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut part).await {
            Ok(0) => unreachable!("it ended after {} bytes and was not broken", bytes.len()),
            Ok(read) => bytes.extend_from_slice(part.get(..read).unwrap()),
            Err(_) => return bytes,
        }
    }
}

/// Answers without having read what was asked, and is gone: the kernel then resets the connection.
async fn refuse(mut server: TcpStream, answer: &[u8]) {
    server.peek(&mut [0]).await.unwrap();
    server.write_all(answer).await.unwrap();
}

/// Sends without end. How that fails at last.
async fn upload(client: &mut (impl AsyncWriteExt + Unpin)) -> io::ErrorKind {
    loop {
        if let Err(error) = client.write_all(&[0; 16 << 10]).await {
            return error.kind();
        }
    }
}

#[test]
fn an_answer_to_an_upload_is_heard_though_its_application_breaks_the_connection_at_once() {
    run(async {
        let (mesh, pod, _web) = Mesh::pair();
        let app = mesh.serve_web().await;
        let answer = pattern(48 << 10);
        for round in 0..20 {
            let mut client = TcpStream::connect(pod.captured).await.unwrap();
            let (server, _) = app.accept().await.unwrap();
            let (mut read, mut write) = client.split();
            let mut heard = Vec::new();
            let (end, stopped, ()) = tokio::join!(
                read.read_to_end(&mut heard),
                upload(&mut write),
                refuse(server, &answer)
            );
            assert!(heard == answer, "round {round}: {} bytes were heard", heard.len());
            // The kernel tells of a reset once: whoever looks first.
            let reset = end.is_err() || stopped == io::ErrorKind::ConnectionReset;
            assert!(reset, "round {round}: {end:?}, {stopped:?}");
        }
    });
}

#[test]
fn an_answer_is_heard_though_its_application_breaks_the_connection_at_once() {
    run(async {
        let (mesh, pod, _web) = Mesh::pair();
        let app = mesh.serve_web().await;
        let answer = pattern(3000);
        for round in 0..50 {
            let mut client = TcpStream::connect(pod.captured).await.unwrap();
            let (server, _) = app.accept().await.unwrap();
            client.write_all(b"hello").await.unwrap();
            refuse(server, &answer).await;
            assert!(until_broken(&mut client).await == answer, "round {round}");
        }
    });
}
