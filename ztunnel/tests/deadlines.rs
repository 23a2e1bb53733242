//! Callers that are slow, silent or senseless. Time stands still until nothing else can happen.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::LocalSet,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use weft_model::{Change, View};
use ztunnel::{
    config::Limits,
    memory::Pressure,
    outcome::Outcomes,
    tunnel::hbone::Settings,
    worker::{Entrance, PodUid, Shared, Svids, Worker},
};
use ztunnel_core::{End, Failure, Outcome, Refusal};

use crate::{
    fixture::{CLIENT, Ca, Seen, WEB, at, identity, name, workload},
    memory::{Memory, MemoryListener, MemorySockets, Pipe},
    written::written,
};

/// A node with one pod, `web`, in a network of pipes.
struct Node {
    network: Memory,
    worker: Worker<MemorySockets>,
    seen: Seen,
    ca: Rc<Ca>,
    pressure: tokio::sync::watch::Sender<Pressure>,
    _views: tokio::sync::watch::Sender<std::sync::Arc<View>>,
}

impl Node {
    fn new(settings: Settings, limits: Limits) -> Self {
        let pods = [workload("client", CLIENT), workload("web", WEB)];
        let view = View::from_iter(pods.map(|w| Change::Workload(w.into())));
        let views = tokio::sync::watch::Sender::new(std::sync::Arc::new(view));
        let (seen, ca) = (Seen::default(), Ca::new());
        let outcomes: Rc<dyn Outcomes> = Rc::new(seen.clone());
        let shared = Shared::new(views.subscribe(), ca.clone(), outcomes, settings, limits, 1);
        let (pressure, felt) = tokio::sync::watch::channel(Pressure::Normal);
        let worker = Worker::new(Rc::new(shared.under(felt)));
        let network = Memory::default();
        let door = network.listen(at(WEB, 15008));
        let sockets = MemorySockets { network: network.clone(), address: at(WEB, 0) };
        let uid = PodUid("web".into());
        worker.add(uid, name("web"), sockets, vec![(Entrance::Hbone, door)]);
        Self { network, worker, seen, ca, pressure, _views: views }
    }

    fn call(&self) -> Pipe {
        self.network.dial(at(CLIENT, 40000), at(WEB, 15008)).unwrap()
    }

    async fn handshake(&self) -> TlsStream<Pipe> {
        self.handshake_as("client").await
    }

    async fn handshake_as(&self, caller: &str) -> TlsStream<Pipe> {
        let (client, web) = (identity(caller), identity("web"));
        let svid = self.ca.svid(&client).await.unwrap();
        let tls = TlsConnector::from(weft_certs::client_config(&svid, &[web]));
        tls.connect(weft_certs::server_name(), self.call()).await.unwrap()
    }

    async fn outcome(&self) -> Outcome {
        loop {
            let more = self.seen.more();
            if let Some(outcome) = self.seen.all().pop() {
                return outcome;
            }
            more.await;
        }
    }
}

/// Runs with paused time; `test` may take ten minutes of it.
fn run(test: impl AsyncFnOnce(Node)) {
    run_within(Limits::default(), test);
}

fn run_within(limits: Limits, test: impl AsyncFnOnce(Node)) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let local = LocalSet::new();
    local.block_on(&runtime.unwrap(), async {
        let node = Node::new(Settings::default(), limits);
        timeout(Duration::from_mins(10), test(node)).await.expect("in time");
    });
}

/// How long the other side takes to end the connection.
async fn until_closed(mut stream: impl tokio::io::AsyncRead + Unpin) -> Duration {
    let start = Instant::now();
    let mut heard = Vec::new();
    // However it ends: what counts is that it does.
    let _ = stream.read_to_end(&mut heard).await;
    start.elapsed()
}

#[test]
fn a_silent_caller_is_closed_after_the_client_hello_deadline() {
    run(async |node| {
        assert_eq!(until_closed(node.call()).await, Duration::from_secs(5));
        let outcome = node.outcome().await;
        assert!(matches!(outcome.end, End::Failed(Failure::Handshake { .. })), "{outcome:?}");
    });
}

#[test]
fn a_caller_that_dribbles_its_greeting_is_closed_all_the_same() {
    run(async |node| {
        let (mut sends, start) = (node.call(), Instant::now());
        // A record head that promises 512 bytes, then one byte a second.
        let mut next = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc];
        while sends.write_all(&next).await.is_ok() {
            next = vec![3];
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let took = start.elapsed();
        assert!(took <= Duration::from_secs(6), "{took:?}");
    });
}

#[test]
fn a_caller_without_a_preface_is_closed_after_its_deadline() {
    run(async |node| {
        let tls = node.handshake().await;
        assert_eq!(until_closed(tls).await, Duration::from_secs(5));
        let outcome = node.outcome().await;
        assert!(matches!(outcome.end, End::Failed(Failure::H2 { .. })), "{outcome:?}");
    });
}

#[test]
fn a_caller_that_asks_for_nothing_is_closed_after_the_head_deadline() {
    run(async |node| {
        let tls = node.handshake().await;
        let start = Instant::now();
        let (_requests, connection) = h2::client::handshake(tls).await.unwrap();
        let _ = connection.await;
        assert_eq!(start.elapsed(), Duration::from_secs(10));
    });
}

#[test]
fn a_header_block_that_is_never_finished_is_cut() {
    run(async |node| {
        let mut tls = node.handshake().await;
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        // HEADERS of stream 1 without END_HEADERS, then an empty CONTINUATION a second.
        tls.write_all(&[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82]).await.unwrap();
        let start = Instant::now();
        while tls.write_all(&[0, 0, 0, 9, 0, 0, 0, 0, 1]).await.is_ok() {
            tls.flush().await.ok();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let took = start.elapsed();
        assert!(took <= Duration::from_secs(12), "{took:?}");
    });
}

#[test]
fn a_caller_that_does_not_answer_pings_is_closed() {
    run(async |node| {
        let mut tls = node.handshake().await;
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        // CONNECT 10.0.0.2:80, so that it is not closed for asking nothing; then silence.
        let mut head = vec![0, 0, 0, 1, 4, 0, 0, 0, 1];
        let block = b"\x02\x07CONNECT\x01\x0b10.0.0.2:80";
        head[2] = u8::try_from(block.len()).unwrap();
        head.extend(block);
        tls.write_all(&head).await.unwrap();
        let took = until_closed(tls).await;
        assert_eq!(took, Duration::from_secs(30), "a ping after 10 s, and 20 s for its answer");
    });
}

async fn answer_to(node: &Node, request: Request<()>) -> StatusCode {
    let tls = node.handshake().await;
    let (requests, connection) = h2::client::handshake(tls).await.unwrap();
    let driver = tokio::task::spawn_local(async move { drop(connection.await) });
    let mut requests = requests.ready().await.unwrap();
    let (answer, _body) = requests.send_request(request, false).unwrap();
    let status = answer.await.unwrap().status();
    driver.abort();
    status
}

fn connect(authority: &str) -> Request<()> {
    let uri = http::Uri::builder().authority(authority).build().unwrap();
    let mut request = Request::builder().method(Method::CONNECT).body(()).unwrap();
    *request.uri_mut() = uri;
    request
}

#[test]
fn requests_that_make_no_sense_are_answered_400_and_unknown_places_503() {
    run(async |node| {
        let get = Request::get("https://10.0.0.2/").body(()).unwrap();
        let cases = [
            (get, StatusCode::BAD_REQUEST),
            (connect("10.0.0.2"), StatusCode::BAD_REQUEST),
            (connect("10.0.0.2:0"), StatusCode::BAD_REQUEST),
            (connect("10.0.0.2:99999"), StatusCode::BAD_REQUEST),
            (connect("user@10.0.0.2:80"), StatusCode::BAD_REQUEST),
            // Another pod's address: its traffic is not this pod's to take.
            (connect("10.0.0.1:80"), StatusCode::BAD_REQUEST),
            (connect("nowhere.shop.svc.cluster.local:80"), StatusCode::SERVICE_UNAVAILABLE),
            // The proxy's own ports, or it would call itself.
            (connect("10.0.0.2:15008"), StatusCode::SERVICE_UNAVAILABLE),
            (connect("10.0.0.2:15001"), StatusCode::SERVICE_UNAVAILABLE),
            (connect("10.0.0.2:15006"), StatusCode::SERVICE_UNAVAILABLE),
            // Nobody listens there.
            (connect("10.0.0.2:81"), StatusCode::SERVICE_UNAVAILABLE),
        ];
        for (request, expected) in cases {
            let asked = format!("{request:?}");
            assert_eq!(answer_to(&node, request).await, expected, "{asked}");
        }
        let wrong = node.seen.all().into_iter().find_map(|outcome| match outcome.end {
            End::Refused(refusal @ Refusal::WrongAuthority { .. }) => Some(refusal.to_string()),
            End::Refused(_) | End::Failed(_) | End::Carried(_) => None,
        });
        let text =
            "authority 10.0.0.1:80 is not the address 10.0.0.2:15008 that the tunnel came to";
        assert_eq!(wrong.as_deref(), Some(text));
    });
}

#[test]
fn a_flood_of_frames_that_carry_nothing_is_cut_and_named() {
    let log = written(|| run(flood_with_priorities));
    let said = "the peer floods the connection with HTTP/2 frames that carry nothing";
    assert!(log.contains("tunnel cut") && log.contains(said), "{log}");
    assert!(log.contains("peer=spiffe://cluster.local/ns/shop/sa/client"), "{log}");
}

async fn flood_with_priorities(node: Node) {
    let mut tls = node.handshake().await;
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let priority = [0, 0, 5, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 16];
    let mut sent = 0;
    while tls.write_all(&priority.repeat(100)).await.is_ok() && tls.flush().await.is_ok() {
        sent += 100;
        assert!(sent < 100_000, "nobody stops it");
        tokio::task::yield_now().await;
    }
    // Until the proxy has cut it for good, and said so.
    until_closed(tls).await;
}

#[test]
fn without_descriptors_the_oldest_silent_callers_go_first_and_others_are_served() {
    run(async |node| {
        let silent: Vec<_> = (0..20).map(|_| node.call()).collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        node.network.exhausted.set(1);
        let start = Instant::now();
        drop(node.handshake().await);
        assert!(start.elapsed() < Duration::from_secs(1), "the next caller is served soon");
        let mut closed_at_once = 0;
        for caller in silent {
            if until_closed(caller).await < Duration::from_secs(1) {
                closed_at_once += 1;
            }
        }
        // All others were closed by their deadline, while the first of them was waited for.
        assert!(closed_at_once >= 16, "{closed_at_once}");
        let shed = node.seen.all();
        let stopped = |o: &&Outcome| matches!(o.end, End::Failed(Failure::Stopping));
        assert!(shed.iter().filter(stopped).count() <= 16, "{shed:?}");
    });
}

#[test]
fn a_pod_at_its_limit_lets_callers_wait_until_one_has_left() {
    let limits = Limits { pod_connections: 2, ..Limits::default() };
    run_within(limits, async |node| {
        let (first, second) = (node.handshake().await, node.handshake().await);
        let start = Instant::now();
        let third = node.handshake();
        let leaving = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(first);
        };
        let (third, ()) = tokio::join!(third, leaving);
        assert_eq!(start.elapsed(), Duration::from_secs(2));
        drop((second, third));
    });
}

#[test]
fn without_memory_silent_callers_are_cut_new_ones_wait_and_who_is_proven_stays() {
    run(async |node| {
        let start = Instant::now();
        let proven = node.handshake().await;
        let (mut requests, connection) = h2::client::handshake(proven).await.unwrap();
        let _driver = tokio::task::spawn_local(async move { drop(connection.await) });
        let app = node.network.listen(at(WEB, 80));
        let (answer, _body) = requests.send_request(connect("10.0.0.2:80"), false).unwrap();
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
        let mut asked = ztunnel::socket::Listener::accept(&app).await.unwrap().stream;
        let silent = node.call();
        tokio::time::sleep(Duration::from_secs(1)).await;

        node.pressure.send_replace(Pressure::Full);
        assert_eq!(until_closed(silent).await, Duration::ZERO, "the silent caller is cut");
        let enough = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            asked.write_all(b"still here").await.unwrap();
            node.pressure.send_replace(Pressure::Normal);
        };
        let (waited, ()) = tokio::join!(node.handshake(), enough);
        assert_eq!(start.elapsed(), Duration::from_secs(4), "the new caller waited, and is served");
        drop((waited, requests));
    });
}

/// An open stream's two ends.
type Carrying = (h2::RecvStream, h2::SendStream<Bytes>, Pipe);

/// Streams to the application through one tunnel.
async fn streams(node: &Node, caller: &str, app: &MemoryListener, count: usize) -> Vec<Carrying> {
    let tls = node.handshake_as(caller).await;
    let (mut requests, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::task::spawn_local(async move { drop(connection.await) });
    let mut all = Vec::new();
    for _ in 0..count {
        requests = requests.ready().await.unwrap();
        let (answer, send) = requests.send_request(connect("10.0.0.2:80"), false).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let asked = ztunnel::socket::Listener::accept(app).await.unwrap().stream;
        all.push((answer.into_body(), send, asked));
    }
    all
}

/// Whether a byte comes through.
async fn goes_on((body, _, application): &mut Carrying) -> bool {
    application.write_all(b"?").await.is_ok() && matches!(body.data().await, Some(Ok(_)))
}

#[test]
fn above_the_limit_the_newest_streams_of_the_heaviest_identity_are_cut() {
    run(async |node| {
        let app = node.network.listen(at(WEB, 80));
        let mut heavy = streams(&node, "client", &app, 20).await;
        let mut light = streams(&node, "other", &app, 2).await;
        let tending = node.worker.tend();
        let shedding = async {
            let ended = async |count| {
                while node.seen.all().len() < count {
                    node.outcome().await;
                    tokio::task::yield_now().await;
                }
            };
            node.pressure.send_replace(Pressure::Over { look: 0 });
            ended(16).await;
            for (number, stream) in heavy.iter_mut().enumerate() {
                assert_eq!(goes_on(stream).await, number < 4, "the {number}th");
            }
            for stream in &mut light {
                assert!(goes_on(stream).await, "whoever has few is spared");
            }
            node.pressure.send_replace(Pressure::Over { look: 1 });
            ended(20).await;
        };
        tokio::select! {
            () = tending => unreachable!("views go on"),
            () = shedding => {}
        }
        let ends = node.seen.all();
        assert_eq!(ends.len(), 20);
        for outcome in ends {
            let End::Carried(carried) = &outcome.end else { unreachable!("{outcome:?}") };
            assert_eq!(carried.finish, ztunnel_core::Finish::Shed);
            assert_eq!(outcome.parties.source.identity, Some(identity("client")));
        }
    });
}

#[test]
fn a_pod_that_left_is_forgotten_once_its_connections_have_ended() {
    run(async |node| {
        let app = node.network.listen(at(WEB, 80));
        let open = streams(&node, "client", &app, 1).await;
        let uid = PodUid("web".into());
        let pod = node.worker.pods().first().map(Rc::downgrade).unwrap();
        node.worker.remove(&uid);
        let forgotten = async {
            tokio::time::sleep(Duration::from_mins(1)).await;
            assert!(pod.upgrade().is_some(), "its connection is open");
            drop(open);
            tokio::time::sleep(Duration::from_mins(1)).await;
            assert!(pod.upgrade().is_none(), "its sockets, and so its namespace, are still held");
        };
        tokio::select! {
            () = node.worker.tend() => unreachable!("views go on"),
            () = forgotten => {}
        }
    });
}

#[test]
fn draining_tells_the_peer_and_lets_what_is_open_finish() {
    run(async |node| {
        let app = node.network.listen(at(WEB, 80));
        let tls = node.handshake().await;
        let (requests, connection) = h2::client::handshake(tls).await.unwrap();
        let driver = tokio::task::spawn_local(connection);
        let mut requests = requests.ready().await.unwrap();
        let (answer, mut body) = requests.send_request(connect("10.0.0.2:80"), false).unwrap();
        let answer = answer.await.unwrap();
        let mut asked = ztunnel::socket::Listener::accept(&app).await.unwrap().stream;

        let deadline = Instant::now() + Duration::from_mins(1);
        let draining = node.worker.drain(deadline);
        let finishing = async {
            // GOAWAY has come: no new stream, though the open one still carries.
            while let Ok(ready) = requests.clone().ready().await {
                drop(ready);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            body.send_data(Bytes::from_static(b"last words"), true).unwrap();
            let mut heard = Vec::new();
            asked.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"last words");
            asked.shutdown().await.unwrap();
            drop((asked, answer, body, requests));
        };
        tokio::join!(draining, finishing);
        assert!(Instant::now() < deadline, "it did not wait for the deadline");
        driver.await.unwrap().unwrap();
    });
}

#[test]
fn what_is_still_open_at_the_drain_deadline_is_cut_and_said_so() {
    run(async |node| {
        let app = node.network.listen(at(WEB, 80));
        let tls = node.handshake().await;
        let (requests, connection) = h2::client::handshake(tls).await.unwrap();
        let _driver = tokio::task::spawn_local(async move { drop(connection.await) });
        let mut requests = requests.ready().await.unwrap();
        let (answer, _body) = requests.send_request(connect("10.0.0.2:80"), false).unwrap();
        let _answer = answer.await.unwrap();
        let mut asked = ztunnel::socket::Listener::accept(&app).await.unwrap().stream;

        let deadline = Instant::now() + Duration::from_secs(30);
        node.worker.drain(deadline).await;
        assert_eq!(Instant::now(), deadline);
        let error = asked.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let outcome = node.outcome().await;
        let End::Carried(carried) = outcome.end else { unreachable!("{outcome:?}") };
        assert_eq!(carried.finish, ztunnel_core::Finish::Drained);
    });
}
