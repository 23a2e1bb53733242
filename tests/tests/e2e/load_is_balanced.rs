//! Connections to one address are spread over the pods behind it, and only over those that are there.

use anyhow::Result;
use weft_tests::lab::{LONG, Mesh, wait_for};

#[test]
fn connections_to_a_virtual_address_reach_every_pod_behind_it() -> Result<()> {
    let mesh = Mesh::new()?;
    let url = format!("http://{}/", mesh.vip());
    let mut from = [0, 0];
    for _ in 0..40 {
        let body = mesh.client.curl(&url)?;
        for (count, pod) in from.iter_mut().zip(&mesh.web) {
            *count += usize::from(body.starts_with(pod.name()));
        }
    }
    assert!(from.iter().all(|count| *count >= 5), "of 40 connections: {from:?}");
    assert_eq!(from.iter().sum::<usize>(), 40);
    Ok(())
}

#[test]
fn a_pod_that_is_gone_is_called_no_more() -> Result<()> {
    let mesh = Mesh::new()?;
    let url = format!("http://{}/", mesh.vip());
    mesh.lab.manifests().delete("pod-web-1")?;
    wait_for("only web-2 is known", LONG, || {
        let known = mesh.near.weft(&["get", "workloads"]).ok()?;
        (!known.contains("web-1")).then_some(())
    })?;
    for _ in 0..10 {
        let body = mesh.client.curl(&url)?;
        assert!(body.starts_with("web-2 "), "answered {body:?}");
    }
    Ok(())
}
