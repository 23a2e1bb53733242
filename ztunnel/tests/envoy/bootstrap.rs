//! Envoy's configuration: one listener towards us or one door for us.

#![expect(clippy::indexing_slicing, reason = "the objects that keys are put into are made here")]

use std::net::SocketAddr;

use serde_json::{Value, json};
use weft_certs::Svid;

/// One line for each stream: the answer's code, who called, and what the caller said of itself.
const ACCESS_LOG: &str = "%RESPONSE_CODE% %DOWNSTREAM_PEER_URI_SAN% %REQ(:METHOD)% \
    %REQ(:AUTHORITY)% %REQ(FORWARDED)% %REQ(BAGGAGE)% %REQ(TRACEPARENT)%\n";

fn typed(kind: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/{kind}").into();
    config
}

fn extension(name: &str, kind: &str, config: Value) -> Value {
    json!({"name": name, "typed_config": typed(kind, config)})
}

fn socket(address: SocketAddr) -> Value {
    let (ip, port) = (address.ip().to_string(), address.port());
    json!({"socket_address": {"address": ip, "port_value": port}})
}

fn any_port() -> Value {
    socket(SocketAddr::from(([127, 0, 0, 1], 0)))
}

fn bootstrap(listeners: &[Value], clusters: &[Value]) -> Value {
    json!({
        "admin": {"address": any_port()},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

fn listener(name: &str, filter: &Value, tls: Option<Value>) -> Value {
    let mut chain = json!({"filters": [filter]});
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    json!({"name": name, "address": any_port(), "filter_chains": [chain]})
}

fn cluster(name: &str, to: SocketAddr) -> Value {
    let endpoints = json!([{"lb_endpoints": [{"endpoint": {"address": socket(to)}}]}]);
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    })
}

/// TLS 1.3 with a SPIFFE certificate, which accepts only peers of these identities.
fn tls(svid: &Svid, accepts: &[String]) -> Value {
    let chain = svid.chain_pem();
    let (roots, chain) = chain.split_last().unwrap();
    let names: Vec<_> =
        accepts.iter().map(|san| json!({"san_type": "URI", "matcher": {"exact": san}})).collect();
    json!({
        "alpn_protocols": ["h2"],
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [{
            "certificate_chain": {"inline_string": chain.concat()},
            "private_key": {"inline_string": svid.key_pem().as_str()},
        }],
        "validation_context": {
            "trusted_ca": {"inline_string": roots},
            "match_typed_subject_alt_names": names,
        },
    })
}

/// An Envoy that opens tunnels as `svid` to our door at `hbone`, which must prove to be `expects`.
///
/// Its listener `tcp` carries each connection in a CONNECT for `authority`; its listener `connect` takes CONNECT
/// requests as they are, so that a test sees the answer's status.
pub(crate) fn client(svid: &Svid, hbone: SocketAddr, expects: &str, authority: &str) -> Value {
    let tcp_proxy = extension(
        "envoy.filters.network.tcp_proxy",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        json!({
            "stat_prefix": "tcp",
            "cluster": "hbone",
            "tunneling_config": {"hostname": authority},
        }),
    );
    let route = json!({"match": {"connect_matcher": {}}, "route": {"cluster": "hbone"}});
    let connect = connection_manager("connect", &route);
    let mut hbone = cluster("hbone", hbone);
    let context = json!({"common_tls_context": tls(svid, &[expects.to_owned()])});
    let tls = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    hbone["transport_socket"] = extension("envoy.transport_sockets.tls", tls, context);
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let http2 =
        json!({"explicit_http_config": {"http2_protocol_options": {"allow_connect": true}}});
    hbone["typed_extension_protocol_options"] = json!({options: typed(options, http2)});
    let listeners = [listener("tcp", &tcp_proxy, None), listener("connect", &connect, None)];
    bootstrap(&listeners, &[hbone])
}

/// An Envoy that takes tunnels as `svid` from `accepts`, and connects each stream to `application`.
pub(crate) fn server(svid: &Svid, accepts: &str, application: SocketAddr) -> Value {
    let upgrade = json!([{"upgrade_type": "CONNECT", "connect_config": {}}]);
    let route = json!({
        "match": {"connect_matcher": {}},
        "route": {"cluster": "application", "upgrade_configs": upgrade},
    });
    let context = json!({
        "require_client_certificate": true,
        "common_tls_context": tls(svid, &[accepts.to_owned()]),
    });
    let kind = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    let tls = extension("envoy.transport_sockets.tls", kind, context);
    let door = listener("hbone", &connection_manager("hbone", &route), Some(tls));
    bootstrap(&[door], &[cluster("application", application)])
}

fn connection_manager(name: &str, route: &Value) -> Value {
    let router = extension(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
        json!({}),
    );
    let stdout = extension(
        "envoy.access_loggers.stdout",
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        json!({"log_format": {"text_format_source": {"inline_string": ACCESS_LOG}}}),
    );
    extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": name,
            "http2_protocol_options": {"allow_connect": true},
            "upgrade_configs": [{"upgrade_type": "CONNECT"}],
            "http_filters": [router],
            "access_log": [stdout],
            "route_config": {"virtual_hosts": [{
                "name": "all", "domains": ["*"], "routes": [route],
            }]},
        }),
    )
}
