//! From any thread to the log's reader, without a thread ever waiting for that reader.
//!
//! Standard output is often a pipe that somebody must empty. A worker that wrote to it itself would stand
//! still with all its connections while nobody does, so lines go through a bounded queue to one thread, and
//! are counted and dropped when it is full.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

const LINES_MAX: usize = 8192;
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

enum Item {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Makes a writer for each line.
pub(super) struct Lines {
    queue: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

/// What is left to do with the queue for who logs.
pub(super) struct LinesHandle {
    queue: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl Lines {
    pub(super) fn new(out: impl Write + Send + 'static) -> io::Result<(Self, LinesHandle)> {
        let (queue, items) = sync_channel(LINES_MAX);
        // Ends when both senders are gone. Not joined: it may stand in a write that nobody reads.
        thread::Builder::new().name("log".to_owned()).spawn(move || drain(&items, out))?;
        let dropped = Arc::new(AtomicU64::new(0));
        let handle = LinesHandle { queue: queue.clone(), dropped: dropped.clone() };
        Ok((Self { queue, dropped }, handle))
    }
}

impl LinesHandle {
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    pub(super) fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Item::Flush(done)).is_ok() {
            // A reader that does not read within the time loses the end of the log, not the process.
            let _ = written.recv_timeout(FLUSH_WITHIN);
        }
    }
}

fn drain(items: &Receiver<Item>, mut out: impl Write) {
    while let Ok(first) = items.recv() {
        // Whatever is there already is written with one flush.
        for item in std::iter::once(first).chain(items.try_iter().take(LINES_MAX)) {
            // There is no other place to say that the log cannot be written.
            match item {
                Item::Line(line) => drop(out.write_all(&line)),
                Item::Flush(done) => {
                    drop(out.flush());
                    let _ = done.send(());
                }
            }
        }
        drop(out.flush());
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter { lines: self, line: Vec::new() }
    }
}

/// Collects one line and queues it when dropped.
pub(super) struct LineWriter<'a> {
    lines: &'a Lines,
    line: Vec<u8>,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LineWriter<'_> {
    fn drop(&mut self) {
        if self.lines.queue.try_send(Item::Line(std::mem::take(&mut self.line))).is_err() {
            self.lines.dropped.fetch_add(1, Relaxed);
        }
    }
}
