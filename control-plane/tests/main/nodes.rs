//! How soon a change is in force on many nodes.

use std::{
    fs,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    discovery::{Proxy, policies},
    scene::{POD, POLICY, Scene, write},
};

const NODES: usize = 50;
const CHANGES: usize = 20;
/// For 2 slow cores that run all of it, in a debug build. What it takes is printed.
const WITHIN: Duration = Duration::from_secs(2);

/// From the rename of the policy's file until the node has it in its view and has acknowledged it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_change_is_in_force_on_fifty_nodes_soon_after_its_commit() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("manifests")).unwrap();
    write(dir.path(), "web.yaml", POD);
    let scene = Scene::program(dir).await;
    let mut nodes = JoinSet::new();
    let (in_force, mut told) = mpsc::unbounded_channel();
    for _ in 0..NODES {
        let mut node = Proxy::connect(&scene).await;
        let in_force = in_force.clone();
        nodes.spawn(async move {
            node.until(|view| view.workloads().count() == 1).await;
            in_force.send(Instant::now()).unwrap();
            for change in 0..CHANGES {
                let wanted = usize::from(change % 2 == 0);
                node.until(|view| policies(view) == wanted).await;
                in_force.send(Instant::now()).unwrap();
            }
        });
    }
    for _ in 0..NODES {
        told.recv().await.unwrap();
    }
    let mut took = Vec::new();
    for change in 0..CHANGES {
        let committed = Instant::now();
        scene.write("strict.yaml", if change % 2 == 0 { POLICY } else { "" });
        for _ in 0..NODES {
            took.push(told.recv().await.unwrap().duration_since(committed));
        }
    }
    while let Some(node) = nodes.join_next().await {
        node.unwrap();
    }
    took.sort();
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    println!(
        "{NODES} nodes, {CHANGES} changes: p50 {:?}, p99 {:?}, all {:?}",
        at(50),
        at(99),
        at(100)
    );
    assert!(at(99) < WITHIN, "p99 {:?}", at(99));
    scene.stop().await;
}
