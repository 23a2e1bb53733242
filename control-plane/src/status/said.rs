//! What a status says of an object, to who reads it.

use serde_json::Value;

use super::condition::{ACCEPTED, PROGRAMMED, REFUSED, kind_of, number};

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    InForce,
    /// Not by all nodes, or by none.
    OnItsWay(String),
    Refused(String),
    /// Or only of an earlier form of the object.
    Nothing,
}

/// Reads the conditions of an object in the form of this generation.
pub fn said(conditions: &[Value], generation: Option<i64>) -> Said {
    let find = |kind| conditions.iter().rfind(|it| is_of(it, kind, generation));
    let Some(accepted) = find(ACCEPTED) else { return Said::Nothing };
    if text(accepted, "status") != "True" {
        return Said::Refused(text(accepted, "message").to_owned());
    }
    let Some(programmed) = find(PROGRAMMED) else {
        return Said::OnItsWay("nobody has said how far the nodes are".to_owned());
    };
    let words = text(programmed, "message").to_owned();
    match (text(programmed, "status"), text(programmed, "reason")) {
        ("True", _) => Said::InForce,
        (_, REFUSED) => Said::Refused(words),
        _ => Said::OnItsWay(words),
    }
}

fn is_of(condition: &Value, kind: &str, generation: Option<i64>) -> bool {
    let seen = condition.get("observedGeneration").and_then(number);
    kind_of(condition) == Some(kind) && (seen.is_none() || seen == generation)
}

fn text<'a>(condition: &'a Value, field: &str) -> &'a str {
    condition.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests;
