//! What is told of the CA at `/ca`.

use serde_json::{Value, json};
use weft_certs::{Authority, Bundle};

use super::{
    Change, TrustError,
    place::Opened,
    rotation::{Due, Lacking, Stage},
};
use crate::clock::seconds;

pub(super) fn own(change: &Change, root: &Authority, kept: &Opened) -> Result<Value, TrustError> {
    let (waiting, until) = match &change.due {
        Due::Wait(Lacking::Nodes(names)) => (names.as_slice(), None),
        Due::Wait(Lacking::Unheard { until }) => (&[][..], Some(*until)),
        Due::Wait(Lacking::Nobody)
        | Due::Nothing
        | Due::Grant
        | Due::Prepare
        | Due::Activate
        | Due::Retire => (&[][..], None),
    };
    Ok(json!({
        "source": "own",
        "stage": stage(&change.roots.stage),
        "bundle": change.roots.bundle()?.fingerprint(),
        "nodes": change.census.nodes.len(),
        "waiting": waiting,
        "waitingUntil": until.map(seconds),
        "root": validity(root),
        "issuing": validity(&kept.authority),
    }))
}

pub(super) fn plugged_in(name: &str, opened: &Opened, published: Option<&Bundle>) -> Value {
    json!({
        "source": name,
        "bundle": published.map(Bundle::fingerprint),
        "issuing": validity(&opened.authority),
    })
}

pub(super) fn stage(stage: &Stage) -> Value {
    match stage {
        Stage::Settled => json!({"name": "settled"}),
        Stage::Preparing { since, .. } => json!({"name": "preparing", "since": seconds(*since)}),
        Stage::Retiring { until, .. } => json!({"name": "retiring", "until": seconds(*until)}),
    }
}

fn validity(authority: &Authority) -> Value {
    json!({
        "notBefore": seconds(authority.not_before()),
        "notAfter": seconds(authority.not_after()),
    })
}
