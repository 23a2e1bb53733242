use super::*;

fn asked(plural: &str, version: &str, ask: Ask<'_>) -> (String, String) {
    let resource = RESOURCES.iter().find(|resource| resource.plural == plural).unwrap();
    let request = resource.request(version, ask).unwrap();
    let accept = request.headers().get(http::header::ACCEPT);
    (request.uri().to_string(), accept.map(|a| a.to_str().unwrap().to_owned()).unwrap_or_default())
}

#[test]
fn lists_come_as_a_stream_or_in_pages_of_500() {
    let (uri, _) = asked("services", "v1", Ask::Everything);
    assert_eq!(
        uri,
        "/api/v1/services?&watch=true&timeoutSeconds=290&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion="
    );
    let (uri, _) = asked("services", "v1", Ask::Page { after: None });
    assert_eq!(uri, "/api/v1/services?&limit=500");
    let (uri, _) = asked("services", "v1", Ask::Page { after: Some("a=b") });
    assert_eq!(uri, "/api/v1/services?&limit=500&continue=a%3Db");
}

#[test]
fn a_watch_has_bookmarks_and_ends_by_itself() {
    let (uri, _) = asked("authorizationpolicies", "v1beta1", Ask::Since("77"));
    assert_eq!(
        uri,
        "/apis/security.istio.io/v1beta1/authorizationpolicies?&watch=true&timeoutSeconds=290&allowWatchBookmarks=true&resourceVersion=77"
    );
}

#[test]
fn terminal_pods_are_left_out_by_the_server() {
    let selector = "fieldSelector=status.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed";
    for ask in [Ask::Everything, Ask::Since("7"), Ask::Page { after: None }] {
        let (uri, _) = asked("pods", "v1", ask);
        assert!(uri.contains(selector), "{uri}");
    }
}

#[test]
fn of_nodes_namespaces_and_definitions_only_metadata_is_transferred() {
    for resource in &RESOURCES {
        let metadata = ["customresourcedefinitions", "namespaces", "nodes"];
        for ask in [Ask::Everything, Ask::Since("7"), Ask::Page { after: None }] {
            let (_, accept) = asked(resource.plural, "v1", ask);
            let wanted = metadata.contains(&resource.plural);
            assert_eq!(accept.contains("PartialObjectMetadata"), wanted, "{}", resource.plural);
        }
    }
}
