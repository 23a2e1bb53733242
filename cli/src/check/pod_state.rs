//! Why a pod is not ready, in a few words.

use k8s_openapi::api::core::v1::Pod;

/// What a container waits for, what it ended of, or what the pod's conditions say.
pub(super) fn trouble(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "nothing is known of it".to_owned() };
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses);
    for container in containers.flatten() {
        let name = &container.name;
        let state = container.state.as_ref();
        if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
            let reason = waiting.reason.as_deref().unwrap_or("waiting");
            let message = waiting.message.as_deref().unwrap_or_default();
            return format!("container {name}: {reason} {message}").trim_end().to_owned();
        }
        let ended = state.and_then(|state| state.terminated.as_ref());
        if let Some(ended) = ended.filter(|ended| ended.exit_code != 0) {
            return format!("container {name} ended with {}", ended.exit_code);
        }
    }
    let conditions = status.conditions.iter().flatten().filter(|it| it.status != "True");
    let said = conditions.filter_map(|it| it.message.as_deref()).find(|it| !it.is_empty());
    let phase = status.phase.as_deref().unwrap_or("of no phase");
    said.map_or_else(|| format!("it is {phase} and not ready"), str::to_owned)
}
