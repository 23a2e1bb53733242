//! A command that somebody runs beside a container's program, as with `kubectl exec`.
//!
//! Every message begins with its channel; what the command ends with is a status of the API.
//! Not done: terminals, and so their sizes.

use std::{
    pin::pin,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use http::Uri;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::unix::pipe,
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::worker::Key;
use crate::lab::Sandbox;

/// The newer one can say that there is no more to read.
pub(super) const PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];
pub(super) const INPUT: u8 = 0;
const OUTPUT: u8 = 1;
const ERRORS: u8 = 2;
const END: u8 = 3;
/// Says that the channel which follows is closed.
const CLOSED: u8 = 255;
/// How long the other side may take to hear that all is over.
pub(super) const GOODBYE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(5);

/// What is to be run, and where.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) key: Key,
    pub(super) container: String,
    command: Vec<String>,
    input: Stdio,
}

/// From `/exec/<namespace>/<pod>/<container>?command=<word>&command=<word>&input=1`.
pub(super) fn asked_for(uri: &Uri) -> Result<Ask> {
    let parts: Vec<&str> = uri.path().split('/').skip(2).collect();
    let [namespace, pod, container] = parts[..] else {
        anyhow::bail!("{} names no container", uri.path());
    };
    let query = uri.query().unwrap_or_default().as_bytes();
    let (mut command, mut input) = (Vec::new(), Stdio::null());
    for (name, value) in form_urlencoded::parse(query) {
        match &*name {
            "command" => command.push(value.into_owned()),
            "input" => input = Stdio::piped(),
            "tty" => anyhow::bail!("this kubelet has no terminals"),
            _ => {}
        }
    }
    let key = (namespace.to_owned(), pod.to_owned());
    Ok(Ask { key, container: container.to_owned(), command, input })
}

/// Runs; killed when dropped.
#[derive(Debug)]
pub(super) struct Program {
    child: Running,
    input: Option<pipe::Sender>,
    output: pipe::Receiver,
    errors: pipe::Receiver,
}

#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    /// Starts it beside this process, which is the container's.
    pub(super) fn start(ask: Ask, sandbox: &Sandbox, process: u32) -> Result<Self> {
        let mut command = sandbox.beside(process, &ask.container)?;
        command.args(&ask.command).stdin(ask.input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start a command")?;
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let input = child.stdin.take();
        let child = Running(child);
        let input = input.map(|it| pipe::Sender::from_owned_fd(it.into())).transpose()?;
        let output = pipe::Receiver::from_owned_fd(output.context("it has an output")?.into())?;
        let errors = pipe::Receiver::from_owned_fd(errors.context("it has one of errors")?.into())?;
        Ok(Self { child, input, output, errors })
    }

    /// In the order in which clients open streams for them.
    pub(super) fn channels(&self) -> Vec<u8> {
        let input = self.input.as_ref().map(|_| INPUT);
        [END].into_iter().chain(input).chain([OUTPUT, ERRORS]).collect()
    }

    /// Lets it run to its end. It reads what is heard until that ends, and what it writes is told, at last its end.
    pub(super) async fn run(
        self,
        mut heard: mpsc::Receiver<Vec<u8>>,
        tell: mpsc::Sender<(u8, Vec<u8>)>,
    ) {
        let Self { mut child, mut input, output, errors } = self;
        let feed = async {
            while let Some(bytes) = heard.recv().await {
                let Some(pipe) = &mut input else { continue };
                // A program that reads no more may still run.
                if pipe.write_all(&bytes).await.is_err() {
                    input = None;
                }
            }
            input = None;
            std::future::pending::<()>().await;
        };
        let ends = async {
            tokio::join!(pass(OUTPUT, output, &tell), pass(ERRORS, errors, &tell));
            loop {
                match child.0.try_wait() {
                    Ok(Some(status)) => return status.code().unwrap_or(137),
                    Ok(None) => tokio::time::sleep(TICK).await,
                    Err(_) => return 137,
                }
            }
        };
        let code = tokio::select! {
            code = ends => code,
            () = feed => return,
        };
        // Whoever asked may have gone.
        let _ = tell.send((END, status(code).to_string().into_bytes())).await;
    }
}

async fn pass(channel: u8, mut from: pipe::Receiver, tell: &mpsc::Sender<(u8, Vec<u8>)>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        let bytes = buffer.get(..read).unwrap_or_default().to_vec();
        if read == 0 || tell.send((channel, bytes)).await.is_err() {
            return;
        }
    }
}

/// As `kubectl` reads it.
fn status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

/// Over a WebSocket.
pub(super) async fn serve(
    socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>,
    program: Program,
) -> Result<()> {
    let (mut sink, mut messages) = socket.split();
    let (input, heard) = mpsc::channel(1);
    let (tell, mut told) = mpsc::channel::<(u8, Vec<u8>)>(1);
    let hear = async {
        let mut input = Some(input);
        while let Some(Ok(message)) = messages.next().await {
            let Message::Binary(message) = message else { continue };
            match (message.split_first(), &input) {
                (Some((&INPUT, bytes)), Some(to)) => drop(to.send(bytes.to_vec()).await),
                (Some((&CLOSED, [INPUT])), _) => input = None,
                _ => {}
            }
        }
    };
    let say = async {
        while let Some((channel, bytes)) = told.recv().await {
            sink.send(Message::binary([&[channel][..], &bytes].concat())).await?;
        }
        let end = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        anyhow::Ok(sink.send(Message::Close(Some(end))).await?)
    };
    let ends = async { tokio::join!(program.run(heard, tell), say).1 };
    let mut hear = pin!(hear);
    tokio::select! {
        // Nobody is there any more for whom it would run.
        () = &mut hear => return Ok(()),
        ended = ends => ended?,
    }
    // What is not read when a connection ends may cost the other side what it has not read yet.
    let _ = timeout(GOODBYE, hear).await;
    Ok(())
}
