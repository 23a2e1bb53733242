//! Pods, as little of them as is asked, and what the API server says of them that matters here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;
use weft_model::enrollment::{PodLife, PodNetwork, Wish};

use crate::cni::protocol::PodName;
use crate::netlink::DnsCapture;
use crate::pod::{PodUid, UidError};

/// The sign, for the control plane, that a pod is captured. The name is Istio's.
pub(super) const REDIRECTION: &str = "ambient.istio.io/redirection";
pub(super) const ENABLED: &str = "enabled";
/// The condition that is false while a pod cannot be enrolled.
pub(super) const ENROLLED: &str = "weft.mesh/Enrolled";
/// A pod may keep its name lookups. The name is Istio's.
const DNS_CAPTURE: &str = "ambient.istio.io/dns-capture";
/// On the copy that the API server has of a pod from a kubelet's folder: the UID that the runtime knows.
const STATIC_UID: &str = "kubernetes.io/config.hash";

/// A pod of the API server.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Pod {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    host_network: bool,
    service_account_name: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIPs", default)]
    pod_ips: Vec<PodIp>,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Deserialize)]
struct PodIp {
    ip: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    message: String,
}

impl Resource for Pod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }
    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }
    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What decides about a pod, and what it takes to capture it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) service_account: String,
    pub(super) wish: Wish,
    pub(super) network: PodNetwork,
    pub(super) life: PodLife,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) dns: DnsCapture,
    /// Whether others are told that it is captured.
    pub(super) announced: Announced,
    pub(super) end: End,
    /// Why it is not captured, as its condition says.
    pub(super) complaint: Option<String>,
    /// The UID by which a runtime knows it, where that is another one.
    pub(super) static_uid: Option<String>,
}

impl Facts {
    /// Whether a runtime means this pod.
    pub(super) fn is_meant(&self, uid: &PodUid, pod: &PodName) -> bool {
        let named = self.namespace == pod.namespace && self.name == pod.name;
        let same = |asked| asked == uid.as_str() || self.static_uid.as_deref() == Some(asked);
        named && self.end != End::Passed && pod.uid.as_deref().is_none_or(same)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Announced {
    Yes,
    No,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Unseen,
    /// It was asked to end, and may take its time.
    Near,
    /// The API server knows it no more, but its sandbox is still there.
    Passed,
}

/// What a namespace wishes for its pods, by its labels.
pub(super) fn wish(labels: Option<&BTreeMap<String, String>>) -> Wish {
    Wish::of(|label| labels?.get(label).map(String::as_str))
}

/// A pod's UID and facts. Errors: the UID cannot be a file's name.
pub(super) fn facts(pod: Pod) -> Result<(PodUid, Facts), UidError> {
    let meta = pod.metadata;
    let uid = PodUid::parse(meta.uid.as_deref().unwrap_or_default())?;
    let annotations = meta.annotations.unwrap_or_default();
    let annotation = |key: &str| annotations.get(key).map(String::as_str);
    let address = |one: &PodIp| one.ip.parse().ok();
    let facts = Facts {
        namespace: meta.namespace.unwrap_or_default(),
        name: meta.name.unwrap_or_default(),
        service_account: pod.spec.service_account_name.unwrap_or_else(|| "default".to_owned()),
        wish: wish(meta.labels.as_ref()),
        network: if pod.spec.host_network { PodNetwork::Host } else { PodNetwork::Own },
        life: PodLife::of(pod.status.phase.as_deref()),
        addresses: pod.status.pod_ips.iter().filter_map(address).collect(),
        dns: match annotation(DNS_CAPTURE) {
            Some("false") => DnsCapture::Off,
            _ => DnsCapture::On,
        },
        announced: match annotation(REDIRECTION) {
            Some(ENABLED) => Announced::Yes,
            _ => Announced::No,
        },
        complaint: complaint(&pod.status),
        end: if meta.deletion_timestamp.is_some() { End::Near } else { End::Unseen },
        static_uid: annotation(STATIC_UID).map(str::to_owned),
    };
    Ok((uid, facts))
}

fn complaint(status: &Status) -> Option<String> {
    let is_ours = |one: &&Condition| one.kind == ENROLLED && one.status == "False";
    status.conditions.iter().find(is_ours).map(|one| one.message.clone())
}
