//! Any datagram is answered with a message that can be read, forwarded, or dropped.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use weft_model::{Change, Hostname, Namespace, Network, NetworkAddress, Service, View};
use ztunnel::{
    dns::{Decision, Zone, decide, kind},
    telemetry::DnsTransport,
};
use ztunnel_core::names::Asker;

static NAMESPACE: LazyLock<Namespace> = LazyLock::new(|| "shop".parse().expect("a name"));
static NETWORK: LazyLock<Network> = LazyLock::new(Network::default);
static VIEW: LazyLock<View> = LazyLock::new(|| {
    let named = |host: &str, last: u8| {
        let mut service =
            Service::new("web", NAMESPACE.clone(), Hostname::new(host).expect("a name"));
        let vip = std::net::Ipv4Addr::new(10, 0, 0, last).into();
        service.vips = vec![NetworkAddress::new(NETWORK.clone(), vip)];
        Change::Service(Arc::new(service))
    };
    [named("a.b", 1), named("*.c", 2), named("web.shop.svc.cluster.local", 3)].into_iter().collect()
});

fuzz_target!(|datagram: &[u8]| {
    let asker = Asker { namespace: &NAMESPACE, network: &NETWORK };
    let zone = Zone { cluster_domain: "cluster.local", ttl_s: 30 };
    let _name = kind(datagram);
    for via in [DnsTransport::Udp, DnsTransport::Tcp] {
        match decide(&VIEW, asker, zone, datagram, via, 7) {
            Decision::Answer(answer) => {
                assert_eq!(answer.get(..2), datagram.get(..2), "the answer has the query's id");
                assert!(answer.get(2).is_some_and(|flags| flags & 0x80 != 0), "it is an answer");
            }
            Decision::Forward | Decision::Drop => {}
        }
    }
});
