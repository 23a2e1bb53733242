//! An answer's bytes to events.
//!
//! Every object is read on its own, so that one that cannot be read is told by its name and stops nothing.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::resource::{Resource, What};
use crate::{
    FieldProblem,
    escape::shown,
    objects::{Kind, Name, Object, ObjectKey, Parsed, drop_nulls, parse},
    written::{Form, Written},
};

/// A version of the whole cluster's state. Opaque.
pub(super) type Version = Arc<str>;

/// What became of one object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    pub(super) name: Name,
    pub(super) body: Body,
    /// Of what users write, for its status.
    pub(super) written: Option<Box<Written>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Body {
    /// Also a policy that cannot be read as it is written: it denies on its target, and its compiler tells.
    /// Not its last good form, so that every replica says the same, also one that never saw that.
    Object(Object),
    /// Its last good form stays.
    Unreadable(FieldProblem),
    /// Its name was all that was asked for.
    Definition,
}

/// One line of a watch.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    Put(Item, Version),
    Delete(Name, Version),
    /// Nothing changed up to here.
    Bookmark(Version),
    /// What there was at the beginning is told, and nothing changed up to here.
    Complete(Version),
    Error(Status),
}

/// A page of a list.
#[derive(Debug, PartialEq)]
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    /// Where the next page begins.
    pub(super) next: Option<String>,
    pub(super) version: Version,
}

/// The server's own words about a failure.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) code: u16,
    pub(super) message: String,
}

/// What came is not of the API.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rubbish {
    #[error("the answer is not what was asked for")]
    Json(#[from] serde_json::Error),
    #[error("an object without a name came")]
    Nameless,
    #[error("`{0}` is no event")]
    Event(String),
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    event: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct List<'a> {
    metadata: ListMeta,
    // Kept as text, so that no more than one is a tree at a time.
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: Version,
    r#continue: Option<String>,
}

#[derive(Deserialize)]
struct Headed {
    metadata: Head,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Head {
    name: Arc<str>,
    namespace: Option<Arc<str>>,
    resource_version: Version,
    annotations: Option<Value>,
}

pub(super) fn line(resource: &Resource, text: &[u8]) -> Result<Event, Rubbish> {
    let line: Line<'_> = serde_json::from_slice(text)?;
    let object = line.object.get();
    Ok(match line.event {
        "ADDED" | "MODIFIED" => {
            let (item, version) = item(resource, object)?;
            Event::Put(item, version)
        }
        "DELETED" => {
            let head: Headed = serde_json::from_str(object)?;
            let version = head.metadata.resource_version.clone();
            Event::Delete(head.metadata.name()?, version)
        }
        "BOOKMARK" => {
            let Headed { metadata } = serde_json::from_str(object)?;
            let ends = |a: &Value| a.get("k8s.io/initial-events-end") == Some(&"true".into());
            if metadata.annotations.as_ref().is_some_and(ends) {
                Event::Complete(metadata.resource_version)
            } else {
                Event::Bookmark(metadata.resource_version)
            }
        }
        "ERROR" => Event::Error(serde_json::from_str(object)?),
        other => return Err(Rubbish::Event(shown(other))),
    })
}

pub(super) fn page(resource: &Resource, text: &[u8]) -> Result<Page, Rubbish> {
    let List { metadata, items } = serde_json::from_slice(text)?;
    let items = items.unwrap_or_default().into_iter();
    let items = items.map(|raw| item(resource, raw.get()).map(|(item, _)| item));
    Ok(Page {
        items: items.collect::<Result<_, _>>()?,
        next: metadata.r#continue.filter(|token| !token.is_empty()),
        version: metadata.resource_version,
    })
}

fn item(resource: &Resource, text: &str) -> Result<(Item, Version), Rubbish> {
    let kind = match resource.what {
        What::BuiltIn(kind) | What::Custom(kind) => kind,
        What::Definitions => {
            let Headed { metadata } = serde_json::from_str(text)?;
            let version = metadata.resource_version.clone();
            let item = Item { name: metadata.name()?, body: Body::Definition, written: None };
            return Ok((item, version));
        }
    };
    let mut value: Value = serde_json::from_str(text)?;
    drop_nulls(&mut value);
    let text_of = |field| value.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str);
    let version = text_of("resourceVersion").unwrap_or_default().into();
    let name = text_of("name").filter(|name| !name.is_empty()).ok_or(Rubbish::Nameless)?;
    let name = Name::new(text_of("namespace").unwrap_or_default(), name);
    let (written, (name, body)) = match resource.what {
        What::Custom(_) => {
            // Before the object is taken apart.
            let written = Written::read(resource.plural, &value);
            (written, object(kind, name, value))
        }
        What::BuiltIn(_) | What::Definitions => (None, object(kind, name, value)),
    };
    let form = match body {
        Body::Object(_) | Body::Definition => Form::Read,
        Body::Unreadable(_) => Form::Unreadable,
    };
    let written = written.map(|written| Box::new(Written { form, ..written }));
    Ok((Item { name, body, written }, version))
}

fn object(kind: Kind, name: Name, value: Value) -> (Name, Body) {
    match parse(kind, value) {
        // The object's own name, so that both are one in memory.
        Ok(Parsed::Object(object) | Parsed::Unreadable(object, _)) => {
            (object.meta().key(), Body::Object(object))
        }
        Err(error) => {
            let problem = FieldProblem {
                object: ObjectKey { kind, name: name.clone() },
                field: error.field,
                value: String::new(),
                message: format!("{}: its last good form stays, if there was one", error.message),
            };
            (name, Body::Unreadable(problem))
        }
    }
}

impl Head {
    fn name(self) -> Result<Name, Rubbish> {
        if self.name.is_empty() {
            return Err(Rubbish::Nameless);
        }
        Ok(Name { namespace: self.namespace.unwrap_or_default(), name: self.name })
    }
}

#[cfg(test)]
mod tests;
