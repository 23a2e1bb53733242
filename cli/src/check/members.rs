//! Who is to be in the mesh and is not, and policies that are not in force as they were written.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api,
    api::{DynamicObject, ListParams},
};
use serde_json::Value;
use weft_control::{Said, said};
use weft_model::enrollment::{Enrollment, Wish};

use super::{Line, Verdict};
use crate::{
    cluster::{Cluster, ClusterError, list},
    kinds::{self, ISTIO},
    pods::{enrollment_of, wish},
};

const REDIRECTION: &str = "ambient.istio.io/redirection";
/// False while an agent cannot capture the pod, with the reason.
const ENROLLED: &str = "weft.mesh/Enrolled";

pub(super) async fn lines(cluster: &Cluster, namespace: Option<&str>) -> Vec<Line> {
    let mut lines = match pods(cluster, namespace).await {
        Ok(lines) => lines,
        Err(error) => vec![Line::unread("pod", &error)],
    };
    for kind in &ISTIO {
        match kinds::list(cluster, kind, namespace, ListParams::default()).await {
            Ok(found) => lines.extend(policies(kind.name, &found.unwrap_or_default())),
            Err(error) => lines.push(Line::unread("policy", &error)),
        }
    }
    if !lines.iter().any(|line| line.check == "policy") {
        lines.push(Line::new("policy", "", Verdict::Fine, "none is written"));
    }
    lines
}

async fn pods(cluster: &Cluster, namespace: Option<&str>) -> Result<Vec<Line>, ClusterError> {
    let client = || cluster.client.clone();
    let namespaces = Api::<Namespace>::all(client());
    let namespaces = list(&namespaces, ListParams::default(), "namespaces").await?;
    let wishes = namespaces.into_iter().filter_map(|namespace| {
        Some((namespace.metadata.name?, wish(namespace.metadata.labels.as_ref())))
    });
    let wishes: BTreeMap<_, _> = wishes.collect();
    let api = match namespace {
        Some(namespace) => Api::<Pod>::namespaced(client(), namespace),
        None => Api::all(client()),
    };
    Ok(members(&wishes, &list(&api, ListParams::default(), "pods").await?))
}

/// One line for all pods that are as they ought to be, and one for each that is not.
fn members(wishes: &BTreeMap<String, Wish>, pods: &[Pod]) -> Vec<Line> {
    let (mut captured, mut lines) = (0_usize, Vec::new());
    for pod in pods {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let object = format!("{namespace}/{}", pod.metadata.name.as_deref().unwrap_or_default());
        let wish = wishes.get(namespace).copied().unwrap_or_default();
        match (enrollment_of(wish, pod), is_captured(pod)) {
            (Enrollment::Enrolled, true) => captured += 1,
            (Enrollment::Enrolled, false) => lines.push(waits(object, pod)),
            (Enrollment::Out(reason), true) if is_running(pod) => {
                let says = format!("it is still captured, though {reason}");
                lines.push(Line::new("pod", object, Verdict::Problem, says));
            }
            (Enrollment::Out(_), _) => {}
        }
    }
    let says = match captured {
        0 => "none is in the mesh; `weft enroll NAMESPACE` asks for it".to_owned(),
        1 => "1 is in the mesh".to_owned(),
        n => format!("{n} are in the mesh"),
    };
    let verdict = if captured == 0 { Verdict::Note } else { Verdict::Fine };
    lines.push(Line::new("pod", "", verdict, says));
    lines
}

fn waits(object: String, pod: &Pod) -> Line {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let complaint =
        conditions.into_iter().flatten().find(|it| it.type_ == ENROLLED && it.status == "False");
    let complaint = complaint.and_then(|it| it.message.as_deref());
    match (complaint, is_running(pod)) {
        (Some(complaint), _) => {
            let says = format!("it is not captured: {complaint}");
            Line::new("pod", object, Verdict::Problem, says)
        }
        (None, true) => {
            let says = "it runs and is not captured, and no agent says why: \
                        does one run on its node?";
            Line::new("pod", object, Verdict::Problem, says)
        }
        (None, false) => Line::new("pod", object, Verdict::Note, "it is not captured yet"),
    }
}

fn is_captured(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(REDIRECTION)).is_some_and(|is| is == "enabled")
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

fn policies(kind: &str, all: &[DynamicObject]) -> Vec<Line> {
    let (mut well, mut lines) = (0_usize, Vec::new());
    for object in all {
        let meta = &object.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let name = format!("{kind} {namespace}/{}", meta.name.as_deref().unwrap_or_default());
        let (verdict, says) = match said_of(object) {
            Said::InForce => {
                well += 1;
                continue;
            }
            Said::OnItsWay(why) => (Verdict::Note, format!("it is on its way: {why}")),
            Said::Refused(why) => (Verdict::Problem, why),
            Said::Nothing => {
                (Verdict::Problem, "no control plane has said what became of it".to_owned())
            }
        };
        lines.push(Line::new("policy", name, verdict, says));
    }
    if well > 0 {
        lines.push(Line::new("policy", kind, Verdict::Fine, format!("{well} in force")));
    }
    lines
}

/// What the control plane has said of an object.
fn said_of(object: &DynamicObject) -> Said {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    said(conditions.map(Vec::as_slice).unwrap_or_default(), object.metadata.generation)
}

#[cfg(test)]
mod tests;
