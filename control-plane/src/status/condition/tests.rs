use std::path::PathBuf;

use super::*;

fn problem(field: &str, value: &str) -> Problem {
    Problem {
        file: PathBuf::new(),
        line: None,
        object: Some(crate::objects::ObjectKey {
            kind: crate::objects::Kind::AuthorizationPolicy,
            name: crate::objects::Name::new("shop", "deny"),
        }),
        field: field.to_owned(),
        value: value.to_owned(),
        message: "is no block of addresses".to_owned(),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn others() -> Value {
    json!({"type": "ZtunnelAccepted", "status": "True", "lastProbeTime": null})
}

#[test]
fn a_refusal_names_field_value_and_reason_of_every_problem() {
    let condition = accepted(&[problem("spec.a", "10.0.0.0/33"), problem("spec.b", "")]);
    let message =
        "spec.a: is no block of addresses (`10.0.0.0/33`); spec.b: is no block of addresses";
    let (truth, reason) = (Truth::False, "Refused");
    let wanted = Condition { kind: "Accepted", truth, reason, message: message.to_owned() };
    assert_eq!(condition, wanted);
}

#[test]
fn a_text_is_bounded_and_says_how_much_is_left_out() {
    let many: Vec<_> = (0..500).map(|i| problem(&format!("spec.rules[{i}]"), "x")).collect();
    let text = told(&many, 1024);
    assert!(text.len() <= 1024, "{}", text.len());
    let shown = text.matches("spec.rules[").count();
    assert!(shown > 10, "{text}");
    assert!(text.ends_with(&format!("; and {} more", 500 - shown)), "{text}");
    let long = told(&[problem(&"é".repeat(2000), ""), problem("spec", "")], 1024);
    assert!(long.len() <= 1024 && long.ends_with("é; and 1 more"), "{long}");
}

#[test]
fn others_conditions_stay_what_and_where_they_are() {
    let ours = [accepted(&[])];
    let first = merged(&[others()], &ours, 3, at(0)).unwrap();
    let condition = json!({
        "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
        "observedGeneration": 3, "lastTransitionTime": "1970-01-01T00:00:00Z",
    });
    assert_eq!(first, [others(), condition.clone()]);
    let turned = [condition, others()];
    let second = merged(&turned, &[accepted(&[problem("a", "")])], 4, at(60)).unwrap();
    assert_eq!(second[0]["status"], "False");
    assert_eq!(second[0]["lastTransitionTime"], "1970-01-01T00:01:00Z");
    assert_eq!(second[1], others());
}

#[test]
fn what_is_said_already_is_not_said_again() {
    let ours = [accepted(&[])];
    let mut said = merged(&[others()], &ours, 3, at(0)).unwrap();
    assert_eq!(merged(&said, &ours, 3, at(60)), None);
    // As Istio's tools would give it back, and with what is empty left out.
    said[1]["observedGeneration"] = json!("3");
    said[1].as_object_mut().unwrap().remove("message");
    assert_eq!(merged(&said, &ours, 3, at(60)), None);
    // The same of another generation is news, and no transition.
    let again = merged(&said, &ours, 4, at(60)).unwrap();
    assert_eq!(again[1]["observedGeneration"], 4);
    assert_eq!(again[1]["lastTransitionTime"], "1970-01-01T00:00:00Z");
}
