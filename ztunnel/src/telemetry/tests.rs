use std::{net::SocketAddr, time::Duration};

use weft_model::{
    Hostname, Namespace, PeerAddr, Service, ServiceAccountName, Workload, WorkloadUid,
};
use ztunnel_core::{
    Carried, Carrier, Direction, End, Failure, Finish, Outcome, Parties, Refusal, Security, Side,
};

use super::*;

pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn side(name: &str, address: &str) -> Side {
    let uid = WorkloadUid::new(&format!("Kubernetes//Pod/shop/{name}")).unwrap();
    let account = ServiceAccountName::new(name).unwrap();
    let mut workload = Workload::new(uid, name, Namespace::new("shop").unwrap(), account);
    workload.workload_name = name.into();
    workload.canonical_name = name.into();
    Side {
        address: Some(at(address)),
        identity: Some(workload.identity()),
        workload: Some(workload.into()),
    }
}

pub(super) fn parties(direction: Direction) -> Parties {
    let hostname = Hostname::new("web.shop.svc.cluster.local").unwrap();
    Parties {
        direction,
        source: side("client", "10.0.0.1:4000"),
        destination: side("web", "10.0.0.2:8080"),
        service: Some(Service::new("web", Namespace::new("shop").unwrap(), hostname).into()),
        hbone: Some(at("10.0.0.2:15008")),
        security: Security::MutualTls,
    }
}

pub(super) fn carried(direction: Direction) -> Outcome {
    let carried = Carried { bytes_to_server: 84, bytes_to_client: 175, finish: Finish::Closed };
    Outcome {
        parties: parties(direction),
        end: End::Carried(carried),
        duration: Duration::from_millis(8),
    }
}

fn refused() -> Outcome {
    let end = End::Refused(Refusal::ProxyPort { port: 15001 });
    Outcome { end, ..carried(Direction::Inbound) }
}

fn value(text: &str, start: &str) -> u64 {
    let line = text.lines().find(|l| l.starts_with(start));
    line.unwrap_or_else(|| panic!("{start} is not in {text}"))
        .rsplit_once(' ')
        .unwrap()
        .1
        .parse()
        .unwrap()
}

fn telemetry() -> Arc<Telemetry> {
    Telemetry::new(&Metrics::default(), 2, None)
}

#[test]
fn a_connection_moves_istios_counters_in_the_reporters_view() {
    let telemetry = telemetry();
    let worker = telemetry.worker(0);
    for direction in [Direction::Outbound, Direction::Inbound] {
        let bytes = Arc::new(crate::telemetry::Carried::default());
        let live =
            worker.open("uid".into(), at("10.96.0.1:80"), &parties(direction), bytes.clone());
        bytes.to_server.add(80);
        // Read in between, they are counted already, and not once more at the end.
        let text = telemetry.render(Format::Prometheus);
        let name = match direction {
            Direction::Outbound => "istio_tcp_sent_bytes_total{reporter=\"source\"",
            Direction::Inbound => "istio_tcp_received_bytes_total{reporter=\"destination\"",
        };
        assert_eq!(value(&text, name), 80);
        bytes.to_server.add(4);
        bytes.to_client.add(175);
        live.ended(&carried(direction));
    }
    let text = telemetry.render(Format::Prometheus);
    for (name, reporter, expected) in [
        ("istio_tcp_connections_opened_total", "source", 1),
        ("istio_tcp_connections_closed_total", "source", 1),
        ("istio_tcp_sent_bytes_total", "source", 84),
        ("istio_tcp_received_bytes_total", "source", 175),
        ("istio_tcp_sent_bytes_total", "destination", 175),
        ("istio_tcp_received_bytes_total", "destination", 84),
    ] {
        let start = format!("{name}{{reporter=\"{reporter}\"");
        assert_eq!(value(&text, &start), expected, "{start}");
    }
    assert!(text.contains(
        "source_principal=\"spiffe://cluster.local/ns/shop/sa/client\",source_app=\"client\""
    ));
    assert!(text.contains("destination_service=\"web.shop.svc.cluster.local\""));
    assert!(text.contains("connection_security_policy=\"mutual_tls\",source_region=\"unknown\""));
}

#[test]
fn an_open_connection_is_listed_and_leaves_even_if_its_task_is_cut() {
    let telemetry = telemetry();
    let live = telemetry.worker(1).open(
        "uid-1".into(),
        at("10.96.0.1:80"),
        &parties(Direction::Outbound),
        Arc::default(),
    );
    let open = telemetry.connections();
    assert_eq!(open.len(), 1);
    assert_eq!(&*open[0].pod, "uid-1");
    assert_eq!(open[0].original, at("10.96.0.1:80"));
    assert_eq!(open[0].actual, Some(at("10.0.0.2:15008")));
    drop(live);
    assert_eq!(telemetry.connections(), []);
    let text = telemetry.render(Format::Prometheus);
    assert_eq!(value(&text, "istio_tcp_connections_closed_total{"), 1);
}

#[test]
fn an_open_inbound_connection_names_the_applications_port() {
    let telemetry = telemetry();
    let bytes = Arc::new(crate::telemetry::Carried::default());
    let came_to = at("10.0.0.2:15008");
    let worker = telemetry.worker(0);
    let _live = worker.open("uid".into(), came_to, &parties(Direction::Inbound), bytes);
    let open = telemetry.connections();
    assert_eq!((open[0].original, open[0].actual), (came_to, Some(at("10.0.0.2:8080"))));
}

#[test]
fn a_refused_connection_is_counted_with_its_flag_and_its_fault() {
    let telemetry = telemetry();
    telemetry.worker(0).ended(&refused());
    let text = telemetry.render(Format::Prometheus);
    assert_eq!(
        value(&text, "weft_connections_refused_total{reporter=\"destination\",fault=\"client\"}"),
        1
    );
    assert!(text.contains("response_flags=\"CONNECT\""));
}

#[test]
fn workloads_that_change_are_counted_under_their_new_labels() {
    let telemetry = telemetry();
    let worker = telemetry.worker(0);
    let mut parties = parties(Direction::Outbound);
    drop(worker.open("uid".into(), at("10.96.0.1:80"), &parties, Arc::default()));
    let mut newer = (**parties.source.workload.as_ref().unwrap()).clone();
    newer.canonical_revision = "v2".into();
    parties.source.workload = Some(newer.into());
    drop(worker.open("uid".into(), at("10.96.0.1:80"), &parties, Arc::default()));
    let text = telemetry.render(Format::Prometheus);
    assert!(text.contains("source_canonical_revision=\"v2\""));
    assert!(text.contains("source_canonical_revision=\"unknown\""));
}

#[test]
fn the_accepted_are_open_until_they_are_dropped() {
    let telemetry = telemetry();
    let one = telemetry.worker(0).accepted(Direction::Inbound);
    let start = "istio_tcp_sockets_open{reporter=\"destination\"}";
    assert_eq!(value(&telemetry.render(Format::Prometheus), start), 1);
    drop(one);
    assert_eq!(value(&telemetry.render(Format::Prometheus), start), 0);
}

/// Everything that can be recorded, once. A metric that this does not move is one that nothing moves.
fn record_everything(telemetry: &Telemetry) -> (Accepted, Live) {
    let worker = telemetry.worker(0);
    let control = telemetry.control();
    let bytes = Arc::new(crate::telemetry::Carried::default());
    bytes.to_server.add(84);
    bytes.to_client.add(175);
    let live = worker.open("uid".into(), at("10.96.0.1:80"), &parties(Direction::Outbound), bytes);
    live.ended(&carried(Direction::Outbound));
    worker.ended(&refused());
    let failure = Failure::Connect { to: at("10.0.0.9:80"), error: "refused".to_owned() };
    worker.ended(&Outcome { end: End::Failed(failure), ..refused() });
    worker
        .looked_up(&parties(Direction::Outbound).source, &Hostname::new("db.example.com").unwrap());
    worker.handshake(Carrier::Tcp, TunnelSide::Client, Duration::from_millis(2));
    worker.handshake(Carrier::Tcp, TunnelSide::Server, Duration::from_millis(2));
    control.xds_message("type.googleapis.com/istio.workload.Address", 17);
    control.xds_terminated("reset");
    control.view(7);
    control.config_age(60);
    control.memory_full();
    control.pod_started();
    control.pod_started();
    control.pod_stopped();
    control.pods_pending(1);
    control.certificate(Answered::Success);
    control.certificate(Answered::Failure);
    let query = DnsQuery {
        kind: "A",
        transport: DnsTransport::Udp,
        canonical_service: "client".into(),
        canonical_revision: "v1".into(),
    };
    control.dns_request(&query);
    control.dns_dropped(&query);
    control.dns_forwarded(&query, Answered::Success, Duration::from_millis(3));
    control.dns_forwarded(&query, Answered::Failure, Duration::from_secs(5));
    (
        worker.accepted(Direction::Outbound),
        worker.open("uid".into(), at("1.1.1.1:1"), &parties(Direction::Inbound), Arc::default()),
    )
}

#[test]
fn nothing_in_the_table_is_left_unmoved() {
    // So few series that recordings overflow, and a log that drops a line.
    struct Never;
    impl std::io::Write for Never {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            loop {
                std::thread::park();
            }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let config = crate::config::Log {
        level: crate::config::LogFilter::default(),
        format: crate::config::LogFormat::Text,
    };
    let (logging, dispatch) = Logging::new(&config, Never).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        for _ in 0..20_000 {
            tracing::info!("x");
        }
    });
    let telemetry = Telemetry::new(&Metrics { series: 200 }, 1, Some(Arc::new(logging)));
    let _open = record_everything(&telemetry);
    let parties = parties(Direction::Outbound);
    let live = telemetry.worker(0).open("uid".into(), at("1.1.1.1:1"), &parties, Arc::default());
    let mut shed = carried(Direction::Outbound);
    if let End::Carried(carried) = &mut shed.end {
        carried.finish = Finish::Shed;
    }
    live.ended(&shed);
    for n in 0..200 {
        telemetry.control().xds_message(&format!("type-{n}"), 1);
    }
    let text = telemetry.render(Format::Prometheus);
    for metric in table::TABLE {
        let moved = text.lines().any(|line| {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let ours = name == metric.name || name.strip_suffix("_count") == Some(metric.name);
            ours && !line.ends_with(" 0")
        });
        assert!(moved, "nothing moves {}", metric.name);
    }
}

#[test]
fn every_metric_is_named_as_its_kind_wants() {
    let names: std::collections::BTreeSet<_> = table::TABLE.iter().map(|m| m.name).collect();
    assert_eq!(names.len(), table::TABLE.len(), "no name twice");
    for metric in table::TABLE {
        match metric.kind {
            table::Kind::Counter => assert!(metric.name.ends_with("_total"), "{}", metric.name),
            table::Kind::Histogram(_) => {
                assert!(metric.name.ends_with("_seconds"), "{}", metric.name);
            }
            table::Kind::Gauge => assert!(!metric.name.ends_with("_total"), "{}", metric.name),
        }
    }
}

#[test]
fn a_peer_without_workload_or_name_is_unknown() {
    let telemetry = telemetry();
    let parties = Parties {
        direction: Direction::Inbound,
        source: Side { address: Some(PeerAddr::new(at("192.0.2.1:1")).0), ..Side::default() },
        destination: Side::default(),
        service: None,
        hbone: None,
        security: Security::Plaintext,
    };
    drop(telemetry.worker(0).open("uid".into(), at("10.0.0.1:80"), &parties, Arc::default()));
    let text = telemetry.render(Format::Prometheus);
    let line = text.lines().find(|l| l.starts_with("istio_tcp_connections_opened_total{")).unwrap();
    assert_eq!(line.matches("=\"unknown\"").count(), table::TRAFFIC.len() - 3, "{line}");
    assert!(!line.contains("192.0.2.1"), "no address is a label");
}
