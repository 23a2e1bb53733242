use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::status::condition::{Reached, accepted, merged, programmed};

#[test]
fn only_what_is_said_of_the_newest_form_of_an_object_counts() {
    let accepted = |status: &str, generation: &Value| {
        vec![
            json!({"type": "Ready", "status": "False"}),
            json!({"type": ACCEPTED, "status": status, "message": "no",
                "observedGeneration": generation}),
        ]
    };
    let unknown = Said::OnItsWay("nobody has said how far the nodes are".to_owned());
    assert_eq!(said(&accepted("True", &json!(2)), Some(2)), unknown);
    assert_eq!(said(&accepted("True", &json!("2")), Some(2)), unknown);
    assert_eq!(said(&accepted("False", &json!(2)), Some(2)), Said::Refused("no".to_owned()));
    assert_eq!(said(&accepted("True", &json!(2)), Some(3)), Said::Nothing);
    assert_eq!(said(&[], Some(1)), Said::Nothing);
}

#[test]
fn what_is_written_of_an_object_is_read_as_it_was_meant() {
    let of = |nodes, applied, refused: Option<&str>| {
        let reached = Reached { nodes, applied, refused: refused.map(str::to_owned) };
        let ours = [accepted(&[]), programmed(&reached)];
        said(&merged(&[], &ours, 4, Timestamp::UNIX_EPOCH).unwrap(), Some(4))
    };
    assert_eq!(of(2, 2, None), Said::InForce);
    assert_eq!(of(2, 1, None), Said::OnItsWay("1/2 nodes".to_owned()));
    assert_eq!(of(0, 0, None), Said::OnItsWay("no node is connected".to_owned()));
    assert_eq!(of(2, 1, Some("a: no")), Said::Refused("1/2 nodes; a: no".to_owned()));
}
