//! The proxy is restarted, upgraded and killed, and no pod notices more than a pause.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weft_tests::{
    bench::restart::{percentile, waits},
    lab::{LONG, Mesh, Signal, binary, wait_for},
};

const MARKER: &str = "secret-c94d";
const RESTARTS: u64 = 50;
const KILLS: u64 = 10;
const CLIENTS: u8 = 3;
/// At once, for the next proxy after each kill.
const WAITING: usize = 20;
/// A debug build on two busy cores needs a sixth of it; a slow machine needs more.
const SERVED_WITHIN: Duration = Duration::from_secs(2);
/// The proxy's default, less a margin.
const DRAIN: Duration = Duration::from_secs(20);

#[test]
fn fifty_restarts_under_looping_clients_refuse_or_reset_no_connection() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let near = mesh.client.hammer(&format!("{}:80", mesh.vip()), CLIENTS, MARKER)?;
    let far = mesh.web[1].hammer(&format!("{}:80", mesh.web[0].v4()), 1, MARKER)?;
    near.answered(20, LONG)?;
    for round in 0..RESTARTS {
        let node = if round % 2 == 0 { &mut mesh.near } else { &mut mesh.far };
        node.restart_proxy()?;
        near.answered(near.so_far() + 10, LONG)?;
        far.answered(far.so_far() + 5, LONG)?;
    }
    let (near, far) = (near.stop()?, far.stop()?);
    near.refuse_failures()?;
    far.refuse_failures()?;
    mesh.is_sound()
}

#[test]
fn a_killed_proxy_leaks_nothing_and_new_connections_wait_for_the_next_one() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let watch = mesh.watch(MARKER)?;
    let load = mesh.client.hammer(&format!("{}:80", mesh.vip()), CLIENTS, MARKER)?;
    load.answered(20, LONG)?;
    for round in 0..KILLS {
        let node = if round % 2 == 0 { &mut mesh.near } else { &mut mesh.far };
        node.kill_proxy()?;
        node.start_proxy()?;
        load.answered(load.so_far() + 10, LONG)?;
    }
    let tally = load.stop()?;
    watch.refuse_clear_text()?;
    // Connections that a killed proxy carried are lost; those that it had not accepted wait.
    ensure!(tally.refused + tally.timed_out == 0, "{tally:?}");
    ensure!(tally.reset + tally.other <= KILLS * u64::from(CLIENTS), "{tally:?}");
    mesh.is_sound()
}

#[test]
#[allow(clippy::print_stdout, reason = "what it took is told, the bound is for slow machines")]
fn connections_of_a_killed_proxy_are_served_soon_after_the_next_one_starts() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let server = binary("weft-load")?;
    let args = ["serve", "0.0.0.0:7900"];
    let _server = mesh.web[1].serve_with(7900, &server.to_string_lossy(), &args)?;
    let to = format!("{}:7900", mesh.web[1].v4());
    let mut all = Vec::new();
    for _ in 0..KILLS {
        all.extend(waits(&mut mesh.near, &mesh.client, &to, WAITING)?);
    }
    all.sort_unstable();
    let (half, most) = (percentile(&all, 50), percentile(&all, 99));
    println!("{} connections waited: p50 {half:?}, p99 {most:?}", all.len());
    ensure!(most < SERVED_WITHIN, "p99 {most:?}");
    mesh.is_sound()
}

#[test]
fn an_old_proxy_serves_its_connections_to_the_end_beside_the_new_one() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let file = mesh.lab.dir().join("drip");
    let path = file.display().to_string();
    let url = format!("http://{}/drip", mesh.web[1].v4());
    let mut drip = mesh.client.start("drip", "curl", &["-sSN", "-o", &path, &url])?;
    let lines = || std::fs::read_to_string(&file).unwrap_or_default().lines().count();
    wait_for("it drips", LONG, || (lines() > 3).then_some(()))?;
    let load = mesh.client.hammer(&format!("{}:80", mesh.vip()), CLIENTS, MARKER)?;
    load.answered(20, LONG)?;

    let mut old = [mesh.near.succeed_proxy()?, mesh.far.succeed_proxy()?];
    let stopped = Instant::now();
    for proxy in &old {
        proxy.signal(Signal::Term)?;
    }
    load.answered(load.so_far() + 100, LONG)?;
    let now = lines();
    wait_for("it drips on through the old proxies", LONG, || (lines() > now + 10).then_some(()))?;
    load.stop()?.refuse_failures()?;

    // Nor does a policy stop at a proxy that leaves.
    mesh.deny("no-clients", &["client"])?;
    ensure!(!drip.exit(LONG)?.success(), "the connection ended as if it were complete");
    ensure!(stopped.elapsed() < DRAIN, "the drain's deadline cut it, and no policy");
    for proxy in &mut old {
        ensure!(proxy.exit(LONG)?.success(), "an old proxy ended badly");
    }
    mesh.is_sound()
}
