//! The real `weft-control`, in a process of its own.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use tokio::sync::mpsc;

/// Killed when it is dropped.
pub(crate) struct Program {
    child: Child,
    serves: mpsc::UnboundedReceiver<(SocketAddr, SocketAddr)>,
    warnings: mpsc::UnboundedReceiver<String>,
}

impl Program {
    /// Over `manifests` and `data` in `dir`, on ports that the system chooses.
    pub(crate) fn start(dir: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weft-control"))
            .arg("run")
            .arg("--dir")
            .arg(dir.join("manifests"))
            .arg("--data")
            .arg(dir.join("data"))
            .args(["--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--server-name=control.mesh"])
            .env("RUST_LOG", "info")
            .env("NO_COLOR", "1")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (told, serves) = mpsc::unbounded_channel();
        let (warn, warnings) = mpsc::unbounded_channel();
        // Read to its end: a full pipe would stop the program.
        thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if let (Some(listen), Some(admin)) =
                    (address(&line, "listen"), address(&line, "admin"))
                {
                    told.send((listen, admin)).ok();
                } else if !line.contains(" INFO ") {
                    eprintln!("weft-control: {line}");
                    warn.send(line).ok();
                }
            }
        });
        Self { child, serves, warnings }
    }

    /// The next line of its log that is more than news.
    pub(crate) async fn warning(&mut self) -> String {
        self.warnings.recv().await.expect("the program has ended")
    }

    /// Waits until it says where it listens, for nodes and for admin. Panics if it ends before.
    pub(crate) async fn serves(&mut self) -> (SocketAddr, SocketAddr) {
        self.serves.recv().await.expect("the program has ended")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn address(line: &str, field: &str) -> Option<SocketAddr> {
    line.split_once(&format!("{field}="))?.1.split(' ').next()?.parse().ok()
}
