//! The real `weft-control` over an API server.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};

use super::{assets::mortal, eventually};
use crate::lab::{Ground, LONG, Process, binary};

/// A control plane; killed when dropped.
#[derive(Debug)]
pub struct ControlPlane {
    process: Process,
    listen: SocketAddr,
    admin: SocketAddr,
    ground: Arc<Ground>,
}

impl ControlPlane {
    /// Starts one that reaches the API server by `kubeconfig`, on ports that the system chooses. Returns when
    /// it listens; it is ready when it has read everything.
    pub async fn start(kubeconfig: &Path) -> Result<Self> {
        Self::start_told(kubeconfig, &["run", "--kubernetes"].map(str::to_owned)).await
    }

    /// The same, told more than that.
    pub async fn start_told(kubeconfig: &Path, args: &[String]) -> Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::launch(Ground::new()?, kubeconfig, args, "info,weft_control=debug", any).await
    }

    /// One that serves nodes by tokens of its own and logs what a user's would.
    pub async fn start_quiet(kubeconfig: &Path) -> Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::launch(
            Ground::new()?,
            kubeconfig,
            &["run", "--kubernetes"].map(str::to_owned),
            "info",
            any,
        )
        .await
    }

    /// Kills it, and starts the same again at the same address.
    pub async fn restart_quiet(mut self, kubeconfig: &Path) -> Result<Self> {
        self.process.kill()?;
        let args = ["run", "--kubernetes"].map(str::to_owned);
        Self::launch(self.ground, kubeconfig, &args, "info", self.listen).await
    }

    async fn launch(
        ground: Arc<Ground>,
        kubeconfig: &Path,
        args: &[String],
        log: &str,
        listen: SocketAddr,
    ) -> Result<Self> {
        // One that ran before it wrote to the same log.
        let log_of = ground.dir().join("weft-control.log");
        let earlier = std::fs::metadata(log_of).map_or(0, |log| log.len());
        let earlier = usize::try_from(earlier)?;
        let mut command = mortal(&binary("weft-control")?);
        command
            .args(args)
            .args([&format!("--listen={listen}"), "--admin=127.0.0.1:0"])
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--data={}", ground.dir().join("data").display()))
            .env("RUST_LOG", log)
            .env("NO_COLOR", "1");
        let mut process = Process::start(&ground, "weft-control", command, |_| ())?;
        let listens = eventually("weft-control listens", LONG, async || {
            let log = process.log();
            let address = |name: &str| {
                log.get(earlier..)?
                    .split_once(name)?
                    .1
                    .split_whitespace()
                    .next()?
                    .parse::<SocketAddr>()
                    .ok()
            };
            address(" listen=").zip(address(" admin=")).map(Ok).or_else(|| {
                (!process.is_running()).then(|| Err(anyhow::anyhow!("it ended at once: {log}")))
            })
        });
        let (listen, admin) = listens.await.context("start weft-control")??;
        Ok(Self { process, listen, admin, ground })
    }

    /// Where nodes connect.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// The file of the certificate by which it proves itself.
    pub fn root(&self) -> PathBuf {
        self.ground.dir().join("data/root-cert.pem")
    }

    /// A token of its own for a node.
    pub fn token(&self, node: &str) -> Result<String> {
        let mut command = std::process::Command::new(binary("weft-control")?);
        command.args(["token", "--node", node, "--data"]).arg(self.ground.dir().join("data"));
        let output = command.output().context("run weft-control token")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Status and body of an admin page.
    pub fn page(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.admin).context("reach the admin pages")?;
        stream.set_read_timeout(Some(LONG))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("an answer has a head")?;
        let status = head.split(' ').nth(1).context("an answer has a status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// Waits until a page that is answered with 200 is as wanted; returns it. Errors: the page as it was last.
    pub async fn until(&self, path: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let mut last = String::new();
        let found = eventually(path, LONG, async || {
            let (status, body) = self.page(path).ok()?;
            let right = status == 200 && wanted(&body);
            last.clone_from(&body);
            right.then_some(body)
        });
        let found = found.await;
        found.with_context(|| format!("{path} was last: {last}; log in {}", self.log().display()))
    }

    /// Waits until everything was read once.
    pub async fn ready(&self) -> Result<()> {
        self.until("/readyz", |page| page == "ready\n").await.map(drop)
    }

    /// What it serves by now names all of `there` and none of `gone`.
    pub async fn serves(&self, there: &[&str], gone: &[&str]) -> Result<()> {
        let right = |page: &str| {
            there.iter().all(|name| page.contains(name))
                && !gone.iter().any(|name| page.contains(name))
        };
        self.until("/debug/config", right).await.map(drop)
    }

    /// The value of a metric, by the whole of its name and labels.
    pub fn metric(&self, row: &str) -> Result<f64> {
        let (status, page) = self.page("/metrics")?;
        ensure!(status == 200, "/metrics is answered {status}");
        let value = page.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' '));
        value.with_context(|| format!("no metric {row} in {page}"))?.parse().context("a number")
    }

    /// Where its log is.
    pub fn log(&self) -> PathBuf {
        self.ground.dir().join("weft-control.log")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}
