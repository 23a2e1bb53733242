//! The redirect between real network namespaces, with the real agent and a tiny proxy.
//!
//! Not libtest's harness: the proxy must be a process of its own, in its own cgroup and without
//! capabilities, so this binary is both. Needs root; without, it fails and says so.

#![allow(clippy::print_stdout, reason = "a test's verdict is its output")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod app;
mod capture;
mod changes;
mod cni;
mod exemptions;
mod leaving;
mod proxy;
mod restarts;
mod tampering;
mod tap;
mod world;
mod zds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

type Test = (&'static str, fn());

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first()
        && first == "proxy"
    {
        proxy::main(rest);
        return ExitCode::SUCCESS;
    }
    if let Err(missing) = world::machine() {
        println!("these tests cannot run: {missing}");
        return ExitCode::FAILURE;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|word| !word.starts_with('-')).collect();
    let all = [
        capture::TESTS,
        changes::TESTS,
        cni::TESTS,
        exemptions::TESTS,
        leaving::TESTS,
        restarts::TESTS,
        tampering::TESTS,
        zds::TESTS,
    ];
    let chosen = |test: &&Test| wanted.is_empty() || wanted.iter().any(|w| test.0.contains(*w));
    let mut failed = Vec::new();
    for (name, test) in all.into_iter().flatten().filter(chosen) {
        let started = Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        let verdict = if passed { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({:.1?})", started.elapsed());
        if !passed {
            failed.push(*name);
        }
    }
    world::leave();
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {}", failed.join(", "));
    ExitCode::FAILURE
}

/// Names tests by the sentence that is their function's name.
macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        pub(crate) const TESTS: &[crate::Test] = &[$((stringify!($name), $name),)+];
    };
}
pub(crate) use tests;
