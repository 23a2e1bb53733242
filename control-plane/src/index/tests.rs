use weft_model::{Change, ResourceKey};

use super::*;
use crate::{
    compile::tests::{compiled, mesh, objects},
    objects::Kind,
};

mod random;

impl Index {
    /// Takes an object and marks nothing, as if an arrow were missing in `dirty.rs`.
    pub(crate) fn put_unmarked(&mut self, object: &Object) {
        if let Some(old) = self.store.object(&object.key()) {
            self.store.remove(&old);
        }
        self.store.insert(object);
    }
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {nodeName: a, serviceAccountName: web}
status: {podIP: 10.0.0.1}
---
";

#[test]
fn applying_the_same_again_changes_nothing() {
    let mut index = compiled(POD).0;
    for object in &objects(POD) {
        index.apply(object);
    }
    assert_eq!(index.flush(), []);
}

#[test]
fn policies_come_before_what_they_guard_and_go_after_it() {
    let policy = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: shop}\nspec: {mtls: {mode: STRICT}}";
    let mut index = Index::new(mesh());
    for object in &objects(&format!("{POD}{policy}")) {
        index.apply(object);
    }
    assert!(matches!(index.flush()[..], [Change::Policy(_), Change::Workload(_)]));
    for kind in [Kind::PeerAuthentication, Kind::Pod] {
        let key = objects(&format!("{POD}{policy}"))
            .iter()
            .map(Object::key)
            .find(|key| key.kind == kind)
            .unwrap();
        index.delete(&key);
    }
    assert!(matches!(
        index.flush()[..],
        [Change::Remove(ResourceKey::Workload(_)), Change::Remove(ResourceKey::Policy(_))]
    ));
}

#[test]
fn a_node_may_have_the_identities_of_enrolled_pods_that_run_on_it() {
    let entitled = |yaml: &str, node: &str, identity: &str| {
        let expires = std::time::SystemTime::UNIX_EPOCH;
        let caller = Caller { node: node.into(), uid: None, expires };
        compiled(yaml).0.entitled(&caller, &identity.parse().unwrap(), &[]).is_ok()
    };
    let web = "spiffe://prod.example/ns/shop/sa/web";
    assert!(entitled(POD, "a", web));
    assert!(!entitled(POD, "b", web), "another node");
    assert!(!entitled(POD, "a", "spiffe://prod.example/ns/shop/sa/db"), "another account");
    assert!(!entitled(POD, "a", "spiffe://prod.example/ns/bank/sa/web"), "another namespace");
    assert!(!entitled(POD, "a", "spiffe://cluster.local/ns/shop/sa/web"), "another trust domain");
    let with = |from: &str, to: &str| entitled(&POD.replace(from, to), "a", web);
    assert!(!with("{podIP", "{phase: Succeeded, podIP"), "finished");
    assert!(!with(": enabled", ": disabled"), "not enrolled");
    assert!(!with("{nodeName: a", "{hostNetwork: true, nodeName: a"), "on the host's network");
    assert!(with("status: {podIP: 10.0.0.1}", ""), "before it has an address");
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}\n---";
    let plain = POD.replace(": enabled", ": disabled");
    assert!(entitled(&format!("{plain}{namespace}"), "a", web), "by its namespace");
    let out = plain.replace("{app: web}", "{istio.io/dataplane-mode: none}");
    assert!(!entitled(&format!("{out}{namespace}"), "a", web), "though its namespace");
}

#[test]
fn a_node_is_there_by_its_uid_alone_and_none_is_while_none_is_known() {
    let is_there = |yaml: &str, uid: Option<&str>| {
        let (node, uid) = ("a".into(), uid.map(Into::into));
        let caller = Caller { node, uid, expires: std::time::SystemTime::UNIX_EPOCH };
        let index = compiled(yaml).0;
        let own = index.is_there(&caller);
        let web = "spiffe://prod.example/ns/shop/sa/web".parse().unwrap();
        assert_eq!(index.entitled(&caller, &web, &[]), own, "nor has it its pods' identities");
        own
    };
    let of =
        |uid: &str| format!("{POD}apiVersion: v1\nkind: Node\nmetadata: {{name: a, uid: {uid}}}");
    let gone = Err(NotEntitled::OtherNode { node: "a".to_owned(), uid: "n-1".to_owned() });
    assert_eq!(is_there(&of("n-1"), Some("n-1")), Ok(()));
    assert_eq!(is_there(&of("n-2"), Some("n-1")), gone, "made again");
    assert_eq!(is_there(&of("n-1").replace("name: a", "name: b"), Some("n-1")), gone, "deleted");
    assert_eq!(is_there(POD, Some("n-1")), gone, "the last one is deleted");
    assert_eq!(is_there(&of("n-1"), None), Ok(()), "named by a token of ours");
}

#[test]
fn a_service_that_comes_after_its_slice_draws_in_the_pods_that_the_slice_names() {
    let slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: e, namespace: shop, labels: {kubernetes.io/service-name: web}}
ports: [{port: 90}]
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web}}]
";
    let service = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.1.0.1, ports: [{port: 80}]}
";
    let mut index = compiled(&format!("{POD}{slice}")).0;
    index.apply(&objects(service)[0]);
    let changes = index.flush();
    let endpoint = changes.iter().find_map(|change| match change {
        Change::Workload(pod) => pod.services.values().next().cloned(),
        _ => None,
    });
    assert_eq!(endpoint, Some([(80, 90)].into()), "{changes:?}");
}
