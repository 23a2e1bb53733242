//! `ServiceEntry` and `WorkloadEntry`.

use serde_json::{Value, json};

use super::{ACCOUNT, HOST, HOST_CHARS_MAX, Meaning, cel, meaning, port, range};

const HOSTS_MAX: u32 = 256;
const PORTS_MAX: u32 = 256;
const ENDPOINTS_MAX: u32 = 1024;
const TEXT_CHARS_MAX: u32 = 253;

pub(super) fn all() -> Vec<Meaning> {
    [service(), ports(), endpoint(), status()].concat()
}

fn service() -> Vec<Meaning> {
    let of = |field, about, right| meaning("ServiceEntrySpec", field, about, right);
    let rules = json!([
        cel(
            "!has(self.endpoints) || !has(self.workloadSelector)",
            "only one of endpoints and workloadSelector may be set",
        ),
        {
            "rule": "!has(self.resolution) || self.resolution != 'STATIC' || !has(self.endpoints) \
                     || self.endpoints.all(endpoint, has(endpoint.address) && isIP(endpoint.address))",
            "message": "each must have an IP address, not a name, where resolution is STATIC",
            "fieldPath": ".endpoints",
        },
    ]);
    let host = json!({
        "maxLength": HOST_CHARS_MAX,
        "x-kubernetes-validations": [cel(
            &format!("self.matches('^([*][.])?{HOST}$') && !isIP(self)"),
            "must be a DNS name, which may begin with *. and is no IP address",
        )],
    });
    vec![
        of(
            "",
            "A service outside of the cluster, or one of workloads that Kubernetes does not know.",
            json!({ "required": ["hosts"], "x-kubernetes-validations": rules }),
        ),
        of("hosts", "Its names.", json!({ "minItems": 1, "maxItems": HOSTS_MAX, "items": host })),
        of(
            "addresses",
            "Its virtual addresses, or ranges of them.",
            json!({ "maxItems": 256, "items": range() }),
        ),
        of(
            "ports",
            "Its ports.",
            json!({
                "maxItems": PORTS_MAX,
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            }),
        ),
        of(
            "location",
            "Whether it belongs to the mesh; MESH_EXTERNAL if it is not said.",
            json!({}),
        ),
        of(
            "resolution",
            "How its addresses are found; NONE, the one that was dialled, if it is not said.",
            json!({}),
        ),
        of("endpoints", "Where it runs.", json!({ "maxItems": ENDPOINTS_MAX })),
        of(
            "workloadSelector",
            "Pods and WorkloadEntries of this namespace that it runs on.",
            json!({}),
        ),
        of(
            "exportTo",
            "Who sees it: . is this namespace, * all of them.",
            json!({ "maxItems": 256, "items": { "maxLength": 63 } }),
        ),
        of(
            "subjectAltNames",
            "Identities that its endpoints may have.",
            json!({ "maxItems": 256, "items": { "maxLength": 2048 } }),
        ),
    ]
}

fn ports() -> Vec<Meaning> {
    let of = |field, about, right| meaning("ServiceEntryPort", field, about, right);
    vec![
        of("", "A port.", json!({ "required": ["number", "name"] })),
        of("number", "The one that is dialled.", port()),
        of("protocol", "What is spoken there.", json!({ "maxLength": TEXT_CHARS_MAX })),
        of("name", "What it is called, once in an entry.", json!({ "maxLength": TEXT_CHARS_MAX })),
        of("targetPort", "The one of the endpoints, if it is another.", port()),
    ]
}

fn endpoint() -> Vec<Meaning> {
    let of = |field, about, right| meaning("WorkloadEntrySpec", field, about, right);
    let address = json!({
        "maxLength": HOST_CHARS_MAX,
        "x-kubernetes-validations": [cel(
            &format!("isIP(self) || self.matches('^{HOST}$')"),
            "must be an IP address or a DNS name",
        )],
    });
    vec![
        of("", "A workload that is no pod.", json!({ "required": ["address"] })),
        of("address", "Its IP address, or a name for it.", address),
        of(
            "ports",
            "Its ports, by the names of the service's.",
            json!({ "maxProperties": 128, "additionalProperties": port() }),
        ),
        of(
            "labels",
            "Its labels.",
            json!({ "maxProperties": 256, "additionalProperties": { "maxLength": TEXT_CHARS_MAX } }),
        ),
        of("network", "The network that it is in.", json!({ "maxLength": TEXT_CHARS_MAX })),
        of("locality", "Where it is: region/zone/subzone.", json!({ "maxLength": 1024 })),
        of("weight", "How much it is given, compared to others.", json!({})),
        of(
            "serviceAccount",
            "Whose identity it has; default if it is not said.",
            json!({ "pattern": format!("^({ACCOUNT})?$") }),
        ),
    ]
}

fn status() -> Vec<Meaning> {
    let free: fn() -> Value = || json!({});
    vec![
        meaning(
            "ServiceEntryStatus",
            "addresses",
            "Addresses that were given to its hosts.",
            free(),
        ),
        meaning("ServiceEntryAddress", "value", "The address.", free()),
        meaning(
            "ServiceEntryAddress",
            "host",
            "The host that it is for; all of them if it is empty.",
            free(),
        ),
    ]
}
