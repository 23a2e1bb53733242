//! `PeerAuthentication`.

use serde_json::json;

use super::{Meaning, cel, meaning};

pub(super) fn all() -> Vec<Meaning> {
    let of = |field, about, right| meaning("PeerAuthenticationSpec", field, about, right);
    let needs_selector = json!({
        "rule": "!has(self.portLevelMtls) || (has(self.selector) && has(self.selector.matchLabels) \
                 && self.selector.matchLabels.size() > 0)",
        "message": "portLevelMtls needs a selector: ports are those of workloads",
        "fieldPath": ".portLevelMtls",
    });
    let ports = cel(
        "self.all(port, port.matches('^[1-9][0-9]{0,4}$') && int(port) <= 65535)",
        "each key must be a port: a number from 1 to 65535",
    );
    vec![
        of(
            "",
            "Whether workloads take connections that are not mutual TLS.",
            json!({ "x-kubernetes-validations": [needs_selector] }),
        ),
        of(
            "selector",
            "The workloads of this namespace that it is about; all of them, if nothing says so.",
            json!({}),
        ),
        of("mtls", "Of all ports that nothing is said of.", json!({})),
        of(
            "portLevelMtls",
            "Of single ports, which are the workload's and not the service's.",
            json!({ "minProperties": 1, "maxProperties": 128, "x-kubernetes-validations": [ports] }),
        ),
        meaning(
            "Mtls",
            "mode",
            "STRICT refuses plain text, PERMISSIVE and DISABLE take it, UNSET is as the next wider policy says.",
            json!({}),
        ),
    ]
}
