use super::*;

fn said(page: Value) -> String {
    let status = Status {
        roots: Vec::new(),
        asked: None,
        tended_by: Some("weft-control-0".to_owned()),
        control_plane: page,
        unheard: None,
    };
    let mut out = Vec::new();
    told(&status, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn what_a_change_of_roots_waits_for_is_said() {
    let page = json!({
        "source": "own", "stage": {"name": "announced"},
        "waiting": ["node-1", "node-2"], "waitingUntil": 1_800_000_000,
    });
    assert_eq!(
        said(page),
        "tended by weft-control-0\n\
         kept by own, stage announced\n\
         waits for nodes to trust the new root: node-1, node-2\n\
         waits until 2027-01-15T08:00:00Z for nodes that were never heard\n"
    );
    let settled = json!({"source": "own", "stage": {"name": "settled"}, "waiting": []});
    assert_eq!(said(settled), "tended by weft-control-0\nkept by own, stage settled\n");
}

#[test]
fn what_fails_of_the_cas_care_is_said() {
    let page = json!({
        "source": "own", "stage": {"name": "settled"},
        "failing": {"share": "cannot write weft.mesh:ca:weft-system"},
    });
    assert_eq!(
        said(page),
        "tended by weft-control-0\n\
         the replica that was asked fails to share: cannot write weft.mesh:ca:weft-system\n\
         kept by own, stage settled\n"
    );
}
