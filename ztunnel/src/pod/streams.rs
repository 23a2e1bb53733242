//! What is being carried, by who asked for it: when memory runs out, whoever has most gives some back.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use tokio::sync::Notify;
use weft_model::Identity;

/// `None` are all callers in the clear together: what they say of themselves proves nothing.
type Source = Option<Identity>;

/// The streams of one worker.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Oldest first.
    open: RefCell<HashMap<Source, BTreeMap<u64, Rc<Notify>>>>,
    opened: Cell<u64>,
}

impl Streams {
    /// Counts one until the ticket is dropped.
    pub(crate) fn open(self: &Rc<Self>, source: Source) -> Ticket {
        let number = self.opened.get();
        self.opened.set(number + 1);
        let cut = Rc::new(Notify::new());
        let mut open = self.open.borrow_mut();
        open.entry(source.clone()).or_default().insert(number, cut.clone());
        Ticket { streams: self.clone(), source, number, cut }
    }

    /// Cuts the newest `count` of the source that has most; says whose and how many there were.
    pub(crate) fn shed(&self, count: usize) -> Option<(Source, usize)> {
        let open = self.open.borrow();
        let (source, streams) = open.iter().max_by_key(|(_, streams)| streams.len())?;
        let newest: Vec<_> = streams.values().rev().take(count).collect();
        for cut in &newest {
            cut.notify_one();
        }
        Some((source.clone(), newest.len()))
    }
}

/// One stream's place among those of its source.
#[derive(Debug)]
pub(crate) struct Ticket {
    streams: Rc<Streams>,
    source: Source,
    number: u64,
    cut: Rc<Notify>,
}

impl Ticket {
    /// Completes when this stream is to give its memory back.
    pub(crate) async fn cut(&self) {
        self.cut.notified().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.streams.open.borrow_mut();
        if let Some(streams) = open.get_mut(&self.source) {
            streams.remove(&self.number);
            if streams.is_empty() {
                open.remove(&self.source);
            }
        }
    }
}
