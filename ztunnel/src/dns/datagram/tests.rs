use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_packet_sums_to_zero_as_its_receiver_checks() {
    for (from, to, header) in
        [("10.96.0.10:53", "10.0.0.1:4000", 20), ("[fd00::10]:53", "[fd00::1]:4000", 40)]
    {
        for bytes in [&b"odd"[..], b"even", b""] {
            let (from, to) = (OriginalDst::new(at(from)), PeerAddr::new(at(to)));
            let packet = packet(from, to, bytes).unwrap();
            let (ip, udp) = packet.split_at(header);
            assert_eq!(&udp[8..], bytes);
            assert_eq!(&udp[..4], [0, 53, 0x0f, 0xa0]);
            let addresses = &ip[header - if header == 20 { 8 } else { 32 }..];
            let length = u16::try_from(udp.len()).unwrap().to_be_bytes();
            assert_eq!(length, udp[4..6]);
            // All ones is how a sum of zero is spelled when it is sent.
            assert_eq!(checksum(&[addresses, &[0, UDP], &length, udp]), 0xffff);
        }
    }
}

#[test]
fn two_families_never_make_one_packet() {
    let (from, to) = (OriginalDst::new(at("10.0.0.1:53")), PeerAddr::new(at("[fd00::1]:1")));
    assert!(packet(from, to, b"x").is_err());
    let long = vec![0; 65_530];
    assert!(packet(from, PeerAddr::new(at("10.0.0.1:1")), &long).is_err());
}

async fn exchange(bind: &str, ask: &str, expected_to: &str) {
    let server = UdpSocket::bind(bind).await.unwrap();
    watch_destination(&server).unwrap();
    let port = server.local_addr().unwrap().port();
    let client =
        UdpSocket::bind(if ask.contains('[') { "[::]:0" } else { "0.0.0.0:0" }).await.unwrap();
    // Connected: an answer from any other address would not be seen.
    client.connect(format!("{ask}:{port}")).await.unwrap();
    client.send(b"question").await.unwrap();
    let received = receive(&server).await.unwrap();
    assert_eq!(received.bytes, b"question");
    assert_eq!(received.from.port(), client.local_addr().unwrap().port());
    assert_eq!(received.to, OriginalDst::new(at(&format!("{expected_to}:{port}"))));
    reply(&server, &RawReplies::default(), received.to, received.from, b"answer").unwrap();
    let mut answer = [0; 16];
    let length = client.recv(&mut answer).await.unwrap();
    assert_eq!(&answer[..length], b"answer");
}

#[tokio::test]
async fn an_answer_comes_from_the_address_that_was_asked() {
    for (bind, ask, to) in [
        ("0.0.0.0:0", "127.0.0.77", "127.0.0.77"),
        ("[::]:0", "127.0.0.77", "127.0.0.77"),
        ("[::]:0", "[::1]", "[::1]"),
        ("[::1]:0", "[::1]", "[::1]"),
    ] {
        exchange(bind, ask, to).await;
    }
}

#[tokio::test]
async fn without_a_raw_socket_a_captured_query_cannot_be_answered_and_that_is_said() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let from = OriginalDst::new(at("10.96.0.10:53"));
    let error =
        reply(&server, &RawReplies::default(), from, PeerAddr::new(at("127.0.0.1:9")), b"x");
    assert_eq!(error.unwrap_err().to_string(), "no raw socket to answer as 10.96.0.10:53");
}

/// Needs the right to make a raw socket, which the node agent has and a test may have.
#[tokio::test]
async fn a_raw_socket_answers_from_a_port_that_is_not_ours() {
    use rustix::net::{AddressFamily as Family, Protocol, SocketType, ipproto};
    let _: Option<Protocol> = Some(ipproto::RAW);
    for (family, asked, client) in
        [(Family::INET, "127.0.0.53:53", "127.0.0.1:0"), (Family::INET6, "[::1]:53", "[::1]:0")]
    {
        let raw = match rustix::net::socket(family, SocketType::RAW, Some(ipproto::RAW)) {
            Ok(raw) => raw,
            Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => {
                eprintln!("skipped: no right to make a raw socket");
                return;
            }
            Err(e) => panic!("{e}"),
        };
        let raw = match family {
            Family::INET => RawReplies { v4: Some(raw), v6: None },
            _ => RawReplies { v4: None, v6: Some(raw) },
        };
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let client = UdpSocket::bind(client).await.unwrap();
        client.connect(asked).await.unwrap();
        let to = PeerAddr::new(client.local_addr().unwrap());
        reply(&server, &raw, OriginalDst::new(at(asked)), to, b"from port 53").unwrap();
        let mut answer = [0; 32];
        let within = std::time::Duration::from_secs(5);
        let length = tokio::time::timeout(within, client.recv(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer[..length], b"from port 53");
    }
}
