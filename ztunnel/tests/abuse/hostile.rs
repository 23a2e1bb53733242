//! A client with a good certificate that speaks HTTP/2 as no library would.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::fixture::{Ca, Mesh, WEB, at, identity};

/// Frame types, flags and settings (RFC 9113 section 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
const HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame's bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// One header field, neither indexed nor compressed.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.extend(integer(text.len()));
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// RFC 7541 section 5.1, with a prefix of seven bits.
fn integer(value: usize) -> Vec<u8> {
    let Some(mut rest) = value.checked_sub(127) else {
        return vec![u8::try_from(value).unwrap()];
    };
    let mut bytes = vec![127];
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// The header block of a CONNECT that makes sense.
pub(crate) fn connect() -> Vec<u8> {
    connect_to("10.0.0.2:80")
}

pub(crate) fn connect_to(authority: &str) -> Vec<u8> {
    [field(":method", "CONNECT"), field(":authority", authority)].concat()
}

/// A setting in a SETTINGS frame.
pub(crate) fn setting(name: u16, value: u32) -> Vec<u8> {
    [name.to_be_bytes().as_slice(), &value.to_be_bytes()].concat()
}

/// A frame that came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// What the proxy answers to one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Status(u16),
    /// The stream was reset, with this code.
    Reset(u32),
    /// The connection was ended, with this code if one was given.
    Ended(Option<u32>),
}

pub(crate) struct Reader(ReadHalf<TlsStream<TcpStream>>);
pub(crate) struct Writer(WriteHalf<TlsStream<TcpStream>>);

/// A tunnel to `web`, of which only the TLS handshake is done.
pub(crate) async fn greeted(mesh: &Mesh) -> (Reader, Writer) {
    greeted_at(&mesh.ca, mesh.places.find(at(WEB, 15008))).await
}

async fn greeted_at(ca: &Ca, hbone: SocketAddr) -> (Reader, Writer) {
    let svid = ca.issued(&identity("hostile"));
    let tls = TlsConnector::from(weft_certs::client_config(&svid, &[identity("web")]));
    let stream = TcpStream::connect(hbone).await.unwrap();
    let (read, write) = split(tls.connect(weft_certs::server_name(), stream).await.unwrap());
    (Reader(read), Writer(write))
}

/// A tunnel to `web`, with these settings.
pub(crate) async fn call(mesh: &Mesh, settings: &[u8]) -> (Reader, Writer) {
    call_at(&mesh.ca, mesh.places.find(at(WEB, 15008)), settings).await
}

/// The same, to whatever listens there.
pub(crate) async fn call_at(ca: &Ca, hbone: SocketAddr, settings: &[u8]) -> (Reader, Writer) {
    let (reader, mut writer) = greeted_at(ca, hbone).await;
    writer.send(PREFACE).await;
    // Without a dynamic table each answer can be read by itself.
    let settings = [setting(HEADER_TABLE_SIZE, 0).as_slice(), settings].concat();
    writer.send(&frame(SETTINGS, 0, 0, &settings)).await;
    (reader, writer)
}

impl Writer {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        assert!(self.try_send(bytes).await, "the connection has ended");
    }

    /// Whether the connection still took it.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok() && self.0.flush().await.is_ok()
    }

    /// Whether the connection still took it; `None` when a second was not enough to know.
    pub(crate) async fn send_soon(&mut self, bytes: &[u8]) -> Option<bool> {
        timeout(Duration::from_secs(1), self.try_send(bytes)).await.ok()
    }
}

impl Reader {
    /// The next frame; `None` when the connection has ended.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// What becomes of a stream.
    pub(crate) async fn answer(&mut self, stream: u32) -> Answer {
        while let Some(frame) = self.frame().await {
            let codes: Vec<_> = frame.payload.chunks(4).filter_map(number).collect();
            match (frame.kind, codes.as_slice()) {
                (HEADERS, _) if frame.stream == stream => {
                    return Answer::Status(status(&frame.payload));
                }
                (RST_STREAM, [code]) if frame.stream == stream => return Answer::Reset(*code),
                // After the last stream that is served. Zero would say that nothing is wrong.
                (GOAWAY, [_, code, ..]) if *code != 0 => return Answer::Ended(Some(*code)),
                _ => {}
            }
        }
        Answer::Ended(None)
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

/// `:status` as the h2 crate encodes it: first, by the static table or its name and Huffman-coded digits.
fn status(block: &[u8]) -> u16 {
    match block {
        // The table that we do not want is emptied first.
        [0x20, rest @ ..] => status(rest),
        [0x88, ..] => 200,
        [0x8c, ..] => 400,
        [0x08, 0x83, 0x69, 0x90, 0xff, ..] => 431,
        [0x08, 0x83, 0x6c, 0x0c, 0xff, ..] => 503,
        _ => unreachable!("no known status in {block:02x?}"),
    }
}
