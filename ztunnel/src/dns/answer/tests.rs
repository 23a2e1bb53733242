use hickory_proto::op::ResponseCode;
use proptest::prelude::*;
use weft_model::{
    AppProtocol, Change, Health, HealthPolicy, IpFamilies, Namespace, Network, NetworkAddress,
    Ports as ModelPorts, ServiceAccountName, Visibility, Workload, WorkloadUid,
};

use super::*;

const DOMAIN: &str = "cluster.local";

fn namespace(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

fn service(ns: &str, hostname: &str, vips: &[&str]) -> Service {
    let name = hostname.split('.').next().unwrap();
    let mut service = Service::new(name, namespace(ns), Hostname::new(hostname).unwrap());
    let at = |ip: &&str| NetworkAddress::new(Network::default(), ip.parse().unwrap());
    service.vips = vips.iter().map(at).collect();
    service.ports =
        vec![port(Some("http"), 80, 8080), port(Some("https"), 443, 0), port(None, 7000, 7000)];
    service
}

fn port(name: Option<&str>, service_port: u16, target_port: u16) -> ServicePort {
    ServicePort {
        name: name.map(|name| PortName::new(name).unwrap()),
        service_port,
        target_port,
        app_protocol: AppProtocol::default(),
    }
}

fn pod(name: &str, addresses: &[&str], of: &[&Service]) -> Workload {
    let uid = WorkloadUid::new(&format!("Kubernetes//Pod/shop/{name}")).unwrap();
    let account = ServiceAccountName::new("web").unwrap();
    let mut pod = Workload::new(uid, name, namespace("shop"), account);
    pod.addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    pod.services = of.iter().map(|s| (s.key(), ModelPorts::from([(443, 8443)]))).collect();
    pod
}

fn mesh() -> View {
    let web = service("shop", "web.shop.svc.cluster.local", &["10.96.0.1"]);
    let dual = service("shop", "dual.shop.svc.cluster.local", &["10.96.0.2", "fd00::2"]);
    let db = service("shop", "db.shop.svc.cluster.local", &[]);
    let empty = service("shop", "empty.shop.svc.cluster.local", &[]);
    let api = service("ext", "api.example.com", &["240.240.0.1"]);
    let wild = service("ext", "*.wild.example.com", &["240.240.0.2"]);
    let mut private = service("ext", "private.example.com", &["240.240.0.3"]);
    private.visibility = Visibility::Namespace;
    let mut far = service("shop", "far.shop.svc.cluster.local", &[]);
    far.vips =
        vec![NetworkAddress::new(Network::new("other").unwrap(), "10.9.9.9".parse().unwrap())];
    let mut sick = pod("db-1", &["10.0.0.2"], &[&db]);
    sick.health = Health::Unhealthy;
    let mut vm = pod("vm", &["192.0.2.7"], &[]);
    vm.hostname = Some(Hostname::new("vm.corp.example").unwrap());
    let workloads = [pod("db-0", &["10.0.0.1", "fd00::1:1"], &[&db]), sick, vm]
        .map(|w| Change::Workload(w.into()));
    let services =
        [web, dual, db, empty, api, wild, private, far].map(|s| Change::Service(s.into()));
    workloads.into_iter().chain(services).collect()
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(0x1234, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.queries.push(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

fn decide_in(view: &View, ns: &str, bytes: &[u8], via: DnsTransport) -> Decision {
    let (namespace, network) = (namespace(ns), Network::default());
    let asker = Asker { namespace: &namespace, network: &network };
    decide(view, asker, Zone { cluster_domain: DOMAIN, ttl_s: 30 }, bytes, via, 0)
}

fn ask_from(ns: &str, name: &str, kind: RecordType) -> Option<Message> {
    let bytes = query(name, kind).to_vec().unwrap();
    match decide_in(&mesh(), ns, &bytes, DnsTransport::Udp) {
        Decision::Answer(bytes) => Some(Message::from_vec(&bytes).unwrap()),
        Decision::Forward => None,
        Decision::Drop => panic!("{name} dropped"),
    }
}

/// Answers as text, or None where the query is forwarded.
fn answers(name: &str, kind: RecordType) -> Option<Vec<String>> {
    ask_from("shop", name, kind).map(|m| m.answers.iter().map(text).collect())
}

fn text(record: &Record) -> String {
    format!("{} {} {}", record.name, record.record_type(), record.data)
}

#[test]
fn a_service_is_answered_with_its_address() {
    let reply = ask_from("other", "web.shop.svc.cluster.local.", RecordType::A).unwrap();
    assert_eq!(
        reply.answers.iter().map(text).collect::<Vec<_>>(),
        ["web.shop.svc.cluster.local. A 10.96.0.1"]
    );
    assert_eq!(reply.answers[0].ttl, 30);
    assert_eq!(reply.metadata.id, 0x1234);
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    assert!(reply.metadata.recursion_desired && reply.metadata.recursion_available);
    assert!(reply.metadata.authoritative && !reply.metadata.truncation);
    assert_eq!(reply.queries, query("web.shop.svc.cluster.local.", RecordType::A).queries);
}

#[test]
fn the_case_of_a_question_is_kept() {
    let reply = ask_from("shop", "WeB.shop.SVC.cluster.local.", RecordType::A).unwrap();
    assert_eq!(reply.answers[0].name.to_ascii(), "WeB.shop.SVC.cluster.local.");
    assert_eq!(reply.queries[0].name().to_ascii(), "WeB.shop.SVC.cluster.local.");
}

#[test]
fn names_are_found_as_a_pods_resolver_sends_them() {
    let alias = |asked: &str, name: &str, ip: &str| {
        Some(vec![format!("{asked} CNAME {name}"), format!("{name} A {ip}")])
    };
    for domain in ["shop.svc.cluster.local.", "svc.cluster.local.", "cluster.local."] {
        let asked = format!("api.example.com.{domain}");
        assert_eq!(
            answers(&asked, RecordType::A),
            alias(&asked, "api.example.com.", "240.240.0.1")
        );
    }
    let asked = "web.shop.svc.cluster.local.shop.svc.cluster.local.";
    assert_eq!(
        answers(asked, RecordType::A),
        alias(asked, "web.shop.svc.cluster.local.", "10.96.0.1")
    );
    assert_eq!(answers("api.example.com.zoo.svc.cluster.local.", RecordType::A), None);
    assert_eq!(answers("web.", RecordType::A), None, "no resolver would complete it");
}

#[test]
fn a_name_without_an_address_of_the_family_exists_all_the_same() {
    let reply = ask_from("shop", "web.shop.svc.cluster.local.", RecordType::AAAA).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert_eq!(reply.answers, []);
    assert_eq!(reply.authorities.len(), 1, "remembered by an SOA");
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    assert_eq!(
        answers("dual.shop.svc.cluster.local.", RecordType::AAAA).unwrap(),
        ["dual.shop.svc.cluster.local. AAAA fd00::2"]
    );
}

#[test]
fn a_service_without_address_is_its_healthy_endpoints() {
    let a = answers("db.shop.svc.cluster.local.", RecordType::A).unwrap();
    assert_eq!(a, ["db.shop.svc.cluster.local. A 10.0.0.1"]);
    for label in ["db-0", "10-0-0-1"] {
        let name = format!("{label}.db.shop.svc.cluster.local.");
        assert_eq!(answers(&name, RecordType::A).unwrap(), [format!("{name} A 10.0.0.1")]);
        assert_eq!(answers(&name, RecordType::AAAA).unwrap(), [format!("{name} AAAA fd00::1:1")]);
    }
    assert_eq!(answers("db-9.db.shop.svc.cluster.local.", RecordType::A), None);
    assert_eq!(answers("x.web.shop.svc.cluster.local.", RecordType::A), None);
    assert_eq!(answers("empty.shop.svc.cluster.local.", RecordType::A), None, "who knows better");
}

#[test]
fn endpoints_that_are_not_ready_are_published_where_the_service_says_so() {
    let mut db = service("shop", "db.shop.svc.cluster.local", &[]);
    db.load_balancing.health = HealthPolicy::AllowAll;
    let mut view = mesh();
    view.apply(Change::Service(db.into()));
    let bytes = query("db.shop.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let Decision::Answer(bytes) = decide_in(&view, "shop", &bytes, DnsTransport::Udp) else {
        panic!("not answered")
    };
    assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), 2);
}

#[test]
fn srv_names_ports_and_where_they_are() {
    let reply = ask_from("shop", "web.shop.svc.cluster.local.", RecordType::SRV).unwrap();
    let name = "web.shop.svc.cluster.local.";
    assert_eq!(
        reply.answers.iter().map(text).collect::<Vec<_>>(),
        [80, 443, 7000].map(|port| format!("{name} SRV 0 100 {port} {name}"))
    );
    assert_eq!(
        reply.additionals.iter().map(text).collect::<Vec<_>>(),
        [format!("{name} A 10.96.0.1")]
    );
    let reply = ask_from("shop", "db.shop.svc.cluster.local.", RecordType::SRV).unwrap();
    assert_eq!(
        reply.answers.iter().map(text).collect::<Vec<_>>(),
        [
            "db.shop.svc.cluster.local. SRV 0 100 8080 db-0.db.shop.svc.cluster.local.",
            "db.shop.svc.cluster.local. SRV 0 100 8443 db-0.db.shop.svc.cluster.local.",
            "db.shop.svc.cluster.local. SRV 0 100 7000 db-0.db.shop.svc.cluster.local.",
        ]
    );
    assert_eq!(reply.additionals.len(), 2);
}

#[test]
fn srv_of_a_named_port_is_that_port_and_where_it_is() {
    let web = "web.shop.svc.cluster.local.";
    let asked = format!("_HTTPS._tcp.{web}");
    let reply = ask_from("shop", &asked, RecordType::SRV).unwrap();
    let said = |records: &[Record]| records.iter().map(text).collect::<Vec<_>>();
    assert_eq!(said(&reply.answers), [format!("{asked} SRV 0 100 443 {web}")]);
    assert_eq!(said(&reply.additionals), [format!("{web} A 10.96.0.1")]);
    let searched = format!("{asked}svc.cluster.local.");
    assert_eq!(
        answers(&searched, RecordType::SRV).unwrap(),
        [
            format!("{searched} CNAME _https._tcp.{web}"),
            format!("_https._tcp.{web} SRV 0 100 443 {web}")
        ]
    );
    assert_eq!(answers(&asked, RecordType::A), None, "a port has no address");
}

#[test]
fn srv_of_a_named_port_of_a_service_without_address_is_one_for_each_pod() {
    let db = service("shop", "db.shop.svc.cluster.local", &[]);
    let mut view = mesh();
    view.apply(Change::Workload(pod("db-2", &["10.0.0.3"], &[&db]).into()));
    let asked = "_https._tcp.db.shop.svc.cluster.local.";
    let bytes = query(asked, RecordType::SRV).to_vec().unwrap();
    let Decision::Answer(bytes) = decide_in(&view, "shop", &bytes, DnsTransport::Udp) else {
        panic!("not answered")
    };
    let reply = Message::from_vec(&bytes).unwrap();
    let said = |records: &[Record]| {
        let mut said: Vec<_> = records.iter().map(text).collect();
        said.sort();
        said
    };
    let of = |pod: &str| format!("db-{pod}.db.shop.svc.cluster.local.");
    assert_eq!(
        said(&reply.answers),
        ["0", "2"].map(|pod| format!("{asked} SRV 0 100 8443 {}", of(pod)))
    );
    assert_eq!(
        said(&reply.additionals),
        [("0", "A 10.0.0.1"), ("0", "AAAA fd00::1:1"), ("2", "A 10.0.0.3")]
            .map(|(pod, ip)| format!("{} {ip}", of(pod)))
    );
}

#[test]
fn srv_of_a_port_that_is_not_known_by_that_name_is_forwarded() {
    for name in [
        "_grpc._tcp.web.shop.svc.cluster.local.",
        "_https._udp.web.shop.svc.cluster.local.",
        "https._tcp.web.shop.svc.cluster.local.",
        "_https._tcp.db-0.db.shop.svc.cluster.local.",
        "_https._tcp.vm.corp.example.",
        "_https._tcp.",
        "_._tcp.web.shop.svc.cluster.local.",
    ] {
        assert_eq!(answers(name, RecordType::SRV), None, "{name}");
    }
}

#[test]
fn a_wildcard_answers_for_every_name_below_it() {
    let answer = answers("a.b.wild.example.com.", RecordType::A).unwrap();
    assert_eq!(answer, ["a.b.wild.example.com. A 240.240.0.2"]);
    assert_eq!(answers("wild.example.com.", RecordType::A), None);
}

#[test]
fn a_service_is_seen_only_where_it_is_visible() {
    assert_eq!(answers("private.example.com.", RecordType::A), None);
    assert!(ask_from("ext", "private.example.com.", RecordType::A).is_some());
}

#[test]
fn a_workload_is_found_by_its_host_name() {
    assert_eq!(
        answers("vm.corp.example.", RecordType::A).unwrap(),
        ["vm.corp.example. A 192.0.2.7"]
    );
}

#[test]
fn an_address_of_another_network_is_of_no_use() {
    assert_eq!(answers("far.shop.svc.cluster.local.", RecordType::A), None);
}

#[test]
fn a_service_of_one_family_has_no_address_of_the_other() {
    let mut v4 = service("shop", "dual.shop.svc.cluster.local", &["10.96.0.2", "fd00::2"]);
    v4.ip_families = IpFamilies::Ipv4Only;
    let mut view = mesh();
    view.apply(Change::Service(v4.into()));
    let bytes = query("dual.shop.svc.cluster.local.", RecordType::AAAA).to_vec().unwrap();
    let Decision::Answer(bytes) = decide_in(&view, "shop", &bytes, DnsTransport::Udp) else {
        panic!("not answered")
    };
    assert_eq!(Message::from_vec(&bytes).unwrap().answers, []);
}

#[test]
fn what_is_not_understood_is_forwarded() {
    let name = "web.shop.svc.cluster.local.";
    for kind in [
        RecordType::TXT,
        RecordType::HTTPS,
        RecordType::ANY,
        RecordType::MX,
        RecordType::Unknown(9999),
    ] {
        assert_eq!(answers(name, kind), None, "{kind}");
    }
    let mut odd = Vec::new();
    for op in [OpCode::Update, OpCode::Notify, OpCode::Status] {
        let mut message = query(name, RecordType::A);
        message.metadata.op_code = op;
        odd.push(message);
    }
    let mut two = query(name, RecordType::A);
    two.queries.push(two.queries[0].clone());
    let mut chaos = query(name, RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut spaced = query(name, RecordType::A);
    spaced.queries[0].set_name(Name::from_labels([&b"a b"[..], b"example"]).unwrap());
    let mut newer = query(name, RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.edns = Some(edns);
    odd.extend([two, chaos, newer, query(".", RecordType::A), spaced]);
    for message in odd {
        let bytes = message.to_vec().unwrap();
        assert_eq!(
            decide_in(&mesh(), "shop", &bytes, DnsTransport::Udp),
            Decision::Forward,
            "{message:?}"
        );
    }
    let mut cut = query(name, RecordType::A).to_vec().unwrap();
    cut.truncate(20);
    assert_eq!(decide_in(&mesh(), "shop", &cut, DnsTransport::Udp), Decision::Forward);
}

#[test]
fn an_answer_is_never_answered() {
    let mut message = query("web.shop.svc.cluster.local.", RecordType::A);
    message.metadata.message_type = MessageType::Response;
    let bytes = message.to_vec().unwrap();
    assert_eq!(decide_in(&mesh(), "shop", &bytes, DnsTransport::Udp), Decision::Drop);
    assert_eq!(decide_in(&mesh(), "shop", &bytes[..11], DnsTransport::Udp), Decision::Drop);
}

fn crowd(endpoints: u32) -> View {
    let mut db = service("shop", "db.shop.svc.cluster.local", &[]);
    db.ports.truncate(2);
    let pods = (0..endpoints).map(|n| {
        let ip = std::net::Ipv4Addr::from(0x0a01_0000 + n).to_string();
        Change::Workload(pod(&format!("db-{n}"), &[&ip], &[&db]).into())
    });
    pods.chain([Change::Service(db.clone().into())]).collect()
}

#[test]
fn an_answer_that_is_too_long_is_truncated_to_what_the_client_takes() {
    let name = "db.shop.svc.cluster.local.";
    let sent = |message: &Message, via| {
        let bytes = message.to_vec().unwrap();
        let Decision::Answer(bytes) = decide_in(&crowd(300), "shop", &bytes, via) else {
            panic!("not answered")
        };
        (bytes.len(), Message::from_vec(&bytes).unwrap())
    };
    let plain = query(name, RecordType::A);
    let (length, reply) = sent(&plain, DnsTransport::Udp);
    assert!(length <= 512 && reply.metadata.truncation && reply.answers.len() > 20, "{length}");
    assert_eq!(reply.edns, None);
    let mut edns = query(name, RecordType::A);
    edns.edns = Some(Edns::new());
    edns.edns.as_mut().unwrap().set_max_payload(1232).set_dnssec_ok(true);
    let (length, reply) = sent(&edns, DnsTransport::Udp);
    assert!((1000..=1232).contains(&length) && reply.metadata.truncation, "{length}");
    assert!(reply.edns.unwrap().flags().dnssec_ok);
    let (_, reply) = sent(&plain, DnsTransport::Tcp);
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (300, false));
    // SRV loses what is merely handy before it loses an answer.
    let (length, reply) = sent(&query(name, RecordType::SRV), DnsTransport::Tcp);
    assert!(length <= 65_535 && !reply.metadata.truncation);
}

#[test]
fn endpoints_take_turns_at_being_first() {
    let view = crowd(3);
    let (ns, network) = (namespace("shop"), Network::default());
    let asker = Asker { namespace: &ns, network: &network };
    let bytes = query("db.shop.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let zone = Zone { cluster_domain: DOMAIN, ttl_s: 30 };
    let first = |draw| match decide(&view, asker, zone, &bytes, DnsTransport::Udp, draw) {
        Decision::Answer(b) => Message::from_vec(&b).unwrap().answers[0].data.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        [first(0), first(1), first(2), first(3)],
        ["10.1.0.0", "10.1.0.1", "10.1.0.2", "10.1.0.0"]
    );
}

#[test]
fn a_type_is_named_for_metrics_or_is_other() {
    let named = |of| kind(&query("a.example.", of).to_vec().unwrap());
    assert_eq!(named(RecordType::AAAA), "AAAA");
    assert_eq!(named(RecordType::Unknown(31_337)), "other");
    assert_eq!(kind(b"junk"), "unknown");
}

proptest! {
    #[test]
    fn no_message_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decide_in(&mesh(), "shop", &bytes, DnsTransport::Udp);
        let _ = kind(&bytes);
    }

    #[test]
    fn no_mutated_query_panics_and_every_answer_fits_and_parses(
        at in 0..60usize, byte in any::<u8>(), cut in 20..80usize, srv in any::<bool>(),
    ) {
        let kind = if srv { RecordType::SRV } else { RecordType::A };
        let mut message = query("web.shop.svc.cluster.local.", kind);
        message.edns = Some(Edns::new());
        let mut bytes = message.to_vec().unwrap();
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        bytes.truncate(cut);
        if let Decision::Answer(answer) = decide_in(&mesh(), "shop", &bytes, DnsTransport::Udp) {
            prop_assert!(answer.len() <= 4096);
            prop_assert!(Message::from_vec(&answer).is_ok());
            prop_assert!(wire::answers(&answer, &bytes));
        }
    }
}
