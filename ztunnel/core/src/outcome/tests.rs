use weft_model::PolicyName;

use super::*;
use crate::{Denial, LeftOut, balance, fixture::*, next_hop};

fn denied() -> Refusal {
    Refusal::Denied(Denial::Matched { policy: PolicyName::new("shop", "p").unwrap(), rule: 2 })
}

fn carried(finish: Finish) -> End {
    End::Carried(Carried { bytes_to_server: 1, bytes_to_client: 2, finish })
}

#[test]
fn every_end_has_a_flag_a_level_a_status_and_an_error() {
    let (to, error) = (socket("10.0.0.2:15008"), "why".to_owned());
    let no_endpoint = Refusal::NoEndpoint {
        service: web_service().key(),
        left_out: vec![(LeftOut::Unhealthy, 2), (LeftOut::Tried, 1)],
    };
    let table = [
        (carried(Finish::Closed), "-", Level::Info, 200, ""),
        (carried(Finish::ResetByClient), "-", Level::Info, 200, "reset by the client"),
        (carried(Finish::ResetByServer), "-", Level::Info, 200, "reset by the server"),
        (carried(Finish::Shed), "-", Level::Warn, 200, "cut because memory ran out"),
        (carried(Finish::Drained), "-", Level::Warn, 200, "cut when the proxy stopped"),
        (
            carried(Finish::Revoked(denied())),
            "DENY",
            Level::Warn,
            200,
            "permit revoked: denied by policy shop/p rule 2",
        ),
        (
            carried(Finish::Broken(Failure::Broken { error: error.clone() })),
            "-",
            Level::Error,
            200,
            "the connection broke: why",
        ),
        (End::Refused(denied()), "DENY", Level::Warn, 401, "denied by policy shop/p rule 2"),
        (
            End::Refused(no_endpoint),
            "CONNECT",
            Level::Warn,
            503,
            "service shop/web.shop.svc.cluster.local has no usable endpoint: 2 unhealthy, 1 just tried",
        ),
        (
            End::Failed(Failure::ConnectTimeout { to, after_ms: 10_000 }),
            "NETWORK_POLICY",
            Level::Error,
            503,
            "no answer from 10.0.0.2:15008 within 10000 ms; maybe a NetworkPolicy blocks port 15008",
        ),
        (
            End::Failed(Failure::ConnectTimeout { to: socket("10.0.0.2:80"), after_ms: 1 }),
            "CONNECT",
            Level::Error,
            503,
            "no answer from 10.0.0.2:80 within 1 ms",
        ),
        (
            End::Failed(Failure::Handshake { to, error: error.clone() }),
            "TLS_FAILURE",
            Level::Error,
            503,
            "TLS handshake with 10.0.0.2:15008 failed: why",
        ),
        (
            End::Failed(Failure::Certificate { identity: identity("web"), error }),
            "IDENTITY_ERROR",
            Level::Error,
            503,
            "no certificate for spiffe://cluster.local/ns/shop/sa/web: why",
        ),
    ];
    for (end, flag, level, status, error) in table {
        assert_eq!(end.flag().as_str(), flag, "{end:?}");
        assert_eq!(end.level(), level, "{end:?}");
        assert_eq!(end.http_status(), status, "{end:?}");
        assert_eq!(end.error().unwrap_or_default(), error, "{end:?}");
    }
}

#[test]
fn only_what_is_the_endpoints_fault_is_tried_elsewhere() {
    let to = socket("10.0.0.2:15008");
    let error = String::new;
    assert!(Failure::Connect { to, error: error() }.try_another());
    assert!(Failure::Handshake { to, error: error() }.try_another());
    assert!(Failure::TunnelRefused { to, status: 503 }.try_another());
    assert!(!Failure::TunnelRefused { to, status: 401 }.try_another());
    assert!(!Failure::Certificate { identity: identity("web"), error: error() }.try_another());
    assert!(!Failure::Broken { error: error() }.try_another());
}

#[test]
fn the_parties_of_an_outbound_connection_fill_up_stage_by_stage() {
    let view = mesh([]);
    let arrival: Arrival = captured("10.1.0.1:80").into();
    let parties = Parties::arriving(&arrival);
    assert_eq!(parties.destination.address, Some(socket("10.1.0.1:80")));
    let resolved = crate::resolve(&view, arrival).unwrap();
    let permit = crate::authorize(&view, &resolved).unwrap();
    let load = crate::Load::default();
    let endpoint = balance(&view, &permit, &load, &[], crate::Draw(0)).unwrap();
    let hop = next_hop(&permit, &endpoint);
    let parties =
        parties.resolved(&view, &resolved).towards(&endpoint, &hop).proved(identity("web"));
    assert_eq!(parties.direction, Direction::Outbound);
    assert_eq!(parties.source.identity, Some(identity("client")));
    assert_eq!(parties.service.unwrap().key(), web_service().key());
    assert_eq!(parties.hbone.unwrap().port(), 15008);
    assert_eq!(parties.destination.address.unwrap().port(), 8080);
    assert_eq!(parties.destination.identity, Some(identity("web")));
    assert_eq!(parties.security, Security::MutualTls);
}

#[test]
fn a_client_is_named_by_its_address_only_if_it_proved_to_be_that() {
    let view = mesh([]);
    let source = |arrival: Arrival| {
        let resolved = crate::resolve(&view, arrival.clone()).unwrap();
        Parties::arriving(&arrival).resolved(&view, &resolved).source
    };
    let honest = source(tunnelled("10.0.0.2:80").into());
    assert_eq!(&*honest.workload.unwrap().name, "client");
    let mut other = tunnelled("10.0.0.2:80");
    other.peer = identity("web");
    let other = source(other.into());
    assert_eq!(other.workload, None);
    assert_eq!(other.identity, Some(identity("web")));
}
