use std::{future::pending, io};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::*;
use crate::socket::TcpEnd;

/// A connection: an application's end, and ours.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (theirs, listener.accept().await.unwrap().0)
}

async fn carry(client: TcpStream, server: TcpStream) -> Ending<()> {
    let [mut client, mut server] = [client, server].map(|stream| Plain::new(TcpEnd::new(stream)));
    relay(&mut client, &mut server, &Carried::default(), pending()).await
}

/// More than one chunk, and less than a socket takes at once.
fn answer() -> Vec<u8> {
    (0_u8..=255).cycle().take(48 << 10).collect()
}

/// How an application leaves after its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leaves {
    ByReset,
    /// Its answer is whole, and says so.
    ByEndThenReset,
}

/// An upload that its application does not take: it answers, and has gone before the first byte is carried.
async fn refused_upload(leaves: Leaves) -> (TcpStream, TcpStream, TcpStream) {
    let ((mut client, near), (mut server, far)) = (pair().await, pair().await);
    client.write_all(b"upload").await.unwrap();
    server.write_all(&answer()).await.unwrap();
    if leaves == Leaves::ByEndThenReset {
        server.shutdown().await.unwrap();
    }
    server.set_zero_linger().unwrap();
    (client, near, far)
}

fn is_reset_by_server(ending: &Ending<()>) -> bool {
    matches!(ending, Ending::Broken { by: Side::Server, error: Broken::Reset })
}

#[tokio::test]
async fn what_was_said_before_a_reset_is_heard_though_the_reset_was_met_by_writing() {
    for leaves in [Leaves::ByReset, Leaves::ByEndThenReset] {
        let (mut client, near, far) = refused_upload(leaves).await;
        let ending = carry(near, far).await;
        assert!(is_reset_by_server(&ending), "{leaves:?}: {ending:?}");
        let mut heard = Vec::new();
        let end = client.read_to_end(&mut heard).await.map(drop).map_err(|error| error.kind());
        let expected = match leaves {
            Leaves::ByReset => Err(io::ErrorKind::ConnectionReset),
            Leaves::ByEndThenReset => Ok(()),
        };
        assert_eq!(end, expected, "{leaves:?}, after {} bytes", heard.len());
        assert!(heard == answer(), "{leaves:?}: {} bytes are not what was said", heard.len());
    }
}

#[tokio::test]
async fn the_last_words_of_a_broken_end_wait_a_bounded_time_for_one_who_does_not_listen() {
    let (_client, near, far) = refused_upload(Leaves::ByReset).await;
    near.writable().await.unwrap();
    while near.try_write(&[0; 16 << 10]).is_ok() {}
    tokio::time::pause();
    let began = Instant::now();
    let ending = carry(near, far).await;
    assert!(is_reset_by_server(&ending), "{ending:?}");
    let waited = began.elapsed();
    assert!((REST_WITHIN..REST_WITHIN * 2).contains(&waited), "{waited:?}");
}

/// An end that does as it is told, and notes what becomes of what it has queued.
#[derive(Default)]
struct Puppet {
    says: Option<Bytes>,
    /// What a write meets; without one it waits for ever.
    breaks: Option<Broken>,
    queued: Option<Queued>,
}

impl End for Puppet {
    fn poll_chunk(&mut self, _: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        self.says.take().map_or(Poll::Pending, |chunk| Poll::Ready(Ok(Some(chunk))))
    }

    fn poll_write(&mut self, _: &mut Context<'_>, _: &mut Bytes) -> Poll<Result<(), Broken>> {
        self.breaks.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Pending
    }

    fn poll_broken(&mut self, _: &mut Context<'_>) -> Poll<Broken> {
        Poll::Pending
    }

    fn reset(&mut self, queued: Queued) {
        self.queued = Some(queued);
    }
}

/// A client that uploads and takes nothing, and an application that answers and breaks.
fn deaf_client() -> (Puppet, Puppet) {
    let says = |text: &'static [u8]| Some(Bytes::from_static(text));
    let client = Puppet { says: says(b"upload"), ..Puppet::default() };
    let server = Puppet { says: says(b"answer"), breaks: Some(Broken::Reset), ..Puppet::default() };
    (client, server)
}

#[tokio::test(start_paused = true)]
async fn last_words_that_nobody_takes_in_time_are_not_kept_for_later() {
    let (mut client, mut server) = deaf_client();
    let ending = relay(&mut client, &mut server, &Carried::default(), pending::<()>()).await;
    assert!(is_reset_by_server(&ending), "{ending:?}");
    assert_eq!([client.queued, server.queued], [Some(Queued::Drop); 2]);
}

#[tokio::test(start_paused = true)]
async fn last_words_of_a_connection_that_may_not_go_on_are_not_sent() {
    let (mut client, mut server) = deaf_client();
    let cut = Box::pin(async {
        // Not before the application has broken.
        tokio::time::sleep(REST_WITHIN / 2).await;
        "revoked"
    });
    let ending = relay(&mut client, &mut server, &Carried::default(), cut).await;
    assert!(matches!(ending, Ending::Cut("revoked")), "{ending:?}");
    assert_eq!([client.queued, server.queued], [Some(Queued::Drop); 2]);
}
