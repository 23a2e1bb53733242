use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use tokio::{io::AsyncReadExt, task::JoinSet};
use weft_model::{Change, Hostname, NetworkAddress};

use super::*;
use crate::{
    config::Metrics,
    telemetry::{Format, Telemetry},
};

const WITHIN: Duration = Duration::from_secs(10);
const MESH: &str = "web.shop.svc.cluster.local.";

/// Sockets of this namespace; nothing is captured here.
struct Plain;

impl Upstreams for Plain {
    async fn udp(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(to).await?;
        Ok(socket)
    }

    async fn tcp(&self, to: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(to).await
    }
}

struct Lab {
    dns: SocketAddr,
    telemetry: Arc<Telemetry>,
    _tasks: JoinSet<()>,
}

/// Both kinds of socket at one port. That of a fresh UDP socket may be in use over TCP, by another test.
fn one_port() -> (StdUdpSocket, StdTcpListener) {
    loop {
        let udp = StdUdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = StdTcpListener::bind(udp.local_addr().unwrap()) {
            return (udp, tcp);
        }
    }
}

fn lab(config: Dns) -> Lab {
    lab_within(config, Descriptors::of(None))
}

fn lab_within(config: Dns, descriptors: Descriptors) -> Lab {
    let (udp, tcp) = one_port();
    let dns = udp.local_addr().unwrap();
    let hostname = Hostname::new(MESH).unwrap();
    let mut web = weft_model::Service::new("web", Namespace::new("shop").unwrap(), hostname);
    web.vips = vec![NetworkAddress::new(Network::default(), "10.96.0.1".parse().unwrap())];
    let view: Arc<View> = Arc::new(std::iter::once(Change::Service(web.into())).collect());
    let telemetry = Telemetry::new(&Metrics::default(), 0, None);
    let service = Service {
        config,
        fallback: Vec::new(),
        view: Arc::new(move || view.clone()),
        recorder: telemetry.control(),
        descriptors,
    };
    let client = Client {
        namespace: Namespace::new("shop").unwrap(),
        network: Network::default(),
        canonical_service: "client".into(),
        canonical_revision: "v1".into(),
    };
    let sockets = Sockets { udp: vec![udp], tcp: vec![tcp], raw: RawReplies::default() };
    let mut tasks = JoinSet::new();
    tasks.spawn_local(async move { serve(service, client, sockets, Plain).await.unwrap() });
    Lab { dns, telemetry, _tasks: tasks }
}

fn with_upstreams(upstreams: &[SocketAddr]) -> Dns {
    Dns { upstreams: upstreams.to_vec(), ..Dns::default() }
}

/// Runs on one thread, as a worker does.
async fn local(test: impl Future<Output = ()>) {
    let all = tokio::task::LocalSet::new();
    timeout(WITHIN, all.run_until(test)).await.expect("the test ends in time");
}

fn query(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut query = Message::new(id, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.queries.push(Query::query(Name::from_ascii(name).unwrap(), kind));
    query.edns = Some(Edns::new());
    query.to_vec().unwrap()
}

/// An upstream's answer to any query: 192.0.2.`last`.
fn answer_to(query: &[u8], last: u8) -> Vec<u8> {
    let query = Message::from_vec(query).unwrap();
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    let name = query.queries[0].name().clone();
    reply.queries.clone_from(&query.queries);
    reply.answers = vec![Record::from_rdata(name, 5, RData::A(A::new(192, 0, 2, last)))];
    reply.to_vec().unwrap()
}

async fn udp_client(dns: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(dns).await.unwrap();
    client
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let length = socket.recv(&mut bytes).await.unwrap();
    bytes.truncate(length);
    bytes
}

async fn receive_from(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 4096];
    let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
    bytes.truncate(length);
    (bytes, from)
}

#[tokio::test]
async fn where_only_reserved_descriptors_are_left_connections_wait_and_datagrams_are_answered() {
    local(async {
        // All are reserved, which the first connection shows.
        let lab = lab_within(Dns::default(), Descriptors::of(Some(0)));
        let ask = query(7, MESH, RecordType::A);
        let mut first = TcpStream::connect(lab.dns).await.unwrap();
        write_message(&mut first, &ask).await.unwrap();
        assert!(read_message(&mut first).await.unwrap().is_some());

        let mut second = TcpStream::connect(lab.dns).await.unwrap();
        write_message(&mut second, &ask).await.unwrap();
        let client = udp_client(lab.dns).await;
        client.send(&ask).await.unwrap();
        receive(&client).await;
        let answered = timeout(Duration::from_millis(300), read_message(&mut second)).await;
        assert!(answered.is_err(), "{answered:?}");
    })
    .await;
}

#[tokio::test]
async fn a_name_of_the_mesh_is_answered_over_both_transports() {
    local(async {
        let lab = lab(Dns::default());
        let client = udp_client(lab.dns).await;
        client.send(&query(7, MESH, RecordType::A)).await.unwrap();
        let reply = Message::from_vec(&receive(&client).await).unwrap();
        assert_eq!((reply.metadata.id, reply.answers.len()), (7, 1));

        let mut client = TcpStream::connect(lab.dns).await.unwrap();
        for id in [1, 2] {
            write_message(&mut client, &query(id, MESH, RecordType::A)).await.unwrap();
        }
        for id in [1, 2] {
            let reply = read_message(&mut client).await.unwrap().unwrap();
            let reply = Message::from_vec(&reply).unwrap();
            assert_eq!((reply.metadata.id, reply.answers.len()), (id, 1));
        }
        let text = lab.telemetry.render(Format::Prometheus);
        let labels = "source_canonical_service=\"client\",source_canonical_revision=\"v1\"";
        for (transport, count) in [("udp", 1), ("tcp", 2)] {
            let line = format!(
                "istio_dns_requests_total{{request_query_type=\"A\",request_protocol=\"{transport}\",{labels}}} {count}\n"
            );
            assert!(text.contains(&line), "{line} not in {text}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_query_is_forwarded_as_it_is_with_an_id_and_a_port_of_its_own() {
    local(async {
        let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let lab = lab(with_upstreams(&[upstream.local_addr().unwrap()]));
        let client = udp_client(lab.dns).await;
        let (mut ports, mut ids) = (Vec::new(), Vec::new());
        for n in 0..8 {
            let asked = query(n, "example.com.", RecordType::TXT);
            client.send(&asked).await.unwrap();
            let (forwarded, from) = receive_from(&upstream).await;
            assert_eq!(forwarded[2..], asked[2..]);
            ports.push(from.port());
            ids.push(wire::id(&forwarded).unwrap());
            let answer = answer_to(&forwarded, 9);
            upstream.send_to(&answer, from).await.unwrap();
            let got = receive(&client).await;
            assert_eq!(wire::id(&got), Some(n));
            assert_eq!(got[2..], answer[2..]);
        }
        for mut list in [ports, ids] {
            list.sort_unstable();
            list.dedup();
            assert!(list.len() > 4, "not random: {list:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_guessed_answer_is_not_believed() {
    local(async {
        let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let lab = lab(with_upstreams(&[upstream.local_addr().unwrap()]));
        let client = udp_client(lab.dns).await;
        client.send(&query(7, "example.com.", RecordType::A)).await.unwrap();
        let (forwarded, from) = receive_from(&upstream).await;
        let mut wrong_id = answer_to(&forwarded, 66);
        wire::set_id(&mut wrong_id, wire::id(&forwarded).unwrap().wrapping_add(1));
        let id = wire::id(&forwarded).unwrap();
        let wrong_question = answer_to(&query(id, "evil.example.", RecordType::A), 66);
        for bytes in [&wrong_id[..], &wrong_question, &forwarded, b"junk", b""] {
            upstream.send_to(bytes, from).await.unwrap();
        }
        upstream.send_to(&answer_to(&forwarded, 1), from).await.unwrap();
        let got = Message::from_vec(&receive(&client).await).unwrap();
        assert_eq!(got.answers[0].data, RData::A(A::new(192, 0, 2, 1)));
    })
    .await;
}

#[tokio::test]
async fn a_silent_upstream_is_given_up_for_the_next_and_then_for_an_error() {
    local(async {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let good = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let silent_at = silent.local_addr().unwrap();
        let upstreams = [silent_at, good.local_addr().unwrap()];
        let config = Dns { timeout: Duration::from_millis(200), ..with_upstreams(&upstreams) };
        let lab_of_two = lab(config.clone());
        let client = udp_client(lab_of_two.dns).await;
        client.send(&query(7, "example.com.", RecordType::A)).await.unwrap();
        let (forwarded, from) = receive_from(&good).await;
        good.send_to(&answer_to(&forwarded, 1), from).await.unwrap();
        assert_eq!(Message::from_vec(&receive(&client).await).unwrap().answers.len(), 1);

        let lab = lab(Dns { upstreams: vec![silent_at], ..config });
        let client = udp_client(lab.dns).await;
        let asked = query(8, "example.com.", RecordType::A);
        client.send(&asked).await.unwrap();
        let got = Message::from_vec(&receive(&client).await).unwrap();
        assert_eq!(got.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(got.metadata.id, 8);
        assert_eq!(got.queries, Message::from_vec(&asked).unwrap().queries);
        let text = lab.telemetry.render(Format::Prometheus);
        assert!(text.contains("istio_dns_upstream_failures_total{request_query_type=\"A\""));
    })
    .await;
}

#[tokio::test]
async fn a_query_to_our_own_port_never_goes_round_in_a_circle() {
    local(async {
        let lab = lab(Dns::default());
        let client = udp_client(lab.dns).await;
        client.send(&query(9, "example.com.", RecordType::A)).await.unwrap();
        let got = Message::from_vec(&receive(&client).await).unwrap();
        assert_eq!(got.metadata.response_code, ResponseCode::Refused);
        let mut client = TcpStream::connect(lab.dns).await.unwrap();
        write_message(&mut client, &query(9, "example.com.", RecordType::A)).await.unwrap();
        let got = read_message(&mut client).await.unwrap().unwrap();
        assert_eq!(Message::from_vec(&got).unwrap().metadata.response_code, ResponseCode::Refused);
    })
    .await;
}

#[tokio::test]
async fn one_pod_waits_for_so_many_queries_and_is_still_answered_for_the_mesh() {
    local(async {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let upstreams = [silent.local_addr().unwrap()];
        let lab = lab(Dns { pod_queries: 1, ..with_upstreams(&upstreams) });
        let client = udp_client(lab.dns).await;
        client.send(&query(1, "one.example.", RecordType::A)).await.unwrap();
        let _ = receive(&silent).await;
        client.send(&query(2, "two.example.", RecordType::A)).await.unwrap();
        client.send(&query(3, MESH, RecordType::A)).await.unwrap();
        assert_eq!(wire::id(&receive(&client).await), Some(3));
        let text = lab.telemetry.render(Format::Prometheus);
        let line = text.lines().find(|l| l.starts_with("weft_dns_dropped_total{")).unwrap();
        assert!(line.ends_with(" 1"), "{line}");
    })
    .await;
}

#[tokio::test]
async fn rubbish_ends_nothing_but_itself() {
    local(async {
        let lab = lab(Dns::default());
        let client = udp_client(lab.dns).await;
        for junk in [&b""[..], b"x", &[0xff; 600], &[0; 12], &[0x80; 12]] {
            client.send(junk).await.unwrap();
        }
        let mut tcp = TcpStream::connect(lab.dns).await.unwrap();
        write_message(&mut tcp, b"").await.unwrap();
        assert_eq!(tcp.read(&mut [0; 1]).await.unwrap(), 0, "that connection is closed");
        client.send(&query(3, MESH, RecordType::A)).await.unwrap();
        loop {
            // Some of the rubbish is a query of a kind, and is refused.
            let got = receive(&client).await;
            if wire::id(&got) == Some(3) {
                return assert_eq!(Message::from_vec(&got).unwrap().answers.len(), 1);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn with_the_proxy_off_even_a_name_of_the_mesh_is_forwarded() {
    local(async {
        let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let upstreams = [upstream.local_addr().unwrap()];
        let lab = lab(Dns { proxy: Switch::Off, ..with_upstreams(&upstreams) });
        let client = udp_client(lab.dns).await;
        let asked = query(3, MESH, RecordType::A);
        client.send(&asked).await.unwrap();
        assert_eq!(receive(&upstream).await[2..], asked[2..]);
    })
    .await;
}

#[tokio::test]
async fn over_tcp_messages_pass_untouched_and_a_transfer_is_any_number_of_them() {
    local(async {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let lab = lab(with_upstreams(&[upstream.local_addr().unwrap()]));
        let mut client = TcpStream::connect(lab.dns).await.unwrap();
        let mut update = query(5, "example.com.", RecordType::SOA);
        update[2] = 5 << 3;
        write_message(&mut client, &update).await.unwrap();
        let (mut server, _) = upstream.accept().await.unwrap();
        assert_eq!(read_message(&mut server).await.unwrap().unwrap(), update);
        write_message(&mut server, b"whatever it says").await.unwrap();
        assert_eq!(read_message(&mut client).await.unwrap().unwrap(), b"whatever it says");

        let transfer = query(6, "example.com.", RecordType::AXFR);
        write_message(&mut client, &transfer).await.unwrap();
        let (mut server, _) = upstream.accept().await.unwrap();
        assert_eq!(read_message(&mut server).await.unwrap().unwrap(), transfer);
        for part in [&b"one"[..], b"two", b"three"] {
            write_message(&mut server, part).await.unwrap();
            assert_eq!(read_message(&mut client).await.unwrap().unwrap(), part);
        }
        drop(server);
        assert_eq!(read_message(&mut client).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_closed_its_connection_is_asked_again_on_another() {
    local(async {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let lab = lab(with_upstreams(&[upstream.local_addr().unwrap()]));
        let mut client = TcpStream::connect(lab.dns).await.unwrap();
        for id in 0..3 {
            let asked = query(id, "example.com.", RecordType::A);
            write_message(&mut client, &asked).await.unwrap();
            let (mut server, _) = upstream.accept().await.unwrap();
            let got = read_message(&mut server).await.unwrap().unwrap();
            write_message(&mut server, &answer_to(&got, 1)).await.unwrap();
            let reply = read_message(&mut client).await.unwrap().unwrap();
            assert_eq!(wire::id(&reply), Some(id));
        }
    })
    .await;
}
