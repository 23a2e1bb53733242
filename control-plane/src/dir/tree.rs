//! A YAML or JSON document in which every node remembers its line.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use serde_saphyr::Spanned;

/// One node and where it begins.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Node {
    line: u64,
    shape: Shape,
}

#[derive(Clone, PartialEq, Debug)]
enum Shape {
    Null,
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    pub(super) fn is_null(&self) -> bool {
        matches!(self.shape, Shape::Null)
    }

    pub(super) fn child(&self, key: &str) -> Option<&Self> {
        match &self.shape {
            Shape::Map(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, node)| node),
            Shape::Null | Shape::Scalar(_) | Shape::List(_) => None,
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.shape {
            Shape::Scalar(value) => value.as_str(),
            Shape::Null | Shape::List(_) | Shape::Map(_) => None,
        }
    }

    pub(super) fn into_items(self) -> Option<Vec<Self>> {
        let Shape::Map(entries) = self.shape else { return None };
        let (_, items) = entries.into_iter().find(|(key, _)| key == "items")?;
        match items.shape {
            Shape::List(items) => Some(items),
            Shape::Null => Some(Vec::new()),
            Shape::Scalar(_) | Shape::Map(_) => None,
        }
    }

    /// The plain value. A null in a map is left out: in Kubernetes it is an absent field.
    pub(super) fn value(&self) -> Value {
        match &self.shape {
            Shape::Null => Value::Null,
            Shape::Scalar(value) => value.clone(),
            Shape::List(items) => Value::Array(items.iter().map(Self::value).collect()),
            Shape::Map(entries) => Value::Object(
                entries
                    .iter()
                    .filter(|(_, node)| !node.is_null())
                    .map(|(key, node)| (key.clone(), node.value()))
                    .collect(),
            ),
        }
    }

    /// The line of a field such as `spec.ports[0].name`, or of the nearest part of it that is written.
    pub(super) fn line_of(&self, field: &str) -> u64 {
        self.find(field).line
    }

    /// The scalar at a field, as text; empty for anything else.
    pub(super) fn text_of(&self, field: &str) -> String {
        match &self.find(field).shape {
            Shape::Scalar(Value::String(text)) => text.clone(),
            Shape::Scalar(other) => other.to_string(),
            Shape::Null | Shape::List(_) | Shape::Map(_) => String::new(),
        }
    }

    /// The node at a field, or the nearest one above it.
    fn find(&self, field: &str) -> &Self {
        let field = field.strip_prefix('.').unwrap_or(field);
        let step = match &self.shape {
            Shape::List(items) => field.strip_prefix('[').and_then(|rest| {
                let (index, rest) = rest.split_once(']')?;
                Some((items.get(index.parse::<usize>().ok()?)?, rest))
            }),
            // A label's key may itself contain dots, so the longest key that fits is the one meant.
            Shape::Map(entries) => entries
                .iter()
                .filter_map(|(key, node)| {
                    let rest = field.strip_prefix(key.as_str())?;
                    let whole = rest.is_empty() || rest.starts_with(['.', '[']);
                    whole.then_some((key.len(), node, rest))
                })
                .max_by_key(|(bytes, ..)| *bytes)
                .map(|(_, node, rest)| (node, rest)),
            Shape::Null | Shape::Scalar(_) => None,
        };
        step.map_or(self, |(node, rest)| node.find(rest))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Shape>::deserialize(d)?;
        Ok(Self { line: spanned.referenced.line(), shape: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Shape, D::Error> {
        Shape::deserialize(d)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Shape::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        while let Some((key, node)) = map.next_entry::<String, Node>()? {
            if entries.iter().any(|(k, _)| *k == key) {
                return Err(de::Error::custom(format!("`{key}` is written twice")));
            }
            entries.push((key, node));
        }
        Ok(Shape::Map(entries))
    }
}
