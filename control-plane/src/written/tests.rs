use serde_json::json;

use super::*;
use crate::objects::{Kind, Name};

fn key() -> ObjectKey {
    ObjectKey { kind: Kind::AuthorizationPolicy, name: Name::new("shop", "deny") }
}

fn read(version: &str, annotations: &Value, labels: &Value) -> Written {
    let object = json!({
        "apiVersion": "security.istio.io/v1",
        "metadata": {
            "uid": "u", "generation": 1, "resourceVersion": version,
            "annotations": annotations, "labels": labels,
        },
    });
    Written::read("authorizationpolicies", &object).unwrap()
}

#[tokio::test(start_paused = true)]
async fn another_label_or_annotation_is_another_state_though_the_generation_stays() {
    let (board, now) = (Board::default(), crate::clock::instant());
    let (dry, app) = (json!({"istio.io/dry-run": "true"}), json!({"app": "web"}));
    let none = json!({});
    board.put(key(), read("1", &none, &none));
    board.published(7, now);
    let since = |board: &Board| board.served(&key()).map(|served| (served.since, served.reach));
    assert_eq!(since(&board), Some((7, Reach::AsSaid)));

    // What others put there, and statuses, mean nothing.
    let applied = json!({"kubectl.kubernetes.io/last-applied-configuration": "{}"});
    board.put(key(), read("2", &applied, &none));
    assert_eq!(since(&board), Some((7, Reach::AsSaid)));

    for (version, annotations, labels) in [("3", &dry, &none), ("4", &dry, &app)] {
        board.put(key(), read(version, annotations, labels));
        assert_eq!(since(&board), None, "it is not compiled yet");
        board.published(9, now);
        assert_eq!(since(&board), Some((9, Reach::InDoubt)));
    }
    // In doubt until it is said of this very state.
    board.has_reached_all(&key(), &read("3", &dry, &none));
    assert_eq!(since(&board), Some((9, Reach::InDoubt)));
    board.has_reached_all(&key(), &read("4", &dry, &app));
    assert_eq!(since(&board), Some((9, Reach::AsSaid)));
}

#[test]
fn marks_are_the_same_whatever_their_order() {
    let (a, b) = (json!({"a": "1", "b": "2"}), json!({"b": "2", "a": "1"}));
    assert_eq!(read("1", &json!({}), &a).marks, read("1", &json!({}), &b).marks);
    assert_ne!(read("1", &json!({}), &a).marks, read("1", &json!({}), &json!({"a": "1"})).marks);
}
