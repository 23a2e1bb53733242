//! What the mesh costs a proxy in memory, as the allocator counts it: the same number at every run.

use std::{
    hint::black_box,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    sync::Arc,
};

use tikv_jemalloc_ctl::thread;
use tokio::{io::AsyncWriteExt, net::TcpListener};
use weft_model::*;
use weft_xds::{
    codec::{ResourceType, encode_workload},
    delta::Client,
    proto::discovery::{DeltaDiscoveryResponse, Node},
};

use crate::fixture::{Enrolled, Mesh, run};

const WORKLOADS: u32 = 10_000;

/// What this thread has allocated and not freed, rounded up as the allocator rounds.
fn held_bytes() -> u64 {
    let allocated = thread::allocatedp::read().unwrap().get();
    allocated - thread::deallocatedp::read().unwrap().get()
}

/// A pod of a deployment of ten, on one of a hundred nodes, behind one service.
fn workload(n: u32) -> Workload {
    let deployment = format!("web-{}", n / 10);
    let (name, namespace) =
        (format!("{deployment}-5d9c7b8f6d-x{n:05}"), format!("shop-{}", n / 10 % 50));
    let namespace = Namespace::new(&namespace).unwrap();
    let uid = WorkloadUid::new(&format!("Kubernetes//Pod/{namespace}/{name}")).unwrap();
    let hostname = Hostname::new(&format!("{deployment}.{namespace}.svc.cluster.local")).unwrap();
    let account = ServiceAccountName::new(&deployment).unwrap();
    let mut w = Workload::new(uid, &name, namespace.clone(), account);
    w.addresses = vec![Ipv4Addr::from(0x0a64_0000 + n).into()];
    w.tunnel = TunnelProtocol::Hbone;
    w.node = format!("node-{}", n % 100).into();
    w.canonical_name = deployment.as_str().into();
    w.canonical_revision = "latest".into();
    w.workload_name = deployment.as_str().into();
    w.services = Table::from([(ServiceName { namespace, hostname }, Ports::from([(80, 8080)]))]);
    w
}

fn message() -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: ResourceType::Address.type_url().to_owned(),
        resources: (0..WORKLOADS).map(|n| encode_workload(&workload(n)).wire).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn receive(client: &mut Client, message: DeltaDiscoveryResponse) -> View {
    let received = client.receive(message);
    assert_eq!(received.refused, []);
    received.changes.into_iter().collect()
}

#[test]
fn a_workload_of_the_mesh_costs_at_most_1500_bytes() {
    let message = message();
    // Of the resources' own bytes nothing is freed before the end; the list of them is, which is 32 bytes for each.
    let copy = message.clone();
    let before = held_bytes();
    let mut client = Client::new(Node::default());
    let view = receive(&mut client, message);
    let each = (held_bytes() - before) / u64::from(WORKLOADS);
    assert_eq!(view.workloads().count(), WORKLOADS as usize);
    // The View, and each resource as it was received, for the next start.
    assert!((500..1_500).contains(&each), "{each} bytes for each workload");
    drop((client, copy));
}

#[test]
fn a_newer_view_costs_what_changed() {
    let view = receive(&mut Client::new(Node::default()), message());
    let mut changed = workload(7);
    changed.capacity = 7;
    let changed = Arc::new(changed);
    let before = held_bytes();
    let mut newer = view.clone();
    newer.apply(Change::Workload(changed));
    let more = held_bytes() - before;
    assert!((1..32 * 1024).contains(&more), "{more} bytes for one change");
    black_box((view, newer));
}

/// Connections measured, and as many before them, which make the tunnel and what else all share.
const CONNECTIONS: usize = 64;

/// Connections over which an answer has come, and nothing since. The test's own ends allocate nothing.
async fn idle(pod: &Enrolled, app: &TcpListener) -> Vec<TcpStream> {
    let mut ends = Vec::with_capacity(2 * CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let mut client = TcpStream::connect(pod.captured).unwrap();
        client.write_all(b"?").unwrap();
        let mut server = app.accept().await.unwrap().0;
        server.write_all(b"!").await.unwrap();
        client.set_nonblocking(true).unwrap();
        while client.read(&mut [0]).is_err() {
            tokio::task::yield_now().await;
        }
        ends.extend([client, server.into_std().unwrap()]);
    }
    ends
}

#[test]
fn an_idle_connection_costs_both_proxies_together_at_most_8000_bytes() {
    run(async {
        let (mesh, pod, _web) = Mesh::pair();
        let app = mesh.serve_web().await;
        let first = idle(&pod, &app).await;
        let before = held_bytes();
        let more = idle(&pod, &app).await;
        let each = (held_bytes() - before) / CONNECTIONS as u64;
        assert!((1_000..8_000).contains(&each), "{each} bytes for each connection");
        drop((first, more));
    });
}
