//! Whether a pod is to be in the mesh.
//!
//! Asked by the control plane (who may have an identity?) and by the node agent (whom to capture?): the same
//! question must have one answer, so it is answered here, from nothing but what the API server says.

use std::fmt;

/// Istio's label, with `ambient` or `none`.
pub const ISTIO_LABEL: &str = "istio.io/dataplane-mode";
/// Ours, with `enabled` or `disabled`.
pub const WEFT_LABEL: &str = "weft.mesh/dataplane-mode";

/// What the labels of one object say.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Wish {
    /// Nothing that we know of: as the next wider object says.
    #[default]
    Unsaid,
    In,
    Out,
}

impl Wish {
    /// From the labels of a namespace or pod, looked up by `label`. Of two that disagree, the one that keeps
    /// the pod out wins; a value that is not known says nothing.
    pub fn of<'a>(label: impl Fn(&str) -> Option<&'a str>) -> Self {
        let (istio, ours) = (label(ISTIO_LABEL), label(WEFT_LABEL));
        if istio == Some("none") || ours == Some("disabled") {
            Self::Out
        } else if istio == Some("ambient") || ours == Some("enabled") {
            Self::In
        } else {
            Self::Unsaid
        }
    }
}

/// What decides about a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub namespace: Wish,
    pub pod: Wish,
    pub network: PodNetwork,
    pub life: PodLife,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PodNetwork {
    Own,
    /// `hostNetwork`: the pod has the node's namespace, where nothing can be told to be its traffic.
    Host,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PodLife {
    /// Pending, running, or ending: it may speak.
    Going,
    /// Succeeded or failed: it will not run again, and its address may be another's.
    Finished,
}

impl PodLife {
    /// From `status.phase`.
    pub fn of(phase: Option<&str>) -> Self {
        match phase {
            Some("Succeeded" | "Failed") => Self::Finished,
            _ => Self::Going,
        }
    }
}

/// The answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Enrollment {
    Enrolled,
    Out(Reason),
}

/// Why a pod is not in the mesh.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    HostNetwork,
    Finished,
    /// Its own label keeps it out, or its namespace's where it says nothing itself.
    OptedOut,
    NotAsked,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostNetwork => "it is on the host's network",
            Self::Finished => "it has finished",
            Self::OptedOut => "a label keeps it out",
            Self::NotAsked => "no label asks for it",
        })
    }
}

/// Whether the pod is to be captured. Its own label is stronger than its namespace's; what cannot be captured
/// is out, whatever the labels say.
pub fn enrollment(pod: Candidate) -> Enrollment {
    if pod.network == PodNetwork::Host {
        return Enrollment::Out(Reason::HostNetwork);
    }
    if pod.life == PodLife::Finished {
        return Enrollment::Out(Reason::Finished);
    }
    let wish = match pod.pod {
        Wish::Unsaid => pod.namespace,
        Wish::In | Wish::Out => pod.pod,
    };
    match wish {
        Wish::In => Enrollment::Enrolled,
        Wish::Out => Enrollment::Out(Reason::OptedOut),
        Wish::Unsaid => Enrollment::Out(Reason::NotAsked),
    }
}

#[cfg(test)]
mod tests;
