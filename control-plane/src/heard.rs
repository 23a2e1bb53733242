//! What nodes have said of themselves with their requests: that they are there, and which roots they trust.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

/// For so long nothing was heard of a node: it is gone, and whoever reads what was heard has noticed.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(48);

/// The newest of each node. Only proven callers get here; those that are gone are forgotten.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<HashMap<Arc<str>, Word>>);

/// A node's newest word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) seen: SystemTime,
    /// The fingerprint of the roots that it trusts; a stock node says none.
    pub(crate) bundle: Option<String>,
}

impl Heard {
    /// A request that says nothing of roots takes nothing back.
    pub(crate) fn note(&self, node: &Arc<str>, bundle: Option<&str>, now: SystemTime) {
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Each time that there are twice as many as before, so that it costs each of them little.
        if words.len().is_power_of_two() && !words.contains_key(node) {
            words.retain(|_, word| now < word.seen + FORGOTTEN_AFTER);
        }
        let word = words.entry(node.clone()).or_insert_with(|| Word { seen: now, bundle: None });
        word.seen = now;
        if let Some(bundle) = bundle {
            word.bundle = Some(bundle.to_owned());
        }
    }

    pub(crate) fn all(&self) -> Vec<(Arc<str>, Word)> {
        let words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        words.iter().map(|(node, word)| (node.clone(), word.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_which_nothing_is_heard_are_forgotten() {
        let heard = Heard::default();
        for hour in 0..10_000_u32 {
            let now = SystemTime::UNIX_EPOCH + hour * Duration::from_hours(1);
            heard.note(&Arc::from(hour.to_string()), Some("c0ffee"), now);
        }
        let all = heard.all();
        assert!(all.len() <= 128, "{}", all.len());
        assert!(all.iter().any(|(node, _)| **node == *"9960"), "it was there a day ago");
    }
}
