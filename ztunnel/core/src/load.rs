//! How busy each endpoint is, as this worker sees it. The shell reports events, the next pick reads.

use std::collections::HashMap;

use weft_model::WorkloadUid;

/// Open connections per endpoint. Bounded by the connections that are open: an idle endpoint takes no room.
#[derive(Clone, Debug, Default)]
pub struct Load {
    open: HashMap<WorkloadUid, u32>,
}

impl Load {
    /// Open connections to an endpoint.
    pub fn open(&self, endpoint: &WorkloadUid) -> u32 {
        self.open.get(endpoint).copied().unwrap_or(0)
    }

    /// Counts a connection from the moment it was picked, so that a burst spreads before it is connected.
    pub fn opened(&mut self, endpoint: &WorkloadUid) {
        match self.open.get_mut(endpoint) {
            Some(open) => *open = open.saturating_add(1),
            None => {
                self.open.insert(endpoint.clone(), 1);
            }
        }
    }

    pub fn closed(&mut self, endpoint: &WorkloadUid) {
        match self.open.get_mut(endpoint) {
            Some(open) if *open > 1 => *open -= 1,
            Some(_) => {
                self.open.remove(endpoint);
            }
            None => debug_assert!(false, "a connection to {endpoint} closed that was not opened"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_connections_takes_no_room() {
        let uid = WorkloadUid::new("a").unwrap();
        let mut load = Load::default();
        load.opened(&uid);
        load.opened(&uid);
        assert_eq!(load.open(&uid), 2);
        load.closed(&uid);
        load.closed(&uid);
        assert_eq!(load.open(&uid), 0);
        assert!(load.open.is_empty());
    }
}
