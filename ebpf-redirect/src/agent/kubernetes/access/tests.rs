//! Against an API server of a few lines, over real connections.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;

const LONG: Duration = Duration::from_secs(20);

async fn server() -> (TcpListener, Config) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    (listener, Config::new(uri.parse().unwrap()))
}

async fn accept(listener: &TcpListener) -> TcpStream {
    timeout(LONG, listener.accept()).await.expect("it never connected").unwrap().0
}

/// The head of a request.
async fn request(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(LONG, stream.read_u8()).await.expect("nothing was asked").unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn an_api_server_that_says_nothing_on_a_connection_is_asked_on_another() {
    let (listener, config) = server().await;
    let client = client(patient(config, Duration::from_millis(100))).unwrap();
    let api: Api<Namespace> = Api::all(client);
    let asks = async {
        // As when a firewall forgot it: it stays open, and nobody answers.
        let mut forgotten = accept(&listener).await;
        request(&mut forgotten).await;
        let mut next = accept(&listener).await;
        request(&mut next).await;
        let body = r#"{"metadata":{"name":"shop"}}"#;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        next.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        (forgotten, next)
    };
    let tries = async {
        loop {
            if let Ok(namespace) = api.get("shop").await {
                return namespace.metadata.name;
            }
        }
    };
    let ((_forgotten, _next), name) =
        timeout(LONG, async { tokio::join!(asks, tries) }).await.expect("it waits for ever");
    assert_eq!(name.as_deref(), Some("shop"));
}

#[tokio::test]
async fn who_tries_again_by_himself_hears_each_refusal() {
    let (listener, config) = server().await;
    let followed = client(told_of_refusals(config)).unwrap();
    let api: Api<Namespace> = Api::all(followed);
    let refuses = async {
        let mut stream = accept(&listener).await;
        request(&mut stream).await;
        let refusal =
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 600\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(refusal.as_bytes()).await.unwrap();
        stream
    };
    let (_stream, heard) = timeout(LONG, async { tokio::join!(refuses, api.get("shop")) })
        .await
        .expect("a refusal is kept from who asked");
    let Err(kube::Error::Api(status)) = heard else { panic!("{heard:?}") };
    assert_eq!(status.code, 503);
}
