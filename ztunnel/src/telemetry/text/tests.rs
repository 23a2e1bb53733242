use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::{
        registry::{Registry, Shard, label},
        table::{Family, Id},
    },
    *,
};

fn one(family: Family, value: &str, act: impl FnOnce(&Cells)) -> Vec<(Key, Arc<Cells>)> {
    let registry = Arc::new(Registry::new(1, 1000));
    let labels = family.labels().iter().map(|_| label(value)).collect();
    act(&Shard::new(registry.clone(), 0).cells(&Key { family, labels }));
    registry.snapshot(Instant::now())
}

fn lines_of<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines().filter(|l| l.contains(name)).collect()
}

#[test]
fn a_histogram_is_cumulative_and_exact() {
    let snapshot = one(Family::Handshake, "tcp", |cells| {
        for us in [400, 500, 501, 2_000_000, 20_000_000] {
            cells.observe(0, Id::Handshake, Duration::from_micros(us));
        }
    });
    let text = write(&snapshot, "v1", Format::Prometheus);
    let labels = "carrier=\"tcp\",side=\"tcp\"";
    for line in [
        format!("weft_tunnel_handshake_seconds_bucket{{{labels},le=\"0.0005\"}} 2"),
        format!("weft_tunnel_handshake_seconds_bucket{{{labels},le=\"0.001\"}} 3"),
        format!("weft_tunnel_handshake_seconds_bucket{{{labels},le=\"1.0\"}} 3"),
        format!("weft_tunnel_handshake_seconds_bucket{{{labels},le=\"10.0\"}} 4"),
        format!("weft_tunnel_handshake_seconds_bucket{{{labels},le=\"+Inf\"}} 5"),
        format!("weft_tunnel_handshake_seconds_sum{{{labels}}} 22.001401"),
        format!("weft_tunnel_handshake_seconds_count{{{labels}}} 5"),
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} is not in {text}");
    }
}

#[test]
fn openmetrics_names_a_counter_without_its_suffix_and_ends_with_eof() {
    let snapshot = one(Family::XdsMessage, "a", |cells| cells.add(0, Id::XdsMessages, 2));
    let text = write(&snapshot, "v1", Format::OpenMetrics);
    assert_eq!(
        lines_of(&text, "istio_xds_message "),
        [
            "# HELP istio_xds_message Messages from the control plane.",
            "# TYPE istio_xds_message counter"
        ]
    );
    assert_eq!(
        lines_of(&text, "istio_xds_message_total"),
        ["istio_xds_message_total{url=\"a\"} 2"]
    );
    assert!(text.ends_with("# EOF\n"));
    let text = write(&snapshot, "v1", Format::Prometheus);
    assert!(text.contains("# TYPE istio_xds_message_total counter\n"));
    assert!(!text.contains("# EOF"));
}

#[test]
fn a_label_cannot_break_its_line_or_move_a_cursor() {
    let evil = "a\"} 1\nfake 2\\\u{1b}[31m\r";
    let text = write(&one(Family::Sockets, evil, |_| ()), "v1", Format::Prometheus);
    assert_eq!(
        lines_of(&text, "istio_tcp_sockets_open{"),
        [r#"istio_tcp_sockets_open{reporter="a\"} 1\nfake 2\\\\u{1b}[31m\\u{d}"} 0"#]
    );
}
