//! The CONNECT request: what a client asks for, and what it says about itself.

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, uri};
use weft_model::{Hostname, Network, PeerAddr, Workload, WorkloadType};
use ztunnel_core::{Authority, Refusal};

/// A CONNECT request's head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectHead {
    pub authority: Authority,
    /// The service that the client dialled, for telemetry only: it is the client's word.
    pub forwarded_host: Option<Hostname>,
    pub traceparent: Option<HeaderValue>,
}

impl ConnectHead {
    /// Errors: the caller's fault, to be answered as [`Refusal::http_status`] says.
    pub(super) fn parse<B>(request: &Request<B>) -> Result<Self, Refusal> {
        let extended = request.extensions().get::<h2::ext::Protocol>();
        if request.method() != Method::CONNECT || extended.is_some() {
            let method = match extended {
                Some(protocol) => format!("CONNECT with :protocol {protocol:?}"),
                None => request.method().to_string(),
            };
            return Err(Refusal::NotConnect { method });
        }
        let authority = request.uri().authority().map_or("", uri::Authority::as_str);
        Ok(Self {
            authority: authority.parse()?,
            forwarded_host: request.headers().get("forwarded").and_then(forwarded_host),
            traceparent: request.headers().get("traceparent").cloned(),
        })
    }
}

/// `for="10.0.0.1:1234";host=web.shop.svc.cluster.local`: only `host` is read.
fn forwarded_host(value: &HeaderValue) -> Option<Hostname> {
    let text = value.to_str().ok()?;
    let host = text.split(';').find_map(|part| part.trim().strip_prefix("host="))?;
    Hostname::new(host.trim_matches('"')).ok()
}

/// What a client says of itself in every CONNECT.
#[derive(Clone, Debug)]
pub struct Introduction<'a> {
    pub source: &'a Workload,
    pub client: PeerAddr,
    /// The service that the application dialled, if it dialled one.
    pub dialled: Option<&'a Hostname>,
    /// Ours, for a peer in another network; `None` for one in ours.
    pub network: Option<&'a Network>,
    /// Random bits that name this connection in both proxies' logs.
    pub trace: (u128, u64),
}

pub(super) fn request(
    authority: &Authority,
    about: &Introduction<'_>,
) -> Result<Request<()>, http::Error> {
    let authority = uri::Authority::try_from(authority.to_string())?;
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::from(authority);
    introduce(request.headers_mut(), about)?;
    Ok(request)
}

fn introduce(headers: &mut HeaderMap, about: &Introduction<'_>) -> Result<(), http::Error> {
    headers.insert("baggage", HeaderValue::try_from(baggage(about.source))?);
    let forwarded = match about.dialled {
        Some(host) => format!("for=\"{}\";host={host}", about.client),
        None => format!("for=\"{}\"", about.client),
    };
    headers.insert("forwarded", HeaderValue::try_from(forwarded)?);
    if let Some(network) = about.network {
        headers.insert("x-forwarded-network", HeaderValue::try_from(network.as_str())?);
    }
    let (trace, span) = about.trace;
    headers
        .insert("traceparent", HeaderValue::try_from(format!("00-{trace:032x}-{span:016x}-00"))?);
    Ok(())
}

/// A workload described as OpenTelemetry does, non-empty values only.
pub(super) fn baggage(of: &Workload) -> String {
    let kind = match of.workload_type {
        WorkloadType::Deployment => "k8s.deployment.name",
        WorkloadType::CronJob => "k8s.cronjob.name",
        WorkloadType::Pod => "k8s.pod.name",
        WorkloadType::Job => "k8s.job.name",
    };
    let entries: [(&str, &str); 7] = [
        ("k8s.cluster.name", &of.cluster_id),
        ("k8s.namespace.name", of.namespace.as_str()),
        (kind, &of.workload_name),
        ("service.name", &of.canonical_name),
        ("service.version", &of.canonical_revision),
        ("cloud.region", &of.locality.region),
        ("cloud.availability_zone", &of.locality.zone),
    ];
    // Peers split on `,` and `=` without decoding: a value that has them would be read as something else.
    let plain = |value: &str| value.bytes().all(|b| b.is_ascii_graphic() && b != b',' && b != b'=');
    let said = entries.iter().filter(|(_, value)| !value.is_empty() && plain(value));
    said.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
