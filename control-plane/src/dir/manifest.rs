//! One file: its documents and what is wrong with them.

use std::path::Path;

use tracing::debug;

use super::{tree::Node, whole_file};
use crate::{
    Problem,
    escape::shown,
    objects::{Kind, Object, ObjectKey, Parsed, parse},
};

/// Ten thousand pods fit in one file, as a dump of a cluster is one; its size is bounded besides.
const DOCUMENTS_MAX: usize = 50_000;
/// Mappings, sequences and scalars of one file.
const NODES_MAX: usize = 4_000_000;

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    pub(super) documents: Vec<Document>,
    /// Everything in it could be read.
    pub(super) complete: bool,
}

#[derive(Debug)]
pub(super) struct Document {
    pub(super) object: Object,
    pub(super) tree: Node,
}

pub(super) fn read(file: &Path, text: &[u8]) -> (Manifest, Vec<Problem>) {
    let Ok(text) = std::str::from_utf8(text) else {
        return (Manifest::default(), vec![whole_file(file, "is not UTF-8")]);
    };
    let options = serde_saphyr::options! {
        // A `y` is a text, as it is to kubectl.
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_documents: DOCUMENTS_MAX,
            max_nodes: NODES_MAX,
            max_events: 2 * NODES_MAX,
        },
    };
    let trees = match serde_saphyr::from_multiple_with_options::<Node>(text, options) {
        Ok(trees) => trees,
        Err(error) => return (Manifest::default(), vec![syntax(file, &error)]),
    };
    let mut reader = Reader { file, manifest: Manifest::default(), problems: Vec::new() };
    for tree in trees {
        reader.document(tree, None);
    }
    reader.manifest.complete = reader.problems.is_empty();
    (reader.manifest, reader.problems)
}

fn syntax(file: &Path, error: &serde_saphyr::Error) -> Problem {
    let error = error.without_snippet();
    let message = error.to_string();
    let first = message.lines().next().unwrap_or_default();
    Problem { line: error.location().map(|l| l.line()), ..whole_file(file, first) }
}

struct Reader<'a> {
    file: &'a Path,
    manifest: Manifest,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// `items_of`: the kind of the list that the document is an item of, where its items need not say theirs.
    fn document(&mut self, tree: Node, items_of: Option<(&str, &str)>) {
        if tree.is_null() {
            return;
        }
        let text = |key| tree.child(key).and_then(Node::text);
        let head = (text("apiVersion"), text("kind"));
        let (api_version, kind) = match (head, items_of) {
            ((Some(version), Some(kind)), _) | (_, Some((version, kind))) => {
                (version.to_owned(), kind.to_owned())
            }
            ((version, _), None) => {
                let missing = if version.is_none() { "apiVersion" } else { "kind" };
                return self.report(&tree, None, "", &format!("has no `{missing}`"));
            }
        };
        if let Some(item_kind) = kind.strip_suffix("List") {
            return self.list(tree, &api_version, item_kind);
        }
        let Some(known) = Kind::of(&api_version, &kind) else {
            debug!(file = %self.file.display(), api_version, kind, "kind is not read");
            return;
        };
        self.object(known, tree);
    }

    fn list(&mut self, tree: Node, api_version: &str, item_kind: &str) {
        let items_of = (!item_kind.is_empty()).then_some((api_version, item_kind));
        let head = tree.clone();
        match tree.into_items() {
            Some(items) => items.into_iter().for_each(|item| self.document(item, items_of)),
            None => self.report(&head, None, "items", "is not a list"),
        }
    }

    fn object(&mut self, kind: Kind, tree: Node) {
        match parse(kind, tree.value()) {
            Ok(Parsed::Object(object)) => self.manifest.documents.push(Document { object, tree }),
            Ok(Parsed::Unreadable(object, error)) => {
                self.report(&tree, Some(object.key()), &error.field, &error.message);
                self.manifest.documents.push(Document { object, tree });
            }
            Err(error) => {
                let text = |field| tree.text_of(field);
                let name =
                    crate::objects::Name::new(&text("metadata.namespace"), &text("metadata.name"));
                let key = ObjectKey { kind, name };
                self.report(&tree, Some(key), &error.field, &error.message);
            }
        }
    }

    fn report(&mut self, tree: &Node, object: Option<ObjectKey>, field: &str, message: &str) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            line: Some(tree.line_of(field)),
            object,
            field: field.to_owned(),
            value: if field.is_empty() { String::new() } else { shown(&tree.text_of(field)) },
            message: message.to_owned(),
        });
    }
}
