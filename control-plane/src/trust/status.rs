//! What is told of the CA at `/ca`.

use serde_json::{Value, json};
use weft_certs::Authority;

use super::{
    Change, TrustError,
    place::Opened,
    published::Published,
    rotation::{Due, Lacking, Stage},
};
use crate::{causes::chain, clock::seconds};

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

/// `follows` is what the Secret holds, if it may sign.
pub(super) fn plugged_in(
    name: &str,
    published: Option<&Published>,
    follows: Result<Opened, TrustError>,
) -> Value {
    let bundle = published.map(|published| published.roots.fingerprint());
    match follows {
        Ok(opened) => {
            json!({"source": name, "bundle": bundle, "issuing": validity(&opened.authority)})
        }
        Err(error) => json!({"source": name, "bundle": bundle, "error": chain(&error)}),
    }
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
