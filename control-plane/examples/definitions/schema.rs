//! A shape and its meaning as a structural schema.
//!
//! What a type does not know is kept, at every level: a condition of a policy that is pruned is a wider policy, and
//! nobody is told. Kept, the control plane sees it, and denies.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::{
    meaning::{self, Meaning},
    shape::Shape,
};

/// The meanings, and which of them were asked for.
#[derive(Debug)]
pub(crate) struct Schemas {
    meanings: Vec<Meaning>,
    used: BTreeSet<(&'static str, &'static str)>,
}

impl Schemas {
    pub(crate) fn new() -> Self {
        Self { meanings: meaning::all(), used: BTreeSet::new() }
    }

    /// Errors: a field without a meaning.
    pub(crate) fn of(&mut self, shape: &Shape) -> Result<Value> {
        Ok(match shape {
            Shape::Text => json!({ "type": "string" }),
            Shape::Number(max) => json!({ "type": "integer", "minimum": 0, "maximum": max }),
            Shape::OneOf(names) => json!({ "type": "string", "enum": names }),
            Shape::List(item) => json!({ "type": "array", "items": self.of(item)? }),
            Shape::Map(value) => {
                json!({ "type": "object", "additionalProperties": self.of(value)? })
            }
            Shape::Struct { name, fields } => self.of_struct(name, fields)?,
        })
    }

    fn of_struct(&mut self, of: &'static str, fields: &[(&'static str, Shape)]) -> Result<Value> {
        let mut properties = Map::new();
        for (field, shape) in fields {
            let mut schema = self.of(shape)?;
            let meaning = self.meaning(of, field);
            let meaning = meaning.with_context(|| format!("what does `{field}` of {of} mean?"))?;
            meaning.put_into(&mut schema);
            properties.insert((*field).to_owned(), schema);
        }
        let mut schema = json!({
            "type": "object",
            "properties": properties,
            "x-kubernetes-preserve-unknown-fields": true,
        });
        if let Some(meaning) = self.meaning(of, "") {
            meaning.put_into(&mut schema);
        }
        Ok(schema)
    }

    fn meaning(&mut self, of: &'static str, field: &'static str) -> Option<Meaning> {
        self.used.insert((of, field));
        let is_it = |meaning: &&Meaning| (meaning.of, meaning.field) == (of, field);
        self.meanings.iter().find(is_it).cloned()
    }

    /// Errors: a meaning of a field that no type has.
    pub(crate) fn end(self) -> Result<()> {
        for Meaning { of, field, .. } in &self.meanings {
            ensure!(self.used.contains(&(of, field)), "{of} has no field `{field}`");
        }
        Ok(())
    }
}

impl Meaning {
    fn put_into(self, schema: &mut Value) {
        let about = json!({ "description": self.about });
        let shape = std::mem::replace(schema, about.clone());
        // What a field means goes before what its type does.
        for said in [shape, about, self.right] {
            merge(schema, said);
        }
    }
}

/// Puts the fields of one into the other, at any depth.
pub(crate) fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[cfg(test)]
mod tests;
