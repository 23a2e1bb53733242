//! When a changed View may be used.
//!
//! A workload that lists an unknown policy is denied, and its live connections are cut. Policies and workloads
//! come in separate responses, in either order, so a View between the two would cut connections that both
//! the old and the new configuration allow. It is held back until the other half is there, but not for long:
//! what a control plane never sends must not stop everything else.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;
use weft_model::{Change, PolicyName, ResourceKey, View};

/// Between two responses of one push pass milliseconds.
const HELD_MAX: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Listed since the last published View, and not known.
    unknown: HashSet<PolicyName>,
    /// Waited for in vain.
    given_up: HashSet<PolicyName>,
    /// When waiting ends, while it goes on.
    due: Option<Instant>,
}

impl Gate {
    /// Takes note of what led to `view`.
    pub(super) fn changed(&mut self, view: &View, changes: &[Change], now: Instant) {
        for change in changes {
            match change {
                Change::Workload(workload) => self.unknown.extend(workload.policies.clone()),
                Change::Remove(ResourceKey::Policy(name)) => {
                    self.unknown.insert(name.clone());
                }
                Change::Policy(policy) => {
                    self.given_up.remove(&policy.name);
                }
                Change::Service(_)
                | Change::Remove(ResourceKey::Workload(_) | ResourceKey::Service(_)) => {}
            }
        }
        let given_up = &self.given_up;
        self.unknown.retain(|name| view.policy(name).is_none() && !given_up.contains(name));
        if !self.unknown.is_empty() {
            let listed: HashSet<_> = view.workloads().flat_map(|w| &w.policies).collect();
            self.unknown.retain(|name| listed.contains(name));
        }
        self.due =
            if self.unknown.is_empty() { None } else { Some(self.due.unwrap_or(now + HELD_MAX)) };
    }

    /// Until when the View is to be held back; `None`: it may be used.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The wait is over: uses what there is, and does not wait for the same again. Returns what is missing.
    pub(super) fn give_up(&mut self) -> Vec<PolicyName> {
        self.due = None;
        let missing: Vec<_> = self.unknown.drain().collect();
        self.given_up.extend(missing.iter().cloned());
        missing
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_model::*;

    use super::*;

    fn workload(policies: &[&str]) -> Change {
        let namespace = Namespace::new("shop").unwrap();
        let account = ServiceAccountName::new("web").unwrap();
        let uid = WorkloadUid::new("K//Pod/shop/web-0").unwrap();
        let mut w = Workload::new(uid, "web-0", namespace, account);
        w.policies = policies.iter().map(|p| name(p)).collect();
        Change::Workload(Arc::new(w))
    }

    fn name(policy: &str) -> PolicyName {
        PolicyName::new("shop", policy).unwrap()
    }

    fn policy(of: &str) -> Change {
        Change::Policy(Arc::new(Authorization {
            name: name(of),
            scope: Scope::Workload,
            action: Action::Deny,
            rules: Vec::new(),
            dry_run: false,
        }))
    }

    struct Steps {
        gate: Gate,
        view: View,
        now: Instant,
    }

    impl Steps {
        fn new() -> Self {
            Self { gate: Gate::default(), view: View::default(), now: Instant::now() }
        }

        fn take(&mut self, changes: &[Change]) -> Option<Instant> {
            for change in changes {
                self.view.apply(change.clone());
            }
            self.gate.changed(&self.view, changes, self.now);
            self.gate.due()
        }
    }

    #[test]
    fn a_workload_waits_for_its_policy_in_either_order() {
        let mut steps = Steps::new();
        assert_eq!(steps.take(&[workload(&["p"])]), Some(steps.now + HELD_MAX));
        assert_eq!(steps.take(&[policy("p")]), None);

        let mut steps = Steps::new();
        assert_eq!(steps.take(&[policy("p")]), None);
        assert_eq!(steps.take(&[workload(&["p"])]), None);
    }

    #[test]
    fn a_removed_policy_waits_for_the_workload_that_lists_it() {
        let mut steps = Steps::new();
        steps.take(&[policy("p"), workload(&["p"])]);
        let removal = Change::Remove(ResourceKey::Policy(name("p")));
        assert_eq!(steps.take(&[removal]), Some(steps.now + HELD_MAX));
        assert_eq!(steps.take(&[workload(&[])]), None);
    }

    #[test]
    fn waiting_is_not_prolonged_and_not_repeated_for_what_never_came() {
        let mut steps = Steps::new();
        let due = steps.take(&[workload(&["p"])]);
        steps.now += HELD_MAX / 2;
        assert_eq!(steps.take(&[workload(&["p", "q"])]), due);
        let mut missing = steps.gate.give_up();
        missing.sort();
        assert_eq!(missing, [name("p"), name("q")]);
        assert_eq!(steps.take(&[workload(&["q"])]), None);
        // Once it came and went, it is waited for again.
        steps.take(&[policy("q")]);
        let removal = Change::Remove(ResourceKey::Policy(name("q")));
        assert!(steps.take(&[removal]).is_some());
    }
}
