//! What nodes have said of themselves with their requests: that they are there, and which roots they trust.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

/// For so long nothing was heard of a node: it is gone, and whoever reads what was heard has noticed.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(48);

/// Our nodes say which roots they trust with each certificate of their own, of which none lives for longer than half
/// of this. One that says nothing for so long is another program by now.
const SAYS_WITHIN: Duration = Duration::from_hours(2);

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

impl Word {
    /// Whether it takes the place of what was said before, maybe to another replica. Most requests of a node say
    /// nothing of roots: such a one takes nothing back, nor makes it newer.
    pub(crate) fn counts_over(&self, before: &Self) -> bool {
        let says_as_much = self.bundle.is_some() || before.bundle.is_none();
        self.seen >= before.seen + if says_as_much { Duration::ZERO } else { SAYS_WITHIN }
    }
}

impl Heard {
    pub(crate) fn note(&self, node: &Arc<str>, bundle: Option<&str>, now: SystemTime) {
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Each time that there are twice as many as before, so that it costs each of them little.
        if words.len().is_power_of_two() && !words.contains_key(node) {
            words.retain(|_, word| now < word.seen + FORGOTTEN_AFTER);
        }
        let word = Word { seen: now, bundle: bundle.map(str::to_owned) };
        if words.get(node).is_none_or(|before| word.counts_over(before)) {
            words.insert(node.clone(), word);
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
    fn a_request_that_says_nothing_of_roots_changes_nothing_where_a_node_said_them() {
        let (heard, node) = (Heard::default(), Arc::from("a"));
        let start = SystemTime::UNIX_EPOCH;
        let after = |minutes| start + Duration::from_mins(minutes);
        let word = || heard.all().remove(0).1;
        let said = |bundle: &str, seen| Word { seen, bundle: Some(bundle.to_owned()) };
        heard.note(&node, Some("c0ffee"), start);
        heard.note(&node, None, after(90));
        assert_eq!(word(), said("c0ffee", start));
        heard.note(&node, Some("abad1dea"), after(91));
        assert_eq!(word(), said("abad1dea", after(91)));
        // A stock node by now; its requests are all that there is to see.
        for minutes in [91 + 120, 91 + 121] {
            heard.note(&node, None, after(minutes));
            assert_eq!(word(), Word { seen: after(minutes), bundle: None });
        }
    }

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
