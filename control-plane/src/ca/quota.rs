//! How often one node may ask, and for how many identities.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use weft_model::Identity;

use crate::caller::Caller;

/// At once, after a quiet time: a node that restarts asks for all its identities.
const BURST: f64 = 500.0;
const PER_SECOND: f64 = 10.0;
/// Identities with a certificate that is still good: more than any node has pods.
const IDENTITIES_MAX: usize = 1000;

/// Of all nodes. Only callers that are proven get here; those that are gone are forgotten.
#[derive(Debug, Default)]
pub(super) struct Quotas(HashMap<Node, Quota>);

/// A node made again under its name asks for as much as a new one: what its predecessor asked for is not its doing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Node {
    name: Arc<str>,
    uid: Option<Arc<str>>,
}

impl From<&Caller> for Node {
    fn from(caller: &Caller) -> Self {
        Self { name: caller.node.clone(), uid: caller.uid.clone() }
    }
}

#[derive(Debug)]
struct Quota {
    bucket: Bucket,
    /// Until when the certificate of each is good.
    identities: HashMap<Identity, SystemTime>,
}

impl Quotas {
    /// Takes one request from what a node may ask.
    pub(super) fn take(&mut self, node: &Node, now: SystemTime) -> Share {
        if self.of(node, now).bucket.take(now) { Share::Within } else { Share::Exceeded }
    }

    /// Notes that a node is to have an identity until `expires`, if it may have one more.
    pub(super) fn hold(
        &mut self,
        node: &Node,
        identity: &Identity,
        expires: SystemTime,
        now: SystemTime,
    ) -> Share {
        let identities = &mut self.of(node, now).identities;
        if identities.len() >= IDENTITIES_MAX && !identities.contains_key(identity) {
            identities.retain(|_, expires| now < *expires);
            if identities.len() >= IDENTITIES_MAX {
                return Share::Exceeded;
            }
        }
        identities.insert(identity.clone(), expires);
        Share::Within
    }

    fn of(&mut self, node: &Node, now: SystemTime) -> &mut Quota {
        // Each time that there are twice as many as before, so that it costs each of them little.
        if self.0.len().is_power_of_two() && !self.0.contains_key(node) {
            self.0.retain(|_, quota| quota.is_used(now));
        }
        self.0.entry(node.clone()).or_insert_with(|| Quota {
            bucket: Bucket { left: BURST, at: now },
            identities: HashMap::new(),
        })
    }
}

impl Quota {
    /// Whether it tells more than a new one would.
    fn is_used(&self, now: SystemTime) -> bool {
        self.identities.values().any(|expires| now < *expires)
            || now < self.bucket.at + Duration::from_secs_f64(BURST / PER_SECOND)
    }
}

/// Whether a node keeps to what it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    Within,
    Exceeded,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: SystemTime,
}

impl Bucket {
    fn take(&mut self, now: SystemTime) -> bool {
        // A clock that went back gives nothing and takes nothing.
        let passed = now.duration_since(self.at).unwrap_or(Duration::ZERO);
        self.at = now;
        self.left = (self.left + passed.as_secs_f64() * PER_SECOND).min(BURST);
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn node(name: &str, uid: &str) -> Node {
        Node { name: name.into(), uid: Some(uid.into()) }
    }

    fn granted(quotas: &mut Quotas, node: &Node, at: SystemTime) -> usize {
        (0..1000).filter(|_| quotas.take(node, at) == Share::Within).count()
    }

    #[test]
    fn a_burst_is_granted_and_then_a_steady_rate() {
        let start = SystemTime::UNIX_EPOCH;
        let (mut quotas, one) = (Quotas::default(), node("a", "1"));
        assert_eq!(granted(&mut quotas, &one, start), 500);
        assert_eq!(granted(&mut quotas, &one, start + Duration::from_secs(2)), 20);
        assert_eq!(granted(&mut quotas, &one, start), 0, "a clock that goes back grants nothing");
        assert_eq!(granted(&mut quotas, &node("b", "1"), start), 500);
        assert_eq!(granted(&mut quotas, &node("a", "2"), start), 500, "made again");
    }

    #[test]
    fn a_node_has_a_thousand_identities_at_once_and_no_more() {
        let start = SystemTime::UNIX_EPOCH;
        let (mut quotas, one) = (Quotas::default(), node("a", "1"));
        let identity = |n: usize| format!("spiffe://td/ns/shop/sa/web-{n}").parse().unwrap();
        let mut hold = |n, at| quotas.hold(&one, &identity(n), at + HOUR, at);
        for n in 0..1000 {
            assert_eq!(hold(n, start), Share::Within);
        }
        assert_eq!(hold(1000, start), Share::Exceeded);
        assert_eq!(hold(7, start), Share::Within, "a renewal is no more than before");
        assert_eq!(hold(1000, start + HOUR), Share::Within);
    }

    #[test]
    fn nodes_that_are_gone_are_forgotten() {
        let (mut quotas, identity) = (Quotas::default(), "spiffe://td/ns/a/sa/b".parse().unwrap());
        for hour in 0..10_000_u32 {
            let (node, now) = (node(&hour.to_string(), "1"), SystemTime::UNIX_EPOCH + hour * HOUR);
            quotas.take(&node, now);
            quotas.hold(&node, &identity, now + 24 * HOUR, now);
        }
        assert!(quotas.0.len() <= 64, "{}", quotas.0.len());
        assert!(quotas.0.contains_key(&node("9980", "1")), "its certificate is still good");
    }
}
