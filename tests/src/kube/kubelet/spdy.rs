//! A command's streams over SPDY/3.1, as far as `kubectl exec` needs it.
//!
//! Of what the other side says of a stream only its number is read: its name is compressed with a dictionary that
//! nothing else needs, and the streams are opened in one order. Spec: SPDY 3.1, 2.2 (frames) and 2.6 (control frames).

use std::pin::pin;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::exec::{GOODBYE, INPUT, Program};

/// The only one that newer clients and every kubelet speak over SPDY.
pub(super) const PROTOCOL: &str = "v4.channel.k8s.io";
pub(super) const UPGRADE: &str = "SPDY/3.1";

const CONTROL: u8 = 0x80;
const VERSION: u8 = 3;
const OPEN: u8 = 1;
const OPENED: u8 = 2;
const PING: u8 = 6;
/// Of data frames: no more will come.
const LAST: u8 = 1;
/// No names and no values, compressed: what begins a connection's compression, a block with the number 0, and an empty
/// one that ends the answer.
const BEGIN: &[u8] = &[0x78, 0x01];
const NOTHING: &[u8] = &[0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

enum Frame {
    Open(u32),
    Ping(Vec<u8>),
    Data {
        stream: u32,
        flags: u8,
        bytes: Vec<u8>,
    },
    /// Nothing that concerns a command.
    Other,
}

impl Frame {
    async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Self> {
        let mut head = [0; 8];
        from.read_exact(&mut head).await?;
        let [first, version, _, kind, flags, length @ ..] = head;
        let [high, middle, low] = length;
        let mut bytes = vec![0; u32::from_be_bytes([0, high, middle, low]).try_into()?];
        from.read_exact(&mut bytes).await?;
        if first & CONTROL == 0 {
            let stream = u32::from_be_bytes([first, version, head[2], kind]);
            return Ok(Self::Data { stream, flags, bytes });
        }
        ensure!(version == VERSION, "version {version} of SPDY is not spoken here");
        Ok(match kind {
            OPEN => Self::Open(u32::from_be_bytes(*bytes.first_chunk().context("no number")?)),
            PING => Self::Ping(bytes),
            _ => Self::Other,
        })
    }
}

fn control(kind: u8, payload: &[u8]) -> Vec<u8> {
    frame([CONTROL, VERSION, 0, kind], 0, payload)
}

fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(stream.to_be_bytes(), flags, bytes)
}

fn frame(head: [u8; 4], flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it is what was read at once").to_be_bytes();
    [&head[..], &[flags], &length[1..], payload].concat()
}

/// Runs the program for whoever is at the other end.
pub(super) async fn serve(connection: impl AsyncRead + AsyncWrite, program: Program) -> Result<()> {
    let (from, mut to) = tokio::io::split(connection);
    let (input, heard) = mpsc::channel(1);
    let (frames, mut said) = mpsc::channel(1);
    let (all_open, opened) = oneshot::channel();
    let wire = Wire { from, frames: frames.clone(), channels: program.channels() };
    let mut hear = pin!(wire.hear(input, all_open));
    let mut write = pin!(async {
        while let Some(frame) = said.recv().await {
            to.write_all(&frame).await?;
            to.flush().await?;
        }
        Ok(())
    });
    let run = async {
        let streams = opened.await.context("not all streams were opened")?;
        let (tell, told) = mpsc::channel(1);
        tokio::join!(program.run(heard, tell), say(&streams, told, frames)).1
    };
    tokio::select! {
        // Nobody is there any more for whom it would run.
        ended = &mut hear => return ended,
        ended = &mut write => return ended,
        ended = run => ended?,
    }
    tokio::select! {
        ended = write => ended,
        _ = timeout(GOODBYE, hear) => Ok(()),
    }
}

/// What is heard, and what is said to that.
struct Wire<F> {
    from: F,
    frames: mpsc::Sender<Vec<u8>>,
    /// In the order in which streams are opened for them.
    channels: Vec<u8>,
}

/// A channel, and the number of its stream.
type Stream = (u8, u32);

impl<F: AsyncRead + Unpin> Wire<F> {
    /// Ends with the connection.
    async fn hear(
        mut self,
        input: mpsc::Sender<Vec<u8>>,
        all_open: oneshot::Sender<Vec<Stream>>,
    ) -> Result<()> {
        let mut streams: Vec<Stream> = Vec::new();
        for &channel in &self.channels {
            let number = loop {
                match Frame::read(&mut self.from).await? {
                    Frame::Open(number) => break number,
                    Frame::Ping(number) => self.frames.send(control(PING, &number)).await?,
                    // Some are closed on this side as soon as they are open.
                    Frame::Data { .. } | Frame::Other => {}
                }
            };
            let begin = if streams.is_empty() { BEGIN } else { &[] };
            let answer = [&number.to_be_bytes()[..], begin, NOTHING].concat();
            self.frames.send(control(OPENED, &answer)).await?;
            streams.push((channel, number));
        }
        let of_input = streams.iter().find(|(channel, _)| *channel == INPUT).map(|it| it.1);
        let mut input = Some(input).filter(|_| of_input.is_some());
        // It may have ended.
        let _ = all_open.send(streams);
        loop {
            match Frame::read(&mut self.from).await? {
                Frame::Ping(number) => self.frames.send(control(PING, &number)).await?,
                Frame::Data { stream, flags, bytes } if Some(stream) == of_input => {
                    if let Some(to) = &input {
                        let _ = to.send(bytes).await;
                    }
                    if flags & LAST != 0 {
                        input = None;
                    }
                }
                Frame::Open(_) | Frame::Data { .. } | Frame::Other => {}
            }
        }
    }
}

/// What a program tells, and the end of every stream.
async fn say(
    streams: &[Stream],
    mut told: mpsc::Receiver<(u8, Vec<u8>)>,
    frames: mpsc::Sender<Vec<u8>>,
) -> Result<()> {
    while let Some((channel, bytes)) = told.recv().await {
        for (_, number) in streams.iter().filter(|(of, _)| *of == channel) {
            frames.send(data(*number, 0, &bytes)).await?;
        }
    }
    for (_, number) in streams {
        frames.send(data(*number, LAST, &[])).await?;
    }
    Ok(())
}
