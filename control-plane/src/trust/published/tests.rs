use weft_certs::Authority;
use weft_model::TrustDomain;

use super::{super::rotation::Node, *};

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(490_896)
}

fn root() -> (Bundle, BTreeSet<String>) {
    let root = Authority::new(&TrustDomain::default(), start()).unwrap();
    (root.bundle().clone(), root.bundle().names())
}

fn together(one: &Bundle, other: &Bundle) -> Bundle {
    Bundle::from_pem(&(one.to_pem() + &other.to_pem())).unwrap()
}

fn census(said: &[&Bundle], seen: SystemTime) -> Census {
    let bundle = |roots: &&Bundle| Some(roots.fingerprint());
    let node = |roots| Node { name: "a".to_owned(), seen, bundle: bundle(roots) };
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
    let both = together(&old, &new);
    let (by_old, by_new) = (&by_old, &by_new);
    let after = start() + Duration::from_hours(1);
    let first = stored(&Published::after(None, &old, by_old, start()));
    let may = |before: &Published, roots: &Bundle, by: &BTreeSet<String>, said: &[&Bundle], at| {
        before.may_be_followed_by(roots, by, &census(said, start()), at)
    };
    let dropped = Err(NotYet::Dropped { root: joined(by_old) });

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
    let signed = vec![Signed { by: by_new.clone(), since: after }];
    assert_eq!(last, Published { roots: new, since: over, signed });
}

#[test]
fn a_ca_that_is_also_accepted_under_the_old_root_is_changed_to_its_end_too() {
    let ((old, by_old), (new, by_new)) = (root(), root());
    let both = together(&old, &new);
    let by_both = &by_old | &by_new;
    let may = |before: &Published, roots: &Bundle, by: &BTreeSet<String>, said: &Bundle, at| {
        before.may_be_followed_by(roots, by, &census(&[said], at), at)
    };
    let hours = |hours| start() + Duration::from_hours(hours);
    let first = stored(&Published::after(None, &old, &by_old, start()));
    // The old root vouches for the new one: no node has to have that.
    assert_eq!(may(&first, &both, &by_both, &old, hours(30)), Ok(()));
    let second = stored(&Published::after(Some(&first), &both, &by_both, hours(30)));
    let third = |said, at| may(&second, &new, &by_both, said, at);
    let dropped = Err(NotYet::Dropped { root: joined(&by_old) });
    assert_eq!(third(&both, hours(54)), dropped, "what was signed before it is still good");
    let nodes = Err(NotYet::Nodes { nodes: "a".to_owned() });
    assert_eq!(third(&old, hours(55)), nodes, "a node that knows the old root only");
    assert_eq!(third(&both, hours(55)), Ok(()));
    let last = stored(&Published::after(Some(&second), &new, &by_both, hours(55)));
    let now = census(&[], start());
    assert_eq!(last.may_be_followed_by(&new, &by_new, &now, hours(55)), Ok(()), "the same CA");
    assert_eq!(last.signed.last().unwrap().by, by_new);
    // Or the other way: first a CA without the old root's word, then the old root goes.
    assert_eq!(may(&second, &both, &by_new, &old, hours(31)), nodes);
    assert_eq!(may(&second, &both, &by_new, &both, hours(31)), Ok(()));
}

#[test]
fn a_root_that_is_made_anew_over_its_key_is_no_other_root() {
    let key = rcgen::KeyPair::generate().unwrap();
    let made = |until| {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        Bundle::from_pem(&params.self_signed(&key).unwrap().pem()).unwrap()
    };
    let (old, renewed) = (made(2030), made(2040));
    assert_ne!(old, renewed);
    let first = stored(&Published::after(None, &old, &old.names(), start()));
    let may = |roots: &Bundle, by: &Bundle| {
        first.may_be_followed_by(roots, &by.names(), &census(&[&old], start()), start())
    };
    assert_eq!(may(&renewed, &renewed), Ok(()));
    assert_eq!(may(&together(&old, &renewed), &renewed), Ok(()));
    // Its name or its key alone make it none.
    assert_eq!(may(&root().0, &renewed), Err(NotYet::Dropped { root: joined(&old.names()) }));
    let mut other = rcgen::CertificateParams::default();
    other.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let stranger =
        Bundle::from_pem(&other.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem());
    assert_eq!(may(&renewed, &stranger.unwrap()), Err(NotYet::Unknown), "another key");
    other.distinguished_name.push(rcgen::DnType::CommonName, "another");
    let renamed = Bundle::from_pem(&other.self_signed(&key).unwrap().pem()).unwrap();
    assert_eq!(may(&renewed, &renamed), Err(NotYet::Unknown), "another name");
}
