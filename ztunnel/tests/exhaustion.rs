//! The real program with few file descriptors: who has a certificate is served, nobody spins, and it recovers.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use http::StatusCode;
use tokio::time::timeout;

use crate::{fixture::run, program::Program};

/// Of these the program itself needs about half.
const DESCRIPTORS: usize = 100;
/// More than there are descriptors, so that some always wait.
const CALLERS: usize = 150;

/// Of a processor, while there is nothing to do but to wait for descriptors.
const BUSY_MAX: f64 = 0.05;
const LOG_BYTES_PER_SECOND_MAX: usize = 10_000;

#[test]
fn with_every_descriptor_in_use_the_program_waits_quietly_and_recovers() {
    run(async {
        let proxy = Program::start(DESCRIPTORS).await;
        let mut tunnels = Vec::new();
        // The first that is not served has found none left.
        while let Ok(tunnel) = timeout(Duration::from_secs(2), proxy.tunnel()).await {
            tunnels.push(tunnel);
            assert!(tunnels.len() < DESCRIPTORS, "it has more than it was given");
        }
        let waiting: Vec<_> = (0..20).map(|_| TcpStream::connect(proxy.hbone).unwrap()).collect();
        let (used, log, began) = (proxy.used(), proxy.log().len(), Instant::now());
        // Time is what a proxy that spins would burn: nothing else is to happen.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let seconds = began.elapsed().as_secs_f64();
        assert!(proxy.is_ready(), "{}", proxy.log());
        let busy = (proxy.used().as_secs_f64() - used.as_secs_f64()) / seconds;
        assert!(busy < BUSY_MAX, "{busy} of a processor, doing nothing");
        let written = proxy.log().len() - log;
        assert!(written < 3 * LOG_BYTES_PER_SECOND_MAX, "{written} bytes: {}", proxy.log());

        let kept = tunnels.split_off(tunnels.len() / 2);
        drop((tunnels, waiting));
        let newcomer = timeout(Duration::from_secs(5), proxy.tunnel()).await;
        proxy.exchange(&newcomer.expect("served again")).await;
        proxy.exchange(kept.first().unwrap()).await;
        assert!(proxy.is_ready() && !proxy.log().contains("panicked"), "{}", proxy.log());
    });
}

#[test]
fn without_descriptors_the_program_serves_who_has_a_certificate_and_is_ready() {
    run(async {
        let proxy = Program::start(DESCRIPTORS).await;
        let proven = proxy.tunnel().await;
        proxy.exchange(&proven).await;

        let silent: Vec<_> =
            (0..CALLERS).map(|_| TcpStream::connect(proxy.hbone).unwrap()).collect();
        let began = Instant::now();
        proxy.exchange(&proven).await;
        let newcomer = proxy.tunnel().await;
        proxy.exchange(&newcomer).await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(proxy.is_ready(), "{}", proxy.log());
        assert!(proxy.log().contains("cannot accept"), "{}", proxy.log());

        drop(silent);
        let after = proxy.tunnel().await;
        proxy.exchange(&after).await;
        proxy.exchange(&proven).await;
        assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
    });
}

/// Streams need descriptors as tunnels do: for their connections to the application.
#[test]
fn streams_of_callers_with_certificates_leave_descriptors_for_readiness() {
    run(async {
        let proxy = Program::start(DESCRIPTORS).await;
        let tunnel = proxy.tunnel().await;
        let mut streams = Vec::new();
        let refused = loop {
            match proxy.open(&tunnel).await {
                Ok(stream) => streams.push(stream),
                Err(status) => break status,
            }
            assert!(streams.len() < DESCRIPTORS, "it has more than it was given");
        };
        assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
        assert!(streams.len() > 10, "{} streams", streams.len());
        assert!(proxy.is_ready(), "{}", proxy.log());
        assert!(!proxy.log().contains("lost the node agent"), "{}", proxy.log());

        drop(streams);
        let again = timeout(Duration::from_secs(5), async {
            while proxy.open(&tunnel).await.is_err() {
                tokio::task::yield_now().await;
            }
        });
        again.await.expect("served again");
        proxy.exchange(&tunnel).await;
        assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
    });
}
