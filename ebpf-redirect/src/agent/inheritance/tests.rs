use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{Inheritance, PATIENCE};
use crate::pod::PodUid;

fn pods(names: &[&str]) -> BTreeSet<PodUid> {
    names.iter().map(|name| PodUid::parse(name).unwrap()).collect()
}

fn nobody(_: &PodUid) -> bool {
    false
}

#[test]
fn all_is_known_when_the_source_has_told_all_and_every_pod_is_taken_up() {
    let now = Instant::now();
    let mut inheritance = Inheritance::Unknown;
    // An API server may be away for as long as it likes.
    assert_eq!(inheritance.settle(nobody, now + 1000 * PATIENCE), None);
    inheritance.expect(pods(&["u1", "u2"]), now);
    assert_eq!(inheritance.settle(|uid| uid.as_str() == "u1", now), None);
    assert_eq!(inheritance.settle(|uid| uid.as_str() == "u2", now), Some(pods(&[])));
    assert_eq!(inheritance.settle(nobody, now), None, "it is told once");
}

#[test]
fn a_pod_that_is_not_wanted_any_more_is_not_waited_for() {
    let now = Instant::now();
    let mut inheritance = Inheritance::Unknown;
    inheritance.expect(pods(&["u1"]), now);
    assert_eq!(inheritance.settle(nobody, now), None);
    inheritance.expect(pods(&[]), now);
    assert_eq!(inheritance.settle(nobody, now), Some(pods(&[])));
}

#[test]
fn a_pod_that_is_never_found_is_waited_for_and_not_for_ever() {
    let now = Instant::now();
    let mut inheritance = Inheritance::Unknown;
    inheritance.expect(pods(&["u1"]), now);
    // What happens meanwhile does not begin the time anew.
    inheritance.expect(pods(&["u1"]), now + PATIENCE / 2);
    assert_eq!(inheritance.settle(nobody, now + PATIENCE / 2), None);
    assert_eq!(inheritance.settle(nobody, now + PATIENCE), Some(pods(&["u1"])));
}
