use weft_certs::Authority;
use weft_model::TrustDomain;

use super::{super::rotation::Node, *};

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(490_896)
}

fn root() -> (Bundle, String) {
    let root = Authority::new(&TrustDomain::default(), start()).unwrap();
    (root.bundle().clone(), root.bundle().fingerprint())
}

fn census(said: &[&Bundle]) -> Census {
    let bundle = |roots: &&Bundle| Some(roots.fingerprint());
    let node = |roots| Node { name: "a".to_owned(), seen: start(), bundle: bundle(roots) };
    Census { nodes: said.iter().map(node).collect(), whole_from: UNIX_EPOCH }
}

/// As it is written and read again.
fn stored(published: &Published) -> Published {
    let mut map = ConfigMap::default();
    assert_eq!(published.put(&mut map), News::Some);
    assert_eq!(published.put(&mut map), News::None);
    Published::of(&map).unwrap().unwrap()
}

#[test]
fn a_ca_of_others_follows_another_in_three_steps_and_no_other_way() {
    let ((old, by_old), (new, by_new)) = (root(), root());
    let both = old.with(&new).unwrap();
    let (by_old, by_new) = (&[by_old][..], &[by_new][..]);
    let after = start() + Duration::from_hours(1);
    let first = stored(&Published::after(None, &old, by_old, start()));
    let may = |before: &Published, roots: &Bundle, by: &[String], said: &[&Bundle], at| {
        before.may_be_followed_by(roots, by, &census(said), at)
    };
    let dropped = Err(NotYet::Dropped { root: by_old[0].clone() });

    assert_eq!(may(&first, &old, by_old, &[&old], after), Ok(()), "another CA under the same root");
    assert_eq!(may(&first, &new, by_new, &[&new], after), Err(NotYet::Unknown));
    assert_eq!(
        may(&first, &both, by_new, &[&both], after),
        Err(NotYet::Unknown),
        "two steps at once"
    );
    assert_eq!(may(&first, &both, by_old, &[&old], after), Ok(()), "the first step");

    let second = stored(&Published::after(Some(&first), &both, by_old, after));
    let nodes = Err(NotYet::Nodes { nodes: "a".to_owned() });
    assert_eq!(may(&second, &both, by_new, &[&old], after), nodes, "not every node has both");
    assert_eq!(may(&second, &new, by_new, &[&both], after), dropped, "two steps at once");
    assert_eq!(may(&second, &both, by_new, &[&both], after), Ok(()), "the second step");

    let third = stored(&Published::after(Some(&second), &both, by_new, after));
    assert_eq!(may(&third, &new, by_new, &[&both], after), dropped, "its leaves are still good");
    let over = after + LEAVES_GONE_AFTER;
    assert_eq!(may(&third, &new, by_new, &[&both], over), Ok(()), "the third step");
    let last = stored(&Published::after(Some(&third), &new, by_new, over));
    assert_eq!((last.roots, last.since, last.signed_since), (new, over, after));
}
