//! What a client has refused.

use std::sync::Arc;

use imbl::OrdMap;

use crate::{codec::ResourceType, delta::CUT_OFF};

/// The resources that a client could not take in the form that it was sent last, with its words. A clone is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals(OrdMap<(ResourceType, Arc<str>), Arc<str>>);

impl Refusals {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was refused.
    pub fn names(&self) -> impl Iterator<Item = &(ResourceType, Arc<str>)> {
        self.0.keys()
    }

    /// Why a resource was refused.
    pub fn of(&self, kind: ResourceType, name: &Arc<str>) -> Option<&Arc<str>> {
        self.0.get(&(kind, name.clone()))
    }

    /// Takes note of the answer to a response: `message` is the client's, if it refused anything. Which of what
    /// was put that is, it says by naming it; who names nothing, or had not the room for all names, may mean all of
    /// it.
    pub(super) fn note(
        &mut self,
        kind: ResourceType,
        put: Vec<Arc<str>>,
        removed: Vec<Arc<str>>,
        message: Option<&str>,
    ) {
        for name in removed {
            self.0.remove(&(kind, name));
        }
        let Some(message) = message else {
            if !self.0.is_empty() {
                for name in put {
                    self.0.remove(&(kind, name));
                }
            }
            return;
        };
        let message: Arc<str> = message.into();
        let all = message.ends_with(CUT_OFF) || !put.iter().any(|name| names(&message, name));
        for name in put {
            if all || names(&message, &name) {
                self.0.insert((kind, name), message.clone());
            } else {
                self.0.remove(&(kind, name));
            }
        }
    }
}

/// Whether a text has the whole name, and not only another that has it in it.
fn names(text: &str, name: &str) -> bool {
    let of_a_name = |c: char| c.is_alphanumeric() || "-_./*".contains(c);
    text.match_indices(name).any(|(at, _)| {
        let before = text.get(..at).and_then(|text| text.chars().next_back());
        let after = text.get(at + name.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(of_a_name) && !after.is_some_and(of_a_name)
    })
}
