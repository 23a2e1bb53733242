//! No byte between enrolled pods passes in the clear, whichever way they call each other.

use anyhow::{Context, Result};
use weft_tests::lab::Mesh;

const MARKER: &str = "secret-7f3a";

#[test]
fn no_byte_between_enrolled_pods_passes_in_the_clear() -> Result<()> {
    let mesh = Mesh::new()?;
    let [same_node, other_node] = &mesh.web;
    let watch = mesh.watch(MARKER)?;
    let calls = [
        (same_node.v4().to_owned(), "web-1"),
        (other_node.v4().to_owned(), "web-2"),
        (format!("[{}]", same_node.v6()), "web-1"),
        (format!("[{}]", other_node.v6()), "web-2"),
        (mesh.vip().to_owned(), "web-"),
        (format!("[{}]", mesh.vip6()), "web-"),
    ];
    for (address, name) in calls {
        let body = mesh.client.curl(&format!("http://{address}/{MARKER}"))?;
        assert!(body.starts_with(name), "{address} answered {body:?}");
    }
    watch.refuse_clear_text()?;
    mesh.is_sound()
}

#[test]
fn the_application_sees_its_client_s_own_address() -> Result<()> {
    let mesh = Mesh::new()?;
    for pod in &mesh.web {
        let v4 = mesh.client.curl(&format!("http://{}/", pod.v4()))?;
        let v6 = mesh.client.curl(&format!("http://[{}]/", pod.v6()))?;
        assert_eq!(v4, format!("{} {}\n", pod.name(), mesh.client.v4()));
        assert_eq!(v6, format!("{} {}\n", pod.name(), mesh.client.v6()));
    }
    Ok(())
}

#[test]
fn an_application_talks_to_itself_without_the_mesh() -> Result<()> {
    let mut mesh = Mesh::new()?;
    mesh.near.kill_proxy()?;
    for address in ["127.0.0.1", "[::1]", mesh.client.v4(), &format!("[{}]", mesh.client.v6())] {
        let body = mesh.client.curl(&format!("http://{address}/")).context("no proxy is needed")?;
        assert!(body.starts_with("client "), "{address} answered {body:?}");
    }
    Ok(())
}
