//! What the fields mean, and which values are right: what a type does not say by its shape.
//!
//! A rule is CEL where the API server grants what it may cost, and then says what is right; else it is a pattern.
//! The server multiplies the longest lists and texts that there may be, hence limits: they are low where a long
//! list can be written as several (rules as several policies, sources as several rules), and high for values.

use serde_json::{Value, json};

mod authorization;
mod entries;
mod peers;

/// What is said of a field; of a type as a whole, if the field's name is empty.
#[derive(Debug, Clone)]
pub(crate) struct Meaning {
    pub(crate) of: &'static str,
    pub(crate) field: &'static str,
    pub(crate) about: &'static str,
    /// Put into what the shape says.
    pub(crate) right: Value,
}

const VALUES_MAX: u32 = 512;
/// IPv6, and a prefix.
const RANGE_CHARS_MAX: u32 = 43;
/// A DNS name, and its final dot.
const HOST_CHARS_MAX: u32 = 254;
const NAMESPACE: &str = "[a-z0-9-]{1,63}";
const ACCOUNT: &str = "[a-z0-9.-]{1,253}";
const LABEL: &str = "[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?";
const SUBDOMAIN: &str = "[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*";
const HOST: &str = "[A-Za-z0-9_-]{1,63}([.][A-Za-z0-9_-]{1,63})*[.]?";

/// Of every field that there is.
pub(crate) fn all() -> Vec<Meaning> {
    [authorization::all(), peers::all(), entries::all(), labels()].concat()
}

fn labels() -> Vec<Meaning> {
    let key = format!("^({SUBDOMAIN}/)?{LABEL}$");
    let labels = json!({
        "maxProperties": 64,
        "additionalProperties": { "maxLength": 63, "pattern": format!("^({LABEL})?$") },
        "x-kubernetes-validations": [cel(
            &format!("self.all(key, key.size() <= 317 && key.matches('{key}'))"),
            "each key must be a label's: a name of at most 63 letters, digits and -_. between, after a DNS name \
             and a / or alone",
        )],
    });
    vec![
        meaning(
            "WorkloadSelector",
            "matchLabels",
            "Labels that they have, all of them.",
            labels.clone(),
        ),
        meaning("WorkloadSelector", "labels", "Labels that they have, all of them.", labels),
    ]
}

fn meaning(of: &'static str, field: &'static str, about: &'static str, right: Value) -> Meaning {
    Meaning { of, field, about, right }
}

/// One rule, and what is right.
fn cel(rule: &str, message: &str) -> Value {
    json!({ "rule": rule, "message": message })
}

/// A list in which each value is right.
fn values(item: &Value) -> Value {
    json!({ "minItems": 1, "maxItems": VALUES_MAX, "items": item })
}

/// Texts, such as `web`, `web*`, `*web` and `*`; without a `*` they are as this pattern.
fn matching(whole: &str, chars_max: u32) -> Value {
    let pattern = format!(r"^(\*|\*[^*]+|[^*]+\*|{whole})$");
    json!({ "maxLength": chars_max, "pattern": pattern })
}

/// An address or a range of them.
fn range() -> Value {
    json!({
        "maxLength": RANGE_CHARS_MAX,
        "x-kubernetes-validations": [cel(
            "isIP(self) || isCIDR(self)",
            "must be an IP address or a range of them, such as 10.0.0.7 or 10.0.0.0/8",
        )],
    })
}

fn port() -> Value {
    json!({ "minimum": 1, "maximum": u16::MAX })
}
