//! What happened is told: one line for each connection, Istio's metrics, and a command line that explains.

use anyhow::{Context, Result, ensure};
use weft_tests::lab::{LONG, Mesh, Node, binary, wait_for};

const CALLS: usize = 7;

#[test]
fn each_connection_is_one_line_and_one_count_on_each_side() -> Result<()> {
    let mesh = Mesh::new()?;
    for _ in 0..CALLS {
        mesh.client.curl(&format!("http://{}/", mesh.web[1].v4()))?;
    }
    for (node, direction, reporter) in
        [(&mesh.near, "outbound", "source"), (&mesh.far, "inbound", "destination")]
    {
        let ended = || (lines(node, direction) >= CALLS).then_some(());
        wait_for("all connections have ended", LONG, ended)?;
        assert_eq!(lines(node, direction), CALLS, "{direction}");
        assert_eq!(opened(node, reporter)?, CALLS, "{reporter}");
    }
    Ok(())
}

/// Access-log lines of connections from client to web-2.
fn lines(node: &Node, direction: &str) -> usize {
    let wanted = [
        format!("direction=\"{direction}\""),
        "src.workload=\"client\"".to_owned(),
        "dst.workload=\"web-2\"".to_owned(),
    ];
    let log = node.proxy_log();
    log.lines().filter(|line| wanted.iter().all(|wanted| line.contains(wanted))).count()
}

/// What the metrics count of the same.
fn opened(node: &Node, reporter: &str) -> Result<usize> {
    let wanted = [
        format!("reporter=\"{reporter}\""),
        "source_workload=\"client\"".to_owned(),
        "destination_workload=\"web-2\"".to_owned(),
        "connection_security_policy=\"mutual_tls\"".to_owned(),
    ];
    let (_, text) = node.curl("http://127.0.0.1:15020/stats/prometheus").context("no metrics")?;
    let is_wanted = |line: &&str| {
        line.starts_with("istio_tcp_connections_opened_total{")
            && wanted.iter().all(|wanted| line.contains(wanted))
    };
    let line = text.lines().find(is_wanted).with_context(|| format!("not counted in\n{text}"))?;
    let value = line.rsplit(' ').next().context("a metric has a value")?;
    value.parse().with_context(|| format!("read {line}"))
}

#[test]
fn the_command_line_shows_a_live_connection_and_a_mistake_with_its_place() -> Result<()> {
    let mesh = Mesh::new()?;
    let url = format!("http://{}/drip", mesh.web[1].v4());
    let _drip = mesh.client.start("drip", "curl", &["-sSN", &url])?;
    wait_for("the connection is shown", LONG, || {
        let shown = mesh.near.weft(&["get", "connections"]).ok()?;
        (shown.contains("default/client") && shown.contains(mesh.web[1].v4())).then_some(())
    })?;
    let dir = mesh.lab.manifests().dir().display().to_string();
    let weft = binary("weft")?.display().to_string();
    mesh.client.says(&weft, &["validate", &dir]).context("the lab's own manifests are good")?;
    mesh.lab.manifests().apply(
        "bad",
        "apiVersion: v1
kind: Service
metadata: {name: bad, namespace: default}
spec:
  ports: [{port: eighty}]
",
    )?;
    let output = mesh.client.run(&weft, &["validate", &dir])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "a port named eighty was found good");
    ensure!(said.contains("bad.yaml:5") && said.contains("port"), "it said:\n{said}");
    Ok(())
}
