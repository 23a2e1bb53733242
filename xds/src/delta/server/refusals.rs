//! What a client has refused.

use std::sync::Arc;

use imbl::OrdMap;

use crate::codec::ResourceType;

/// The resources that a client could not take in the form that it was sent last, with its words. A clone is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals(OrdMap<(ResourceType, Arc<str>), Arc<str>>);

impl Refusals {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Why a resource was refused.
    pub fn of(&self, kind: ResourceType, name: &Arc<str>) -> Option<&Arc<str>> {
        self.0.get(&(kind, name.clone()))
    }

    /// Takes note of the answer to a response: `message` is the client's, if it refused anything. Which of what
    /// was put that is, it says by naming it; who names nothing may mean all of it.
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
        let named = put.iter().any(|name| message.contains(&**name));
        for name in put {
            if !named || message.contains(&*name) {
                self.0.insert((kind, name), message.clone());
            } else {
                self.0.remove(&(kind, name));
            }
        }
    }
}
