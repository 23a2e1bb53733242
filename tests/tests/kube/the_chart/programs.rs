//! What the chart starts is what the programs understand, with rights that are enough and no more.

use std::{collections::BTreeMap, fs, process::Command, time::SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_certs::Authority;
use weft_model::TrustDomain;
use weft_tests::{
    kube::{Account, Apply, Chart, Cluster, ControlPlane, eventually},
    lab::{LONG, binary},
};
use ztunnel::config::Config;

use super::{CONTROL, MESH, NODE, lost_root, other_values, removal};
use crate::written::{KINDS, define, loose_definitions, until, write};

const FIELDS: [(&str, &str); 4] = [
    ("spec.nodeName", "node-1"),
    ("metadata.name", "weft-node-x"),
    ("metadata.namespace", MESH),
    ("status.podIP", "10.0.0.9"),
];

/// Errors: the program does not know an argument, or cannot read its value.
fn parses(program: &str, args: &[String], env: &BTreeMap<String, String>) -> Result<()> {
    // With it at the end all before it is parsed, and nothing is begun.
    let output = Command::new(binary(program)?).args(args).arg("--help").envs(env).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {args:?}: {error}");
    Ok(())
}

#[test]
fn the_programs_know_all_that_the_chart_tells_them() -> Result<()> {
    for values in [json!({}), other_values(), lost_root()] {
        let chart = Chart::render(MESH, &values)?;
        let control = chart.container(CONTROL, "weft-control", &FIELDS)?;
        parses("weft-control", &control.args, &control.env)?;
        let agent = chart.container(NODE, "weft-redirect", &FIELDS)?;
        parses("weft-redirect", &agent.args, &agent.env)?;
        let proxy = chart.container(NODE, "ztunnel", &FIELDS)?;
        parses("ztunnel", &proxy.args, &proxy.env)?;

        let folder = tempfile::tempdir()?;
        let file = folder.path().join("ztunnel.yaml");
        let text = chart.object("ConfigMap", "weft-proxy")?["data"]["ztunnel.yaml"].as_str();
        fs::write(&file, text.context("the proxy has a configuration")?)?;
        let config = Config::load(Some(&file), proxy.env)?.to_json();
        let name = format!("https://weft-control.{MESH}.svc:15012");
        let served_as = format!("--server-name=weft-control.{MESH}.svc");
        ensure!(control.args.contains(&served_as), "{control:?}");
        for (path, wanted) in [
            ("/node/name", "node-1"),
            ("/node/pod_namespace", MESH),
            ("/ca/address", name.as_str()),
            ("/xds/address", name.as_str()),
            ("/ca/node_certificate", "on"),
        ] {
            assert_eq!(config.pointer(path), Some(&json!(wanted)), "{path} in {config}");
        }
        let socket = config.pointer("/zds/socket").and_then(Value::as_str).unwrap_or_default();
        ensure!(agent.args.contains(&format!("--zds={socket}")), "{socket} in {agent:?}");
    }
    let chart = Chart::render(MESH, &removal())?;
    for name in ["weft-redirect", "removed"] {
        let container = chart.container(NODE, name, &FIELDS)?;
        parses("weft-redirect", &container.args, &container.env)?;
    }
    let wrong = parses("weft-control", &["run".to_owned(), "--no-such".to_owned()], &[].into());
    ensure!(wrong.is_err(), "a flag that does not exist is known");
    Ok(())
}

/// With everything but where it listens and keeps its data.
fn told(chart: &Chart) -> Result<Vec<String>> {
    let control = chart.container(CONTROL, "weft-control", &FIELDS)?;
    let own =
        |arg: &String| ["--listen=", "--admin=", "--data="].iter().any(|o| arg.starts_with(o));
    Ok(control.args.into_iter().filter(|arg| !own(arg)).collect())
}

/// The name of what cannot be read.
const WRONG: &str = "wrong";

/// Two replicas with the rights that the chart gives them.
async fn runs(cluster: &Cluster, values: &Value) -> Result<()> {
    let chart = Chart::render(MESH, values)?;
    cluster.install(chart.objects(), Apply::Really)?;
    cluster.namespace("shop", &[]).await?;
    define(cluster, &loose_definitions()?)?;
    for (kind, ..) in KINDS {
        write(cluster, kind, WRONG, "{selector: 7, hosts: 7, address: 7}")?;
    }
    let account = Account { namespace: MESH, name: "weft-control" };
    let kubeconfig = cluster.kubeconfig_of(account).await?;
    let first = ControlPlane::start_told(&kubeconfig, &told(&chart)?).await?;
    let second = ControlPlane::start_told(&kubeconfig, &told(&chart)?).await?;
    for control in [&first, &second] {
        control.ready().await?;
        let (status, page) = control.page("/livez")?;
        ensure!(status == 200, "/livez is answered {status}: {page}");
        // One of the two holds the lease and tends the CA, which needs most; both say what came of it.
        control.until("/ca", |page| page.contains("\"issuing\"")).await?;
    }
    // One of them writes statuses and events, and both say where their nodes are.
    for (kind, ..) in KINDS {
        until(cluster, (kind, WRONG), "Accepted", |said| said.starts_with("False Refused")).await?;
    }
    let counted = "weft_status_writes_total{what=";
    for (what, result) in [("condition", 4.0), ("event", 4.0), ("progress", 2.0)] {
        let row = format!("{counted}\"{what}\",result=\"written\"}}");
        eventually(&row, LONG, async || {
            (first.metric(&row).ok()? + second.metric(&row).ok()? >= result).then_some(())
        })
        .await?;
    }
    for control in [&first, &second] {
        let log = fs::read_to_string(control.log())?;
        // As the API server words it. A bare 403 is in many a timestamp.
        ensure!(!log.contains("forbidden"), "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn the_control_plane_needs_no_more_rights_than_the_chart_gives() -> Result<()> {
    let cluster = Cluster::own().await?;
    cluster.namespace(MESH, &[]).await?;
    runs(&cluster, &json!({})).await
}

#[tokio::test]
async fn with_a_ca_of_others_the_control_plane_needs_less() -> Result<()> {
    let cluster = Cluster::own().await?;
    cluster.namespace(MESH, &[]).await?;
    let root = Authority::new(&TrustDomain::default(), SystemTime::now())?;
    let ca = root.issuing_ca(LONG * 100, SystemTime::now())?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "cacerts", "namespace": MESH },
        "stringData": {
            "ca-cert.pem": ca.certificate, "ca-key.pem": ca.key.as_str(),
            "root-cert.pem": root.bundle().to_pem(),
        },
    });
    cluster.install(&[secret], Apply::Really)?;
    runs(&cluster, &json!({ "ca": { "secret": "cacerts" } })).await
}

#[tokio::test]
async fn an_installed_mesh_reads_no_secrets_but_its_own() -> Result<()> {
    let cluster = Cluster::own().await?;
    cluster.namespace(MESH, &[]).await?;
    let may = |account: &str, what: &[&str]| {
        let user = format!("--as=system:serviceaccount:{MESH}:{account}");
        let mut args = vec!["auth", "can-i", "--quiet", &user];
        args.extend(what);
        // It fails when the answer is no.
        cluster.kubectl(&args).is_ok()
    };
    for (values, own, others) in
        [(json!({}), "weft-root-ca", "cacerts"), (other_values(), "cacerts", "weft-root-ca")]
    {
        cluster.install(&Chart::render(MESH, &values)?.rights(), Apply::Really)?;
        let own = format!("secrets/{own}");
        ensure!(may("weft-control", &["get", &own, "-n", MESH]));
        let refused: [&[&str]; 6] = [
            &["get", &format!("secrets/{others}"), "-n", MESH],
            &["list", "secrets", "-n", MESH],
            &["get", "secrets", "-A"],
            &["get", &own, "-n", "kube-system"],
            &["create", "pods", "-n", MESH],
            &["patch", "configmaps/other", "-n", MESH],
        ];
        // Made by the control plane: its own, not what others keep.
        let makes = may("weft-control", &["create", "secrets", "-n", MESH]);
        assert_eq!(makes, own == "secrets/weft-root-ca");
        for what in refused {
            ensure!(!may("weft-control", what), "weft-control may {what:?}");
        }
        for what in [&["get", "secrets", "-A"][..], &["get", &own, "-n", MESH], &["get", "nodes"]] {
            ensure!(!may("weft-node", what), "weft-node may {what:?}");
        }
    }
    Ok(())
}

#[test]
fn the_samples_are_what_the_control_plane_accepts() -> Result<()> {
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/samples");
    let output = Command::new(binary("weft")?).args(["validate", samples]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
