//! How much a peer may send on a whole tunnel before it is read.
//!
//! Each stream has a window of its own, so that a slow reader slows its sender; but all share the connection's. It
//! grows with the streams, so that a few whose readers are slow do not hold the others.

use std::rc::Rc;

/// Above this many times the configured window it does not grow: a peer may fill what is announced.
const GROWTH_MAX: u32 = 4;

/// The window of one connection.
#[derive(Debug)]
pub(super) struct Window {
    /// Counted by its clones.
    streams: Open,
    per_stream: u32,
    least: u32,
    announced: u32,
}

/// One open stream, as long as it is held.
#[derive(Clone, Debug)]
pub(super) struct Open(Rc<()>);

impl Window {
    pub(super) fn new(connection: u32, per_stream: u32) -> Self {
        Self { streams: Open(Rc::new(())), per_stream, least: connection, announced: connection }
    }

    pub(super) fn opened(&self) -> Open {
        self.streams.clone()
    }

    /// The window to announce, where it has to be larger than it was. It is never made smaller: what was announced
    /// may be under way.
    pub(super) fn grown(&mut self) -> Option<u32> {
        let open = u32::try_from(Rc::strong_count(&self.streams.0) - 1).unwrap_or(u32::MAX);
        let most = self.least.saturating_mul(GROWTH_MAX).min(i32::MAX.unsigned_abs());
        let wanted = open.saturating_mul(self.per_stream).clamp(self.least, most);
        if wanted <= self.announced {
            return None;
        }
        self.announced = wanted;
        Some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_the_streams_to_a_bound_and_never_shrinks() {
        let mut window = Window::new(16, 4);
        let mut open: Vec<_> = (0..4).map(|_| window.opened()).collect();
        assert_eq!(window.grown(), None);
        open.push(window.opened());
        assert_eq!(window.grown(), Some(20));
        assert_eq!(window.grown(), None);
        open.extend((0..95).map(|_| window.opened()));
        assert_eq!(window.grown(), Some(64));
        open.clear();
        assert_eq!(window.grown(), None);
    }
}
