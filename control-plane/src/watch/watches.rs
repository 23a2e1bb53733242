//! How each watch is doing, for the admin pages.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

/// All watches, by the plural of what they watch. Empty where no API server is watched.
#[derive(Debug, Default)]
pub(crate) struct Watches(Mutex<BTreeMap<&'static str, Row>>);

#[derive(Debug, Default)]
struct Row {
    /// When the server last said anything.
    heard: Option<Instant>,
    whole: bool,
    objects: usize,
    failures: u64,
}

type Cell = fn(&Row, Instant) -> Option<String>;

/// Name, type, help, value.
const METRICS: [(&str, &str, &str, Cell); 4] = [
    (
        "weft_watch_last_event_age_seconds",
        "gauge",
        "Time since the API server last said anything about a resource, if only that nothing changed.",
        |row, now| Some(format!("{:.3}", now.duration_since(row.heard?).as_secs_f64())),
    ),
    (
        "weft_watch_synced",
        "gauge",
        "1 when all objects of a resource have been read once.",
        |row, _| Some(u8::from(row.whole).to_string()),
    ),
    ("weft_watch_objects", "gauge", "Objects of a resource that are known.", |row, _| {
        Some(row.objects.to_string())
    }),
    (
        "weft_watch_failures_total",
        "counter",
        "Requests of a watch that failed or ended early.",
        |row, _| Some(row.failures.to_string()),
    ),
];

impl Watches {
    pub(super) fn begun(&self, resource: &'static str) {
        self.rows().entry(resource).or_default();
    }

    pub(super) fn heard(&self, resource: &'static str, objects: usize, now: Instant) {
        let mut rows = self.rows();
        let row = rows.entry(resource).or_default();
        (row.heard, row.objects) = (Some(now), objects);
    }

    pub(super) fn whole(&self, resource: &'static str) {
        self.rows().entry(resource).or_default().whole = true;
    }

    pub(super) fn failed(&self, resource: &'static str) {
        self.rows().entry(resource).or_default().failures += 1;
    }

    /// What has not been read yet.
    pub(crate) fn unread(&self) -> Vec<&'static str> {
        self.rows().iter().filter(|(_, row)| !row.whole).map(|(resource, _)| *resource).collect()
    }

    /// For Prometheus.
    pub(crate) fn text(&self, now: Instant) -> String {
        let rows = self.rows();
        let mut text = String::new();
        for (name, kind, help, cell) in METRICS.iter().filter(|_| !rows.is_empty()) {
            write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n")
                .expect("a String takes all text");
            for (resource, row) in rows.iter() {
                if let Some(value) = cell(row, now) {
                    writeln!(text, "{name}{{resource=\"{resource}\"}} {value}")
                        .expect("a String takes all text");
                }
            }
        }
        text
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<&'static str, Row>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
