use std::time::UNIX_EPOCH;

use weft_certs::{KeyPair, Role, Svid, verify};

use super::*;

const HOUR: Duration = Duration::from_hours(1);

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(490_896)
}

fn domain() -> TrustDomain {
    TrustDomain::default()
}

fn node(name: &str, seen: SystemTime, bundle: Option<&str>) -> Node {
    Node { name: name.to_owned(), seen, bundle: bundle.map(str::to_owned) }
}

fn whole(nodes: &[Node]) -> Census {
    Census { nodes: nodes.to_vec(), whole_from: UNIX_EPOCH }
}

/// A leaf as the CA would sign it in this stage.
fn leaf(roots: &Roots, at: SystemTime) -> Svid {
    let ca = roots.authority(&domain()).unwrap().issuing_ca(30 * 24 * HOUR, at).unwrap();
    let chain = ca.certificate + roots.cross();
    let bundle = roots.bundle().unwrap();
    let ca = Authority::issuing(&domain(), &chain, &ca.key, &bundle, at).unwrap();
    let identity = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let key = KeyPair::generate().unwrap();
    let chain = ca.issue(&key.request(&identity).unwrap(), &identity, 24 * HOUR, at).unwrap();
    Svid::from_pem(&identity, key, &chain, at).unwrap()
}

fn accept_each_other(one: &Svid, two: &Svid, at: SystemTime) {
    for (peer, own) in [(one, two), (two, one)] {
        verify(peer.chain(), own.bundle(), Role::Client, at).unwrap();
    }
}

#[test]
fn a_root_is_changed_without_a_moment_in_which_two_workloads_disagree() {
    let settled = Roots::first(&domain(), start()).unwrap();
    let preparing = settled.clone().prepared(&domain(), start()).unwrap();
    let active = start() + HOUR;
    let retiring = preparing.clone().activated(active);
    let over = active + LEAVES_GONE_AFTER;
    assert_eq!(retiring.clone().retired(over - HOUR), retiring, "too early");
    let renewed = retiring.clone().retired(over);
    assert_eq!(renewed.stage, Stage::Settled);
    assert_ne!(renewed.active, settled.active);

    let (old, both) = (leaf(&settled, start()), leaf(&preparing, start()));
    let new = leaf(&retiring, active);
    accept_each_other(&old, &both, active);
    accept_each_other(&both, &new, active);
    // Also one that was overlooked: it knows the old root only, and the old root vouches for the new one.
    accept_each_other(&old, &new, active);
    let last = leaf(&retiring, over - HOUR);
    accept_each_other(&last, &leaf(&renewed, over), over);
    verify(old.chain(), &renewed.bundle().unwrap(), Role::Client, active).unwrap_err();
}

#[test]
fn nothing_is_signed_by_a_new_root_before_every_node_has_it() {
    let roots = Roots::first(&domain(), start()).unwrap();
    let due = |roots: &Roots, nodes: &[Node], at| {
        let bundle = roots.bundle().unwrap().fingerprint();
        roots.due(Wish::None, &whole(nodes), &bundle, at)
    };
    assert_eq!(due(&roots, &[], start()), Due::Nothing);
    let before = roots.bundle().unwrap().fingerprint();
    assert_eq!(roots.due(Wish::Rotate, &whole(&[]), &before, start()), Due::Prepare);

    let roots = roots.prepared(&domain(), start()).unwrap();
    let both = roots.bundle().unwrap().fingerprint();
    assert_eq!(roots.due(Wish::Rotate, &whole(&[]), &both, start()), Due::Grant, "before all else");
    let told = node("told", start(), Some(&both));
    let late = node("late", start(), Some(&before));
    let stock = node("stock", start() + 24 * HOUR, None);
    let nodes = [told.clone(), late.clone(), stock.clone()];
    let waiting =
        |names: &[&str]| Due::Wait(Lacking::Nodes(names.iter().map(|n| (*n).to_owned()).collect()));
    assert_eq!(due(&roots, &nodes, start() + HOUR), waiting(&["late", "stock"]));
    assert_eq!(due(&roots, &[told.clone(), stock.clone()], start() + HOUR), waiting(&["stock"]));
    assert_eq!(due(&roots, &[told], start() + HOUR), Due::Activate);
    // It may have been given something for a day right before that was to be written, where that came late.
    let over = start() + 26 * HOUR;
    let late = || [late.clone()];
    assert_eq!(due(&roots, &late(), over - Duration::from_secs(1)), waiting(&["late"]));
    assert_eq!(due(&roots, &late(), over), Due::Activate, "it has nothing that could be refused");
    // A stock node never says what it has; its old certificates are over after a day.
    assert_eq!(due(&roots, &[stock], start() + LEAVES_GONE_AFTER), Due::Activate);

    let roots = roots.activated(start());
    assert_eq!(due(&roots, &[], start() + LEAVES_GONE_AFTER - HOUR), Due::Nothing);
    assert_eq!(due(&roots, &[], start() + LEAVES_GONE_AFTER), Due::Retire);
    let bundle = roots.bundle().unwrap().fingerprint();
    assert_eq!(
        roots.due(Wish::Rotate, &whole(&[]), &bundle, start()),
        Due::Nothing,
        "one at a time"
    );
    let settled = roots.retired(start() + LEAVES_GONE_AFTER);
    assert_eq!(
        settled.due(Wish::Rotate, &whole(&[]), &bundle, start()),
        Due::Prepare,
        "it was kept"
    );
}

#[test]
fn that_nobody_is_known_is_no_word_of_anybody() {
    let roots = Roots::first(&domain(), start()).unwrap().prepared(&domain(), start()).unwrap();
    let bundle = roots.bundle().unwrap().fingerprint();
    let until = start() + 24 * HOUR;
    let told = node("told", start(), Some(&bundle));
    let late = node("late", start(), None);
    let due = |nodes: &[Node], at| {
        let census = Census { nodes: nodes.to_vec(), whole_from: until };
        roots.due(Wish::None, &census, &bundle, at)
    };
    for nodes in [&[][..], std::slice::from_ref(&told)] {
        assert_eq!(due(nodes, start() + HOUR), Due::Wait(Lacking::Unheard { until }));
        assert_eq!(due(nodes, until), Due::Activate);
    }
    let named = Due::Wait(Lacking::Nodes(vec!["late".to_owned()]));
    assert_eq!(due(&[told, late], start() + HOUR), named, "who is known is named");
}
