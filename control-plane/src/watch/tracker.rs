//! Where one watch is, and what it knows: events in, differences out. No clock, no network.
//!
//! A list is held back until it is whole, then replaces what was known in one step: what it does not name is
//! deleted. Until then what was known stays, so an interrupted list changes nothing.

use std::collections::{BTreeMap, HashSet};

use super::{
    decode::{Event, Item, Page, Status, Version},
    resource::{Ask, Listing},
};
use crate::objects::Name;

#[derive(Debug)]
pub(super) struct Tracker {
    known: HashSet<Name>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// There is nothing to go on from.
    Nowhere,
    Paging {
        found: Found,
        next: String,
    },
    Streaming(Found),
    At(Version),
}

/// A list as far as it has come.
#[derive(Debug, Default)]
struct Found {
    items: BTreeMap<Name, Item>,
}

/// One thing to take in, after those before it.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Put(Item),
    Delete(Name),
}

impl Tracker {
    pub(super) fn new() -> Self {
        Self { known: HashSet::new(), place: Place::Nowhere }
    }

    /// How many objects are known.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// What to ask next. A list that was begun in pages goes on in pages.
    pub(super) fn ask(&mut self, listing: Listing) -> Ask<'_> {
        if matches!(self.place, Place::Nowhere | Place::Streaming(_)) {
            self.place = match listing {
                Listing::Streamed => Place::Streaming(Found::default()),
                Listing::Paged => Place::Nowhere,
            };
        }
        match &self.place {
            Place::Nowhere => Ask::Page { after: None },
            Place::Paging { next, .. } => Ask::Page { after: Some(next) },
            Place::Streaming(_) => Ask::Everything,
            Place::At(version) => Ask::Since(version),
        }
    }

    /// Whether what is known is a whole list and what came after it.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.place, Place::At(_))
    }

    pub(super) fn page(&mut self, page: Page) -> Vec<Step> {
        let mut found = match std::mem::replace(&mut self.place, Place::Nowhere) {
            Place::Paging { found, .. } => found,
            Place::Nowhere | Place::Streaming(_) | Place::At(_) => Found::default(),
        };
        for item in page.items {
            found.items.insert(item.name.clone(), item);
        }
        match page.next {
            Some(next) => {
                self.place = Place::Paging { found, next };
                Vec::new()
            }
            None => self.replace(found, Place::At(page.version)),
        }
    }

    /// An error is the caller's to judge: see [`Self::lost`].
    pub(super) fn event(&mut self, event: Event) -> Result<Vec<Step>, Status> {
        match (&mut self.place, event) {
            (_, Event::Error(status)) => return Err(status),
            (Place::Streaming(found), event) => match event {
                Event::Put(item, _) => {
                    found.items.insert(item.name.clone(), item);
                }
                Event::Delete(name, _) => {
                    found.items.remove(&name);
                }
                Event::Complete(version) => {
                    let found = std::mem::take(found);
                    return Ok(self.replace(found, Place::At(version)));
                }
                Event::Bookmark(_) | Event::Error(_) => {}
            },
            (_, Event::Put(item, version)) => {
                self.known.insert(item.name.clone());
                self.place = Place::At(version);
                return Ok(vec![Step::Put(item)]);
            }
            (_, Event::Delete(name, version)) => {
                self.place = Place::At(version);
                if self.known.remove(&name) {
                    return Ok(vec![Step::Delete(name)]);
                }
            }
            (_, Event::Bookmark(version) | Event::Complete(version)) => {
                self.place = Place::At(version);
            }
        }
        Ok(Vec::new())
    }

    /// The server has no memory of where we are: all must be listed again. What is known stays until it is.
    pub(super) fn lost(&mut self) {
        self.place = Place::Nowhere;
    }

    /// The kind is no more, and all objects with it.
    pub(super) fn clear(&mut self) -> Vec<Step> {
        self.replace(Found::default(), Place::Nowhere)
    }

    fn replace(&mut self, found: Found, place: Place) -> Vec<Step> {
        self.place = place;
        let gone = self.known.iter().filter(|name| !found.items.contains_key(name));
        let mut gone: Vec<Name> = gone.cloned().collect();
        gone.sort();
        self.known = found.items.keys().cloned().collect();
        let gone = gone.into_iter().map(Step::Delete);
        gone.chain(found.items.into_values().map(Step::Put)).collect()
    }
}

#[cfg(test)]
mod tests;
