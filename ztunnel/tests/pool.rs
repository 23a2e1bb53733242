//! Which connections share a tunnel.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft_model::{Change, ResourceKey, WorkloadUid};
use ztunnel::{config::H2, tunnel::hbone::Settings, worker::PodUid};
use ztunnel_core::{Direction, End, Failure};

use crate::fixture::{CLIENT, Mesh, WEB, at, identity, run, workload};

/// Opens a connection and sees it carry a byte.
async fn open(
    captured: std::net::SocketAddr,
    app: &tokio::net::TcpListener,
) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(captured).await.unwrap();
    let (mut server, _) = app.accept().await.unwrap();
    client.write_all(b"?").await.unwrap();
    server.read_exact(&mut [0; 1]).await.unwrap();
    (client, server)
}

#[test]
fn a_thundering_herd_makes_one_tunnel() {
    run(async {
        let (mesh, pod, web) = Mesh::pair();
        let app = mesh.serve_web().await;
        let callers = (0..50).map(|_| TcpStream::connect(pod.captured));
        let callers = futures_util::future::join_all(callers).await;
        for _ in &callers {
            app.accept().await.unwrap();
        }
        assert_eq!(web.tunnels.get(), 1);
    });
}

#[test]
fn a_full_tunnel_opens_another() {
    run(async {
        let h2 = H2 { client_streams: 2, ..H2::default() };
        let (mesh, pod, web) = Mesh::pair_with(&Settings { h2, ..Settings::default() });
        let app = mesh.serve_web().await;
        let mut held = Vec::new();
        for _ in 0..5 {
            held.push(open(pod.captured, &app).await);
        }
        assert_eq!(web.tunnels.get(), 3);
        // Places that are given back are used again.
        held.truncate(1);
        mesh.outcomes(8).await;
        held.push(open(pod.captured, &app).await);
        assert_eq!(web.tunnels.get(), 3);
    });
}

#[test]
fn a_rotated_certificate_gets_tunnels_of_its_own_and_open_streams_go_on() {
    run(async {
        let (mesh, pod, web) = Mesh::pair();
        let app = mesh.serve_web().await;
        let (mut client, mut server) = open(pod.captured, &app).await;
        mesh.ca.rotate();
        let _second = open(pod.captured, &app).await;
        assert_eq!(web.tunnels.get(), 2);
        client.write_all(b"!").await.unwrap();
        server.read_exact(&mut [0; 1]).await.unwrap();
    });
}

#[test]
fn an_address_that_another_pod_has_now_is_not_reached_by_the_old_pods_tunnel() {
    run(async {
        let (mesh, pod, web) = Mesh::pair();
        let app = mesh.serve_web().await;
        drop(open(pod.captured, &app).await);
        mesh.outcomes(2).await;
        assert_eq!(web.tunnels.get(), 1);

        mesh.server_node.remove(&PodUid("web".into()));
        let gone = WorkloadUid::new("Kubernetes//Pod/shop/web").unwrap();
        mesh.change(Change::Remove(ResourceKey::Workload(gone)));
        mesh.change(Change::Workload(Arc::new(workload("fresh", WEB))));
        let fresh = mesh.enroll(&mesh.server_node, "fresh", WEB, 80, at(CLIENT, 80));
        let kept = open(pod.captured, &app).await;
        assert_eq!((web.tunnels.get(), fresh.tunnels.get()), (1, 1));
        drop(kept);
        let outcomes = mesh.outcomes(4).await;
        let reached = outcomes.iter().filter_map(|o| o.parties.destination.identity.clone());
        let reached: Vec<_> = reached.collect();
        assert!(reached.contains(&identity("fresh")), "{reached:?}");
    });
}

#[test]
fn a_server_that_proves_to_be_somebody_else_gets_no_bytes() {
    run(async {
        let (mesh, pod, _web) = Mesh::pair();
        let _app = mesh.serve_web().await;
        // At web's address the mesh knows `other`, but the proxy there answers as `web`.
        let gone = WorkloadUid::new("Kubernetes//Pod/shop/web").unwrap();
        mesh.client_change(Change::Remove(ResourceKey::Workload(gone)));
        mesh.client_change(Change::Workload(Arc::new(workload("other", WEB))));
        let mut caller = TcpStream::connect(pod.captured).await.unwrap();
        let error = caller.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let outcomes = mesh.outcomes(2).await;
        let ours = outcomes.iter().find(|o| o.parties.direction == Direction::Outbound).unwrap();
        assert!(matches!(&ours.end, End::Failed(Failure::Handshake { .. })), "{ours:?}");
    });
}

/// Writes until the other side takes no more for a while.
async fn fill(stream: &mut TcpStream) {
    let chunk = vec![7; 64 * 1024];
    let quiet = std::time::Duration::from_secs(2);
    while tokio::time::timeout(quiet, stream.write_all(&chunk)).await.is_ok() {}
}

#[test]
fn slow_readers_hold_neither_the_streams_beside_them_nor_new_ones() {
    run(async {
        let (mesh, pod, web) = Mesh::pair();
        let app = mesh.serve_web().await;
        let (mut fast, mut answering) = open(pod.captured, &app).await;
        let mut slow = Vec::new();
        for _ in 0..6 {
            slow.push(open(pod.captured, &app).await);
        }
        assert_eq!(web.tunnels.get(), 1);
        // More than six stream windows, which is more than the connection's own.
        let filling = slow.iter_mut().map(|(_, server)| fill(server));
        futures_util::future::join_all(filling).await;

        let answer = vec![1; 1 << 20];
        let mut heard = vec![0; answer.len()];
        let (sent, read) = tokio::join!(answering.write_all(&answer), fast.read_exact(&mut heard));
        sent.unwrap();
        read.unwrap();
        let _new = open(pod.captured, &app).await;
        assert_eq!(web.tunnels.get(), 2);
    });
}
