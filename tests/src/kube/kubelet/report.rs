//! What a kubelet says of a pod in its status.

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use serde_json::{Value, json};

use super::container::{Container, State};
use crate::lab::Sandbox;

/// A pod's phase, as far as a kubelet knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

/// The status of a pod, as a patch; the same for the same facts.
pub(super) fn report(
    pod: &Pod,
    phase: Phase,
    host: [&str; 2],
    sandbox: Option<&Sandbox>,
    [init, main]: [&[Container]; 2],
) -> Value {
    let sidecars = || init.iter().filter(|it| it.is_sidecar());
    let mut first = init.iter().filter(|it| !it.is_sidecar());
    let initialized =
        first.all(|it| it.state == State::Ended(0)) && sidecars().all(Container::is_running);
    let all_ready = phase == Phase::Running && main.iter().chain(sidecars()).all(|it| it.ready);
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_ref());
    let open = gates.into_iter().flatten().all(|gate| holds(pod, &gate.condition_type));
    let at = sandbox.map(|sandbox| [sandbox.v4(), sandbox.v6()]);
    let status = json!({
        "phase": format!("{phase:?}"),
        "hostIP": host[0],
        "hostIPs": host.map(|ip| json!({"ip": ip})),
        "podIP": at.map(|at| at[0]),
        "podIPs": at.map(|at| at.map(|ip| json!({"ip": ip}))),
        "conditions": [
            condition("PodScheduled", true),
            condition("Initialized", initialized),
            condition("PodReadyToStartContainers", sandbox.is_some()),
            condition("ContainersReady", all_ready),
            condition("Ready", all_ready && open),
        ],
        "initContainerStatuses": init.iter().map(container).collect::<Vec<_>>(),
        "containerStatuses": main.iter().map(container).collect::<Vec<_>>(),
    });
    // Of a patch, it says which pod is meant: a name may be another's by now.
    json!({"metadata": {"uid": pod.metadata.uid}, "status": status})
}

/// The same, with the time of those conditions that are not as they were.
pub(super) fn dated(mut patch: Value, pod: &Pod) -> Value {
    let old = pod.status.clone().unwrap_or_default();
    let conditions = patch.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        let is = |key: &str, value: &str| condition.get(key).is_some_and(|it| it == value);
        let mut old = old.conditions.iter().flatten();
        if !old.any(|old| is("type", &old.type_) && is("status", &old.status)) {
            condition.insert("lastTransitionTime".to_owned(), json!(Timestamp::now()));
        }
    }
    let status = patch.get_mut("status").and_then(Value::as_object_mut);
    if let (Some(status), None) = (status, old.start_time) {
        status.insert("startTime".to_owned(), json!(Timestamp::now()));
    }
    patch
}

fn holds(pod: &Pod, kind: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|it| it.type_ == kind && it.status == "True")
}

fn condition(kind: &str, holds: bool) -> Value {
    json!({"type": kind, "status": if holds { "True" } else { "False" }})
}

fn container(of: &Container) -> Value {
    let state = match &of.state {
        State::Waiting(why) => {
            let (reason, message) = why.split_once(": ").unwrap_or((why, ""));
            json!({"waiting": {"reason": reason, "message": message}})
        }
        State::Running => json!({"running": {}}),
        State::Ended(code) => {
            let reason = if *code == 0 { "Completed" } else { "Error" };
            json!({"terminated": {"exitCode": code, "reason": reason}})
        }
    };
    json!({
        "name": of.spec.name,
        "image": of.spec.image,
        "imageID": "",
        "ready": of.ready,
        "started": of.state == State::Running,
        "restartCount": of.restarts,
        "state": state,
    })
}
