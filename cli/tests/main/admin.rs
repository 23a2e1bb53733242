use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
};

use crate::binary::{DUMP, weft};

/// Answers one request, and hands back what was asked.
fn serve(status: &'static str, body: &'static str) -> (String, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let length = body.len();
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
        String::from_utf8(head).unwrap()
    });
    (address, server)
}

#[test]
fn the_dump_is_read_from_the_admin_address_with_or_without_a_scheme() {
    for scheme in ["", "http://"] {
        let (address, server) = serve("200 OK", DUMP);
        let ran = weft(&["--admin", &format!("{scheme}{address}"), "get", "policies"], "");
        assert_eq!(ran.code, 0, "{}", ran.error);
        assert!(ran.out.contains("no-intruder"), "{}", ran.out);
        assert!(server.join().unwrap().starts_with("GET /config_dump HTTP/1.1"));
    }
}

#[test]
fn a_proxy_that_does_not_answer_as_one_is_named() {
    let (address, server) = serve("404 Not Found", "");
    let ran = weft(&["--admin", &address, "status"], "");
    server.join().unwrap();
    assert_eq!(ran.code, 1);
    assert!(ran.error.contains("status 404"), "{}", ran.error);

    let (address, server) = serve("200 OK", "<html>");
    let ran = weft(&["--admin", &address, "status"], "");
    server.join().unwrap();
    assert_eq!(ran.code, 1);
    assert!(ran.error.contains("is not a config dump"), "{}", ran.error);

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let ran = weft(&["--admin", &free, "status"], "");
    assert_eq!(ran.code, 1);
    assert!(ran.error.contains("is ztunnel running there"), "{}", ran.error);

    let ran = weft(&["--admin", "https://127.0.0.1:1", "status"], "");
    assert!(ran.error.contains("is not an http address"), "{}", ran.error);
}
