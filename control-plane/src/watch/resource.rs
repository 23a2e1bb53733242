//! What is watched, and how it is asked for.

use http::Request;
use kube::core::{
    params::{ListParams, WatchParams},
    request::Error,
};

use crate::objects::Kind;

/// Objects of a page, where a list comes in pages.
const PAGE: u32 = 500;

/// One kind of the API server's.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) what: What,
    group: &'static str,
    /// Any that is served will do: the server converts. The newest is asked for first.
    pub(super) versions: &'static [&'static str],
    pub(super) plural: &'static str,
    body: Body,
    fields: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Always there.
    BuiltIn(Kind),
    /// There while its definition is.
    Custom(Kind),
    /// The definitions themselves.
    Definitions,
}

#[derive(Debug)]
enum Body {
    Whole,
    /// Only metadata is transferred.
    Metadata,
}

/// How a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listing {
    /// As the beginning of the watch: the server need not hold it in memory, nor do we.
    Streamed,
    Paged,
}

/// What to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask<'a> {
    Page {
        after: Option<&'a str>,
    },
    /// A watch that begins with all that there is.
    Everything,
    /// A watch that goes on from a version.
    Since(&'a str),
}

pub(super) const RESOURCES: [Resource; 10] = [
    Resource {
        what: What::Definitions,
        group: "apiextensions.k8s.io",
        versions: &["v1"],
        plural: "customresourcedefinitions",
        body: Body::Metadata,
        fields: None,
    },
    custom(Kind::AuthorizationPolicy, "security.istio.io", "authorizationpolicies", &SECURITY),
    custom(Kind::PeerAuthentication, "security.istio.io", "peerauthentications", &SECURITY),
    custom(Kind::ServiceEntry, "networking.istio.io", "serviceentries", &NETWORKING),
    custom(Kind::WorkloadEntry, "networking.istio.io", "workloadentries", &NETWORKING),
    Resource { body: Body::Metadata, ..built_in(Kind::Namespace, "", "namespaces") },
    Resource { body: Body::Metadata, ..built_in(Kind::Node, "", "nodes") },
    built_in(Kind::Service, "", "services"),
    built_in(Kind::EndpointSlice, "discovery.k8s.io", "endpointslices"),
    Resource {
        // A pod that finishes leaves: the server sends it as deleted.
        fields: Some("status.phase!=Succeeded,status.phase!=Failed"),
        ..built_in(Kind::Pod, "", "pods")
    },
];

const SECURITY: [&str; 2] = ["v1", "v1beta1"];
const NETWORKING: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];

const fn built_in(kind: Kind, group: &'static str, plural: &'static str) -> Resource {
    let what = What::BuiltIn(kind);
    Resource { what, group, versions: &["v1"], plural, body: Body::Whole, fields: None }
}

const fn custom(
    kind: Kind,
    group: &'static str,
    plural: &'static str,
    versions: &'static [&'static str],
) -> Resource {
    let what = What::Custom(kind);
    Resource { what, group, versions, plural, body: Body::Whole, fields: None }
}

impl Resource {
    /// The name of the definition that it needs.
    pub(super) fn definition(&self) -> Option<String> {
        match self.what {
            What::Custom(_) => Some(format!("{}.{}", self.plural, self.group)),
            What::BuiltIn(_) | What::Definitions => None,
        }
    }

    /// In one of its versions.
    pub(super) fn request(&self, version: &str, ask: Ask<'_>) -> Result<Request<Vec<u8>>, Error> {
        let path = match self.group {
            "" => format!("/api/{version}/{}", self.plural),
            group => format!("/apis/{group}/{version}/{}", self.plural),
        };
        let request = kube::core::Request::new(path);
        let fields = self.fields.map(str::to_owned);
        let (since, watch) = match ask {
            Ask::Page { after } => {
                let list = ListParams {
                    limit: Some(PAGE),
                    continue_token: after.map(str::to_owned),
                    field_selector: fields,
                    ..ListParams::default()
                };
                return match self.body {
                    Body::Whole => request.list(&list),
                    Body::Metadata => request.list_metadata(&list),
                };
            }
            Ask::Everything => ("", WatchParams { send_initial_events: true, ..watching(fields) }),
            Ask::Since(version) => (version, watching(fields)),
        };
        match self.body {
            Body::Whole => request.watch(&watch, since),
            Body::Metadata => request.watch_metadata(&watch, since),
        }
    }
}

fn watching(field_selector: Option<String>) -> WatchParams {
    // With bookmarks and the server's own end after 290 seconds, kube's defaults.
    WatchParams { field_selector, ..WatchParams::default() }
}

#[cfg(test)]
mod tests;
