//! `AuthorizationPolicy`.

use serde_json::{Value, json};

use super::{ACCOUNT, Meaning, NAMESPACE, SUBDOMAIN, cel, matching, meaning, range, values};

const RULES_MAX: u32 = 64;
/// Of a rule: sources, operations, conditions.
const CLAUSES_MAX: u32 = 8;
const CONDITION_VALUES_MAX: u32 = 64;
const TARGETS_MAX: u32 = 16;
/// A trust domain of 255, a namespace of 63, a service account of 253, and what stands between.
const PRINCIPAL_CHARS_MAX: u32 = 589;

pub(super) fn all() -> Vec<Meaning> {
    [policy(), rules(), source(), operation(), condition()].concat()
}

fn policy() -> Vec<Meaning> {
    let of = |field, about, right| meaning("AuthorizationSpec", field, about, right);
    let target = |field, about, right| meaning("TargetRef", field, about, right);
    let one_target = cel(
        "[has(self.selector), has(self.targetRef), has(self.targetRefs)].filter(said, said).size() <= 1",
        "only one of selector, targetRef and targetRefs may be set",
    );
    let own = cel("self == ''", "must be left out: a policy is about its own namespace");
    vec![
        of(
            "",
            "Which connections to workloads are allowed, and which are not.",
            json!({ "x-kubernetes-validations": [one_target] }),
        ),
        of(
            "selector",
            "The workloads of this namespace that it is about; all of them, if nothing says so.",
            json!({}),
        ),
        of("targetRef", "One Service whose workloads it is about.", json!({})),
        of(
            "targetRefs",
            "The Services whose workloads it is about.",
            json!({ "minItems": 1, "maxItems": TARGETS_MAX }),
        ),
        of(
            "rules",
            "It matches what any of them matches; a rule, what all of its parts match. ALLOW without rules allows nothing.",
            json!({ "maxItems": RULES_MAX }),
        ),
        of(
            "action",
            "What becomes of what it matches; ALLOW if it is not said. CUSTOM denies it, and AUDIT is not enforced.",
            json!({}),
        ),
        of("provider", "Who decides, with CUSTOM.", json!({})),
        meaning("Provider", "name", "Its name.", json!({ "maxLength": 253 })),
        target("", "An object.", json!({ "required": ["kind", "name"] })),
        target(
            "group",
            "Its API group; empty for a Service.",
            json!({ "maxLength": 253, "pattern": format!("^({SUBDOMAIN})?$") }),
        ),
        target("kind", "Its kind: Service.", json!({ "minLength": 1, "maxLength": 63 })),
        target("name", "Its name.", json!({ "minLength": 1, "maxLength": 253 })),
        target(
            "namespace",
            "This namespace.",
            json!({ "maxLength": 63, "x-kubernetes-validations": [own] }),
        ),
        target("sectionName", "A part of it.", json!({ "maxLength": 253 })),
    ]
}

fn rules() -> Vec<Meaning> {
    let clauses = json!({ "minItems": 1, "maxItems": CLAUSES_MAX });
    let of = |field, about| meaning("Rule", field, about, clauses.clone());
    vec![
        of("from", "Any of these sources."),
        of("to", "Any of these operations."),
        of("when", "All of these conditions."),
        meaning("From", "", "A source.", json!({ "required": ["source"] })),
        meaning("From", "source", "What is said of it, all of it.", json!({ "minProperties": 1 })),
        meaning("To", "", "An operation.", json!({ "required": ["operation"] })),
        meaning("To", "operation", "What is said of it, all of it.", json!({ "minProperties": 1 })),
    ]
}

/// A list of what is wanted, and one of what is not.
fn both(
    of: &'static str,
    (wanted, unwanted): (&'static str, &'static str),
    about: [&'static str; 2],
    right: &Value,
) -> [Meaning; 2] {
    let [is, is_not] = about;
    [meaning(of, wanted, is, values(right)), meaning(of, unwanted, is_not, values(right))]
}

fn source() -> Vec<Meaning> {
    let identity = format!("(spiffe://)?[a-z0-9._-]{{1,255}}/ns/{NAMESPACE}/sa/{ACCOUNT}");
    let account = format!("^({NAMESPACE}/)?{ACCOUNT}$");
    let account = json!({ "maxLength": 317, "pattern": account });
    let unenforced = json!({});
    let of = |names, about, right: &Value| both("Source", names, about, right);
    [
        of(
            ("principals", "notPrincipals"),
            ["Identities, such as cluster.local/ns/shop/sa/web, or one with a * at its start or its end.", "Other identities than these."],
            &matching(&identity, PRINCIPAL_CHARS_MAX),
        ),
        of(
            ("namespaces", "notNamespaces"),
            ["Namespaces of identities.", "Other namespaces than these."],
            &matching(NAMESPACE, 64),
        ),
        of(
            ("serviceAccounts", "notServiceAccounts"),
            ["Service accounts, of another namespace as namespace/name.", "Other service accounts than these."],
            &account,
        ),
        of(
            ("ipBlocks", "notIpBlocks"),
            ["IP addresses or ranges of them.", "Other addresses than these."],
            &range(),
        ),
        of(
            ("requestPrincipals", "notRequestPrincipals"),
            ["Of requests: not enforced at layer 4.", "Of requests: not enforced at layer 4."],
            &unenforced,
        ),
        of(
            ("remoteIpBlocks", "notRemoteIpBlocks"),
            ["Of requests: not enforced at layer 4.", "Of requests: not enforced at layer 4."],
            &range(),
        ),
        of(
            ("trustDomains", "notTrustDomains"),
            ["Not enforced.", "Not enforced."],
            &unenforced,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn operation() -> Vec<Meaning> {
    let port = json!({
        "maxLength": 5,
        "x-kubernetes-validations": [cel(
            "self.matches('^[1-9][0-9]*$') && int(self) <= 65535",
            "must be a port: a number from 1 to 65535",
        )],
    });
    let of = |names, about, right: &Value| both("Operation", names, about, right);
    let request = ["Of requests: not enforced at layer 4."; 2];
    let unenforced = json!({});
    [
        of(("ports", "notPorts"), ["Ports of the workload.", "Other ports than these."], &port),
        of(("hosts", "notHosts"), request, &unenforced),
        of(("methods", "notMethods"), request, &unenforced),
        of(("paths", "notPaths"), request, &unenforced),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn condition() -> Vec<Meaning> {
    let of = |field, about, right| meaning("Condition", field, about, right);
    let ranges = |field: &str| {
        json!({
            "rule": format!("!(self.key in ['source.ip', 'destination.ip']) || !has(self.{field}) \
                             || self.{field}.all(value, isIP(value) || isCIDR(value))"),
            "message": "each must be an IP address or a range of them, such as 10.0.0.7 or 10.0.0.0/8",
            "fieldPath": format!(".{field}"),
        })
    };
    let said = cel("has(self.values) || has(self.notValues)", "needs values or notValues");
    let values =
        json!({ "minItems": 1, "maxItems": CONDITION_VALUES_MAX, "items": { "maxLength": 320 } });
    vec![
        of(
            "",
            "An attribute and its values.",
            json!({
                "required": ["key"],
                "x-kubernetes-validations": [said, ranges("values"), ranges("notValues")],
            }),
        ),
        of(
            "key",
            "The attribute, such as source.ip. Those of requests are not enforced at layer 4.",
            json!({ "minLength": 1, "maxLength": 256 }),
        ),
        of("values", "It has any of these.", values.clone()),
        of("notValues", "It has none of these.", values),
    ]
}
