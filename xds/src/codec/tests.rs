use proptest::prelude::*;
use prost::Message;
use weft_model::{Change, NetworkMode, ResourceKey, Workload, WorkloadUid};

use super::*;
use crate::proto::{discovery, security, workload as pb};

pub(crate) mod arbitrary;

fn body(encoded: &Encoded) -> Vec<u8> {
    let resource = discovery::Resource::decode(encoded.wire.clone()).unwrap();
    let any = resource.resource.unwrap();
    assert_eq!(any.type_url, encoded.kind.type_url());
    any.value
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_encoded_decodes_to_the_same_value(change in arbitrary::change()) {
        let encoded = encode(&change).unwrap();
        prop_assert_eq!(decode(encoded.kind, &body(&encoded)), Ok(change));
    }

    #[test]
    fn equal_values_have_equal_bytes_and_versions(change in arbitrary::change()) {
        let (one, two) = (encode(&change).unwrap(), encode(&change.clone()).unwrap());
        prop_assert_eq!(&one.wire, &two.wire);
        prop_assert_eq!(&one.version, &two.version);
        prop_assert_eq!(one.version.len(), 16);
    }

    #[test]
    fn a_resource_is_named_by_its_key(change in arbitrary::change()) {
        let encoded = encode(&change).unwrap();
        let key = match change.key() {
            ResourceKey::Workload(uid) => uid.to_string(),
            ResourceKey::Service(name) => name.to_string(),
            ResourceKey::Policy(name) => name.to_string(),
        };
        prop_assert_eq!(&*encoded.name, key.as_str());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_address(&bytes);
        let _ = decode_authorization(&bytes);
        let _ = stand_in(&PolicyName::new("shop", "p").unwrap(), &bytes);
    }

    #[test]
    fn a_damaged_resource_never_panics(
        change in arbitrary::change(), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>(),
    ) {
        let encoded = encode(&change).unwrap();
        let mut bytes = body(&encoded);
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = with;
            if cut { bytes.truncate(at); }
        }
        let _ = decode_address(&bytes);
        let _ = decode_authorization(&bytes);
    }
}

fn workload_message() -> pb::Workload {
    pb::Workload {
        uid: "Kubernetes//Pod/shop/web-0".into(),
        name: "web-0".into(),
        namespace: "shop".into(),
        ..pb::Workload::default()
    }
}

fn workload_error(message: pb::Workload) -> String {
    let address = pb::Address { r#type: Some(pb::address::Type::Workload(message)) };
    decode_address(&address.encode_to_vec()).unwrap_err().to_string()
}

fn service_error(message: pb::Service) -> String {
    let address = pb::Address { r#type: Some(pb::address::Type::Service(message)) };
    decode_address(&address.encode_to_vec()).unwrap_err().to_string()
}

#[test]
fn empty_fields_mean_the_defaults_of_the_wire() {
    let address = pb::Address { r#type: Some(pb::address::Type::Workload(workload_message())) };
    let mut expected = Workload::new(
        WorkloadUid::new("Kubernetes//Pod/shop/web-0").unwrap(),
        "web-0",
        weft_model::Namespace::new("shop").unwrap(),
        weft_model::ServiceAccountName::new("default").unwrap(),
    );
    expected.workload_type = weft_model::WorkloadType::Deployment;
    assert_eq!(decode_address(&address.encode_to_vec()), Ok(Change::Workload(Arc::new(expected))));
}

#[test]
fn a_workload_that_is_not_understood_is_refused_by_field_and_value() {
    let uid = "Kubernetes//Pod/shop/web-0";
    let ok = workload_message;
    let gateway =
        |hbone_mtls_port, destination| Some(pb::GatewayAddress { destination, hbone_mtls_port });
    let table = [
        (
            pb::Workload { tunnel_protocol: 2, ..ok() },
            "tunnel_protocol: LEGACY_ISTIO_MTLS is not supported",
        ),
        (pb::Workload { tunnel_protocol: 9, ..ok() }, "tunnel_protocol: unknown value 9"),
        (pb::Workload { workload_type: -1, ..ok() }, "workload_type: unknown value -1"),
        (pb::Workload { status: 2, ..ok() }, "status: unknown value 2"),
        (pb::Workload { network_mode: 7, ..ok() }, "network_mode: unknown value 7"),
        (
            pb::Workload { addresses: vec![vec![10, 0, 1].into()], ..ok() },
            "addresses: address [0a, 00, 01] has 3 bytes, not 4 or 16",
        ),
        (
            pb::Workload { namespace: "Shop".into(), ..ok() },
            "namespace: namespace `Shop` contains 'S'",
        ),
        (
            pb::Workload { authorization_policies: vec!["allow".into()], ..ok() },
            "authorization_policies: `allow` is not of the form <namespace>/<name>",
        ),
        (
            pb::Workload {
                services: [(
                    "shop/web".to_owned(),
                    pb::PortList {
                        ports: vec![pb::Port {
                            service_port: 80,
                            target_port: 65536,
                            ..pb::Port::default()
                        }],
                    },
                )]
                .into(),
                ..ok()
            },
            "services.target_port: port 65536 is more than 65535",
        ),
        (
            pb::Workload {
                application_tunnel: Some(pb::ApplicationTunnel { protocol: 5, port: 1 }),
                ..ok()
            },
            "application_tunnel.protocol: unknown value 5",
        ),
        (pb::Workload { waypoint: gateway(15008, None), ..ok() }, "waypoint: is missing"),
        (
            pb::Workload { network_gateway: gateway(70_000, None), ..ok() },
            "network_gateway: port 70000 is more than 65535",
        ),
    ];
    for (message, expected) in table {
        assert_eq!(workload_error(message), format!("{uid}: {expected}"));
    }
}

#[test]
fn a_service_that_is_not_understood_is_refused_by_field_and_value() {
    let ok = || pb::Service {
        namespace: "shop".into(),
        hostname: "web.shop.svc".into(),
        ..pb::Service::default()
    };
    let range = |address: &[u8], length| pb::NetworkAddress {
        network: String::new(),
        address: address.to_vec().into(),
        length: Some(length),
    };
    let balanced = |routing_preference, mode| {
        Some(pb::LoadBalancing { routing_preference, mode, health_policy: 0 })
    };
    let table = [
        (
            pb::Service { addresses: vec![range(&[10, 0, 0, 0], 33)], ..ok() },
            "addresses: prefix length 33 is more than an address of 32 bits has",
        ),
        (
            pb::Service { addresses: vec![range(&[0; 16], 300)], ..ok() },
            "addresses: prefix length 300 is more than an address of 128 bits has",
        ),
        (pb::Service { ip_families: 4, ..ok() }, "ip_families: unknown value 4"),
        (pb::Service { visibility: 2, ..ok() }, "visibility: unknown value 2"),
        (
            pb::Service { load_balancing: balanced(vec![1, 0], 0), ..ok() },
            "load_balancing.routing_preference: unknown value 0",
        ),
        (
            pb::Service { load_balancing: balanced(vec![], 4), ..ok() },
            "load_balancing.mode: unknown value 4",
        ),
        (
            pb::Service {
                ports: vec![pb::Port { app_protocol: 6, ..pb::Port::default() }],
                ..ok()
            },
            "ports.app_protocol: unknown value 6",
        ),
        (
            pb::Service {
                ports: vec![pb::Port { name: "Http".into(), ..pb::Port::default() }],
                ..ok()
            },
            "ports.name: port name `Http` contains 'H'",
        ),
    ];
    for (message, expected) in table {
        assert_eq!(service_error(message), format!("shop/web.shop.svc: {expected}"));
    }
}

#[test]
fn a_name_that_is_no_kubernetes_identity_is_never_accepted_from_an_endpoint() {
    let service = pb::Service {
        namespace: "shop".into(),
        hostname: "web".into(),
        subject_alt_names: vec![
            "spiffe://cluster.local/ns/shop/sa/web".into(),
            "spiffe://cluster.local/vm/1".into(),
            "web.example.com".into(),
        ],
        ..pb::Service::default()
    };
    let address = pb::Address { r#type: Some(pb::address::Type::Service(service)) };
    let Ok(Change::Service(decoded)) = decode_address(&address.encode_to_vec()) else {
        panic!("refused");
    };
    let expected: weft_model::Identity = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    assert_eq!(decoded.subject_alt_names, vec![expected]);
}

#[test]
fn mapped_addresses_and_ranges_are_stored_as_ipv4() {
    let mapped: std::net::Ipv6Addr = "::ffff:10.1.2.0".parse().unwrap();
    let one = wire::cidr("f", &mapped.octets(), 120).unwrap();
    assert_eq!(one, "10.1.2.0/24".parse().unwrap());
    assert_eq!(
        wire::ip("f", &mapped.octets()).unwrap(),
        "10.1.2.0".parse::<std::net::IpAddr>().unwrap()
    );
}

fn policy_error(matched: security::Match) -> String {
    let clauses = vec![security::Clause { matches: vec![matched] }];
    let policy = security::Authorization {
        name: "deny".into(),
        namespace: "shop".into(),
        rules: vec![security::Rule { clauses }],
        ..security::Authorization::default()
    };
    decode_authorization(&policy.encode_to_vec()).unwrap_err().to_string()
}

#[test]
fn a_policy_that_is_not_understood_is_refused_as_a_whole() {
    let range =
        |address: &[u8], length| security::Address { address: address.to_vec().into(), length };
    let table = [
        (
            security::Match { source_ips: vec![range(&[10, 0, 0, 0], 40)], ..Default::default() },
            "source_ips: prefix length 40 is more than an address of 32 bits has",
        ),
        (
            security::Match { not_destination_ips: vec![range(&[1], 0)], ..Default::default() },
            "not_destination_ips: address [01] has 1 bytes, not 4 or 16",
        ),
        (
            security::Match { destination_ports: vec![65_536], ..Default::default() },
            "destination_ports: port 65536 is more than 65535",
        ),
        (
            security::Match {
                not_principals: vec![security::StringMatch { match_type: None }],
                ..Default::default()
            },
            "not_principals: is missing",
        ),
    ];
    for (matched, expected) in table {
        assert_eq!(policy_error(matched), format!("shop/deny: {expected}"));
    }
}

#[test]
fn a_policy_with_a_field_newer_than_us_is_refused() {
    let policy = security::Authorization {
        name: "deny".into(),
        namespace: "shop".into(),
        ..security::Authorization::default()
    };
    let mut bytes = policy.encode_to_vec();
    assert!(decode_authorization(&bytes).is_ok());
    bytes.extend([0xf8, 0x07, 0x01]); // field 127 = 1
    assert_eq!(
        decode_authorization(&bytes).unwrap_err().problem,
        Problem::UnknownField { bytes: 3 }
    );
}

#[test]
fn the_stand_in_for_an_unreadable_policy_denies_what_it_could_have_governed() {
    let name = PolicyName::new("shop", "p").unwrap();
    let of = |scope: i32, dry_run| {
        let (namespace, name_on_wire) = ("shop".into(), "p".into());
        let policy = security::Authorization {
            name: name_on_wire,
            namespace,
            scope,
            dry_run,
            ..Default::default()
        };
        stand_in(&name, &policy.encode_to_vec()).map(|p| (p.scope, p.action, p.rules))
    };
    let denied = |scope| Some((scope, Action::Deny, vec![Rule::default()]));
    assert_eq!(of(0, false), denied(Scope::Global));
    assert_eq!(of(1, false), denied(Scope::Namespace));
    assert_eq!(of(9, false), denied(Scope::Namespace));
    assert_eq!(of(2, false), None);
    assert_eq!(of(1, true), None);
    for unreadable in [&[0xff][..], &[]] {
        assert_eq!(stand_in(&name, unreadable).map(|p| p.scope), Some(Scope::Namespace));
    }
}

#[test]
fn a_pod_on_its_hosts_network_is_not_found_by_address() {
    let mut workload = Workload::new(
        WorkloadUid::new("Kubernetes//Pod/shop/web-0").unwrap(),
        "web-0",
        weft_model::Namespace::new("shop").unwrap(),
        weft_model::ServiceAccountName::new("web").unwrap(),
    );
    workload.addresses = vec!["10.0.0.1".parse().unwrap()];
    assert_eq!(encode_workload(&workload).aliases, vec![Arc::from("/10.0.0.1")].into());
    workload.network_mode = NetworkMode::HostNetwork;
    assert!(encode_workload(&workload).aliases.is_empty());
}
