//! Whether users are told that what they wrote is in force as it was written.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use serde_json::Value;
use weft_control::{CaSource, LostRoot};
use weft_tests::{
    kube::{Account, eventually},
    lab::LONG,
};

use crate::{
    mesh::Control,
    the_control_plane_watches::RIGHTS,
    written::{DENY, DENY_ALL, defined, holder, loosely_defined, objects, until, version, write},
};

/// Kind, what is wrong, the spec, what its status says, and the spec mended.
pub(crate) const WRONG: [(&str, &str, &str, &str, &str); 14] = [
    (
        "AuthorizationPolicy",
        "cidr",
        "{action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}",
        "spec.rules[0].from[0].source.ipBlocks[0]: is not an IP address or range: the condition is left out, so \
         that more is denied (`10.0.0.0/33`)",
        "{action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.0/3]}}]}]}",
    ),
    (
        "AuthorizationPolicy",
        "selector",
        "{action: DENY, selector: {matchLabels: {app: we b}}, rules: [{}]}",
        "spec.selector.matchLabels: `app: we b` is no label that an object can have: everything on its target is \
         denied until it is right",
        "{action: DENY, selector: {matchLabels: {app: web}}, rules: [{}]}",
    ),
    (
        "AuthorizationPolicy",
        "principal",
        "{action: DENY, rules: [{from: [{source: {principals: [a*b]}}]}]}",
        "spec.rules[0].from[0].source.principals[0]: has a `*` elsewhere than at one end",
        "{action: DENY, rules: [{from: [{source: {principals: ['a*']}}]}]}",
    ),
    (
        "AuthorizationPolicy",
        "port",
        "{action: DENY, rules: [{to: [{operation: {ports: ['65536']}}]}]}",
        "spec.rules[0].to[0].operation.ports[0]: is not a port (1 to 65535): the condition is left out, so that \
         more is denied (`65536`)",
        "{action: DENY, rules: [{to: [{operation: {ports: ['65535']}}]}]}",
    ),
    (
        "PeerAuthentication",
        "selector",
        "{selector: {matchLabels: {app: '*'}}, mtls: {mode: PERMISSIVE}}",
        "spec.selector.matchLabels: `app: *` is no label that an object can have: read as STRICT until it is right",
        "{selector: {matchLabels: {app: web}}, mtls: {mode: PERMISSIVE}}",
    ),
    (
        "PeerAuthentication",
        "port",
        "{selector: {matchLabels: {app: web}}, portLevelMtls: {65536: {mode: PERMISSIVE}}}",
        "spec.portLevelMtls.65536: invalid value: integer `65536`",
        "{selector: {matchLabels: {app: web}}, portLevelMtls: {65535: {mode: PERMISSIVE}}}",
    ),
    (
        "ServiceEntry",
        "cidr",
        "{hosts: [cidr.example.com], addresses: [10.0.0.0/33], resolution: DNS}",
        "spec.addresses[0]: is not an IP address or range (`10.0.0.0/33`)",
        "{hosts: [cidr.example.com], addresses: [10.0.0.0/3], resolution: DNS}",
    ),
    (
        "ServiceEntry",
        "selector",
        "{hosts: [selector.example.com], resolution: STATIC, workloadSelector: {labels: {app: we b}}}",
        "spec.workloadSelector.labels: `app: we b` is no label that an object can have: its last good form stays",
        "{hosts: [selector.example.com], resolution: STATIC, workloadSelector: {labels: {app: web}}}",
    ),
    (
        "ServiceEntry",
        "principal",
        "{hosts: [principal.example.com], resolution: DNS, subjectAltNames: [anybody]}",
        "(`anybody`)",
        "{hosts: [principal.example.com], resolution: DNS}",
    ),
    (
        "ServiceEntry",
        "port",
        "{hosts: [port.example.com], resolution: DNS, ports: [{number: 65536, name: tcp}]}",
        "spec.ports[0].number: invalid value: integer `65536`, expected u16: its last good form stays",
        "{hosts: [port.example.com], resolution: DNS, ports: [{number: 65535, name: tcp}]}",
    ),
    (
        "ServiceEntry",
        "zero",
        "{hosts: [zero.example.com], resolution: DNS, ports: [{number: 0, name: tcp}]}",
        "spec.ports[0]: is not a port (1 to 65535): it is left out (`0`)",
        "{hosts: [zero.example.com], resolution: DNS, ports: [{number: 1, name: tcp}]}",
    ),
    ("WorkloadEntry", "cidr", "{address: 10.0.0.0/33}", "(`10.0.0.0/33`)", "{address: 10.0.0.3}"),
    (
        "WorkloadEntry",
        "principal",
        "{address: 10.0.0.4, serviceAccount: no body}",
        "(`no body`)",
        "{address: 10.0.0.4, serviceAccount: nobody}",
    ),
    (
        "WorkloadEntry",
        "port",
        "{address: 10.0.0.5, ports: {http: 65536}}",
        "spec.ports.http: invalid value: integer `65536`, expected u16: its last good form stays",
        "{address: 10.0.0.5, ports: {http: 65535}}",
    ),
];

#[tokio::test]
async fn what_is_wrong_is_told_in_the_status_denies_and_stops_nothing_until_it_is_mended()
-> Result<()> {
    let cluster = loosely_defined().await?;
    for (kind, name, spec, ..) in WRONG {
        write(&cluster, kind, name, spec)?;
    }
    write(&cluster, "AuthorizationPolicy", "well", DENY_ALL)?;
    let control = Control::start(&cluster).await?;
    for (kind, name, _, says, _) in WRONG {
        let refused = |said: &str| said.starts_with("False Refused 1: ") && said.contains(says);
        until(&cluster, (kind, name), "Accepted", refused).await?;
    }
    let well = |said: &str| said == "True Accepted 1: ";
    until(&cluster, ("AuthorizationPolicy", "well"), "Accepted", well).await?;
    // All of these deny; of what cannot be read there was no good form before.
    let served = control.page("/debug/config").await?;
    for there in ["shop/cidr", "shop/selector", "shop/principal", "shop/port", "shop/well"] {
        ensure!(served.contains(&format!("\"{there}\"")), "{there} is not in {served}");
    }
    ensure!(!served.contains("shop/port.example.com"), "{served}");

    // To be seen by `kubectl describe`, once each.
    let events = Api::<Event>::namespaced(cluster.client()?, "shop");
    let about = async |kind: &str, name: &str| -> Result<Vec<Event>> {
        let all = events.list(&ListParams::default()).await?;
        let of = |event: &Event| {
            let regarding = event.regarding.clone().unwrap_or_default();
            regarding.kind.as_deref() == Some(kind) && regarding.name.as_deref() == Some(name)
        };
        Ok(all.items.into_iter().filter(of).collect())
    };
    for (kind, name, _, says, _) in WRONG {
        let what = format!("an event about {kind} {name}");
        let told = eventually(&what, LONG, async || {
            let told = about(kind, name).await.ok()?;
            (!told.is_empty()).then_some(told)
        });
        let [event] = &told.await?[..] else { anyhow::bail!("two events about {kind} {name}") };
        let uid = objects(&cluster, kind)?.get(name).await?.metadata.uid;
        let regarding = event.regarding.clone().unwrap_or_default();
        let note = event.note.clone().unwrap_or_default();
        assert_eq!((regarding.uid, event.type_.as_deref()), (uid, Some("Warning")));
        ensure!(event.reason.as_deref() == Some("Refused") && note.contains(says), "{event:?}");
    }

    for (kind, name, _, _, mended) in WRONG {
        write(&cluster, kind, name, mended)?;
        let well = |said: &str| said == "True Accepted 2: ";
        until(&cluster, (kind, name), "Accepted", well).await?;
    }
    ensure!(control.page("/debug/config").await?.contains("shop/port.example.com"));
    ensure!(control.page("/problems").await? == "[]\n");
    control.stop().await
}

const WRITTEN: &str = "weft_status_writes_total{what=\"condition\",result=\"written\"}";
const FORBIDDEN: &str = "weft_status_writes_total{what=\"condition\",result=\"forbidden\"}";

#[tokio::test]
async fn nothing_is_written_that_is_there_already_and_what_others_say_stays() -> Result<()> {
    let cluster = defined().await?;
    write(&cluster, "AuthorizationPolicy", "deny", "{action: DENY, rules: [{form: []}]}")?;
    let foreign = r#"-p={"status": {"observedGeneration": "1", "conditions": [{"type": "ZtunnelAccepted",
        "status": "True", "reason": "Accepted", "lastProbeTime": "2026-01-01T00:00:00Z"}]}}"#;
    let patch = ["patch", "-n", "shop", "authorizationpolicy", "deny", "--subresource=status"];
    cluster.kubectl(&[&patch[..], &["--type=merge", foreign]].concat())?;
    let control = Control::start(&cluster).await?;
    let object =
        until(&cluster, DENY, "Accepted", |said| said.starts_with("False Refused 1")).await?;
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let first = conditions.and_then(|all| all.first()).context("there are conditions")?;
    assert_eq!(first.get("type").and_then(Value::as_str), Some("ZtunnelAccepted"));
    ensure!(first.get("lastProbeTime").is_some(), "{first}");
    assert_eq!(object.data.pointer("/status/observedGeneration"), Some(&Value::from("1")));

    // Whoever writes next has looked at everything else before.
    let before = version(&cluster, DENY.0, DENY.1).await?;
    let look = async |name: &str| -> Result<()> {
        write(&cluster, "ServiceEntry", name, "{hosts: [pay.example.com], resolution: DNS}")?;
        until(&cluster, ("ServiceEntry", name), "Accepted", |said| said.ends_with(" 1: ")).await?;
        Ok(())
    };
    look("first").await?;
    assert_eq!(version(&cluster, DENY.0, DENY.1).await?, before);
    assert_eq!(control.metric(WRITTEN).await?, 2);
    control.stop().await?;
    let control = Control::start(&cluster).await?;
    cluster.kubectl(&["delete", "-n", "shop", "serviceentry", "first"])?;
    look("second").await?;
    assert_eq!(version(&cluster, DENY.0, DENY.1).await?, before);
    assert_eq!(control.metric(WRITTEN).await?, 1);
    control.stop().await
}

/// What the control plane may besides, in the mesh's own namespace and of the objects that users write.
const MESH_RIGHTS: &str = "---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: weft-control, namespace: weft-system}
rules:
- apiGroups: ['']
  resources: [secrets, configmaps]
  verbs: [get, list, watch, create, update, patch]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, create, update]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: weft-control, namespace: weft-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: weft-control}
subjects: [{kind: ServiceAccount, name: default, namespace: shop}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: weft-control-tokens}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:auth-delegator'}
subjects: [{kind: ServiceAccount, name: default, namespace: shop}]
";

/// All that it takes to tell users.
const STATUS_RIGHTS: &str = "---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: weft-control-status}
rules:
- apiGroups: [security.istio.io]
  resources: [authorizationpolicies/status, peerauthentications/status]
  verbs: [patch]
- apiGroups: [networking.istio.io]
  resources: [serviceentries/status, workloadentries/status]
  verbs: [patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: weft-control-status}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: weft-control-status}
subjects: [{kind: ServiceAccount, name: default, namespace: shop}]
";

#[tokio::test]
async fn who_may_write_no_status_counts_that_and_goes_on_with_all_else_until_it_may() -> Result<()>
{
    let cluster = defined().await?;
    cluster.apply(RIGHTS)?;
    cluster.apply(MESH_RIGHTS)?;
    let account = Account { namespace: "shop", name: "default" };
    let kubeconfig = cluster.kubeconfig_of(account).await?;
    write(&cluster, "AuthorizationPolicy", "deny", DENY_ALL)?;
    let control = Control::by(&kubeconfig, CaSource::Own, LostRoot::Refuse).await?;
    let counted = eventually("the refusal is counted", LONG, async || {
        (control.metric(FORBIDDEN).await.ok()? > 0).then_some(())
    });
    counted.await?;
    // Configuration and certificates as ever.
    control.node_svid(&cluster).await?;
    write(&cluster, "AuthorizationPolicy", "later", DENY_ALL)?;
    let served = eventually("what is written is served", LONG, async || {
        control.page("/debug/config").await.ok()?.contains("shop/later").then_some(())
    });
    served.await?;
    ensure!(control.metric(FORBIDDEN).await? < 4, "it is tried again and again");
    cluster.apply(STATUS_RIGHTS)?;
    for name in ["deny", "later"] {
        let well = |said: &str| said == "True Accepted 1: ";
        until(&cluster, ("AuthorizationPolicy", name), "Accepted", well).await?;
    }
    control.stop().await
}

#[tokio::test]
async fn one_of_two_replicas_writes_and_the_other_goes_on_when_it_is_gone() -> Result<()> {
    let cluster = defined().await?;
    let one = Control::start(&cluster).await?;
    eventually("one has the duty", LONG, async || holder(&cluster).await.ok()?).await?;
    let two = Control::start(&cluster).await?;
    let well = |said: &str| said == "True Accepted 1: ";
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        write(&cluster, "AuthorizationPolicy", name, DENY_ALL)?;
        until(&cluster, ("AuthorizationPolicy", name), "Accepted", well).await?;
        let written = (one.metric(WRITTEN).await?, two.metric(WRITTEN).await?);
        assert_eq!(written, (number as u64 + 1, 0));
    }
    // Without a word: the other has to wait until the lease is over.
    one.kill();
    write(&cluster, "AuthorizationPolicy", "d", DENY_ALL)?;
    until(&cluster, ("AuthorizationPolicy", "d"), "Accepted", well).await?;
    assert_eq!(two.metric(WRITTEN).await?, 1);
    two.stop().await
}
