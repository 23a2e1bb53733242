//! What a status says of an object, and how that is put among what others say. No clock, no network.

use std::fmt::Write;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::Problem;

/// Of a condition. Long enough for a dozen problems, short enough to be read.
const MESSAGE_BYTES_MAX: usize = 2048;

/// The conditions that are ours. No other is ever touched.
pub(super) const OURS: [&str; 2] = [ACCEPTED, PROGRAMMED];
pub(super) const ACCEPTED: &str = "Accepted";
pub(super) const PROGRAMMED: &str = "Programmed";
/// The reason, where it was refused: by us, or by a node.
pub(super) const REFUSED: &str = "Refused";

/// One condition, without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    kind: &'static str,
    truth: Truth,
    reason: &'static str,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Truth {
    True,
    False,
}

impl Truth {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
        }
    }
}

/// How many nodes have an object, of how many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) nodes: usize,
    pub(super) applied: usize,
    /// One that refused it, and its words.
    pub(super) refused: Option<String>,
}

/// Whether an object is in force as it was written.
pub(super) fn accepted(problems: &[Problem]) -> Condition {
    let (truth, reason, message) = if problems.is_empty() {
        (Truth::True, "Accepted", String::new())
    } else {
        (Truth::False, REFUSED, told(problems, MESSAGE_BYTES_MAX))
    };
    Condition { kind: ACCEPTED, truth, reason, message }
}

/// Whether the nodes have it, who are connected to any replica.
pub(super) fn programmed(reached: &Reached) -> Condition {
    let Reached { nodes, applied, refused } = reached;
    let (truth, reason, message) = match refused {
        Some(words) => (Truth::False, REFUSED, format!("{applied}/{nodes} nodes; {words}")),
        None if *nodes == 0 => (Truth::False, "NoNodes", "no node is connected".to_owned()),
        None if applied == nodes => (Truth::True, "Programmed", format!("{applied}/{nodes} nodes")),
        None => (Truth::False, "Pending", format!("{applied}/{nodes} nodes")),
    };
    Condition { kind: PROGRAMMED, truth, reason, message }
}

/// What could not be read is not sent to any node.
pub(super) fn not_served() -> Condition {
    let message = "it is not served: what it said before stays, if it said anything".to_owned();
    Condition { kind: PROGRAMMED, truth: Truth::False, reason: "NotServed", message }
}

/// Whether it is said that the nodes have this generation. That is not taken back when a node connects that has
/// to be sent it first: every object would be written again whenever a node restarts.
pub(super) fn is_programmed(conditions: &[Value], generation: i64) -> bool {
    conditions.iter().any(|found| {
        kind_of(found) == Some(PROGRAMMED)
            && found.get("status").is_some_and(|status| status == Truth::True.as_str())
            && found.get("observedGeneration").and_then(number) == Some(generation)
    })
}

/// All problems of one object in one text of at most so many bytes: field, value and what is wrong.
pub(super) fn told(problems: &[Problem], bytes_max: usize) -> String {
    // Of the number of those that are left out.
    const ROOM: usize = 32;
    let mut text = String::new();
    for (i, problem) in problems.iter().enumerate() {
        let separator = if text.is_empty() { "" } else { "; " };
        let problem = Problem { object: None, ..problem.clone() };
        let one = format!("{separator}{problem}");
        if text.len() + one.len() + ROOM <= bytes_max {
            text.push_str(&one);
            continue;
        }
        if text.is_empty() {
            text.push_str(one.get(..one.floor_char_boundary(bytes_max - ROOM)).unwrap_or_default());
        }
        let left_out = problems.len() - i - usize::from(i == 0);
        if left_out > 0 {
            write!(text, "; and {left_out} more").expect("a String takes all text");
        }
        break;
    }
    text
}

/// The conditions with ours among them, each where it was; `None` when ours are there already.
pub(super) fn merged(
    conditions: &[Value],
    ours: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Option<Vec<Value>> {
    let said = |ours: &Condition| {
        let found = conditions.iter().find(|found| kind_of(found) == Some(ours.kind));
        found.is_some_and(|found| ours.is(found, generation))
    };
    if ours.iter().all(said) {
        return None;
    }
    let mut all = conditions.to_vec();
    for condition in ours {
        let place = all.iter().position(|found| kind_of(found) == Some(condition.kind));
        let before = place.and_then(|place| all.get(place));
        let since = before
            .filter(|before| before.get("status") == Some(&json!(condition.truth.as_str())))
            .and_then(|before| before.get("lastTransitionTime"));
        let since = since.cloned().unwrap_or_else(|| json!(now.to_string()));
        let condition = json!({
            "type": condition.kind,
            "status": condition.truth.as_str(),
            "reason": condition.reason,
            "message": condition.message,
            "observedGeneration": generation,
            "lastTransitionTime": since,
        });
        match place.and_then(|place| all.get_mut(place)) {
            Some(place) => *place = condition,
            None => all.push(condition),
        }
    }
    Some(all)
}

/// Those of an object's conditions that are ours.
pub(super) fn ours(conditions: &[Value]) -> Vec<Value> {
    let ours = |found: &&Value| kind_of(found).is_some_and(|kind| OURS.contains(&kind));
    conditions.iter().filter(ours).cloned().collect()
}

pub(super) fn kind_of(condition: &Value) -> Option<&str> {
    condition.get("type").and_then(Value::as_str)
}

impl Condition {
    /// Says that all nodes have it.
    pub(super) fn is_programmed(&self) -> bool {
        (self.kind, self.truth) == (PROGRAMMED, Truth::True)
    }

    /// The same but for the words.
    pub(super) fn judges_as(&self, other: &Self) -> bool {
        (self.kind, self.truth, self.reason) == (other.kind, other.truth, other.reason)
    }

    fn is(&self, found: &Value, generation: i64) -> bool {
        let says = |field, text: &str| match found.get(field) {
            Some(said) => said == text,
            None => text.is_empty(),
        };
        says("status", self.truth.as_str())
            && says("reason", self.reason)
            && says("message", &self.message)
            && found.get("observedGeneration").and_then(number) == Some(generation)
    }
}

/// Istio's kinds take a text, too, which is how its own tools write it.
pub(super) fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests;
