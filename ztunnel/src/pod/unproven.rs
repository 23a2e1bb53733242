//! Callers that have not proved who they are: the first to go when something runs short.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use tokio::task::AbortHandle;

/// Whether a caller has shown a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Proof {
    Awaited,
    Given,
}

/// The callers of one worker, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Unproven {
    waiting: RefCell<VecDeque<(Rc<Cell<Proof>>, AbortHandle)>>,
}

impl Unproven {
    pub(crate) fn add(&self, proof: Rc<Cell<Proof>>, task: AbortHandle) {
        let mut waiting = self.waiting.borrow_mut();
        // Most prove themselves within a moment and in order, so the front is where they leave.
        while waiting.front().is_some_and(|(proof, _)| proof.get() == Proof::Given) {
            waiting.pop_front();
        }
        waiting.push_back((proof, task));
    }

    /// Ends the oldest `count`; says how many there were.
    pub(crate) fn shed(&self, count: usize) -> usize {
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|(proof, _)| proof.get() == Proof::Awaited);
        let oldest = waiting.len().min(count);
        waiting.drain(..oldest).for_each(|(_, task)| task.abort());
        oldest
    }
}
