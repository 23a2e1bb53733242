//! `cargo xtask bench control`: what the control plane costs on a large cluster.

#![allow(clippy::print_stdout, reason = "the table is the output")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use tokio::time::{MissedTickBehavior, interval, sleep};
use weft_tests::{
    bench::{
        control::{Fleet, Latencies, Population},
        cpu::{pss_bytes, spent},
        restart::percentile,
        run::machine,
    },
    kube::{Cluster, ControlPlane},
};

#[derive(Debug, Parser)]
struct Bench {
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    #[arg(long, default_value_t = 1_000)]
    services: usize,
    #[arg(long, default_value_t = 200)]
    nodes: usize,
    /// Share of the pods whose readiness changes each minute, in percent.
    #[arg(long, default_value_t = 1)]
    churn: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Bench::parse();
    let population = Population { nodes: args.nodes, services: args.services, pods: args.pods };
    println!("{}; {population:?}\n", machine());
    let cluster = Cluster::own().await?;
    population.settle(&cluster).await?;
    println!("| control plane | |\n|---|---|");

    let begun = Instant::now();
    let control = ControlPlane::start_quiet(cluster.kubeconfig()).await?;
    control.ready().await?;
    row("from its start until ready", &format!("{:.2} s", begun.elapsed().as_secs_f64()));
    row("memory without nodes (PSS)", &megabytes(pss_bytes(control.pid())?));

    let tokens: Result<Vec<_>> =
        (0..args.nodes).map(|n| control.token(&format!("node-{n}"))).collect();
    let tokens = tokens?;
    let begun = Instant::now();
    let mut fleet = Fleet::connect(control.listen(), &control.root(), &tokens, Vec::new())?;
    fleet.whole().await?;
    row("until all nodes have everything", &format!("{:.2} s", begun.elapsed().as_secs_f64()));
    row("sent to each node", &megabytes(fleet.bytes() / args.nodes as u64));

    let during = Duration::from_secs(args.seconds);
    let rest = used(control.pid(), sleep(during)).await?;
    row("cores at rest", &format!("{rest:.4}"));
    row("memory at rest (PSS)", &megabytes(pss_bytes(control.pid())?));

    let turns = (args.pods * args.churn * usize::try_from(args.seconds)?).div_ceil(60 * 100).max(1);
    let mut latencies = Latencies::default();
    let churn = churn(&cluster, population, &fleet, turns, during, &mut latencies);
    let mut outcome = Ok(());
    let busy = used(control.pid(), async { outcome = churn.await }).await?;
    outcome?;
    row(&format!("cores at {} % churn a minute", args.churn), &format!("{busy:.4}"));
    row("memory then (PSS)", &megabytes(pss_bytes(control.pid())?));
    for percent in [50, 99] {
        let latency = percentile(latencies.sorted(), percent);
        row(
            &format!(
                "pod's readiness patched until applied by a node, p{percent} of {}",
                latencies.sorted().len()
            ),
            &format!("{:.1} ms", latency.as_secs_f64() * 1000.0),
        );
    }

    let held = fleet.part().await?;
    let control = control.restart_quiet(cluster.kubeconfig()).await?;
    control.ready().await?;
    let mut fleet = Fleet::connect(control.listen(), &control.root(), &tokens, held)?;
    fleet.whole().await?;
    let again = fleet.bytes() / args.nodes as u64;
    row("sent again to an unchanged node after a restart", &format!("{again} bytes"));
    Ok(())
}

/// Turns the readiness of so many pods, evenly over the time, and notes when each node had heard of it.
async fn churn(
    cluster: &Cluster,
    population: Population,
    fleet: &Fleet,
    turns: usize,
    during: Duration,
    latencies: &mut Latencies,
) -> Result<()> {
    let client = cluster.client()?;
    let mut ticks = interval(during / u32::try_from(turns)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = Vec::new();
    for pod in 0..turns {
        ticks.tick().await;
        fleet.await_change(population.workload(pod));
        asked.push((pod, population.turn(&client, pod, false).await?));
    }
    // The last turn has its time, too.
    ticks.tick().await;
    for (pod, at) in asked {
        let nodes = fleet.noted(&population.workload(pod), at, latencies);
        ensure!(nodes >= population.nodes, "pod {pod} was heard of by {nodes} nodes");
    }
    Ok(())
}

/// Processor seconds a second while something goes on.
async fn used(pid: u32, meanwhile: impl Future<Output = ()>) -> Result<f64> {
    let (before, begun) = (spent(pid)?, Instant::now());
    meanwhile.await;
    let spent = spent(pid)?.saturating_sub(before);
    Ok(spent.as_secs_f64() / begun.elapsed().as_secs_f64())
}

fn row(what: &str, value: &str) {
    println!("| {what} | {value} |");
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}
