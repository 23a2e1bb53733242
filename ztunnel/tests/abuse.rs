//! A client that has a certificate and means harm: it is cut or held within bounds, and others do not notice.

use std::{cell::Cell, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

pub(crate) mod hostile;

use self::hostile::{
    ACK, Answer, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE,
    PING, PUSH_PROMISE, RST_STREAM, Reader, SETTINGS, WINDOW_UPDATE, Writer, call, connect, field,
    frame, greeted, setting,
};
use crate::{
    fixture::{Enrolled, Mesh, WEB, at, run},
    written::written,
};

/// Another client's connection to the same pod, through the same door.
struct Bystander {
    client: TcpStream,
    served: TcpStream,
}

impl Bystander {
    async fn connected(client: &Enrolled, application: &TcpListener) -> Self {
        let client = TcpStream::connect(client.captured).await.unwrap();
        let (served, _) = application.accept().await.unwrap();
        Self { client, served }
    }

    async fn goes_on(&mut self) {
        let both = async {
            let (client, served) = (&mut self.client, &mut self.served);
            client.write_all(b"?").await.unwrap();
            served.read_exact(&mut [0; 1]).await.unwrap();
            served.write_all(b"!").await.unwrap();
            client.read_exact(&mut [0; 1]).await.unwrap();
        };
        timeout(Duration::from_secs(5), both).await.expect("a bystander is served meanwhile");
    }

    /// Goes on for as long as `abuse` does, and once more.
    async fn during<T>(&mut self, abuse: impl Future<Output = T>) -> T {
        let over = Cell::new(false);
        let abuse = async {
            let result = abuse.await;
            over.set(true);
            result
        };
        let going_on = async {
            while !over.get() {
                self.goes_on().await;
            }
            self.goes_on().await;
        };
        tokio::join!(abuse, going_on).0
    }
}

struct Scene {
    mesh: Mesh,
    application: TcpListener,
    client: Enrolled,
    bystander: Bystander,
}

impl Scene {
    async fn new() -> Self {
        let (mesh, client, _) = Mesh::pair();
        let application = mesh.serve_web().await;
        let bystander = Bystander::connected(&client, &application).await;
        Self { mesh, application, client, bystander }
    }

    /// After everything, somebody new is served too.
    async fn ends_well(mut self) {
        self.bystander.goes_on().await;
        Bystander::connected(&self.client, &self.application).await.goes_on().await;
    }
}

/// More than any buffer between us and the proxy holds: who can send that much is not stopped.
const FLOOD_BYTES_MAX: usize = 64 << 20;

/// Sends without end what `wave` makes of a count, and reads all that comes. Counts the answers until the end.
async fn flood(
    (mut reader, mut writer): (Reader, Writer),
    mut wave: impl FnMut(u32) -> Vec<u8>,
) -> usize {
    let sending = async {
        let mut sent = 0;
        for count in 0.. {
            let bytes = wave(count);
            if !writer.try_send(&bytes).await {
                return;
            }
            sent += bytes.len();
            assert!(sent < FLOOD_BYTES_MAX, "nobody stops it");
            tokio::task::yield_now().await;
        }
    };
    let reading = async {
        let mut answers = 0;
        while let Some(frame) = reader.frame().await {
            answers += usize::from(frame.kind != GOAWAY);
        }
        answers
    };
    tokio::join!(sending, reading).1
}

/// What the proxy may have answered before it cut a flood: the allowance at once, and what it earned meanwhile.
const ANSWERS_MAX: usize = 30_000;

#[test]
fn a_flood_of_pings_or_settings_is_cut() {
    run(async {
        let mut scene = Scene::new().await;
        for unit in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])] {
            let tunnel = call(&scene.mesh, &[]).await;
            let flood = flood(tunnel, |_| unit.repeat(100));
            let answers = scene.bystander.during(flood).await;
            assert!(answers < ANSWERS_MAX, "{answers} answers to {unit:?}");
        }
        scene.ends_well().await;
    });
}

#[test]
fn a_flood_of_answers_that_nobody_asked_for_is_cut() {
    run(async {
        let mut scene = Scene::new().await;
        for unit in [frame(PING, ACK, 0, &[7; 8]), frame(SETTINGS, ACK, 0, &[])] {
            let tunnel = call(&scene.mesh, &[]).await;
            scene.bystander.during(flood(tunnel, |_| unit.repeat(100))).await;
        }
        scene.ends_well().await;
    });
}

#[test]
fn a_rapid_reset_is_cut_and_starts_little() {
    run(async {
        let mut scene = Scene::new().await;
        let tunnel = call(&scene.mesh, &[]).await;
        let block = connect();
        let reset = |stream| {
            let mut bytes = frame(HEADERS, END_HEADERS, stream, &block);
            bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            bytes
        };
        let flood =
            flood(tunnel, |count| (0..50).flat_map(|i| reset(100 * count + 2 * i + 1)).collect());
        scene.bystander.during(flood).await;
        let started = scene.mesh.seen.all().len();
        assert!(started < 1_000, "{started} streams were served");
        scene.ends_well().await;
    });
}

#[test]
fn a_flood_of_continuations_is_cut() {
    run(async {
        let mut scene = Scene::new().await;
        for piece in [field("x", "y"), Vec::new()] {
            let (reader, mut writer) = call(&scene.mesh, &[]).await;
            writer.send(&frame(HEADERS, 0, 1, &connect())).await;
            let unit = frame(CONTINUATION, 0, 1, &piece);
            let flood = flood((reader, writer), |_| unit.repeat(100));
            scene.bystander.during(flood).await;
        }
        scene.ends_well().await;
    });
}

#[test]
fn a_flood_of_empty_data_or_of_windows_is_cut() {
    run(async {
        let mut scene = Scene::new().await;
        let window = frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes());
        for unit in [frame(DATA, 0, 1, &[]), window] {
            let (mut reader, mut writer) = call(&scene.mesh, &[]).await;
            writer.send(&frame(HEADERS, END_HEADERS, 1, &connect())).await;
            assert_eq!(reader.answer(1).await, Answer::Status(200));
            let (_served, _) = scene.application.accept().await.unwrap();
            let flood = flood((reader, writer), |_| unit.repeat(100));
            scene.bystander.during(flood).await;
        }
        scene.ends_well().await;
    });
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    run(async {
        let mut scene = Scene::new().await;
        let (mut reader, mut writer) = call(&scene.mesh, &[]).await;
        let accepting = async {
            let mut held = Vec::new();
            loop {
                held.push(scene.application.accept().await.unwrap());
            }
        };
        let asking = async {
            for stream in (1..2_000).step_by(2) {
                writer.send(&frame(HEADERS, END_HEADERS, stream, &connect())).await;
            }
            let (mut served, mut refused) = (0, 0);
            while served + refused < 1_000 {
                let frame = reader.frame().await.unwrap();
                match (frame.kind, frame.payload.as_slice()) {
                    (HEADERS, [0x20, 0x88, ..] | [0x88, ..]) => served += 1,
                    (RST_STREAM, [0, 0, 0, REFUSED_STREAM]) => refused += 1,
                    _ => {}
                }
            }
            (served, refused)
        };
        let asking = scene.bystander.during(asking);
        let answers = tokio::select! {
            answers = asking => answers,
            () = accepting => (0, 0),
        };
        assert_eq!(answers, (200, 800));
        scene.ends_well().await;
    });
}

/// A stream's window that is never opened, while the application has much to say.
#[test]
fn a_reader_that_takes_nothing_stops_its_application_and_nobody_else() {
    run(async {
        let mut scene = Scene::new().await;
        let closed = setting(INITIAL_WINDOW_SIZE, 0);
        let (mut reader, mut writer) = call(&scene.mesh, &closed).await;
        writer.send(&frame(HEADERS, END_HEADERS, 1, &connect())).await;
        assert_eq!(reader.answer(1).await, Answer::Status(200));
        let (served, _) = scene.application.accept().await.unwrap();
        let much = vec![7; 64 << 10];
        let talking = async {
            let mut taken = 0;
            while timeout(Duration::from_secs(1), served.writable()).await.is_ok() {
                taken += served.try_write(&much).unwrap_or(0);
                assert!(taken < FLOOD_BYTES_MAX, "it is buffered without end");
                tokio::task::yield_now().await;
            }
            taken
        };
        let taken = scene.bystander.during(talking).await;
        // Two kernel buffers, which hold up to 4 and 6 MiB, and what one stream may have in flight.
        assert!(taken < 16 << 20, "{taken} bytes are buffered for a reader that takes none");
        // It was only slow: what it then asks for, it gets.
        writer.send(&frame(WINDOW_UPDATE, 0, 1, &50_000_u32.to_be_bytes())).await;
        let mut heard = 0;
        while heard < 50_000 {
            let frame = reader.frame().await.unwrap();
            heard += if frame.kind == DATA { frame.payload.len() } else { 0 };
        }
        assert_eq!(heard, 50_000);
        scene.ends_well().await;
    });
}

#[test]
fn a_flood_whose_answers_are_not_read_is_cut() {
    run(async {
        let mut scene = Scene::new().await;
        let (_reader, mut writer) = call(&scene.mesh, &[]).await;
        let pings = frame(PING, 0, 0, &[7; 8]).repeat(100);
        let flood = async {
            let mut sent = 0;
            loop {
                match writer.send_soon(&pings).await {
                    Some(true) => sent += pings.len(),
                    // Held up by full buffers is not enough: it would hold them for as long as it likes.
                    held_or_cut => return assert_eq!(held_or_cut, Some(false)),
                }
                assert!(sent < FLOOD_BYTES_MAX, "nobody stops it");
                tokio::task::yield_now().await;
            }
        };
        scene.bystander.during(flood).await;
        scene.ends_well().await;
    });
}

#[test]
fn heads_that_are_too_large_are_refused() {
    run(async {
        let mut scene = Scene::new().await;
        let (mut reader, mut writer) = call(&scene.mesh, &[]).await;
        let large = [connect(), field("x-large", &"x".repeat(100 << 10))].concat();
        writer.send(&frame(HEADERS, END_HEADERS, 1, &large)).await;
        assert_eq!(reader.answer(1).await, Answer::Status(431));
        // The tunnel goes on.
        writer.send(&frame(HEADERS, END_HEADERS, 3, &connect())).await;
        assert_eq!(reader.answer(3).await, Answer::Status(200));
        let (_served, _) = scene.application.accept().await.unwrap();

        // 4 KB in the dynamic table, named a million times: 4 GB, if anyone unfolded it.
        let (name, value) = ("x-bomb", "x".repeat(4_000));
        let entry = [&[0x40], &field(name, &value)[1..]].concat();
        let bomb = [connect(), entry, vec![0xbe; 1_000_000]].concat();
        let (mut reader, mut writer) = call(&scene.mesh, &[]).await;
        let throwing = async {
            writer.send(&frame(HEADERS, END_HEADERS, 1, &bomb)).await;
            reader.answer(1).await
        };
        let answer = scene.bystander.during(throwing).await;
        assert_eq!(answer, Answer::Ended(Some(ENHANCE_YOUR_CALM)));
        scene.ends_well().await;
    });
}

const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u8 = 7;
const PROTOCOL_ERROR: u32 = 1;

#[test]
fn requests_that_are_no_connect_are_refused_one_by_one() {
    run(async {
        let scene = Scene::new().await;
        for port in [15000, 15020, 15021] {
            let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            scene.mesh.places.put(at(WEB, port), nobody);
        }
        let (mut reader, mut writer) = call(&scene.mesh, &[]).await;
        let method = |method| field(":method", method);
        let authority = |authority| field(":authority", authority);
        let to_web = || authority("10.0.0.2:80");
        let get = [method("GET"), field(":scheme", "https"), field(":path", "/"), to_web()];
        let protocol = field(":protocol", "websocket");
        let web_socket = [connect(), protocol, field(":scheme", "https"), field(":path", "/")];
        let long = format!("{}:80", "a".repeat(10_000));
        let cases = [
            (get.concat(), Answer::Status(400)),
            (web_socket.concat(), Answer::Reset(PROTOCOL_ERROR)),
            (method("CONNECT"), Answer::Status(400)),
            ([method("CONNECT"), authority("")].concat(), Answer::Reset(PROTOCOL_ERROR)),
            ([method("CONNECT"), to_web(), to_web()].concat(), Answer::Reset(PROTOCOL_ERROR)),
            ([method("CONNECT"), authority(&long)].concat(), Answer::Status(400)),
            ([method("CONNECT"), authority("10.0.0.2")].concat(), Answer::Status(400)),
            ([method("CONNECT"), authority("10.0.0.2:+80")].concat(), Answer::Status(400)),
            ([method("CONNECT"), authority("10.0.0.2:65536")].concat(), Answer::Status(400)),
            ([method("CONNECT"), authority("user@10.0.0.2:80")].concat(), Answer::Status(400)),
            ([method("CONNECT"), authority("[10.0.0.2]:80")].concat(), Answer::Status(400)),
            ([method("CONNECT"), authority("10.0.0.3:80")].concat(), Answer::Status(400)),
            ([method("CONNECT"), authority("127.0.0.1:80")].concat(), Answer::Status(400)),
            ([method("CONNECT"), authority("10.0.0.2:0")].concat(), Answer::Status(400)),
            ([method("CONNECT"), authority("10.0.0.2:15001")].concat(), Answer::Status(503)),
            ([method("CONNECT"), authority("10.0.0.2:15006")].concat(), Answer::Status(503)),
            ([method("CONNECT"), authority("10.0.0.2:15008")].concat(), Answer::Status(503)),
            ([method("CONNECT"), authority("10.0.0.2:15053")].concat(), Answer::Status(503)),
            // Of the proxy only in its node's namespace. In a pod nobody listens there, or it is the pod's own: a
            // gateway's readiness is at 15021.
            ([method("CONNECT"), authority("10.0.0.2:15000")].concat(), Answer::Status(503)),
            ([method("CONNECT"), authority("10.0.0.2:15020")].concat(), Answer::Status(503)),
            ([method("CONNECT"), authority("10.0.0.2:15021")].concat(), Answer::Status(503)),
            ([connect(), field("connection", "close")].concat(), Answer::Reset(PROTOCOL_ERROR)),
            (connect(), Answer::Status(200)),
        ];
        let mut seen = Vec::new();
        for ((block, _), stream) in cases.iter().zip((1..).step_by(2)) {
            writer.send(&frame(HEADERS, END_HEADERS, stream, block)).await;
            seen.push(reader.answer(stream).await);
        }
        let expected: Vec<_> = cases.iter().map(|(_, answer)| *answer).collect();
        assert_eq!(seen, expected);
        let (_served, _) = scene.application.accept().await.unwrap();
        scene.ends_well().await;
    });
}

#[test]
fn whoever_breaks_the_protocol_is_told_so_and_cut() {
    run(async {
        let scene = Scene::new().await;
        let capitals = [connect(), field("Upper", "case")].concat();
        let most = 0x7fff_ffff_u32.to_be_bytes();
        let cases = [
            ("DATA for no stream", frame(DATA, 0, 0, b"x")),
            ("DATA for a stream that is not open", frame(DATA, 0, 1, b"x")),
            ("a stream of the server's", frame(HEADERS, END_HEADERS, 2, &connect())),
            ("a promise", frame(PUSH_PROMISE, END_HEADERS, 1, &2_u32.to_be_bytes())),
            ("a window of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
            ("a window too wide", frame(WINDOW_UPDATE, 0, 0, &most)),
            ("a PING of seven bytes", frame(PING, 0, 0, &[7; 7])),
            ("a setting and a bit", frame(SETTINGS, 0, 0, &[7; 7])),
            ("a header block of rubbish", frame(HEADERS, END_HEADERS, 1, &[0xff; 9])),
            (
                "a header block without an end, and another stream",
                frame(HEADERS, 0, 1, &connect()).repeat(2),
            ),
            ("a name in capitals", frame(HEADERS, END_HEADERS, 1, &capitals)),
            ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &[])),
            ("a frame that is too large", vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        ];
        for (what, bytes) in cases {
            let (mut reader, mut writer) = call(&scene.mesh, &[]).await;
            writer.send(&bytes).await;
            // Not a stream that anyone answers: the end is waited for.
            let ended = reader.answer(u32::MAX).await;
            assert!(matches!(ended, Answer::Ended(Some(_))), "{what}: {ended:?}");
        }
        let (mut reader, mut writer) = greeted(&scene.mesh).await;
        writer.send(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
        assert!(matches!(reader.answer(1).await, Answer::Ended(_)));
        scene.ends_well().await;
    });
}

/// Each of the above once more, with an ear on the log.
#[test]
fn whoever_is_cut_is_named_in_the_log() {
    let abuses: [(&str, fn()); 7] = [
        ("pings or settings", a_flood_of_pings_or_settings_is_cut),
        ("answers", a_flood_of_answers_that_nobody_asked_for_is_cut),
        ("rapid reset", a_rapid_reset_is_cut_and_starts_little),
        ("continuations", a_flood_of_continuations_is_cut),
        ("empty data or windows", a_flood_of_empty_data_or_of_windows_is_cut),
        ("answers not read", a_flood_whose_answers_are_not_read_is_cut),
        ("broken protocol", whoever_breaks_the_protocol_is_told_so_and_cut),
    ];
    for (what, abuse) in abuses {
        let log = written(abuse);
        let named = log.lines().any(|line| {
            line.contains("tunnel cut")
                && line.contains("peer=spiffe://cluster.local/ns/shop/sa/hostile")
        });
        assert!(named, "{what}: {log}");
    }
}

#[test]
fn whoever_is_refused_unread_is_named_in_the_log_once_for_each_tunnel() {
    let cases: [(&str, fn(), &str); 3] = [
        ("large heads", heads_that_are_too_large_are_refused, "h2.server_header_list"),
        ("large heads with nothing after", heads_with_nothing_after, "h2.server_header_list"),
        ("800 streams too many", streams_beyond_the_limit_are_refused, "h2.server_streams"),
    ];
    for (what, abuse, setting) in cases {
        let log = written(abuse);
        let named = log.lines().filter(|line| {
            line.contains("request refused")
                && line.contains(setting)
                && line.contains("peer=spiffe://cluster.local/ns/shop/sa/hostile")
        });
        assert_eq!(named.count(), 1, "{what}: {log}");
    }
    let log = written(heads_that_are_too_large_are_refused);
    let cut = log.lines().find(|line| line.contains("tunnel cut")).unwrap_or_default();
    assert!(cut.contains("peer=spiffe://cluster.local/ns/shop/sa/hostile"), "the bomb: {log}");
}

/// Those whose streams are over with the head, so that nothing is left to be reset, among others that make sense.
fn heads_with_nothing_after() {
    run(async {
        let scene = Scene::new().await;
        let (mut reader, mut writer) = call(&scene.mesh, &[]).await;
        let elsewhere = [field(":method", "CONNECT"), field(":authority", "10.0.0.3:80")].concat();
        let large = [connect(), field("x-large", &"x".repeat(100 << 10))].concat();
        for (stream, block, status) in [(1, &elsewhere, 400), (3, &large, 431), (5, &large, 431)] {
            writer.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, block)).await;
            assert_eq!(reader.answer(stream).await, Answer::Status(status));
        }
        scene.ends_well().await;
    });
}
