use weft_model::{Action, Change, Field, Match, PolicyName, ResourceKey, StringMatch};

use super::*;
use crate::{Fault, Retry, fixture::*};

fn deny(account: &str) -> Change {
    let text = format!("cluster.local/ns/shop/sa/{account}");
    let principals = Field::any_of([StringMatch::Exact(text.as_str().into())]);
    let m = Match { principals, ..Match::default() };
    Change::Policy(policy("deny", Action::Deny, vec![m]).into())
}

fn denial() -> Denial {
    Denial::Matched { policy: PolicyName::new("shop", "deny").unwrap(), rule: 0 }
}

#[test]
fn a_denial_is_401_and_names_the_policy_and_the_rule() {
    let refusal = permit(&mesh([deny("client")]), tunnelled("10.0.0.2:80")).unwrap_err();
    assert_eq!(refusal, Refusal::Denied(denial()));
    assert_eq!(refusal.http_status(), 401);
    assert_eq!(refusal.fault(), Fault::Policy);
    assert_eq!(refusal.retry(), Retry::Never);
    assert_eq!(refusal.policy().unwrap().to_string(), "shop/deny");
    assert_eq!(refusal.to_string(), "denied by policy shop/deny rule 0");
}

#[test]
fn only_the_destinations_node_enforces() {
    let permit = permit(&mesh([deny("client")]), captured("10.0.0.2:80")).unwrap();
    assert_eq!(*permit.ground(), Ground::Elsewhere);
    assert_eq!(permit.still_holds(&mesh([deny("client")])), Ok(()));
}

#[test]
fn a_listed_policy_that_is_not_known_denies_until_it_arrives() {
    let mut listed = web("web-0", "10.0.0.2");
    let name = PolicyName::new("shop", "missing").unwrap();
    listed.policies = vec![name.clone()];
    let refusal = permit(&mesh([workload(listed)]), tunnelled("10.0.0.2:80")).unwrap_err();
    assert_eq!(refusal, Refusal::Denied(Denial::UnknownPolicy { policy: name }));
    assert_eq!(refusal.retry(), Retry::NewerView);
}

#[test]
fn a_newer_view_revokes_a_permit_by_the_same_rules() {
    let permit = permit(&mesh([]), tunnelled("10.0.0.2:80")).unwrap();
    assert_eq!(permit.still_holds(&mesh([])), Ok(()));
    assert_eq!(permit.still_holds(&mesh([deny("other")])), Ok(()));
    assert_eq!(permit.still_holds(&mesh([deny("client")])), Err(Refusal::Denied(denial())));

    let mut listed = web("web-0", "10.0.0.2");
    listed.policies = vec![PolicyName::new("shop", "new").unwrap()];
    assert!(permit.still_holds(&mesh([workload(listed)])).is_err());
}

#[test]
fn a_pod_that_left_the_view_keeps_its_last_connections_unless_a_known_policy_denies() {
    let mut listing = web("web-0", "10.0.0.2");
    let mut own = policy("own", Action::Deny, vec![]);
    own.scope = weft_model::Scope::Workload;
    listing.policies = vec![own.name.clone()];
    let uid = listing.uid.clone();
    let before = mesh([workload(listing), Change::Policy(own.into())]);
    let permit = permit(&before, tunnelled("10.0.0.2:80")).unwrap();
    let gone = || Change::Remove(ResourceKey::Workload(uid.clone()));
    assert_eq!(permit.still_holds(&mesh([gone()])), Ok(()));
    let denied = mesh([gone(), deny("client")]);
    assert_eq!(permit.still_holds(&denied), Err(Refusal::Denied(denial())));
}

#[test]
fn a_permit_says_what_a_dry_run_would_have_refused() {
    let mut rehearsed = policy("deny", Action::Deny, vec![]);
    rehearsed.rules = vec![weft_model::Rule::default()];
    rehearsed.dry_run = true;
    let view = mesh([Change::Policy(rehearsed.into())]);
    let permit = permit(&view, tunnelled("10.0.0.2:80")).unwrap();
    assert_eq!(permit.dry_run(), Some(&denial()));
}
