//! How a root is changed so that no workload ever meets a certificate that it cannot verify.
//!
//! ```text
//!   Settled --asked for--> Preparing --every node has both roots--> Retiring --the old leaves are over--> Settled
//!   one root               old signs, both are trusted              new signs, both are trusted
//! ```
//!
//! Pure: what is stored, what is known of the nodes and the time go in, the next step comes out.

use std::time::{Duration, SystemTime};

use weft_certs::{Authority, Bundle, BundleError, IssueError, LEAF_TTL};
use weft_model::TrustDomain;
use zeroize::Zeroizing;

/// The longest that a leaf lives, and some more for clocks and for replicas that learn late.
pub(crate) const LEAVES_GONE_AFTER: Duration = LEAF_TTL.saturating_add(Duration::from_hours(1));
/// That a node is still there is written this often, what it trusts at once.
pub(crate) const SEEN_EVERY: Duration = Duration::from_hours(1);
/// A node of which nothing was written for so long has no certificate that is still good: it may have been given one
/// right before the next line was due, and by a replica that could not write then.
pub(crate) const NODE_FORGOTTEN_AFTER: Duration = LEAVES_GONE_AFTER.saturating_add(SEEN_EVERY);

/// A root's certificate and key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) certificate: String,
    pub(crate) key: Zeroizing<String>,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Root(secret)")
    }
}

/// Where a change of roots is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    Settled,
    /// The next root is given to all nodes and signs nothing. `cross` is the old root's word for it.
    Preparing {
        next: Root,
        cross: String,
        since: SystemTime,
    },
    /// The root that was is still trusted.
    Retiring {
        previous: String,
        cross: String,
        until: SystemTime,
    },
}

/// What is stored of roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Roots {
    pub(crate) active: Root,
    pub(crate) stage: Stage,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) seen: SystemTime,
    /// Which roots it has said to trust; a stock node says nothing.
    pub(crate) bundle: Option<String>,
}

/// What is known of all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) nodes: Vec<Node>,
    /// From when on no node can be missing: what was written of them may have been lost.
    pub(crate) whole_from: SystemTime,
}

/// Who is not known to trust a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lacking {
    Nobody,
    Nodes(Vec<String>),
    /// All who are known have it, and there may be others until then.
    Unheard {
        until: SystemTime,
    },
}

/// Whether somebody has asked for another root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    None,
    Rotate,
}

/// What may be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// The change that was asked for has begun: the wish is taken off.
    Grant,
    Prepare,
    Activate,
    Retire,
    /// It waits for these nodes to have both roots.
    Wait(Lacking),
}

impl Roots {
    /// The first root of a mesh.
    pub(crate) fn first(domain: &TrustDomain, now: SystemTime) -> Result<Self, IssueError> {
        Ok(Self { active: new_root(domain, now)?, stage: Stage::Settled })
    }

    /// All that is trusted, the root that signs first.
    pub(crate) fn bundle(&self) -> Result<Bundle, BundleError> {
        let other = match &self.stage {
            Stage::Settled => "",
            Stage::Preparing { next, .. } => &next.certificate,
            Stage::Retiring { previous, .. } => previous,
        };
        Bundle::from_pem(&format!("{}{other}", self.active.certificate))
    }

    /// What has to be sent with leaves besides the issuing CA: a way for who knows the old root only.
    pub(crate) fn cross(&self) -> &str {
        match &self.stage {
            Stage::Settled | Stage::Preparing { .. } => "",
            Stage::Retiring { cross, .. } => cross,
        }
    }

    /// The root that signs issuing CAs.
    pub(crate) fn authority(&self, domain: &TrustDomain) -> Result<Authority, IssueError> {
        Authority::from_pem(domain, &self.active.certificate, &self.active.key)
    }

    /// What may be done now. `bundle` is the fingerprint of what all nodes should trust.
    pub(crate) fn due(&self, wish: Wish, census: &Census, bundle: &str, now: SystemTime) -> Due {
        match (&self.stage, wish) {
            (Stage::Settled, Wish::Rotate) => Due::Prepare,
            // Not while the last root retires: a wish of then is for yet another one, and is kept.
            (Stage::Preparing { .. }, Wish::Rotate) => Due::Grant,
            (Stage::Preparing { since, .. }, Wish::None) => {
                match census.lacking(bundle, *since, now) {
                    Lacking::Nobody => Due::Activate,
                    waited @ (Lacking::Nodes(_) | Lacking::Unheard { .. }) => Due::Wait(waited),
                }
            }
            (Stage::Retiring { until, .. }, _) if now >= *until => Due::Retire,
            (Stage::Settled, Wish::None) | (Stage::Retiring { .. }, _) => Due::Nothing,
        }
    }

    /// Makes the next root, trusted from now on.
    pub(crate) fn prepared(
        self,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, IssueError> {
        let next = new_root(domain, now)?;
        let other = Authority::from_pem(domain, &next.certificate, &next.key)?;
        let cross = self.authority(domain)?.cross_sign(&other, now)?;
        Ok(Self { stage: Stage::Preparing { next, cross, since: now }, ..self })
    }

    /// The next root signs from now on. Anything but a prepared change stays as it is.
    pub(crate) fn activated(self, now: SystemTime) -> Self {
        match self.stage {
            Stage::Preparing { next, cross, .. } => {
                let previous = self.active.certificate;
                let until = now + LEAVES_GONE_AFTER;
                Self { active: next, stage: Stage::Retiring { previous, cross, until } }
            }
            Stage::Settled | Stage::Retiring { .. } => self,
        }
    }

    /// The old root is trusted no more. Anything but a change that is over stays as it is.
    pub(crate) fn retired(self, now: SystemTime) -> Self {
        match self.stage {
            Stage::Retiring { until, .. } if now >= until => Self { stage: Stage::Settled, ..self },
            Stage::Settled | Stage::Preparing { .. } | Stage::Retiring { .. } => self,
        }
    }
}

impl Census {
    /// Who is not known to trust the roots with this fingerprint, which are given to all since then.
    pub(crate) fn lacking(&self, bundle: &str, since: SystemTime, now: SystemTime) -> Lacking {
        let lacking = self.nodes.iter().filter(|node| !node.has(bundle, since, now));
        let names: Vec<String> = lacking.map(|node| node.name.clone()).collect();
        if !names.is_empty() {
            Lacking::Nodes(names)
        } else if now < self.whole_from {
            Lacking::Unheard { until: self.whole_from }
        } else {
            Lacking::Nobody
        }
    }
}

impl Node {
    fn has(&self, bundle: &str, since: SystemTime, now: SystemTime) -> bool {
        let gone = now >= self.seen + NODE_FORGOTTEN_AFTER;
        gone || match &self.bundle {
            Some(has) => has == bundle,
            // It never says so. What it was given before both roots were sent is over by then.
            None => now >= since + LEAVES_GONE_AFTER,
        }
    }
}

fn new_root(domain: &TrustDomain, now: SystemTime) -> Result<Root, IssueError> {
    let root = Authority::new(domain, now)?;
    Ok(Root { certificate: root.bundle().to_pem(), key: root.key_pem() })
}

#[cfg(test)]
mod tests;
