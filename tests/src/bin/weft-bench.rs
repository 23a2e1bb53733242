//! `cargo xtask bench`: direct, the floor, and Weft, in one run, as ratios.

#![allow(clippy::print_stdout, reason = "the table is the output")]

use anyhow::Result;
use clap::Parser;
use weft_tests::bench::{
    load::Kind,
    restart::percentile,
    run::{Course, machine},
    table::HEAD,
};

#[derive(Debug, Parser)]
struct Bench {
    /// Rounds of each row; every other one runs the paths in reverse.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Idle connections held for the memory row.
    #[arg(long, default_value_t = 2000)]
    idle: u32,
    /// Pods enrolled on one node for the memory row.
    #[arg(long, default_value_t = 20)]
    pods: u32,
    /// Peers met in each round of the row of connections without a tunnel.
    #[arg(long, default_value_t = 400)]
    peers: u32,
    /// Workloads added for the memory row.
    #[arg(long, default_value_t = 10_000)]
    workloads: u32,
    /// Times that a proxy is killed while 20 connections wait for the next one.
    #[arg(long, default_value_t = 20)]
    kills: usize,
}

/// Connections that wait for a killed proxy's successor, each time.
const WAITING: usize = 20;

fn main() -> Result<()> {
    let args = Bench::parse();
    let mut course = Course::new(args.peers * u32::try_from(args.rounds)?)?;
    println!(
        "{}; median (least-most) of {} rounds of {} s\n",
        machine(),
        args.rounds,
        args.seconds
    );
    // Before any load: what a load leaves behind in the allocator would hide what these need.
    println!("| memory | bytes |\n|---|---|");
    let idle = course.idle_node()?;
    println!("| one proxy, idle (PSS) | {} |", idle.proxy);
    println!("| one agent, idle (PSS) | {} |", idle.agent);
    let with_pods = course.node_with_pods(args.pods)?;
    let pod = with_pods.proxy.saturating_sub(idle.proxy) / u64::from(args.pods);
    println!("| one enrolled pod, proxy, of {} | {pod} |", args.pods);
    // What it takes for a moment stays with its allocator and is more than pods need: there is no share of one.
    println!("| one agent, with {} pods more | {} |", args.pods, with_pods.agent);
    let connection = course.idle_connection_bytes(args.idle)?;
    println!("| one idle connection, both proxies, of {} | {connection} |", args.idle);
    let workloads = course.workloads_bytes(args.workloads)?;
    println!("| {} further workloads, one proxy | {workloads} |\n", args.workloads);
    println!("{HEAD}");
    let rows = [
        ("request/response, 1 connection", Kind::RequestResponse { connections: 1 }),
        ("request/response, 32 connections", Kind::RequestResponse { connections: 32 }),
        ("open loop, 2000/s on 32", Kind::OpenLoop { connections: 32, per_second: 2000 }),
        ("new connections, 8 slots, warm tunnel", Kind::NewConnections { slots: 8 }),
        ("bulk, 1 stream", Kind::Bulk { streams: 1 }),
        ("bulk, 16 streams", Kind::Bulk { streams: 16 }),
        // Last: the tunnels that it makes stay open.
        ("new connections, 8 slots, no tunnel", Kind::NewPeers { slots: 8, count: args.peers }),
    ];
    for (name, kind) in rows {
        print!("{}", course.row(name, kind, args.rounds, args.seconds)?);
    }
    let met = args.peers * u32::try_from(args.rounds)?;
    println!("\n| memory | bytes |\n|---|---|");
    println!("| both proxies, with {met} tunnels more (PSS) | {} |", course.both_proxies()?);
    // Last: a proxy that has just started would be measured colder than the others.
    let waits = course.restarts(args.kills, WAITING)?;
    println!(
        "\n| {} connections of a killed proxy, from the next one's start | ms |\n|---|---|",
        waits.len()
    );
    for percent in [50, 99] {
        println!("| p{percent} | {} |", percentile(&waits, percent).as_millis());
    }
    course.check()
}
