//! From a document's tree to an object. The same for a folder's files and for the API server's answers.

use std::sync::Arc;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use weft_model::{Namespace as NamespaceName, ServiceAccountName};

use super::{AuthorizationPolicy, Kind, Object, ObjectMeta, PeerAuthentication, security};

/// What was wrong, and in which field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ParseError {
    pub field: String,
    pub message: String,
}

/// A document read.
#[derive(Debug, Clone, PartialEq)]
pub enum Parsed {
    Object(Object),
    /// A policy that could not be read as written; it denies on its target until it can be.
    Unreadable(Object, ParseError),
}

/// Reads one object of a known kind. `value` has no nulls (see [`crate::dir`]): in Kubernetes a null field is
/// an absent one.
pub fn parse(kind: Kind, mut value: Value) -> Result<Parsed, ParseError> {
    default_namespace(kind, &mut value);
    let mut error = None;
    let object = match kind {
        Kind::Namespace => Object::Namespace(Arc::new(typed(value)?)),
        Kind::Node => Object::Node(Arc::new(typed(value)?)),
        Kind::ServiceAccount => Object::ServiceAccount(Arc::new(typed(value)?)),
        Kind::Service => Object::Service(Arc::new(typed(value)?)),
        Kind::Pod => Object::Pod(Arc::new(typed(value)?)),
        Kind::EndpointSlice => Object::EndpointSlice(Arc::new(typed(value)?)),
        Kind::ServiceEntry => Object::ServiceEntry(Arc::new(typed(value)?)),
        Kind::WorkloadEntry => Object::WorkloadEntry(Arc::new(typed(value)?)),
        Kind::AuthorizationPolicy => {
            let metadata = metadata(&mut value)?;
            let spec = spec(value, &mut error);
            Object::AuthorizationPolicy(Arc::new(AuthorizationPolicy { metadata, spec }))
        }
        Kind::PeerAuthentication => {
            let metadata = metadata(&mut value)?;
            let spec = spec(value, &mut error);
            Object::PeerAuthentication(Arc::new(PeerAuthentication { metadata, spec }))
        }
    };
    check_name(kind, object.meta())?;
    Ok(match error {
        None => Parsed::Object(object),
        Some(error) => Parsed::Unreadable(object, error),
    })
}

/// In Kubernetes a null field is an absent one.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Taken out of the document.
fn metadata(value: &mut Value) -> Result<ObjectMeta, ParseError> {
    let metadata = value.as_object_mut().and_then(|document| document.remove("metadata"));
    metadata.map_or_else(
        || Ok(ObjectMeta::default()),
        |metadata| typed(metadata).map_err(|error| error.within("metadata")),
    )
}

fn default_namespace(kind: Kind, value: &mut Value) {
    let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    match kind {
        Kind::Namespace | Kind::Node => {
            metadata.remove("namespace");
        }
        Kind::ServiceAccount
        | Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::Service
        | Kind::ServiceEntry
        | Kind::EndpointSlice
        | Kind::WorkloadEntry
        | Kind::Pod => {
            metadata.entry("namespace").or_insert_with(|| "default".into());
        }
    }
}

// Names end up in uids, certificates and log lines.
fn check_name(kind: Kind, meta: &ObjectMeta) -> Result<(), ParseError> {
    let refused = |field: &str, message: String| ParseError { field: field.to_owned(), message };
    let namespace = |name: &str, field: &str| {
        NamespaceName::new(name).map(|_| ()).map_err(|e| refused(field, e.to_string()))
    };
    match kind {
        Kind::Node => {}
        Kind::Namespace => namespace(&meta.name, "metadata.name")?,
        Kind::ServiceAccount
        | Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::Service
        | Kind::ServiceEntry
        | Kind::EndpointSlice
        | Kind::WorkloadEntry
        | Kind::Pod => namespace(&meta.namespace, "metadata.namespace")?,
    }
    // The grammar of an RFC 1123 subdomain. Names of ours that no object can have contain a `_`.
    ServiceAccountName::new(&meta.name).map(|_| ()).map_err(|_| {
        refused("metadata.name", format!("`{}` is not a name", crate::escape::shown(&meta.name)))
    })
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ParseError> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let field = e.path().to_string();
        let field = if field == "." { String::new() } else { field };
        ParseError { field, message: e.into_inner().to_string() }
    })
}

impl ParseError {
    fn within(self, parent: &str) -> Self {
        let field = match &*self.field {
            "" => parent.to_owned(),
            field => format!("{parent}.{field}"),
        };
        Self { field, ..self }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SelectorOnly {
    selector: Option<security::WorkloadSelector>,
}

/// A spec that cannot be read is reported in `error`.
fn spec<T: DeserializeOwned + Default>(
    mut value: Value,
    error: &mut Option<ParseError>,
) -> security::Spec<T> {
    let spec = value.as_object_mut().and_then(|document| document.remove("spec"));
    let Some(spec) = spec else { return security::Spec::Read(T::default()) };
    match typed(spec.clone()) {
        Ok(read) => security::Spec::Read(read),
        Err(unread) => {
            let unread = unread.within("spec");
            // A target named in another way than by the selector is not narrowed down: deny on all of it.
            let selector = typed::<SelectorOnly>(spec).ok().and_then(|only| only.selector);
            let (field, reason) = (unread.field.clone(), unread.message.clone());
            *error = Some(unread);
            security::Spec::Unreadable { selector, field, reason }
        }
    }
}
