use std::collections::BTreeSet;

use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use weft_model::enrollment::{Enrollment, Reason, Wish};

use super::{Announced, Announcement, Cluster, Facts, Place};
use crate::agent::kubernetes::objects::{Pod, facts};
use crate::agent::wanted::{Claim, Standing, Status};
use crate::cni::protocol::{Attachment, PodName};
use crate::pod::PodUid;

fn uid(name: &str) -> PodUid {
    PodUid::parse(name).unwrap()
}

fn object(uid: &str, name: &str, more: &Value) -> Value {
    let mut pod = json!({
        "metadata": { "namespace": "shop", "name": name, "uid": uid },
        "spec": { "serviceAccountName": "web" },
        "status": { "phase": "Running", "podIPs": [{ "ip": "10.1.0.5" }] },
    });
    for (section, fields) in more.as_object().unwrap() {
        for (field, value) in fields.as_object().unwrap() {
            pod[section][field] = value.clone();
        }
    }
    pod
}

fn pod(uid: &str, more: &Value) -> (PodUid, Facts) {
    let object: Pod = serde_json::from_value(object(uid, uid, more)).unwrap();
    facts(object).unwrap()
}

/// A cluster that has listed all: the namespace, and these pods.
fn cluster(namespace: Wish, pods: &[(PodUid, Facts)]) -> Cluster {
    let mut cluster = Cluster::new();
    list_namespaces(&mut cluster, namespace);
    list_pods(&mut cluster, pods);
    cluster
}

fn list_namespaces(cluster: &mut Cluster, shop: Wish) {
    cluster.namespace_event(Event::Init);
    cluster.namespace_event(Event::InitApply(("shop".into(), shop)));
    cluster.namespace_event(Event::InitDone);
}

fn list_pods(cluster: &mut Cluster, pods: &[(PodUid, Facts)]) {
    cluster.pod_event(Event::Init);
    for pod in pods {
        cluster.pod_event(Event::InitApply(pod.clone()));
    }
    cluster.pod_event(Event::InitDone);
}

fn place(container: &str) -> Place {
    Place {
        container: Some(container.to_owned()),
        netns: format!("/run/netns/{container}").into(),
        addresses: vec!["10.1.0.5".parse().unwrap()],
    }
}

/// Who is to be captured now, and who as soon as it is found.
fn wanted(cluster: &Cluster) -> (Vec<String>, Vec<String>) {
    let wanted = cluster.wanted();
    let names = |uids: &BTreeSet<PodUid>| uids.iter().map(ToString::to_string).collect();
    (names(&wanted.pods.keys().cloned().collect()), names(&wanted.elsewhere))
}

fn both(placed: &[&str], elsewhere: &[&str]) -> (Vec<String>, Vec<String>) {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    (owned(placed), owned(elsewhere))
}

fn due(cluster: &Cluster) -> Vec<(String, Announced)> {
    let of = |due: Announcement| (due.uid.to_string(), due.announced);
    cluster.announcements().into_iter().map(of).collect()
}

#[test]
fn what_the_labels_say_is_wanted_and_nothing_else() {
    let label = |key: &str, value: &str| json!({ "metadata": { "labels": { key: value } } });
    let table = [
        (Wish::In, json!({}), true),
        (Wish::Unsaid, json!({}), false),
        (Wish::Out, json!({}), false),
        (Wish::In, label("istio.io/dataplane-mode", "none"), false),
        (Wish::In, label("weft.mesh/dataplane-mode", "disabled"), false),
        (Wish::Unsaid, label("istio.io/dataplane-mode", "ambient"), true),
        (Wish::Out, label("weft.mesh/dataplane-mode", "enabled"), true),
        (Wish::In, json!({ "spec": { "hostNetwork": true } }), false),
        (Wish::In, json!({ "status": { "phase": "Succeeded" } }), false),
        (Wish::In, json!({ "status": { "phase": "Failed" } }), false),
        (Wish::In, json!({ "status": { "phase": "Pending" } }), true),
    ];
    for (namespace, more, expected) in table {
        let mut cluster = cluster(namespace, &[pod("u1", &more)]);
        let found: &[&str] = if expected { &["u1"] } else { &[] };
        assert_eq!(wanted(&cluster), both(&[], found), "{namespace:?} {more}");
        cluster.attach(&uid("u1"), place("c1"));
        assert_eq!(wanted(&cluster), both(found, &[]), "{namespace:?} {more}");
    }
}

#[test]
fn a_label_that_is_removed_and_added_again_counts_each_time() {
    let mut cluster = cluster(Wish::In, &[pod("u1", &json!({}))]);
    cluster.attach(&uid("u1"), place("c1"));
    for (wish, expected) in [(Wish::Unsaid, &[][..]), (Wish::In, &["u1"]), (Wish::Out, &[])] {
        cluster.namespace_event(Event::Apply(("shop".into(), wish)));
        assert_eq!(wanted(&cluster), both(expected, &[]), "{wish:?}");
    }
}

#[test]
fn before_all_is_listed_nobody_is_unwanted() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.wanted().standing, Standing::Partial);
    list_pods(&mut cluster, &[pod("u1", &json!({}))]);
    // Its namespace would decide, and is not known: what an earlier agent left of it must stay.
    assert_eq!(cluster.wanted().standing, Standing::Partial);
    assert_eq!(wanted(&cluster), both(&[], &["u1"]));
    list_namespaces(&mut cluster, Wish::Unsaid);
    assert_eq!(cluster.wanted().standing, Standing::Whole);
    assert_eq!(wanted(&cluster), both(&[], &[]));
}

#[test]
fn a_pod_that_is_not_listed_is_not_known_to_be_out() {
    let out = json!({ "metadata": { "labels": { "istio.io/dataplane-mode": "none" } } });
    let pods = [pod("in", &json!({})), pod("out", &out), pod("down", &json!({}))];
    let mut cluster = cluster(Wish::In, &pods);
    cluster.attach(&uid("down"), place("c1"));
    let name = PodName { namespace: "shop".into(), name: "down".into(), uid: Some("down".into()) };
    let gone = Attachment { container: "c1".into(), netns: None, addresses: Vec::new() };
    cluster.detach(&name, &gone);
    let claim = |pod: &str| cluster.wanted().claim(&uid(pod));
    let claims = ["in", "out", "down", "deleted"].map(claim);
    assert_eq!(claims, [Claim::Wanted, Claim::Out, Claim::Out, Claim::Unknown]);
}

#[test]
fn a_new_list_forgets_what_is_gone_and_an_interrupted_one_nothing() {
    let (one, two) = (pod("u1", &json!({})), pod("u2", &json!({})));
    let mut cluster = cluster(Wish::In, &[one.clone(), two.clone()]);
    cluster.pod_event(Event::Init);
    cluster.pod_event(Event::InitApply(two.clone()));
    assert_eq!(wanted(&cluster), both(&[], &["u1", "u2"]));
    list_pods(&mut cluster, &[two]);
    assert_eq!(wanted(&cluster), both(&[], &["u2"]));
    assert_eq!(cluster.wanted().standing, Standing::Whole);
}

#[test]
fn a_pod_that_was_asked_for_outlives_a_list_that_began_before_it() {
    let (new, facts) = pod("u1", &json!({}));
    let mut cluster = cluster(Wish::In, &[]);
    cluster.pod_event(Event::Init);
    cluster.learn_pod(&new, &facts);
    cluster.attach(&new, place("c1"));
    assert_eq!(wanted(&cluster), both(&["u1"], &[]));
    cluster.pod_event(Event::InitDone);
    assert_eq!(wanted(&cluster), both(&["u1"], &[]));
    // What the watch says later is newer than what was asked for.
    cluster.pod_event(Event::Apply(pod("u1", &json!({ "status": { "phase": "Failed" } }))));
    cluster.learn_pod(&new, &facts);
    assert_eq!(wanted(&cluster), both(&[], &[]));
}

#[test]
fn a_pod_deleted_by_force_stays_captured_as_long_as_its_sandbox_is_there() {
    let name = PodName { namespace: "shop".into(), name: "u1".into(), uid: Some("u1".into()) };
    for last in ["the runtime took it down", "its namespace is gone"] {
        let one = pod("u1", &json!({}));
        let mut cluster = cluster(Wish::In, std::slice::from_ref(&one));
        cluster.attach(&one.0, place("c1"));
        cluster.pod_event(Event::Delete(one.clone()));
        assert_eq!(wanted(&cluster), both(&["u1"], &[]));
        // Nobody means it any more, and nothing is said of it.
        assert_eq!(cluster.find(&name), None);
        cluster.say(&one.0, Status::Ready { error: None });
        assert_eq!(due(&cluster), []);
        if last == "its namespace is gone" {
            cluster.misplaced(&one.0);
        } else {
            let gone = Attachment { container: "c1".into(), netns: None, addresses: Vec::new() };
            assert_eq!(cluster.detach(&name, &gone), Some(one.0.clone()));
        }
        assert_eq!(wanted(&cluster), both(&[], &[]), "{last}");
    }
}

#[test]
fn only_the_sandbox_that_is_there_is_taken_down() {
    let one = pod("u1", &json!({}));
    let mut cluster = cluster(Wish::In, std::slice::from_ref(&one));
    let name = PodName { namespace: "shop".into(), name: "u1".into(), uid: Some("u1".into()) };
    let gone = |container: &str| Attachment {
        container: container.into(),
        netns: Some("/run/netns/c1".into()),
        addresses: Vec::new(),
    };
    cluster.attach(&one.0, place("c2"));
    // A runtime cleans up after a sandbox that was replaced.
    assert_eq!(cluster.detach(&name, &gone("c1")), None);
    assert_eq!(wanted(&cluster), both(&["u1"], &[]));
    assert_eq!(cluster.detach(&name, &gone("c2")), Some(one.0.clone()));
    // Until there is another one, nothing is looked for.
    assert_eq!((wanted(&cluster), cluster.unplaced()), (both(&[], &[]), Vec::new()));
    cluster.attach(&one.0, place("c3"));
    assert_eq!(wanted(&cluster), both(&["u1"], &[]));
    // Found by its process, it has no sandbox's name: the namespace tells.
    cluster.attach(&one.0, Place { container: None, ..place("c1") });
    assert_eq!(cluster.detach(&name, &gone("c9")), Some(one.0));
}

#[test]
fn a_runtime_s_pod_is_known_by_name_and_uid() {
    let config = json!({ "metadata": { "annotations": { "kubernetes.io/config.hash": "h1" } } });
    let cluster = cluster(Wish::In, &[pod("u1", &json!({})), pod("u2", &config)]);
    let named = |name: &str, uid: Option<&str>| {
        let uid = uid.map(str::to_owned);
        let name = PodName { namespace: "shop".into(), name: name.into(), uid };
        cluster.find(&name).map(|(uid, _)| uid.to_string())
    };
    assert_eq!(named("u1", Some("u1")).as_deref(), Some("u1"));
    assert_eq!(named("u1", None).as_deref(), Some("u1"));
    // Another pod of the name, which the watch has not brought yet.
    assert_eq!(named("u1", Some("u9")), None);
    assert_eq!(named("u9", None), None);
    // Of a pod from a kubelet's folder, the runtime knows the folder's UID.
    assert_eq!(named("u2", Some("h1")).as_deref(), Some("u2"));
}

/// The namespace, more of the pod, what became of it, and what is due.
type Row<'a> = (Wish, &'a Value, Option<Status>, &'a [(String, Announced)]);

#[test]
fn a_pod_is_announced_when_a_proxy_has_it_and_until_it_is_let_go() {
    let said =
        json!({ "metadata": { "annotations": { "ambient.istio.io/redirection": "enabled" } } });
    let none = || None;
    let ready = || Some(Status::Ready { error: None });
    let captured = || Some(Status::Captured { error: None });
    let failed = || Some(Status::Failed { error: Some("full".into()) });
    let kept = || Some(Status::Kept { error: Some("full".into()) });
    let draining = || Some(Status::Draining { error: None });
    let yes = [("u1".to_owned(), Announced::Yes)];
    let no = [("u1".to_owned(), Announced::No)];
    let nothing: [(String, Announced); 0] = [];
    let table: [Row<'_>; 14] = [
        (Wish::In, &json!({}), none(), &nothing),
        (Wish::In, &json!({}), captured(), &nothing),
        (Wish::In, &json!({}), ready(), &yes),
        (Wish::In, &said, ready(), &nothing),
        // Its proxy restarts, or its agent: callers wait.
        (Wish::In, &said, captured(), &nothing),
        (Wish::In, &said, none(), &nothing),
        (Wish::In, &said, failed(), &no),
        // A change of it failed: it is captured as it was.
        (Wish::In, &said, kept(), &nothing),
        (Wish::In, &json!({}), kept(), &nothing),
        // Let go: not before the keeper did.
        (Wish::Unsaid, &said, ready(), &nothing),
        (Wish::Unsaid, &said, draining(), &no),
        (Wish::Unsaid, &said, none(), &no),
        (Wish::Unsaid, &json!({}), none(), &nothing),
        (Wish::In, &json!({ "status": { "phase": "Failed" } }), none(), &nothing),
    ];
    for (namespace, more, state, expected) in table {
        let mut cluster = cluster(namespace, &[pod("u1", more)]);
        let what = format!("{namespace:?} {more} {state:?}");
        if let Some(state) = state {
            cluster.say(&uid("u1"), state);
        }
        assert_eq!(due(&cluster), expected, "{what}");
        for done in cluster.announcements() {
            cluster.announced(&done);
        }
        assert_eq!(due(&cluster), nothing, "{what}");
    }
}

#[test]
fn trouble_lasts_until_the_pod_is_captured_or_need_not_be() {
    let trouble = |cluster: &Cluster| -> Vec<String> {
        cluster.troubles().into_iter().map(|(_, _, trouble)| trouble).collect()
    };
    let one = pod("u1", &json!({}));
    let mut cluster = cluster(Wish::In, std::slice::from_ref(&one));
    cluster.not_found(&one.0, "nowhere".into());
    assert_eq!(trouble(&cluster), ["nowhere"]);
    cluster.say(&one.0, Status::Failed { error: Some("full".into()) });
    // The keeper forgets a pod whose namespace was not its own; it is still not captured.
    cluster.forget(&one.0);
    assert_eq!(trouble(&cluster), ["full"]);
    cluster.say(&one.0, Status::Captured { error: None });
    assert_eq!(trouble(&cluster), [""; 0]);
    cluster.not_found(&one.0, "nowhere".into());
    cluster.namespace_event(Event::Apply(("shop".into(), Wish::Unsaid)));
    assert_eq!(trouble(&cluster), [""; 0]);
}

#[test]
fn a_pod_without_an_address_is_not_looked_for_yet() {
    let without = pod("u1", &json!({ "status": { "podIPs": [] } }));
    let mut cluster = cluster(Wish::In, &[without]);
    assert_eq!(cluster.unplaced(), []);
    let with = pod("u1", &json!({}));
    cluster.pod_event(Event::Apply(with.clone()));
    assert_eq!(cluster.unplaced(), [with]);
}

#[test]
fn why_a_pod_stays_out_is_told_in_words() {
    let (_, host) = pod("u1", &json!({ "spec": { "hostNetwork": true } }));
    let cluster = cluster(Wish::In, &[]);
    assert_eq!(cluster.decide(&host), Some(Enrollment::Out(Reason::HostNetwork)));
    assert_eq!(Reason::HostNetwork.to_string(), "it is on the host's network");
}

#[test]
fn a_condition_says_why_until_the_pod_is_captured_or_need_not_be() {
    let said = json!({ "status": { "conditions": [
        { "type": "Ready", "status": "False", "message": "not yet" },
        { "type": "weft.mesh/Enrolled", "status": "False", "message": "full" },
    ] } });
    let full = || Some("full".to_owned());
    let trouble = |text: &str| Some(Status::Failed { error: Some(text.to_owned()) });
    let kept = |text: &str| Some(Status::Kept { error: Some(text.to_owned()) });
    let captured = || Some(Status::Captured { error: None });
    let table = [
        (Wish::In, &json!({}), None, vec![]),
        (Wish::In, &json!({}), captured(), vec![]),
        (Wish::In, &json!({}), trouble("full"), vec![full()]),
        (Wish::In, &said, trouble("full"), vec![]),
        (Wish::In, &said, trouble("fuller"), vec![Some("fuller".to_owned())]),
        (Wish::In, &said, captured(), vec![None]),
        (Wish::In, &json!({}), kept("full"), vec![full()]),
        // The agent has just started, and knows nothing better.
        (Wish::In, &said, None, vec![]),
        (Wish::Unsaid, &said, None, vec![None]),
    ];
    for (namespace, more, state, expected) in table {
        let mut cluster = cluster(namespace, &[pod("u1", more)]);
        let what = format!("{namespace:?} {more} {state:?}");
        if let Some(state) = state {
            cluster.say(&uid("u1"), state);
        }
        let due = cluster.complaints();
        let troubles: Vec<_> = due.iter().map(|due| due.trouble.clone()).collect();
        assert_eq!(troubles, expected, "{what}");
        for done in &due {
            cluster.complained(done);
        }
        assert_eq!(cluster.complaints(), [], "{what}");
    }
}
