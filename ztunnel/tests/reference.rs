//! The reference pages say what the code says.

use std::{fmt::Write, fs, path::Path};

use ztunnel::{config::Config, telemetry};

fn check(page: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let same = fs::read_to_string(&path).unwrap_or_default() == expected;
    let right = std::env::temp_dir().join(page);
    if !same {
        fs::write(&right, expected).unwrap();
    }
    assert!(same, "docs/{page} is not what the code says: cp {} docs/{page}", right.display());
}

/// A table's cell: what would end it is escaped.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn code(text: &str) -> String {
    if text.is_empty() { "none".to_owned() } else { format!("`{}`", cell(text)) }
}

/// How the profiles of the admin address are taken.
const PROFILES: &str = "\
## Profiles

`/debug/pprof/profile?seconds=10` at the admin address is where the processor's time goes, `/debug/pprof/heap?seconds=10` what was allocated in that time and is still held.
Both are in pprof's format, with the functions' names: `go tool pprof`, or any viewer of it.
Nothing is sampled until it is asked for.
To see what is held for longer: `POST /debug/pprof/heap/profiling?activate=true`, then `/debug/pprof/heap` at any time, which answers at once; `?activate=false` ends it.
From the very start: the environment variable `MALLOC_CONF=prof:true,prof_active:true`.
One in 512 KiB of what is allocated is kept with its stack.
The profile is written to a temporary file first, so `TMPDIR` must be a folder that the proxy may write to.
";

#[test]
fn the_configuration_page_has_every_field_as_it_is() {
    let mut page = "# Configuration of the node proxy\n\n\
        Written from `ztunnel/src/config.rs`; a test compares the two.\n\n\
        `ztunnel --config FILE` reads a YAML file of the sections below.\n\
        Every field has a default, so the file names only what differs.\n\
        A key that is not below is an error, and so is a value out of its range: \
        the message names field, value, range and where it came from.\n\
        Environment variables, by Istio's names, are over the file.\n\
        Durations are written `500ms`, `30s`, `5m`, `1h30m`; sizes `64KiB`, `4MiB`, `1GiB`.\n\
        The settings in use are at `http://127.0.0.1:15000/config`; none of them holds a secret: \
        tokens and keys are named by their files.\n\n\
        ```yaml\n\
        node:\n  name: worker-1\n\
        xds:\n  address: https://weft-control.weft-system.svc:15012\n\
        ca:\n  address: https://weft-control.weft-system.svc:15012\n\
        limits:\n  pod_connections: 4096\n\
        ```\n"
        .to_owned();
    let mut section = "";
    for field in Config::default().fields() {
        if field.section != section {
            section = field.section;
            write!(
                page,
                "\n## {section}\n\n| Field | Unit | Default | Range | Environment | What it is, and why |\n\
                 |---|---|---|---|---|---|\n"
            )
            .unwrap();
        }
        writeln!(
            page,
            "| `{section}.{}` | {} | {} | {} | {} | {} |",
            field.name,
            field.unit,
            code(&field.default),
            cell(&field.range),
            field.env.map(code).unwrap_or_default(),
            cell(&field.reason),
        )
        .unwrap();
    }
    page += "\n`TERMINATION_GRACE_PERIOD_SECONDS` is the kubelet's grace in seconds: \
        `timeouts.drain` becomes 5 s less, or 1 s less where it is 10 s or shorter.\n";
    page += "\n";
    page += PROFILES;
    check("configuration.md", &page);
}

#[test]
fn the_metrics_page_has_every_metric_as_it_is() {
    let mut page = "# Metrics of the node proxy\n\n\
        Written from `ztunnel/src/telemetry/table.rs`; a test compares the two.\n\n\
        They are at `:15020/metrics` and `:15020/stats/prometheus`, as Prometheus text or OpenMetrics, \
        whichever `Accept` asks for.\n\
        Names that begin with `istio_` mean what they mean in Istio's ztunnel, labels included; \
        a label without a value is `unknown`.\n\
        Ours begin with `weft_`.\n\
        No label's value is an address, a path or a peer's own words.\n\
        Series are at most `metrics.series`; what is beyond is counted under the label `other`, and \
        `weft_series_overflow_total` says how often.\n\
        Series of connections that nobody used for ten minutes go when three quarters are taken.\n\n\
        | Metric | Type | Labels | What it counts |\n|---|---|---|---|\n"
        .to_owned();
    let rows = telemetry::reference();
    let traffic = rows.iter().map(|row| row.labels).max_by_key(|labels| labels.len()).unwrap();
    for row in &rows {
        let labels = match row.labels {
            labels if labels == traffic => "those of a connection".to_owned(),
            labels => labels.iter().map(|l| code(l)).collect::<Vec<_>>().join(", "),
        };
        writeln!(page, "| `{}` | {} | {labels} | {} |", row.name, row.kind, cell(row.help))
            .unwrap();
    }
    let labels: Vec<_> = traffic.iter().map(|l| code(l)).collect();
    write!(page, "\n## Labels of a connection\n\n{}.\n", labels.join(", ")).unwrap();
    page += "\n`reporter` is `source` on the client's node and `destination` on the server's.\n\
        `response_flags` is `-`, `DENY`, `CONNECT`, `TLS_FAILURE`, `H2_HANDSHAKE_FAILURE`, \
        `NETWORK_POLICY`, `IDENTITY_ERROR` or `CERT_REVOKED`.\n\
        `connection_security_policy` is `mutual_tls` or `unknown`.\n\
        Sent bytes went to the server at the source, and to the client at the destination.\n";
    check("metrics.md", &page);
}
