use weft_model::{TrustDomain, View, dump::Dump};

use super::*;
use crate::{compile::Mesh, dir::Folder, index::Index};

/// With all that could be written in one order and read in another.
const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata:
  {name: web, namespace: shop, uid: u, labels: {app: web}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {nodeName: a, serviceAccountName: web, containers: [{name: a, ports: [{name: https, containerPort: 8443}]}]}
status:
  {phase: Running, podIP: fd00::1, podIPs: [{ip: fd00::1}, {ip: 10.0.0.1}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: fd01::1
  clusterIPs: [fd01::1, 10.1.0.1]
  selector: {app: web}
  ports: [{name: https, port: 443, targetPort: https}, {name: http, port: 80, targetPort: 8080, appProtocol: http}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: far, namespace: shop}
spec:
  hosts: [b.example.com, a.example.com]
  resolution: STATIC
  ports: [{number: 9000, name: tcp-b}, {number: 8000, name: tcp-a, targetPort: 8001}]
  endpoints: [{address: 192.0.2.1, weight: 3, locality: r/z/s}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: shop}
spec:
  action: DENY
  selector: {matchLabels: {app: web}}
  rules: [{from: [{source: {namespaces: [zoo, '*-test'], notPrincipals: ['*/sa/good']}}], to: [{operation: {ports: ['443', '80']}}]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {80: {mode: PERMISSIVE}}}
";

#[test]
fn a_proxys_dump_says_by_which_versions_it_holds_what_is_served() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("all.yaml"), OBJECTS).unwrap();
    assert_eq!(crate::validate(dir.path()), Vec::new());
    let mut index = Index::new(Mesh::new("Kubernetes", TrustDomain::default()));
    let read = Folder::new(dir.path()).read().unwrap();
    read.apply.iter().for_each(|object| index.apply(object));
    let changes = index.flush();
    let mut resources = Resources::default();
    for encoded in changes.iter().filter_map(encode) {
        resources.put(encoded);
    }
    let served = Config::of(&resources);
    assert!(served.addresses.len() >= 5 && served.authorizations.len() >= 2, "{served:?}");

    let view: View = changes.into_iter().collect();
    let text = serde_json::to_string(&Dump::of(&view)).unwrap();
    let held = serde_json::from_str::<Dump>(&text).unwrap().into_changes().unwrap();
    let held = Config { generation: served.generation, ..Config::of_changes(&held) };
    assert_eq!(held, served);
}
