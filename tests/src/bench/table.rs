//! Rows of measurements, and what they say: medians, spread, and ratios to the floor.

use std::{fmt, time::Duration};

use super::{
    Path,
    load::{Kind, Seen},
};

/// One load over one path, once.
#[derive(Debug, Clone)]
pub struct Cell {
    pub seen: Seen,
    /// Of the two processes between client and server.
    pub cpu: Duration,
}

/// All rounds of one kind of load.
#[derive(Debug)]
pub struct Row {
    name: String,
    kind: Kind,
    cells: Vec<(Path, Cell)>,
}

/// What is read off a cell.
type Quantity = (&'static str, fn(&Cell) -> f64);

impl Row {
    pub(super) fn new(name: &str, kind: Kind) -> Self {
        Self { name: name.to_owned(), kind, cells: Vec::new() }
    }

    pub(super) fn add(&mut self, path: Path, cell: Cell) {
        self.cells.push((path, cell));
    }

    fn values(&self, path: Path, read: fn(&Cell) -> f64) -> Spread {
        Spread::of(self.cells.iter().filter(|(p, _)| *p == path).map(|(_, cell)| read(cell)))
    }

    /// Weft's cell over the floor's cell of the same round.
    fn ratios(&self, read: fn(&Cell) -> f64) -> Spread {
        let of = |path| self.cells.iter().filter(move |(p, _)| *p == path).map(|(_, c)| read(c));
        Spread::of(of(Path::Weft).zip(of(Path::Floor)).map(|(weft, floor)| weft / floor))
    }

    fn quantities(&self) -> Vec<Quantity> {
        let per_operation: Quantity =
            ("CPU us/op", |cell| cell.cpu.as_secs_f64() * 1e6 / count(cell.seen.operations));
        let rate: Quantity = ("op/s", |cell| count(cell.seen.operations) / cell.seen.seconds);
        let p50: Quantity = ("p50 us", |cell| cell.seen.p50_us);
        let p99: Quantity = ("p99 us", |cell| cell.seen.p99_us);
        let p999: Quantity = ("p99.9 us", |cell| cell.seen.p999_us);
        match self.kind {
            Kind::Bulk { .. } => vec![
                ("Gbit/s", |cell| count(cell.seen.bytes) * 8e-9 / cell.seen.seconds),
                ("CPU s/GB", |cell| cell.cpu.as_secs_f64() * 1e9 / count(cell.seen.bytes)),
            ],
            Kind::RequestResponse { .. } | Kind::NewConnections { .. } | Kind::NewPeers { .. } => {
                vec![rate, p50, p99, per_operation]
            }
            Kind::OpenLoop { .. } => vec![p50, p99, p999, per_operation],
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, read) in self.quantities() {
            writeln!(
                f,
                "| {} | {unit} | {} | {} | {} | {} |",
                self.name,
                self.values(Path::Direct, read),
                self.values(Path::Floor, read),
                self.values(Path::Weft, read),
                self.ratios(read),
            )?;
        }
        Ok(())
    }
}

/// The head of a table of [`Row`]s.
pub const HEAD: &str =
    "| load | unit | direct | floor | weft | weft / floor |\n|---|---|---|---|---|---|";

/// A median, and the least and the most that it is the median of.
#[derive(Debug, Clone, Copy)]
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let at = |n: usize| values.get(n).copied().unwrap_or(f64::NAN);
        Self { least: at(0), median: at(values.len() / 2), most: at(values.len().max(1) - 1) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.median.is_nan() || self.most == 0.0 {
            return f.write_str("-");
        }
        let digits = if self.median >= 100.0 { 0 } else { 2 };
        let Self { least, median, most } = self;
        write!(f, "{median:.digits$} ({least:.digits$}-{most:.digits$})")
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn count(n: u64) -> f64 {
    n as f64
}
