//! Numbers by label set: each worker moves its own, a reader sums them.
//!
//! A worker looks a label set up in its own cache and adds to a cache line of its own. The table that all
//! share is locked only when a worker meets a label set for the first time, and when metrics are read.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::table::{Family, Id, Kind, TABLE};

/// A label set that nobody recorded to for this long may make room for another one.
const IDLE: Duration = Duration::from_mins(10);
/// What a label's value may take; the names of the mesh are shorter.
const LABEL_BYTES_MAX: usize = 256;

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    pub(super) family: Family,
    pub(super) labels: Arc<[Arc<str>]>,
}

/// One cache line, so that workers do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU64; 8]);

/// The numbers of one label set.
#[derive(Debug)]
pub(super) struct Cells {
    lines: Box<[Line]>,
    lines_per_shard: usize,
}

impl Cells {
    fn new(family: Family, shards: usize) -> Self {
        let lines_per_shard = family.cells().div_ceil(8).max(1);
        let lines = (0..lines_per_shard * shards).map(|_| Line::default()).collect();
        Self { lines, lines_per_shard }
    }

    fn cell(&self, shard: usize, index: usize) -> Option<&AtomicU64> {
        self.lines.get(shard * self.lines_per_shard + index / 8)?.0.get(index % 8)
    }

    /// Wraps, so that a gauge may go up on one worker and down on another.
    pub(super) fn add(&self, shard: usize, id: Id, n: u64) {
        if let Some(cell) = self.cell(shard, id.offset()) {
            cell.fetch_add(n, Relaxed);
        }
    }

    pub(super) fn set(&self, shard: usize, id: Id, n: u64) {
        if let Some(cell) = self.cell(shard, id.offset()) {
            cell.store(n, Relaxed);
        }
    }

    pub(super) fn observe(&self, shard: usize, id: Id, took: Duration) {
        let Kind::Histogram(bounds) = id.metric().kind else {
            debug_assert!(false, "{id:?} is no histogram");
            return;
        };
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = bounds.partition_point(|bound| *bound < us);
        for (index, n) in [(bucket, 1), (bounds.len() + 1, us)] {
            if let Some(cell) = self.cell(shard, id.offset() + index) {
                cell.fetch_add(n, Relaxed);
            }
        }
    }

    /// The sum over all workers of the number at `index` of the family.
    pub(super) fn sum(&self, index: usize) -> u64 {
        let shards = self.lines.len() / self.lines_per_shard;
        (0..shards)
            .filter_map(|shard| self.cell(shard, index))
            .fold(0u64, |sum, cell| sum.wrapping_add(cell.load(Relaxed)))
    }
}

#[derive(Debug)]
struct Entry {
    cells: Arc<Cells>,
    /// The sum of all numbers when it was last seen to change.
    seen: u64,
    changed: Instant,
}

#[derive(Debug)]
struct Table {
    entries: HashMap<Key, Entry>,
    series: usize,
}

#[derive(Debug)]
pub(super) struct Registry {
    table: Mutex<Table>,
    /// Moves when label sets were dropped; a worker's cache of an older one is thrown away.
    generation: AtomicU64,
    shards: usize,
    series_max: usize,
}

impl Registry {
    /// `shards` threads record; at most `series_max` series are kept, the overflow of each family among them.
    pub(super) fn new(shards: usize, series_max: usize) -> Self {
        let overflow: usize = TABLE.iter().map(|m| m.kind.series()).sum();
        let series_max = series_max.saturating_sub(overflow);
        Self {
            table: Mutex::new(Table { entries: HashMap::new(), series: 0 }),
            generation: AtomicU64::new(0),
            shards,
            series_max,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change of the table is complete before it can panic, so a poisoned one is still good.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &Key) -> Found {
        let mut table = self.table();
        if let Some(entry) = table.entries.get(key) {
            return Found::Own(entry.cells.clone());
        }
        if table.series + key.family.series() <= self.series_max {
            return Found::Own(self.insert(&mut table, key.clone()));
        }
        let other = overflow(key.family);
        Found::Overflow(match table.entries.get(&other) {
            Some(entry) => entry.cells.clone(),
            None => self.insert(&mut table, other),
        })
    }

    fn insert(&self, table: &mut Table, key: Key) -> Arc<Cells> {
        let cells = Arc::new(Cells::new(key.family, self.shards));
        table.series += key.family.series();
        let entry = Entry { cells: cells.clone(), seen: 0, changed: Instant::now() };
        table.entries.insert(key, entry);
        cells
    }

    pub(super) fn series(&self) -> usize {
        self.table().series
    }

    /// Every label set in a fixed order. Makes room first when little is left.
    pub(super) fn snapshot(&self, now: Instant) -> Vec<(Key, Arc<Cells>)> {
        let mut table = self.table();
        for (key, entry) in &mut table.entries {
            let sum = (0..key.family.cells()).fold(0u64, |s, i| s.wrapping_add(entry.cells.sum(i)));
            if sum != entry.seen {
                entry.seen = sum;
                entry.changed = now;
            }
        }
        if table.series > self.series_max / 4 * 3 {
            self.make_room(&mut table, now);
        }
        let mut all: Vec<_> =
            table.entries.iter().map(|(key, entry)| (key.clone(), entry.cells.clone())).collect();
        drop(table);
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// Drops connections' label sets that nobody uses, or pods that are long gone would push new ones to `other`.
    fn make_room(&self, table: &mut Table, now: Instant) {
        let before = table.entries.len();
        table.entries.retain(|key, entry| {
            let open = match key.family {
                Family::Traffic => {
                    entry.cells.sum(Id::Opened.offset()) != entry.cells.sum(Id::Closed.offset())
                }
                Family::Failed | Family::Dns | Family::OnDemandDns => false,
                // Few, and gauges among them.
                Family::Sockets
                | Family::Handshake
                | Family::Refused
                | Family::XdsStream
                | Family::XdsMessage
                | Family::Pods
                | Family::Identity
                | Family::Proxy => true,
            };
            open || now.saturating_duration_since(entry.changed) < IDLE
        });
        if table.entries.len() != before {
            table.series = table.entries.keys().map(|k| k.family.series()).sum();
            self.generation.fetch_add(1, Relaxed);
        }
    }
}

/// The label set for everything beyond the ceiling.
fn overflow(family: Family) -> Key {
    let other: Arc<str> = "other".into();
    Key { family, labels: family.labels().iter().map(|_| other.clone()).collect() }
}

/// A label's value as it is kept: bounded, and never empty, as Istio has it.
pub(super) fn label(text: &str) -> Arc<str> {
    match text.len() {
        0 => "unknown".into(),
        1..=LABEL_BYTES_MAX => text.into(),
        _ => {
            let end = (0..=LABEL_BYTES_MAX).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            text.get(..end).unwrap_or_default().into()
        }
    }
}

enum Found {
    Own(Arc<Cells>),
    Overflow(Arc<Cells>),
}

/// Where one worker records.
#[derive(Debug)]
pub(super) struct Shard {
    registry: Arc<Registry>,
    pub(super) index: usize,
    /// Only this worker takes the lock, so it is never waited for.
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    generation: u64,
    cells: HashMap<Key, Arc<Cells>>,
}

impl Shard {
    pub(super) fn new(registry: Arc<Registry>, index: usize) -> Self {
        debug_assert!(index < registry.shards, "shard {index} of {}", registry.shards);
        Self { registry, index, cache: Mutex::default() }
    }

    /// Moves when label sets were dropped, so that what was found before must be found again.
    pub(super) fn generation(&self) -> u64 {
        self.registry.generation.load(Relaxed)
    }

    pub(super) fn cells(&self, key: &Key) -> Arc<Cells> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.generation();
        if cache.generation != generation {
            *cache = Cache { generation, cells: HashMap::new() };
        }
        if let Some(cells) = cache.cells.get(key) {
            return cells.clone();
        }
        match self.registry.find(key) {
            Found::Own(cells) => {
                cache.cells.insert(key.clone(), cells.clone());
                cells
            }
            // Not cached: the cache, too, must stay bounded under labels that never come twice.
            Found::Overflow(cells) => {
                drop(cache);
                let proxy =
                    self.registry.find(&Key { family: Family::Proxy, labels: Arc::new([]) });
                let (Found::Own(proxy) | Found::Overflow(proxy)) = proxy;
                proxy.add(self.index, Id::SeriesOverflow, 1);
                cells
            }
        }
    }
}

#[cfg(test)]
mod tests;
