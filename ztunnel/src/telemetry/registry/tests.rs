use super::{super::text, *};

fn key(family: Family, first: &str) -> Key {
    let labels = family.labels().iter().map(|_| label(first)).collect();
    Key { family, labels }
}

fn shards(series_max: usize) -> (Arc<Registry>, Shard, Shard) {
    let registry = Arc::new(Registry::new(2, series_max));
    (registry.clone(), Shard::new(registry.clone(), 0), Shard::new(registry, 1))
}

fn text(registry: &Registry) -> String {
    text::write(&registry.snapshot(Instant::now()), "test", text::Format::Prometheus)
}

#[test]
fn what_workers_counted_is_summed() {
    let (registry, a, b) = shards(1000);
    a.cells(&key(Family::Sockets, "source")).add(0, Id::SocketsOpen, 3);
    b.cells(&key(Family::Sockets, "source")).add(1, Id::SocketsOpen, 1u64.wrapping_neg());
    assert!(text(&registry).contains("istio_tcp_sockets_open{reporter=\"source\"} 2\n"));
}

#[test]
fn a_million_label_values_are_at_most_the_ceiling_and_the_rest_is_counted_as_other() {
    let (registry, a, _) = shards(10_000);
    for n in 0..1_000_000u32 {
        a.cells(&key(Family::XdsMessage, &format!("evil-{n}"))).add(0, Id::XdsMessages, 1);
    }
    assert!(registry.series() <= 10_000, "{}", registry.series());
    assert!(a.cache.lock().unwrap().cells.len() <= 10_000);
    let text = text(&registry);
    assert!(text.lines().count() < 10_100);
    let counted: u64 = text
        .lines()
        .filter(|l| l.starts_with("istio_xds_message_total{"))
        .map(|l| l.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert_eq!(counted, 1_000_000, "none is lost");
    assert!(text.contains("istio_xds_message_total{url=\"other\"}"));
}

#[test]
fn label_sets_of_pods_that_are_gone_make_room_and_those_of_open_connections_stay() {
    let (registry, a, b) = shards(240);
    let open = a.cells(&key(Family::Traffic, "open"));
    open.add(0, Id::Opened, 1);
    for n in 0..40 {
        let cells = a.cells(&key(Family::Traffic, &format!("gone-{n}")));
        cells.add(0, Id::Opened, 1);
        cells.add(0, Id::Closed, 1);
    }
    let late = Instant::now() + IDLE * 2;
    registry.snapshot(Instant::now());
    let left: Vec<_> = registry.snapshot(late).into_iter().map(|(k, _)| k).collect();
    assert!(left.contains(&key(Family::Traffic, "open")));
    assert!(!left.iter().any(|k| k.labels[0].starts_with("gone")), "{left:?}");
    // A worker that still has the old numbers in its cache finds the new ones.
    a.cells(&key(Family::Traffic, "gone-1")).add(0, Id::Opened, 5);
    b.cells(&key(Family::Traffic, "gone-1")).add(1, Id::Opened, 5);
    let opened = a.cells(&key(Family::Traffic, "gone-1")).sum(Id::Opened.offset());
    assert_eq!(opened, 10);
}

#[test]
fn a_label_is_never_empty_and_never_long() {
    assert_eq!(&*label(""), "unknown");
    assert_eq!(label(&"ä".repeat(400)).len(), 256);
}

#[test]
fn many_threads_lose_nothing() {
    let registry = Arc::new(Registry::new(4, 1000));
    std::thread::scope(|scope| {
        for index in 0..4 {
            let shard = Shard::new(registry.clone(), index);
            scope.spawn(move || {
                for n in 0..10_000 {
                    let cells = shard.cells(&key(Family::Failed, &format!("{}", n % 7)));
                    cells.add(index, Id::Failed, 1);
                }
            });
        }
    });
    let sum: u64 = registry
        .snapshot(Instant::now())
        .iter()
        .map(|(_, cells)| cells.sum(Id::Failed.offset()))
        .sum();
    assert_eq!(sum, 40_000);
}
