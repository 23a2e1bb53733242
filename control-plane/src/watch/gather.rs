//! All watches into the index; published once each has been read once.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use tokio::sync::{mpsc, watch};
use tracing::debug;

use super::{
    decode::{Body, Item},
    resource::{Resource, What},
    tracker::Step,
    watches::Watches,
};
use crate::{
    FieldProblem, Problem, clock,
    index::Index,
    mesh::Known,
    objects::{Kind, Name, ObjectKey},
};

/// The names of the definitions that there are; `None` while that is not known.
pub(super) type Definitions = Option<Arc<BTreeSet<String>>>;

/// What a watch has to say.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) resource: &'static Resource,
    pub(super) news: News,
}

#[derive(Debug)]
pub(super) enum News {
    Changed(Vec<Step>),
    /// With these, all that there is was read.
    Whole(Vec<Step>),
    /// It cannot go on for now.
    Trouble(String),
    /// It goes on.
    Well,
}

/// Differences that are taken in before they are compiled, if they are there already.
const BATCH: usize = 256;

pub(super) struct Gather {
    known: Arc<Known>,
    watches: Arc<Watches>,
    define: watch::Sender<Definitions>,
    definitions: BTreeSet<String>,
    unreadable: BTreeMap<ObjectKey, FieldProblem>,
    troubles: BTreeMap<&'static str, String>,
}

/// Whether there is anything to publish.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Nothing,
    Publish,
}

impl Gather {
    pub(super) fn new(
        known: Arc<Known>,
        watches: Arc<Watches>,
        define: watch::Sender<Definitions>,
    ) -> Self {
        Self {
            known,
            watches,
            define,
            definitions: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            troubles: BTreeMap::new(),
        }
    }

    /// Ends when all watches have.
    pub(super) async fn run(mut self, mut told: mpsc::Receiver<Told>) {
        while let Some(first) = told.recv().await {
            // At once when idle; when busy, what has come meanwhile is compiled together.
            let mut effect = self.take(first);
            for _ in 1..BATCH {
                let Ok(next) = told.try_recv() else { break };
                if self.take(next) == Effect::Publish {
                    effect = Effect::Publish;
                }
            }
            if effect == Effect::Publish {
                self.publish();
            }
        }
    }

    fn take(&mut self, Told { resource, news }: Told) -> Effect {
        let plural = resource.plural;
        match news {
            News::Changed(steps) => self.steps(resource, steps),
            News::Whole(steps) => {
                self.steps(resource, steps);
                self.watches.whole(plural);
            }
            News::Trouble(message) => {
                if self.troubles.get(plural) == Some(&message) {
                    return Effect::Nothing;
                }
                self.troubles.insert(plural, message);
            }
            News::Well => {
                if self.troubles.remove(plural).is_none() {
                    return Effect::Nothing;
                }
            }
        }
        Effect::Publish
    }

    fn steps(&mut self, resource: &'static Resource, steps: Vec<Step>) {
        match resource.what {
            What::BuiltIn(kind) | What::Custom(kind) => {
                let known = self.known.clone();
                let mut index = known.index();
                for step in steps {
                    self.object(&mut index, kind, step);
                }
            }
            What::Definitions => {
                for step in steps {
                    match step {
                        Step::Put(item) => self.definitions.insert(item.name.name.to_string()),
                        Step::Delete(name) => self.definitions.remove(&*name.name),
                    };
                }
                // Before the first list is whole nothing comes here. Told also when nothing was added or
                // removed: one that changed may be served otherwise.
                self.define.send_replace(Some(Arc::new(self.definitions.clone())));
            }
        }
    }

    fn object(&mut self, index: &mut Index, kind: Kind, step: Step) {
        let key = |name: Name| ObjectKey { kind, name };
        match step {
            Step::Delete(name) => {
                let key = key(name);
                self.unreadable.remove(&key);
                self.known.written().remove(&key);
                index.delete(&key);
            }
            Step::Put(Item { name, body, written }) => {
                if let Some(written) = written {
                    self.known.written().put(key(name.clone()), *written);
                }
                match body {
                    Body::Object(object) => {
                        self.unreadable.remove(&key(name));
                        index.apply(&object);
                    }
                    Body::Unreadable(problem) => {
                        self.unreadable.insert(key(name), problem);
                    }
                    Body::Definition => {}
                }
            }
        }
    }

    fn publish(&self) {
        if self.watches.unread().is_empty() {
            let resources = self.known.publish(|index| self.problems(index));
            let generation = self.known.resources().borrow().generation();
            self.known.written().published(generation, clock::instant());
            debug!(resources, "published");
        } else {
            // What is wrong is why not everything can be read.
            let problems = self.problems(&self.known.index());
            self.known.report(problems);
        }
    }

    fn problems(&self, index: &Index) -> Vec<Problem> {
        let unreadable = self.unreadable.values().cloned();
        let of_objects = unreadable.chain(index.problems()).map(Problem::in_cluster);
        let of_watches = self.troubles.iter().map(|(plural, message)| Problem {
            file: PathBuf::new(),
            line: None,
            object: None,
            field: String::new(),
            value: String::new(),
            message: format!("{plural} are not heard of, what is known stays: {message}"),
        });
        let mut all: Vec<Problem> = of_objects.chain(of_watches).collect();
        all.sort();
        all.dedup();
        all
    }
}
