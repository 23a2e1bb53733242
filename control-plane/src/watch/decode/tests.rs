use serde_json::json;

use super::*;
use crate::{objects::security::Spec, watch::resource::RESOURCES};

fn resource(plural: &str) -> &'static Resource {
    RESOURCES.iter().find(|resource| resource.plural == plural).unwrap()
}

fn event(plural: &str, kind: &str, object: &Value) -> Event {
    let text = format!("{{\"type\":\"{kind}\",\"object\":{object}}}");
    line(resource(plural), text.as_bytes()).unwrap()
}

fn pod(spec: &Value) -> Value {
    let metadata = json!({"name": "web", "namespace": "shop", "resourceVersion": "7"});
    json!({"kind": "Pod", "metadata": metadata, "spec": spec})
}

#[test]
fn events_are_read_and_null_is_absent() {
    let spec = json!({"nodeName": "a", "containers": null, "hostNetwork": null});
    let Event::Put(item, version) = event("pods", "MODIFIED", &pod(&spec)) else { panic!() };
    assert_eq!((item.name, &*version), (Name::new("shop", "web"), "7"));
    let Body::Object(Object::Pod(read)) = item.body else { panic!() };
    assert_eq!((&*read.spec.node_name, read.spec.containers.len()), ("a", 0));
    let deleted = event("pods", "DELETED", &pod(&json!({"containers": "whatever"})));
    assert_eq!(deleted, Event::Delete(Name::new("shop", "web"), "7".into()));
}

#[test]
fn the_end_of_a_streamed_list_is_a_bookmark_that_says_so() {
    let bookmark = |annotations: Value| {
        let metadata = json!({"resourceVersion": "9", "annotations": annotations});
        event("pods", "BOOKMARK", &json!({"kind": "Pod", "metadata": metadata, "spec": null}))
    };
    assert_eq!(bookmark(Value::Null), Event::Bookmark("9".into()));
    assert_eq!(bookmark(json!({"other": "true"})), Event::Bookmark("9".into()));
    let end = json!({"k8s.io/initial-events-end": "true"});
    assert_eq!(bookmark(end), Event::Complete("9".into()));
}

#[test]
fn an_error_is_the_servers_words() {
    let said = event("pods", "ERROR", &json!({"kind": "Status", "code": 410, "message": "old"}));
    assert_eq!(said, Event::Error(Status { code: 410, message: "old".to_owned() }));
}

#[test]
fn an_object_that_cannot_be_decoded_is_named_and_its_neighbours_are_read() {
    let good = pod(&json!({}));
    let mut bad = pod(&json!({"containers": [{"ports": [{"containerPort": "http"}]}]}));
    bad["metadata"]["name"] = "bad".into();
    let list = json!({"metadata": {"resourceVersion": "3", "continue": ""}, "items": [bad, good]});
    let page = page(resource("pods"), list.to_string().as_bytes()).unwrap();
    assert_eq!((&page.next, &*page.version), (&None, "3"));
    let [bad, good] = &page.items[..] else { panic!("{page:?}") };
    assert_eq!(bad.name, Name::new("shop", "bad"));
    let Body::Unreadable(problem) = &bad.body else { panic!("{bad:?}") };
    assert_eq!(problem.field, "spec.containers[0].ports[0].containerPort");
    assert!(matches!(good.body, Body::Object(_)));
}

#[test]
fn a_policy_that_cannot_be_decoded_denies() {
    let spec = json!({"selector": {"matchLabels": {"app": "db"}}, "unheardOf": 1});
    let object = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
    let Event::Put(item, _) = event("authorizationpolicies", "ADDED", &object) else { panic!() };
    let Body::Object(Object::AuthorizationPolicy(policy)) = item.body else { panic!() };
    let Spec::Unreadable { field, selector: Some(_), .. } = &policy.spec else { panic!() };
    assert_eq!(field, "spec.unheardOf");
}

#[test]
fn what_is_not_of_the_api_is_refused() {
    for text in [
        "",
        "<html>",
        "{}",
        r#"{"type":"ADDED"}"#,
        r#"{"type":"SUNG","object":{"metadata":{"name":"a"}}}"#,
        r#"{"type":"ADDED","object":{"metadata":{"name":""}}}"#,
        r#"{"type":"ADDED","object":[]}"#,
        r#"{"type":"ADDED","object":{"metadata":{"name":"a"}"#,
    ] {
        assert!(line(resource("pods"), text.as_bytes()).is_err(), "{text}");
        assert!(page(resource("pods"), text.as_bytes()).is_err(), "{text}");
    }
    assert!(page(resource("nodes"), br#"{"metadata":{},"items":null}"#).is_ok());
}

#[test]
fn of_a_definition_its_name_is_enough() {
    let object = json!({"metadata": {"name": "a.b", "resourceVersion": "2"}, "spec": 7});
    let read = event("customresourcedefinitions", "ADDED", &object);
    let item = Item { name: Name::new("", "a.b"), body: Body::Definition, written: None };
    assert_eq!(read, Event::Put(item, "2".into()));
}
