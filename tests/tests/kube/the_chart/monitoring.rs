//! Dashboard and rules ask for metrics and labels that there are.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::kube::{Chart, Cluster, ControlPlane};

use super::MESH;

const PROXY: &str = include_str!("../../../../docs/metrics.md");
const CONTROL_PLANE: &str = include_str!("../../../../docs/control-plane-metrics.md");

/// What a scraper adds, and the bucket of a histogram.
const ADDED: [&str; 4] = ["pod", "node", "namespace", "le"];
const FUNCTIONS: [&str; 6] = ["sum", "max", "rate", "increase", "histogram_quantile", "by"];

/// Metrics with their type and labels.
fn known() -> BTreeMap<String, BTreeSet<String>> {
    let of_a_connection = PROXY.split("## Labels of a connection").nth(1).unwrap_or_default();
    let of_a_connection: BTreeSet<String> =
        quoted(of_a_connection.trim().lines().next().unwrap_or(""));
    let mut known = BTreeMap::new();
    for row in [PROXY, CONTROL_PLANE].iter().flat_map(|page| page.lines()) {
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, metric, kind, labels, ..] = columns[..] else { continue };
        let Some(metric) = metric.strip_prefix('`').and_then(|m| m.strip_suffix('`')) else {
            continue;
        };
        let (name, in_braces) = metric.split_once('{').unwrap_or((metric, ""));
        let mut labels = if labels.contains("those of a connection") {
            of_a_connection.clone()
        } else {
            quoted(labels)
        };
        labels.extend(in_braces.trim_end_matches('}').split(',').map(str::to_owned));
        if kind == "histogram" {
            for part in ["bucket", "sum", "count"] {
                known.insert(format!("{name}_{part}"), labels.clone());
            }
        }
        known.insert(name.to_owned(), labels);
    }
    known
}

fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What an expression asks for: names outside of braces and of lists of labels, and the labels in them.
fn asked(expression: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut names, mut labels) = (BTreeSet::new(), BTreeSet::new());
    let (mut word, mut in_text, mut place) = (String::new(), false, Place::Names);
    let mut grouped = false;
    for letter in expression.chars().chain([' ']) {
        if letter == '"' {
            in_text = !in_text;
        }
        if in_text {
            continue;
        }
        if letter.is_ascii_alphanumeric() || letter == '_' || letter == '$' {
            word.push(letter);
            continue;
        }
        let is_word = word.starts_with(|first: char| first.is_ascii_alphabetic());
        if is_word && place != Place::Range {
            grouped = word == "by";
            if place == Place::Labels {
                labels.insert(word.clone());
            } else if !FUNCTIONS.contains(&word.as_str()) {
                names.insert(word.clone());
            }
        }
        word.clear();
        place = match (letter, place) {
            ('{', _) => Place::Labels,
            ('[', _) => Place::Range,
            ('(', _) if grouped => Place::Labels,
            ('}' | ']' | ')', _) => Place::Names,
            (_, place) => place,
        };
        grouped &= letter == ' ';
    }
    (names, labels)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Names,
    Labels,
    Range,
}

#[test]
fn an_expression_is_read_as_prometheus_reads_it() {
    let set = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect::<BTreeSet<_>>();
    for (expression, names, labels) in [
        ("a_total > 300", set(&["a_total"]), set(&[])),
        (
            "sum by (x, y) (rate(a_total{z=\"by other\",w=\"v\"}[5m])) / sum(b)",
            set(&["a_total", "b"]),
            set(&["x", "y", "z", "w"]),
        ),
        (
            "histogram_quantile(0.99, sum by (le) (rate(s_bucket[$__rate_interval])))",
            set(&["s_bucket"]),
            set(&["le"]),
        ),
    ] {
        assert_eq!(asked(expression), (names, labels), "{expression}");
    }
}

/// All `expr` below.
fn expressions(value: &Value, all: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == "expr" => all.push(text.to_owned()),
                    _ => expressions(value, all),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, all)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn dashboard_and_rules_ask_for_metrics_and_labels_that_there_are() -> Result<()> {
    let on = json!({ "monitoring": { "podMonitor": true, "rules": true, "dashboard": true } });
    let chart = Chart::render(MESH, &on)?;
    let rules = chart.object("PrometheusRule", "weft")?;
    let dashboard = chart.object("ConfigMap", "weft-dashboard")?;
    let dashboard = dashboard["data"]["weft.json"].as_str().context("the dashboard is text")?;
    let dashboard: Value = serde_json::from_str(dashboard).context("the dashboard is JSON")?;
    let known = known();
    for (what, source) in [("rules", rules), ("dashboard", &dashboard)] {
        let mut all = Vec::new();
        expressions(source, &mut all);
        ensure!(all.len() > 5, "the {what} ask only for {all:?}");
        for expression in all {
            let (names, labels) = asked(&expression);
            ensure!(!names.is_empty(), "{expression} asks for nothing");
            let mut there: BTreeSet<_> = ADDED.map(str::to_owned).into();
            for name in names {
                let of_it = known.get(&name);
                let of_it = of_it.with_context(|| format!("no metric {name}: {expression}"))?;
                there.extend(of_it.iter().cloned());
            }
            let missing: Vec<_> = labels.difference(&there).collect();
            ensure!(missing.is_empty(), "no labels {missing:?}: {expression}");
        }
    }
    for monitor in ["weft-node", "weft-control"] {
        let monitor = chart.object("PodMonitor", monitor)?;
        let port = &monitor["spec"]["podMetricsEndpoints"][0]["port"];
        let is_there = chart.objects().iter().any(|object| {
            let all = object["spec"]["template"]["spec"]["containers"].as_array();
            all.into_iter()
                .flatten()
                .filter_map(|c| c["ports"].as_array())
                .flatten()
                .any(|p| &p["name"] == port)
        });
        ensure!(is_there, "no port {port}");
    }
    Ok(())
}

#[tokio::test]
async fn the_control_planes_metrics_are_those_of_its_page() -> Result<()> {
    let cluster = Cluster::own().await?;
    let control = ControlPlane::start(cluster.kubeconfig()).await?;
    let page = control.until("/metrics", |page| page.contains("weft_watch_")).await?;
    let told = |line: &str| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned);
    let served: BTreeSet<_> = page.lines().filter_map(told).collect();
    let names = CONTROL_PLANE.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = names.filter_map(|line| Some(line.split(['`', '{']).next()?.to_owned()));
    assert_eq!(names.collect::<BTreeSet<_>>(), served);
    Ok(())
}
