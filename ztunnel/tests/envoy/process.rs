//! The real Envoy, as a child process on loopback.

use std::{
    cell::RefCell,
    fs,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
    rc::Rc,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpStream, unix::pipe},
    task::JoinSet,
};

/// Where `cargo xtask test` has put it.
const BINARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/envoy/envoy/_bin/envoy");

/// Killed when dropped.
pub(crate) struct Envoy {
    child: Child,
    admin: SocketAddr,
    access_log: Lines<BufReader<pipe::Receiver>>,
    /// What it said, shown when the test fails.
    log: Rc<RefCell<String>>,
    /// Reads on, or Envoy would wait for room in the pipe.
    reader: JoinSet<()>,
    _files: TempDir,
}

impl Envoy {
    /// Starts it and waits until it serves.
    pub(crate) async fn start(bootstrap: &Value) -> Self {
        assert!(
            Path::new(BINARY).exists(),
            "{BINARY} is missing: run `cargo xtask test`, or `cargo xtask setup`"
        );
        let files = TempDir::new().unwrap();
        let config = files.path().join("bootstrap.json");
        fs::write(&config, bootstrap.to_string()).unwrap();
        let mut child = Command::new(BINARY)
            .arg("--config-path")
            .arg(&config)
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "info"])
            .args(["--file-flush-interval-msec", "20"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let access_log = lines(OwnedFd::from(child.stdout.take().unwrap()));
        let said = lines(OwnedFd::from(child.stderr.take().unwrap()));
        // Made before it serves, so that one that never does is killed and heard too.
        let admin = SocketAddr::from(([127, 0, 0, 1], 0));
        let (log, reader) = (Rc::default(), JoinSet::new());
        let mut envoy = Self { child, admin, access_log, log, reader, _files: files };
        let said = envoy.wait_until_it_serves(said).await;
        envoy.reader.spawn_local(keep(said, envoy.log.clone()));
        assert!(envoy.get("/ready").await.contains("LIVE"));
        envoy
    }

    async fn wait_until_it_serves(
        &mut self,
        mut said: Lines<BufReader<pipe::Receiver>>,
    ) -> Lines<BufReader<pipe::Receiver>> {
        loop {
            let line = said.next_line().await.unwrap().expect("Envoy serves before it ends");
            if let Some((_, address)) = line.split_once("admin address: ") {
                self.admin = address.trim().parse().unwrap();
            }
            let serves = line.contains("starting workers");
            note(&self.log, &line);
            if serves {
                return said;
            }
        }
    }

    async fn get(&self, path: &str) -> String {
        let mut admin = TcpStream::connect(self.admin).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        admin.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        admin.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Where the listener of this name is bound.
    pub(crate) async fn listener(&self, name: &str) -> SocketAddr {
        find(&self.get("/listeners").await, name).parse().unwrap()
    }

    /// A counter or gauge, by its full name.
    pub(crate) async fn stat(&self, name: &str) -> u64 {
        find(&self.get("/stats").await, name).trim().parse().unwrap()
    }

    /// Completes once a counter is at `count`: Envoy counts a little after it acts.
    pub(crate) async fn counts(&self, name: &str, count: u64) {
        while self.stat(name).await < count {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.stat(name).await, count, "{name}");
    }

    /// The next line of its access log.
    pub(crate) async fn logged(&mut self) -> String {
        self.access_log.next_line().await.unwrap().expect("Envoy runs")
    }
}

/// The value in a line of the admin's `name: value` or `name::value`.
fn find(text: &str, name: &str) -> String {
    let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.to_owned());
    let found = text.lines().find_map(value);
    assert!(found.is_some(), "no {name} in {text}");
    found.unwrap().trim_start_matches(':').trim().to_owned()
}

fn lines(pipe: OwnedFd) -> Lines<BufReader<pipe::Receiver>> {
    BufReader::new(pipe::Receiver::from_owned_fd(pipe).unwrap()).lines()
}

async fn keep(mut said: Lines<BufReader<pipe::Receiver>>, log: Rc<RefCell<String>>) {
    while let Ok(Some(line)) = said.next_line().await {
        note(&log, &line);
    }
}

fn note(log: &RefCell<String>, line: &str) {
    let mut log = log.borrow_mut();
    log.push_str(line);
    log.push('\n');
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // Both fail only when it has ended on its own, which the test has noticed.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("{}", self.log.borrow());
        }
    }
}
