//! What Weft needs of the machine's memory, and what each further thing costs it.

use std::{
    ops::RangeBounds,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Course, pod_of_mesh};
use crate::{
    bench::{Path, cpu},
    lab::{LONG, Pod, PodSpec, Process, binary, wait_for},
};

/// Bytes of the node's proxy and of its agent.
#[derive(Debug, Clone, Copy)]
pub struct OfNode {
    pub proxy: u64,
    pub agent: u64,
}

impl Course {
    /// What a node uses before anything happened.
    pub fn idle_node(&mut self) -> Result<OfNode> {
        let node = &mut self.nodes[0];
        let of = |process: &mut Process| cpu::pss_bytes(process.pid());
        Ok(OfNode { proxy: of(node.proxy()?)?, agent: of(node.agent()?)? })
    }

    /// What a node uses with `count` further enrolled pods, each with an identity of its own.
    pub fn node_with_pods(&mut self, count: u32) -> Result<OfNode> {
        let pods: Vec<Pod> = (0..count).map(|n| self.idle_pod(n)).collect::<Result<_>>()?;
        let with_pods = self.idle_node()?;
        pods.into_iter().try_for_each(Pod::delete)?;
        Ok(with_pods)
    }

    fn idle_pod(&self, n: u32) -> Result<Pod> {
        let name = format!("idle-{n}");
        let node = &self.nodes[0];
        let pod = node.pod(PodSpec { name: &name, service_account: &name, app: &name })?;
        pod.enroll()?;
        // A pod that was ready before its certificate came has not cost all that it will.
        wait_for("the pod has a certificate", LONG, || node.serial(&name).ok())?;
        Ok(pod)
    }

    /// What both proxies use together, once what they needed only for a moment has gone back.
    pub fn both_proxies(&mut self) -> Result<u64> {
        let pids = self.between(Path::Weft)?;
        pids.into_iter().map(settled).sum()
    }

    /// Bytes of both proxies together that one idle connection costs.
    pub fn idle_connection_bytes(&mut self, count: u32) -> Result<u64> {
        let program = binary("weft-load")?;
        let (to, number) = (self.target(Path::Weft), count.to_string());
        let before = self.both_proxies()?;
        let mut holder = self.meshed[0].start_with_input(
            "hold",
            &program.to_string_lossy(),
            &["hold", &to, &number],
        )?;
        wait_for("the connections are held", LONG, || holder.log().contains("held").then_some(()))
            .with_context(|| holder.log())?;
        let held = self.both_proxies()?;
        drop(holder.input());
        holder.exit(LONG)?;
        Ok(held.saturating_sub(before) / u64::from(count))
    }

    /// Bytes of one proxy that `count` further workloads of the mesh cost.
    pub fn workloads_bytes(&mut self, count: u32) -> Result<u64> {
        let pid = self.nodes[0].proxy()?.pid();
        let before = settled(pid)?;
        self.control.manifests().apply("many", &many_pods(count))?;
        self.know_of_many(count as usize..)?;
        let after = settled(pid)?;
        self.control.manifests().delete("many")?;
        // What follows would be measured while they go.
        self.know_of_many(..1)?;
        Ok(after.saturating_sub(before))
    }

    /// Waits until both proxies know this many of the [`many_pods`].
    fn know_of_many(&self, wanted: impl RangeBounds<usize>) -> Result<()> {
        let known = |dump: &str| wanted.contains(&dump.matches("\"many-").count());
        self.nodes.iter().try_for_each(|node| node.dumps("knows the workloads", known))
    }
}

/// No less for so long: what a proxy frees goes back to the kernel within a second.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// Bytes of a process once what it needed only for a moment has gone back. The answer to the question whether it
/// knows 10,000 workloads is larger than what it knows.
fn settled(pid: u32) -> Result<u64> {
    let (mut least, mut since) = (u64::MAX, Instant::now());
    wait_for("what a process uses has settled", LONG, || match cpu::pss_bytes(pid) {
        Ok(now) if now < least => {
            (least, since) = (now, Instant::now());
            None
        }
        Ok(_) => (since.elapsed() >= SETTLED_AFTER).then_some(Ok(least)),
        Err(error) => Some(Err(error.into())),
    })?
}

fn many_pods(count: u32) -> String {
    (0..count).map(far_pod).collect()
}

/// One of many pods of nodes that are not here.
fn far_pod(n: u32) -> String {
    let (high, low) = (n / 250, n % 250 + 1);
    let (second, third) = (100 + high / 250, high % 250);
    let (name, node) = (format!("many-{n}"), format!("elsewhere-{}", n % 100));
    pod_of_mesh(&name, &node, "many", &[format!("10.{second}.{third}.{low}")])
}
