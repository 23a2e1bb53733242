//! Envoy's own binary as a foreign peer: it opens tunnels to our door, and takes ours.

use std::{net::SocketAddr, rc::Rc};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use ztunnel_core::{Carried, Direction, End, Failure, Finish, Refusal};

mod bootstrap;
mod process;

use self::process::Envoy;
use crate::{
    fixture::{Enrolled, Mesh, WEB, at, identity, run},
    policy::deny,
};

/// An Envoy that calls `web`, port 80, of a node of ours, as `shop/envoy`.
struct ForeignClient {
    mesh: Mesh,
    envoy: Envoy,
    application: TcpListener,
}

impl ForeignClient {
    async fn start() -> Self {
        let (mesh, _, _) = Mesh::pair();
        let application = mesh.serve_web().await;
        let svid = mesh.ca.issued(&identity("envoy"));
        let (door, expects) = (mesh.places.find(at(WEB, 15008)), identity("web").to_string());
        let config = bootstrap::client(&svid, door, &expects, "10.0.0.2:80");
        Self { envoy: Envoy::start(&config).await, mesh, application }
    }

    async fn connected(&self) -> (TcpStream, TcpStream) {
        connected(self.envoy.listener("tcp").await, &self.application).await
    }
}

/// An Envoy that is the door of `web`, whom a client of ours calls.
struct ForeignServer {
    mesh: Mesh,
    envoy: Envoy,
    application: TcpListener,
    client: Enrolled,
}

impl ForeignServer {
    /// `name` is whom its certificate says that it is.
    async fn start(name: &str) -> Self {
        let (mesh, client, _) = Mesh::pair();
        let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let svid = mesh.ca.issued(&identity(name));
        let accepts = identity("client").to_string();
        let config = bootstrap::server(&svid, &accepts, application.local_addr().unwrap());
        let envoy = Envoy::start(&config).await;
        mesh.places.put(at(WEB, 15008), envoy.listener("hbone").await);
        Self { mesh, envoy, application, client }
    }

    async fn connected(&self) -> (TcpStream, TcpStream) {
        connected(self.client.captured, &self.application).await
    }
}

/// A client's connection, and what of it arrived at the application.
async fn connected(to: SocketAddr, application: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(to).await.unwrap();
    let (served, _) = application.accept().await.unwrap();
    (client, served)
}

/// Bytes that are not like those before or after them, so that any that are lost or moved are noticed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

async fn send(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) {
    to.write_all(bytes).await.unwrap();
    to.shutdown().await.unwrap();
}

async fn receive(from: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// Different bytes each way at once, to the last one. The client finishes first.
async fn exchange((client, served): (TcpStream, TcpStream), seed: u64, length: usize) {
    let (up, down) = (noise(seed, length), noise(seed + 1, length));
    let ((mut from_server, mut to_server), (mut from_client, mut to_client)) =
        (client.into_split(), served.into_split());
    let serving = async {
        let (sent, got) = tokio::join!(to_client.write_all(&down), receive(&mut from_client));
        sent.unwrap();
        to_client.shutdown().await.unwrap();
        got
    };
    let ((), got_up, got_down) =
        tokio::join!(send(&mut to_server, &up), serving, receive(&mut from_server));
    assert!(got_up == up, "the server got other bytes than were sent");
    assert!(got_down == down, "the client got other bytes than were sent");
}

/// Either side finishes first, and the other one's direction goes on.
async fn half_closes((mut first, mut second): (TcpStream, TcpStream)) {
    send(&mut first, b"all of it").await;
    assert_eq!(receive(&mut second).await, b"all of it");
    send(&mut second, b"an answer to the whole").await;
    assert_eq!(receive(&mut first).await, b"an answer to the whole");
}

const ONE_MIB: usize = 1 << 20;
const TEN_MIB: usize = 10 << 20;
const MANY: u64 = 64;

async fn carried(mesh: &Mesh, count: usize) {
    for outcome in mesh.outcomes(count).await {
        assert!(matches!(outcome.end, End::Carried(_)), "{outcome:?}");
    }
}

#[test]
fn envoy_calls_us_and_bytes_and_ends_are_carried() {
    run(async {
        let foreign = ForeignClient::start().await;
        exchange(foreign.connected().await, 1, TEN_MIB).await;
        let (client, served) = foreign.connected().await;
        half_closes((client, served)).await;
        let (client, served) = foreign.connected().await;
        half_closes((served, client)).await;
        carried(&foreign.mesh, 3).await;
        for outcome in foreign.mesh.seen.all() {
            assert_eq!(outcome.parties.source.identity, Some(identity("envoy")));
        }
    });
}

#[test]
fn envoy_opens_many_streams_in_one_tunnel_to_us() {
    run(async {
        let foreign = Rc::new(ForeignClient::start().await);
        let mut pairs = Vec::new();
        for _ in 0..MANY {
            pairs.push(foreign.connected().await);
        }
        assert_eq!(foreign.envoy.stat("cluster.hbone.upstream_cx_total").await, 1);
        let each = pairs.into_iter().zip(1..).map(|(pair, seed)| exchange(pair, seed, 100_000));
        join_all(each).await;
        assert_eq!(foreign.envoy.stat("cluster.hbone.upstream_cx_total").await, 1);
        carried(&foreign.mesh, usize::try_from(MANY).unwrap()).await;
    });
}

/// Breaks a connection, as the kernel does when a process dies with bytes unread.
fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

async fn sees_a_reset(stream: &mut TcpStream) {
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_behind_envoy_arrives_and_ours_reaches_it() {
    run(async {
        let calling = ForeignClient::start().await;
        let (client, mut served) = calling.connected().await;
        reset(client);
        sees_a_reset(&mut served).await;
        let (mut client, served) = calling.connected().await;
        reset(served);
        // Envoy is told by RST_STREAM, and passes it on as an end.
        assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0);
        calling.envoy.counts("cluster.hbone.http2.rx_reset", 1).await;

        let called = ForeignServer::start("web").await;
        let (client, mut served) = called.connected().await;
        reset(client);
        // The same here: an end for the application.
        assert_eq!(served.read(&mut [0; 1]).await.unwrap_or(0), 0);
        called.envoy.counts("http.hbone.downstream_rq_rx_reset", 1).await;
        let (mut client, served) = called.connected().await;
        reset(served);
        sees_a_reset(&mut client).await;
    });
}

/// What Envoy was answered for a CONNECT that it passed on.
async fn answer(envoy: &mut Envoy, authority: &str) -> String {
    let mut asking = TcpStream::connect(envoy.listener("connect").await).await.unwrap();
    let head = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
    asking.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    asking.read_exact(&mut status).await.unwrap();
    drop(asking);
    let logged = envoy.logged().await;
    let status = String::from_utf8(status.to_vec()).unwrap();
    let code = status.strip_prefix("HTTP/1.1 ").unwrap().to_owned();
    assert!(logged.starts_with(&code), "{status} but {logged}");
    code
}

#[test]
fn envoy_is_refused_by_name_and_told_401() {
    run(async {
        let mut foreign = ForeignClient::start().await;
        assert_eq!(answer(&mut foreign.envoy, "10.0.0.2:80").await, "200");
        foreign.mesh.change(deny("envoy"));
        assert_eq!(answer(&mut foreign.envoy, "10.0.0.2:80").await, "401");
        // And in the way that a mesh uses it: the connection ends without a byte.
        let to = foreign.envoy.listener("tcp").await;
        let mut client = TcpStream::connect(to).await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0);
        let outcomes = foreign.mesh.outcomes(3).await;
        for outcome in outcomes.iter().skip(1) {
            assert!(matches!(outcome.end, End::Refused(Refusal::Denied(_))), "{outcome:?}");
            assert_eq!(outcome.parties.source.identity, Some(identity("envoy")));
        }
    });
}

#[test]
fn envoy_is_told_400_and_503_as_istio_tells_it() {
    run(async {
        let mut foreign = ForeignClient::start().await;
        for (authority, code) in [
            ("10.0.0.3:80", "400"),
            ("web.other.svc.cluster.local:80", "503"),
            ("10.0.0.2:15008", "503"),
        ] {
            assert_eq!(answer(&mut foreign.envoy, authority).await, code, "{authority}");
        }
    });
}

#[test]
fn envoy_refuses_our_door_when_it_expects_someone_else() {
    run(async {
        let (mesh, _, _) = Mesh::pair();
        let svid = mesh.ca.issued(&identity("envoy"));
        let (door, expects) = (mesh.places.find(at(WEB, 15008)), identity("other").to_string());
        let config = bootstrap::client(&svid, door, &expects, "10.0.0.2:80");
        let mut envoy = Envoy::start(&config).await;
        assert_eq!(answer(&mut envoy, "10.0.0.2:80").await, "503");
        assert_eq!(envoy.stat("cluster.hbone.ssl.fail_verify_san").await, 1);
    });
}

#[test]
fn we_call_envoy_and_bytes_and_ends_are_carried() {
    run(async {
        let mut foreign = ForeignServer::start("web").await;
        exchange(foreign.connected().await, 1, TEN_MIB).await;
        half_closes(foreign.connected().await).await;
        carried(&foreign.mesh, 2).await;
        let logged = foreign.envoy.logged().await;
        let said = "200 spiffe://cluster.local/ns/shop/sa/client CONNECT 10.0.0.2:80 for=\"127.";
        assert!(logged.starts_with(said), "{logged}");
        assert!(logged.contains("k8s.namespace.name=shop"), "{logged}");
    });
}

/// Envoy ends a CONNECT stream as soon as the application has finished, with `RST_STREAM(NO_ERROR)` behind the
/// `END_STREAM`, and takes no more. What the application has said must arrive all the same, as far as Envoy sent
/// it: what finds no room in our stream window (4 MiB) at that moment, Envoy drops.
#[test]
fn an_application_behind_envoy_that_finishes_first_is_heard_to_the_end() {
    run(async {
        let foreign = ForeignServer::start("web").await;
        let said = noise(1, ONE_MIB);
        let (mut client, mut served) = foreign.connected().await;
        let ((), heard) = tokio::join!(send(&mut served, &said), receive(&mut client));
        assert!(heard == said, "{} bytes of {}", heard.len(), said.len());
        drop(client);
        let outcomes = foreign.mesh.outcomes(1).await;
        let [outcome] = outcomes.as_slice() else { panic!("{outcomes:?}") };
        let bytes_to_client = u64::try_from(ONE_MIB).unwrap();
        let finish = Finish::Closed;
        let whole = End::Carried(Carried { bytes_to_server: 0, bytes_to_client, finish });
        assert_eq!(outcome.end, whole);
    });
}

#[test]
fn an_application_behind_envoy_that_refuses_an_upload_is_heard() {
    run(async {
        let foreign = ForeignServer::start("web").await;
        let (client, mut served) = foreign.connected().await;
        let (mut from_server, mut to_server) = client.into_split();
        let upload = noise(1, 256 << 10);
        to_server.write_all(&upload[..1024]).await.unwrap();
        served.read_exact(&mut [0; 1024]).await.unwrap();
        send(&mut served, b"too large").await;
        let (sent, heard) = tokio::join!(to_server.write_all(&upload), receive(&mut from_server));
        sent.unwrap();
        assert_eq!(heard, b"too large");
    });
}

#[test]
fn we_open_many_streams_in_one_tunnel_to_envoy() {
    run(async {
        let foreign = ForeignServer::start("web").await;
        let mut pairs = Vec::new();
        for _ in 0..MANY {
            pairs.push(foreign.connected().await);
        }
        let each = pairs.into_iter().zip(1..).map(|(pair, seed)| exchange(pair, seed, 100_000));
        join_all(each).await;
        assert_eq!(foreign.envoy.stat("http.hbone.downstream_cx_total").await, 1);
        assert_eq!(foreign.envoy.stat("http.hbone.downstream_rq_total").await, MANY);
        carried(&foreign.mesh, usize::try_from(MANY).unwrap()).await;
    });
}

#[test]
fn an_envoy_that_is_not_whom_we_call_is_refused() {
    run(async {
        let foreign = ForeignServer::start("impostor").await;
        let mut client = TcpStream::connect(foreign.client.captured).await.unwrap();
        let error = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let outcomes = foreign.mesh.outcomes(1).await;
        let [outcome] = outcomes.as_slice() else { panic!("{outcomes:?}") };
        assert_eq!(outcome.parties.direction, Direction::Outbound);
        let impostor = |error: &str| error.contains(&identity("impostor").to_string());
        let refused = match &outcome.end {
            End::Failed(Failure::Handshake { error, .. }) => impostor(error),
            _ => false,
        };
        assert!(refused, "{outcome:?}");
        assert_eq!(foreign.envoy.stat("http.hbone.downstream_rq_total").await, 0);
    });
}
