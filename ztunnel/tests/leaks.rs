//! What the worst of callers leaves behind in the real program: nothing.

use std::{
    fs,
    net::TcpStream,
    time::{Duration, Instant},
};

use socket2::SockRef;
use tokio_rustls::TlsConnector;

use crate::{
    abuse::hostile::{
        DATA, END_HEADERS, HEADERS, INITIAL_WINDOW_SIZE, PING, RST_STREAM, Reader, Writer, call_at,
        connect_to, field, frame, setting,
    },
    fixture::{Ca, identity, run_within},
    program::Program,
};

const DESCRIPTORS: usize = 512;
/// More than there are descriptors.
const CALLERS: usize = 600;
/// Sockets of the pod that the program keeps in stock: their number moves with what was just used.
const STOCK: usize = 64;
/// The first rounds fill caches, tables and stocks.
const ROUNDS_FIRST: usize = 3;
const ROUNDS: usize = 6;
/// Streams that each round opens and breaks, most of them before anybody serves them.
const RESETS: u32 = 2_000;
/// Some 200 streams of each round are served: a kilobyte left of each would show, or a descriptor of every third.
const KEPT_MAX: u64 = 512 << 10;

#[test]
fn abuse_of_every_kind_leaves_no_descriptor_and_no_memory_behind() {
    run_within(Duration::from_mins(2), async {
        let program = Program::start(DESCRIPTORS).await;
        for _ in 0..ROUNDS_FIRST {
            round(&program).await;
        }
        let (descriptors, memory) = (descriptors(&program), allocated(&program));
        for _ in 0..ROUNDS {
            round(&program).await;
        }
        let (after, kept) = (self::descriptors(&program), allocated(&program));
        assert!(after <= descriptors + STOCK, "{descriptors} descriptors before, {after} after");
        assert!(kept <= memory + KEPT_MAX, "{memory} bytes before, {kept} after");
        assert!(program.is_ready() && !program.log().contains("panicked"), "{}", program.log());
    });
}

/// All of them once, and then the time that it takes until nobody is connected.
async fn round(program: &Program) {
    good_callers(program).await;
    senseless_requests(program).await;
    heads_too_large(program).await;
    floods(program).await;
    callers_that_vanish(program).await;
    wrong_certificates(program).await;
    more_than_there_are_descriptors(program).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while connected(program) > 0
        || program.metric("istio_tcp_sockets_open{reporter=\"destination\"}") > 0
    {
        assert!(
            Instant::now() < deadline,
            "{} are still connected: {}",
            connected(program),
            program.log()
        );
        tokio::task::yield_now().await;
    }
}

async fn call(program: &Program, settings: &[u8]) -> (Reader, Writer) {
    call_at(&program.ca, program.hbone, settings).await
}

fn request(program: &Program, stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &connect_to(&program.app.to_string()))
}

async fn good_callers(program: &Program) {
    let tunnel = program.tunnel().await;
    for _ in 0..100 {
        program.exchange(&tunnel).await;
    }
}

async fn senseless_requests(program: &Program) {
    let (mut reader, mut writer) = call(program, &[]).await;
    for (block, stream) in [
        [field(":method", "GET"), field(":authority", "a:1")].concat(),
        connect_to("127.0.0.99:80"),
        connect_to("no port"),
        connect_to(&format!("{}:15008", program.app.ip())),
        // Nobody listens there.
        connect_to(&format!("{}:1", program.app.ip())),
    ]
    .iter()
    .zip((1..).step_by(2))
    {
        writer.send(&frame(HEADERS, END_HEADERS, stream, block)).await;
        reader.answer(stream).await;
    }
}

async fn heads_too_large(program: &Program) {
    let (mut reader, mut writer) = call(program, &[]).await;
    let large = [connect_to("a:1"), field("x-large", &"x".repeat(100 << 10))].concat();
    writer.send(&frame(HEADERS, END_HEADERS, 1, &large)).await;
    reader.answer(1).await;
    let entry = [&[0x40][..], field("x-bomb", &"x".repeat(4_000)).get(1..).unwrap()].concat();
    let bomb = [connect_to("a:1"), entry, vec![0xbe; 500_000]].concat();
    writer.send(&frame(HEADERS, END_HEADERS, 3, &bomb)).await;
    reader.answer(3).await;
}

async fn floods(program: &Program) {
    let (mut reader, mut writer) = call(program, &[]).await;
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(100);
    let sending = async { while writer.try_send(&pings).await {} };
    let reading = async { while reader.frame().await.is_some() {} };
    tokio::join!(sending, reading);

    let (mut reader, mut writer) = call(program, &[]).await;
    let sending = async {
        for stream in (1..2 * RESETS).step_by(2) {
            let mut bytes = request(program, stream);
            bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            if !writer.try_send(&bytes).await {
                return;
            }
        }
        drop(writer);
    };
    let reading = async { while reader.frame().await.is_some() {} };
    // A tunnel that is not cut is left by its caller.
    tokio::select! {
        biased;
        () = sending => {}
        () = reading => {}
    }
}

/// Streams that carry, a reader that takes nothing, a head that is begun, and callers that say nothing at all.
async fn callers_that_vanish(program: &Program) {
    let closed = setting(INITIAL_WINDOW_SIZE, 0);
    for settings in [&[][..], &closed] {
        let (mut reader, mut writer) = call(program, settings).await;
        for stream in [1, 3, 5] {
            writer.send(&request(program, stream)).await;
            reader.answer(stream).await;
            writer.send(&frame(DATA, 0, stream, b"?")).await;
        }
        writer.send(&frame(HEADERS, 0, 7, &[])).await;
    }
    for _ in 0..4 {
        let silent = TcpStream::connect(program.hbone).unwrap();
        SockRef::from(&silent).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

async fn wrong_certificates(program: &Program) {
    let stranger = Ca::new().issued(&identity("client"));
    for _ in 0..4 {
        let config = weft_certs::client_config(&stranger, &[identity("web")]);
        let stream = tokio::net::TcpStream::connect(program.hbone).await.unwrap();
        let greeted = TlsConnector::from(config).connect(weft_certs::server_name(), stream).await;
        assert!(greeted.is_err(), "its roots are not ours");
    }
}

async fn more_than_there_are_descriptors(program: &Program) {
    let silent: Vec<_> = (0..CALLERS).map(|_| TcpStream::connect(program.hbone).unwrap()).collect();
    // Served all the same, so every one before it was accepted or cut.
    good_callers(program).await;
    drop(silent);
}

fn descriptors(program: &Program) -> usize {
    fs::read_dir(format!("/proc/{}/fd", program.pid())).unwrap().count()
}

fn allocated(program: &Program) -> u64 {
    program.metric("weft_memory_allocated_bytes ")
}

/// The program's TCP sockets that have a peer, apart from those that ask for its metrics.
fn connected(program: &Program) -> usize {
    let open: Vec<_> = fs::read_dir(format!("/proc/{}/fd", program.pid()))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .collect();
    let table = fs::read_to_string(format!("/proc/{}/net/tcp", program.pid())).unwrap();
    let of_pod = format!("{:08X}:", u32::from_le_bytes([127, 0, 7, 1]));
    let is_ours = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, local, remote, state, .., inode] = fields.get(..10).unwrap_or_default() else {
            return false;
        };
        let listens = *state == "0A";
        let socket = format!("socket:[{inode}]");
        !listens
            && (local.starts_with(&of_pod) || remote.starts_with(&of_pod))
            && open.iter().any(|link| link.as_os_str() == socket.as_str())
    };
    table.lines().skip(1).filter(is_ours).count()
}
