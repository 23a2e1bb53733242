//! Counters, and how they are written for Prometheus.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    streams: AtomicU64,
    refused: AtomicU64,
    issued: AtomicU64,
    denied: AtomicU64,
}

/// A stream that is counted while this lives.
#[derive(Debug)]
pub(crate) struct Open(Arc<Metrics>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

impl Metrics {
    pub(crate) fn open(metrics: &Arc<Self>) -> Open {
        metrics.streams.fetch_add(1, Relaxed);
        Open(metrics.clone())
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn issued(&self) {
        self.issued.fetch_add(1, Relaxed);
    }

    pub(crate) fn denied(&self) {
        self.denied.fetch_add(1, Relaxed);
    }

    pub(crate) fn text(&self, resources: usize, problems: usize) -> String {
        let size = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let rows = [
            (
                "weft_control_streams",
                "gauge",
                "Nodes that are subscribed.",
                self.streams.load(Relaxed),
            ),
            ("weft_control_resources", "gauge", "Resources that are served.", size(resources)),
            ("weft_control_problems", "gauge", "Problems in manifests.", size(problems)),
            (
                "weft_control_refused_total",
                "counter",
                "Responses that a node refused in part.",
                self.refused.load(Relaxed),
            ),
            (
                "weft_control_certificates_issued_total",
                "counter",
                "Certificates that were signed.",
                self.issued.load(Relaxed),
            ),
            (
                "weft_control_certificates_denied_total",
                "counter",
                "Requests for certificates that were denied.",
                self.denied.load(Relaxed),
            ),
        ];
        let mut text = String::new();
        for (name, kind, help, value) in rows {
            write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n")
                .expect("a String takes all text");
        }
        text
    }
}
