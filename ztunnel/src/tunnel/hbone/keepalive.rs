//! Finds peers that no longer answer.

use std::future::poll_fn;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

use crate::config::H2;

/// Completes when the peer has left a ping unanswered, or the connection has ended.
pub(super) async fn unanswered(pings: Option<PingPong>, h2: &H2) {
    // A connection gives its pings away once, and to us.
    let Some(mut pings) = pings else { return };
    loop {
        sleep(h2.ping_interval).await;
        if pings.send_ping(Ping::opaque()).is_err() {
            return;
        }
        match timeout(h2.ping_timeout, poll_fn(|cx| pings.poll_pong(cx))).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
