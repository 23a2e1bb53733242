use std::collections::BTreeMap;

use super::*;

fn labels(all: &[(&str, &str)]) -> BTreeMap<String, String> {
    all.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn changed(before: &[(&str, &str)], direction: Direction, target: Option<&'static str>) -> String {
    let changes = changes(Some(&labels(before)), direction, target);
    let done = Done { object: "it".into(), dry_run: false, changes, notes: Vec::new() };
    let mut out = Vec::new();
    told(&done, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_label_is_changed_only_where_it_says_otherwise() {
    use Direction::{In, Out};
    let (istio, ours) = (ISTIO_LABEL, WEFT_LABEL);
    let nothing = "it: nothing to change\n".to_owned();
    let ambient = Some("ambient");
    for (before, direction, target, told) in [
        (&[][..], In, ambient, format!("it: label {istio}=ambient\n")),
        (&[(istio, "ambient")], In, ambient, nothing.clone()),
        (&[(ours, "enabled")], In, ambient, nothing.clone()),
        (&[(istio, "none")], In, ambient, format!("it: label {istio}=ambient, was none\n")),
        (
            &[(istio, "ambient"), (ours, "disabled")],
            In,
            ambient,
            format!("it: label {ours}=disabled removed\n"),
        ),
        (&[], Out, None, nothing.clone()),
        (&[(istio, "ambient")], Out, None, format!("it: label {istio}=ambient removed\n")),
        (&[(ours, "enabled")], Out, None, format!("it: label {ours}=enabled removed\n")),
        (&[(istio, "none")], Out, Some("none"), nothing.clone()),
        (&[], Out, Some("none"), format!("it: label {istio}=none\n")),
    ] {
        assert_eq!(changed(before, direction, target), told, "{before:?} {direction:?}");
    }
}

#[test]
fn what_was_changed_is_what_the_control_plane_reads() {
    let all: [&[(&str, &str)]; 6] = [
        &[],
        &[(ISTIO_LABEL, "ambient")],
        &[(ISTIO_LABEL, "none")],
        &[(WEFT_LABEL, "enabled")],
        &[(WEFT_LABEL, "disabled")],
        &[(ISTIO_LABEL, "ambient"), (WEFT_LABEL, "disabled")],
    ];
    for before in all {
        let goals =
            [(Direction::In, Some("ambient"), Wish::In), (Direction::Out, Some("none"), Wish::Out)];
        for (direction, target, goal) in goals {
            let mut after = labels(before);
            for change in changes(Some(&labels(before)), direction, target) {
                match change.after {
                    Some(value) => after.insert(change.label.to_owned(), value.to_owned()),
                    None => after.remove(change.label),
                };
            }
            assert_eq!(wish(Some(&after)), goal, "{before:?} {direction:?}");
        }
    }
}

#[test]
fn a_name_alone_is_a_namespace_and_with_one_it_is_a_pod_there() {
    let of = |object: &str, within: Option<&str>| {
        let asked = Enroll { object: object.to_owned(), dry_run: false };
        let target = Target::of(&asked, within).map_err(|error| error.to_string())?;
        Ok((target.namespace.to_owned(), target.pod.map(str::to_owned)))
    };
    let pod = Ok(("shop".to_owned(), Some("web".to_owned())));
    assert_eq!(of("shop", None), Ok(("shop".to_owned(), None)));
    assert_eq!(of("shop/web", None), pod);
    assert_eq!(of("web", Some("shop")), pod);
    assert_eq!(of("shop/web", Some("shop")), pod);
    let other = "shop/web is not in the namespace of -n other".to_owned();
    assert_eq!(of("shop/web", Some("other")), Err(other));
}
