//! Endpoints that are not dialled at an address of their own: behind another network's gateway, or known by a
//! host name only.

use std::{
    cell::RefCell,
    future::{pending, poll_fn},
    rc::Rc,
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::spawn_local,
};
use weft_model::{
    AppProtocol, Change, GatewayAddress, Hostname, Namespace, Network, NetworkAddress, Ports,
    Service, ServiceAccountName, ServicePort, TunnelProtocol, Workload,
};
use ztunnel::{
    relay::{Plain, relay},
    socket::TcpEnd,
    telemetry::Carried,
    tunnel::hbone::{Settings, server},
};
use ztunnel_core::{Direction, End, Failure, Finish, Outcome, Security};

use crate::fixture::{Enrolled, Mesh, WEB, at, identity, run, workload};

const GATEWAY: [u8; 4] = [192, 0, 2, 9];
const SERVICE: &str = "web.shop.svc.cluster.local";

fn service() -> Service {
    let hostname = Hostname::new(SERVICE).unwrap();
    let mut service = Service::new("web", Namespace::new("shop").unwrap(), hostname);
    service.ports = vec![ServicePort {
        name: None,
        service_port: 80,
        target_port: 80,
        app_protocol: AppProtocol::Unknown,
    }];
    service
}

/// An endpoint of the service.
fn endpoint(change: impl FnOnce(&mut Workload)) -> Change {
    let mut web = workload("web", WEB);
    web.services = [(service().key(), Ports::new())].into();
    change(&mut web);
    Change::Workload(Arc::new(web))
}

/// At the address that the client's connections are captured on the way to.
fn dialled() -> Change {
    let mut service = service();
    service.vips = vec![NetworkAddress::new(Network::default(), at(WEB, 80).ip())];
    Change::Service(Arc::new(service))
}

/// The client knows `web` as an endpoint in another network, whose node knows it as near.
fn behind_a_gateway() -> (Mesh, Enrolled) {
    let (mesh, client, _web) = Mesh::pair();
    mesh.change(endpoint(|_| {}));
    mesh.change(Change::Service(Arc::new(service())));
    let east = Network::new("east").unwrap();
    let mut gateway = workload("gateway", GATEWAY);
    gateway.network = east.clone();
    mesh.client_change(Change::Workload(Arc::new(gateway)));
    mesh.client_change(endpoint(|web| {
        web.addresses.clear();
        let address = NetworkAddress::new(east.clone(), at(GATEWAY, 15443).ip());
        web.network_gateway = Some(GatewayAddress::Address { address, hbone_port: 15443 });
        web.network = east;
    }));
    mesh.client_change(dialled());
    (mesh, client)
}

/// Passes each stream's bytes on to web's node, as they are; tells what was asked for.
async fn gateway(mesh: &Mesh, proves: &str) -> Rc<RefCell<Vec<String>>> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    mesh.places.put(at(GATEWAY, 15443), listener.local_addr().unwrap());
    let tls = weft_certs::server_config(&mesh.ca.issued(&identity(proves)));
    let (asked, beyond) = (Rc::new(RefCell::default()), mesh.places.find(at(WEB, 15008)));
    let told: Rc<RefCell<Vec<String>>> = asked.clone();
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, told, settings) = (tls.clone(), told.clone(), Settings::default());
            spawn_local(async move {
                let caller = server::handshake(TcpEnd::new(stream), tls, &settings.timeouts).await;
                // A caller that does not like our certificate leaves.
                let Ok(caller) = caller else { return };
                let Ok(mut tunnel) = caller.http2(&settings).await else { return };
                while let Some(Ok(incoming)) = poll_fn(|cx| tunnel.poll_request(cx)).await {
                    told.borrow_mut().push(incoming.head().unwrap().authority.to_string());
                    spawn_local(async move {
                        let to = TcpEnd::new(TcpStream::connect(beyond).await.unwrap());
                        let mut stream =
                            incoming.accept(&workload("gateway", GATEWAY), ()).unwrap();
                        let carried = Carried::default();
                        relay(&mut stream, &mut Plain::new(to), &carried, pending::<()>()).await
                    });
                }
            });
        }
    });
    asked
}

fn failure(outcome: &Outcome) -> Option<&Failure> {
    match &outcome.end {
        End::Failed(failure) => Some(failure),
        End::Carried(_) | End::Refused(_) => None,
    }
}

#[test]
fn a_pod_of_another_network_is_reached_through_its_gateway_which_sees_no_identity_but_its_own() {
    run(async {
        let (mesh, client) = behind_a_gateway();
        let asked = gateway(&mesh, "gateway").await;
        let app = mesh.serve_web().await;
        let question = vec![7; 1 << 20];
        for _ in 0..2 {
            let mut asking = TcpStream::connect(client.captured).await.unwrap();
            let (mut served, _) = app.accept().await.unwrap();
            let (sent, heard) = tokio::join!(
                async {
                    asking.write_all(&question).await.unwrap();
                    asking.shutdown().await.unwrap();
                    let mut answer = Vec::new();
                    asking.read_to_end(&mut answer).await.unwrap();
                    answer
                },
                async {
                    let mut heard = Vec::new();
                    served.read_to_end(&mut heard).await.unwrap();
                    served.write_all(b"the answer").await.unwrap();
                    drop(served);
                    heard
                }
            );
            assert_eq!((&*sent, heard == question), (&b"the answer"[..], true));
        }
        let outcomes = mesh.outcomes(4).await;
        for outcome in &outcomes {
            assert_eq!(outcome.parties.security, Security::MutualTls);
            assert_eq!(outcome.parties.source.identity, Some(identity("client")), "end to end");
            assert_eq!(outcome.parties.destination.identity, Some(identity("web")), "end to end");
            let carried = ztunnel_core::Carried {
                bytes_to_server: 1 << 20,
                bytes_to_client: 10,
                finish: Finish::Closed,
            };
            assert_eq!(outcome.end, End::Carried(carried), "{outcome:?}");
        }
        let outbound = outcomes.iter().filter(|o| o.parties.direction == Direction::Outbound);
        assert_eq!(outbound.count(), 2);
        // Each connection has a tunnel of its own inside.
        assert_eq!(*asked.borrow(), [format!("{SERVICE}:80"), format!("{SERVICE}:80")]);
    });
}

#[test]
fn a_gateway_that_proves_to_be_somebody_else_is_asked_for_nothing() {
    run(async {
        let (mesh, client) = behind_a_gateway();
        let asked = gateway(&mesh, "intruder").await;
        let mut asking = TcpStream::connect(client.captured).await.unwrap();
        asking.read(&mut [0; 1]).await.unwrap_err();
        let outcomes = mesh.outcomes(1).await;
        assert!(matches!(failure(&outcomes[0]), Some(Failure::Handshake { .. })), "{outcomes:?}");
        assert_eq!(asked.borrow().len(), 0);
    });
}

#[test]
fn a_pod_behind_a_gateway_that_proves_to_be_somebody_else_gets_no_byte() {
    run(async {
        let (mesh, client) = behind_a_gateway();
        let asked = gateway(&mesh, "gateway").await;
        let mut service = service();
        service.vips = vec![NetworkAddress::new(Network::default(), at(WEB, 80).ip())];
        service.subject_alt_names = vec![identity("another")];
        mesh.client_change(Change::Service(Arc::new(service)));
        let app = mesh.serve_web().await;
        let mut asking = TcpStream::connect(client.captured).await.unwrap();
        asking.write_all(b"question").await.unwrap();
        asking.read(&mut [0; 1]).await.unwrap_err();
        let outcomes = mesh.outcomes(1).await;
        let outbound =
            outcomes.iter().find(|o| o.parties.direction == Direction::Outbound).unwrap();
        assert!(matches!(failure(outbound), Some(Failure::Handshake { .. })), "{outcomes:?}");
        assert_eq!(asked.borrow().len(), 1);
        let accepted = futures_util::FutureExt::now_or_never(app.accept());
        assert!(accepted.is_none(), "the application was reached");
    });
}

/// `web` outside of the mesh, at whatever address the name has.
fn known_by_name(mesh: &Mesh, name: &str, port: u16) {
    mesh.client_change(endpoint(|web| {
        web.addresses.clear();
        web.hostname = Some(Hostname::new(name).unwrap());
        web.tunnel = TunnelProtocol::None;
        web.service_account = ServiceAccountName::new("default").unwrap();
        web.services = [(service().key(), Ports::from([(80, port)]))].into();
    }));
    mesh.client_change(dialled());
}

#[test]
fn an_endpoint_known_by_a_host_name_is_looked_up_for_each_connection_and_told() {
    run(async {
        let (mesh, client, _web) = Mesh::pair();
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        known_by_name(&mesh, "localhost", app.local_addr().unwrap().port());
        let mut ipv4 = service();
        ipv4.vips = vec![NetworkAddress::new(Network::default(), at(WEB, 80).ip())];
        ipv4.ip_families = weft_model::IpFamilies::Ipv4Only;
        mesh.client_change(Change::Service(Arc::new(ipv4)));
        for _ in 0..2 {
            let mut asking = TcpStream::connect(client.captured).await.unwrap();
            asking.write_all(b"question").await.unwrap();
            let (mut served, _) = app.accept().await.unwrap();
            served.read_exact(&mut [0; 8]).await.unwrap();
        }
        let name = (Some("client".to_owned()), Hostname::new("localhost").unwrap());
        assert_eq!(*mesh.seen.names.borrow(), [name.clone(), name]);
        for outcome in mesh.outcomes(2).await {
            assert_eq!(outcome.parties.security, Security::Plaintext);
        }
    });
}

#[test]
fn a_host_name_that_nobody_has_fails_the_connection_and_is_named() {
    run(async {
        let (mesh, client, _web) = Mesh::pair();
        known_by_name(&mesh, "nobody.invalid", 80);
        let mut asking = TcpStream::connect(client.captured).await.unwrap();
        asking.read(&mut [0; 1]).await.unwrap_err();
        let outcomes = mesh.outcomes(1).await;
        let Some(Failure::Resolve { hostname, .. }) = failure(&outcomes[0]) else {
            panic!("{outcomes:?}")
        };
        assert_eq!(hostname.as_str(), "nobody.invalid");
    });
}
