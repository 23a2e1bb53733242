use serde_json::{from_value, json};

use super::*;

fn pod(name: &str, phase: &str, captured: bool, conditions: &Value) -> Pod {
    let annotations = if captured { json!({REDIRECTION: "enabled"}) } else { json!({}) };
    from_value(json!({
        "metadata": {"namespace": "shop", "name": name, "annotations": annotations},
        "spec": {"containers": []},
        "status": {"phase": phase, "conditions": conditions},
    }))
    .unwrap()
}

fn lines(wish: Wish, pods: &[Pod]) -> Vec<(Verdict, String)> {
    let wishes = [("shop".to_owned(), wish)].into();
    let lines = members(&wishes, pods);
    lines
        .into_iter()
        .map(|line| (line.verdict, format!("{}: {}", line.object, line.says)))
        .collect()
}

#[test]
fn a_pod_that_is_labelled_and_not_captured_says_why() {
    let none = json!([]);
    let complains = json!([{"type": ENROLLED, "status": "False", "message": "no BTF"}]);
    let pods = [
        pod("web", "Running", true, &none),
        pod("client", "Running", false, &complains),
        pod("lost", "Running", false, &none),
        pod("new", "Pending", false, &none),
    ];
    let says = lines(Wish::In, &pods);
    let told: Vec<_> = says.iter().map(|(verdict, says)| (*verdict, &**says)).collect();
    let lost = "shop/lost: it runs and is not captured, and no agent says why: \
                does one run on its node?";
    assert_eq!(
        told,
        [
            (Verdict::Problem, "shop/client: it is not captured: no BTF"),
            (Verdict::Problem, lost),
            (Verdict::Note, "shop/new: it is not captured yet"),
            (Verdict::Fine, ": 1 is in the mesh"),
        ]
    );
}

#[test]
fn a_pod_that_is_kept_without_being_asked_for_is_a_problem() {
    let says = lines(Wish::Unsaid, &[pod("web", "Running", true, &json!([]))]);
    let kept = "shop/web: it is still captured, though no label asks for it".to_owned();
    assert_eq!(says.first(), Some(&(Verdict::Problem, kept)));
}

fn policy(generation: i64, conditions: &Value) -> DynamicObject {
    from_value(json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"namespace": "shop", "name": "deny", "generation": generation},
        "status": {"conditions": conditions},
    }))
    .unwrap()
}

#[test]
fn a_policy_that_nodes_refuse_is_a_problem_and_one_on_its_way_is_none() {
    let programmed = |status: &str, reason: &str, message: &str| {
        policy(
            1,
            &json!([{"type": "Accepted", "status": "True", "observedGeneration": 1},
            {"type": "Programmed", "status": status, "reason": reason, "message": message,
             "observedGeneration": 1}]),
        )
    };
    let verdicts =
        |policy| policies("Kind", &[policy]).into_iter().map(|it| (it.verdict, it.says)).next();
    let way = (Verdict::Note, "it is on its way: 3/4 nodes".to_owned());
    assert_eq!(verdicts(programmed("False", "Pending", "3/4 nodes")), Some(way));
    let refused = (Verdict::Problem, "3/4 nodes; n1: no".to_owned());
    assert_eq!(verdicts(programmed("False", "Refused", "3/4 nodes; n1: no")), Some(refused));
    let fine = (Verdict::Fine, "1 in force".to_owned());
    assert_eq!(verdicts(programmed("True", "Programmed", "4/4 nodes")), Some(fine));
}
