//! Counters, and how they are written for Prometheus.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    streams: AtomicU64,
    refused: AtomicU64,
    issued: AtomicU64,
    denied: [AtomicU64; DenialReason::ALL.len()],
    checks: AtomicU64,
    repaired: AtomicU64,
    ca_failures: [AtomicU64; CaWork::ALL.len()],
    told: [[AtomicU64; WriteResult::ALL.len()]; Told::ALL.len()],
}

macro_rules! labels {
    ($(#[$of:meta])* $type:ident { $($(#[$doc:meta])* $name:ident => $label:literal,)* }) => {
        $(#[$of])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $type {
            $($(#[$doc])* $name,)*
        }

        impl $type {
            const ALL: &[Self] = &[$(Self::$name,)*];

            pub(crate) fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

labels! {
    /// Why a certificate was denied, as a label.
    DenialReason {
    NoProof => "no_proof",
    ExpiredCertificate => "expired_certificate",
    Token => "token",
    ReviewUnavailable => "review_unavailable",
    TooOften => "too_often",
    TooManyIdentities => "too_many_identities",
    BadIdentity => "bad_identity",
    TrustDomain => "trust_domain",
    NoSuchPod => "no_such_pod",
    /// A pod with the identity is there, but it is not the one that was meant.
    OtherPod => "other_pod",
    /// A node with its name is there, but it is another one.
    OtherNode => "other_node",
    RequestNames => "request_names",
    RequestCa => "request_ca",
    BadRequest => "bad_request",
    /// It is not known which CA is in force.
    StaleCa => "stale_ca",
    }
}

labels! {
    /// What is done about the mesh's CA.
    CaWork {
        /// Each replica reads which CA is in force,
        Read => "read",
        /// and writes what its nodes say to trust.
        Report => "report",
        /// One of them renews, publishes and changes it,
        Tend => "tend",
        /// and gives the roots to the whole cluster.
        Share => "share",
    }
}

labels! {
    /// What is written to the API server.
    Told {
        Condition => "condition",
        Event => "event",
        /// To the other replicas, of the nodes.
        Progress => "progress",
    }
}

labels! {
    /// What came of a write to the API server.
    WriteResult {
        Written => "written",
        /// It was there already.
        There => "there",
        /// The object was another by then.
        Stale => "stale",
        Refused => "refused",
        Forbidden => "forbidden",
        /// The server had too much to do, or could not be reached.
        Busy => "busy",
    }
}

/// A stream that is counted while this lives.
#[derive(Debug)]
pub(crate) struct Open(Arc<Metrics>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

impl Metrics {
    pub(crate) fn open(metrics: &Arc<Self>) -> Open {
        metrics.streams.fetch_add(1, Relaxed);
        Open(metrics.clone())
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn issued(&self) {
        self.issued.fetch_add(1, Relaxed);
    }

    pub(crate) fn denied(&self, reason: DenialReason) {
        if let Some(count) = self.denied.get(reason as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Everything was compiled anew, and so many resources were not what they should have been.
    pub(crate) fn checked(&self, repaired: usize) {
        self.checks.fetch_add(1, Relaxed);
        self.repaired.fetch_add(u64::try_from(repaired).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn ca_failed(&self, work: CaWork) {
        if let Some(count) = self.ca_failures.get(work as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn told(&self, how: Told, result: WriteResult) {
        let count = self.told.get(how as usize).and_then(|of| of.get(result as usize));
        if let Some(count) = count {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn text(&self, resources: usize, problems: usize) -> String {
        let size = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let rows = [
            (
                "weft_control_streams",
                "gauge",
                "Nodes that are subscribed.",
                self.streams.load(Relaxed),
            ),
            ("weft_control_resources", "gauge", "Resources that are served.", size(resources)),
            ("weft_control_problems", "gauge", "Problems in manifests.", size(problems)),
            (
                "weft_control_refused_total",
                "counter",
                "Responses that a node refused in part.",
                self.refused.load(Relaxed),
            ),
            (
                "weft_control_certificates_issued_total",
                "counter",
                "Certificates that were signed.",
                self.issued.load(Relaxed),
            ),
            (
                "weft_control_self_checks_total",
                "counter",
                "Comparisons of what is served with everything compiled anew.",
                self.checks.load(Relaxed),
            ),
            (
                "weft_control_self_check_repaired_total",
                "counter",
                "Resources that a comparison found wrong and mended: a defect of the control plane.",
                self.repaired.load(Relaxed),
            ),
        ];
        let mut text = String::new();
        for (name, kind, help, value) in rows {
            write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n")
                .expect("a String takes all text");
        }
        self.denials(&mut text);
        self.failures_of_the_ca(&mut text);
        self.tellings(&mut text);
        text
    }

    fn denials(&self, text: &mut String) {
        let name = "weft_control_certificates_denied_total";
        let help = "Requests for certificates that were denied, by reason.";
        let head = format!("# HELP {name} {help}\n# TYPE {name} counter\n");
        text.push_str(&head);
        for (reason, count) in DenialReason::ALL.iter().zip(&self.denied) {
            let (label, count) = (reason.label(), count.load(Relaxed));
            writeln!(text, "{name}{{reason=\"{label}\"}} {count}")
                .expect("a String takes all text");
        }
    }

    fn failures_of_the_ca(&self, text: &mut String) {
        let name = "weft_control_ca_failures_total";
        let help = "Work on the mesh's CA that failed and is tried again.";
        write!(text, "# HELP {name} {help}\n# TYPE {name} counter\n")
            .expect("a String takes all text");
        for (work, count) in CaWork::ALL.iter().zip(&self.ca_failures) {
            let (work, count) = (work.label(), count.load(Relaxed));
            writeln!(text, "{name}{{work=\"{work}\"}} {count}").expect("a String takes all text");
        }
    }

    fn tellings(&self, text: &mut String) {
        let name = "weft_status_writes_total";
        let help = "Conditions, Events and progress of nodes that were to be written to the API server, by what came of it.";
        write!(text, "# HELP {name} {help}\n# TYPE {name} counter\n")
            .expect("a String takes all text");
        for (how, of) in Told::ALL.iter().zip(&self.told) {
            for (result, count) in WriteResult::ALL.iter().zip(of) {
                let (how, result, count) = (how.label(), result.label(), count.load(Relaxed));
                writeln!(text, "{name}{{what=\"{how}\",result=\"{result}\"}} {count}")
                    .expect("a String takes all text");
            }
        }
    }
}
