//! Metrics as Prometheus reads them: its own text format, or `OpenMetrics`.

use std::fmt::Write;

use super::{
    registry::{Cells, Key},
    table::{BUILD, Kind, Metric, TABLE},
};

/// What the reader asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

pub(super) fn write(
    snapshot: &[(Key, std::sync::Arc<Cells>)],
    build: &str,
    format: Format,
) -> String {
    let mut out = Writer { out: String::with_capacity(snapshot.len() * 512), format };
    out.head("istio_build", "gauge", "Which build this is.");
    let labels = labels(BUILD, &["ztunnel".into(), build.into()]);
    out.line("istio_build", "", &labels, "", "1");
    for metric in TABLE {
        out.metric(metric, snapshot);
    }
    if format == Format::OpenMetrics {
        out.out.push_str("# EOF\n");
    }
    out.out
}

struct Writer {
    out: String,
    format: Format,
}

impl Writer {
    fn metric(&mut self, metric: &Metric, snapshot: &[(Key, std::sync::Arc<Cells>)]) {
        let (kind, name) = match (metric.kind, self.format) {
            // OpenMetrics names a counter without what its samples are called.
            (Kind::Counter, Format::OpenMetrics) => {
                ("counter", metric.name.strip_suffix("_total").unwrap_or(metric.name))
            }
            (Kind::Counter, Format::Prometheus) => ("counter", metric.name),
            (Kind::Gauge, _) => ("gauge", metric.name),
            (Kind::Histogram(_), _) => ("histogram", metric.name),
        };
        self.head(name, kind, metric.help);
        let offset = offset(metric);
        for (key, cells) in snapshot.iter().filter(|(key, _)| key.family == metric.family) {
            let labels = labels(key.family.labels(), &key.labels);
            match metric.kind {
                Kind::Counter => {
                    self.line(metric.name, "", &labels, "", &cells.sum(offset).to_string());
                }
                Kind::Gauge => {
                    let value = cells.sum(offset).cast_signed().to_string();
                    self.line(metric.name, "", &labels, "", &value);
                }
                Kind::Histogram(bounds) => self.histogram(metric, bounds, &labels, cells, offset),
            }
        }
    }

    fn histogram(
        &mut self,
        metric: &Metric,
        bounds: &[u64],
        labels: &str,
        cells: &Cells,
        offset: usize,
    ) {
        let mut count = 0u64;
        for (i, bound) in bounds.iter().enumerate() {
            count += cells.sum(offset + i);
            let le = format!("le=\"{}\"", seconds(*bound));
            self.line(metric.name, "_bucket", labels, &le, &count.to_string());
        }
        count += cells.sum(offset + bounds.len());
        self.line(metric.name, "_bucket", labels, "le=\"+Inf\"", &count.to_string());
        let sum = seconds(cells.sum(offset + bounds.len() + 1));
        self.line(metric.name, "_sum", labels, "", &sum);
        self.line(metric.name, "_count", labels, "", &count.to_string());
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, suffix: &str, labels: &str, extra: &str, value: &str) {
        self.out.push_str(name);
        self.out.push_str(suffix);
        let comma = if labels.is_empty() || extra.is_empty() { "" } else { "," };
        if !labels.is_empty() || !extra.is_empty() {
            let _ = write!(self.out, "{{{labels}{comma}{extra}}}");
        }
        self.out.push(' ');
        self.out.push_str(value);
        self.out.push('\n');
    }
}

fn offset(metric: &Metric) -> usize {
    metric.family.metrics().take_while(|m| *m != metric).map(|m| m.kind.cells()).sum()
}

/// Exact: microseconds have six places.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    let text = text.trim_end_matches('0');
    text.strip_suffix('.').map_or_else(|| text.to_owned(), |whole| format!("{whole}.0"))
}

fn labels(names: &[&str], values: &[std::sync::Arc<str>]) -> String {
    let mut out = String::new();
    for (name, value) in names.iter().zip(values) {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        escape(&mut out, value);
        out.push('"');
    }
    out
}

/// The format's three escapes; any other control character would reach a terminal or break a line, so it is
/// written out as text.
fn escape(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => {
                let _ = write!(out, "\\\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests;
