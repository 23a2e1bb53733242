use std::{net::TcpListener, os::fd::OwnedFd, sync::Arc};

use tokio::sync::mpsc;
use weft_xds::zds::SocketKind;

use super::{AgentSockets, BATCH_FIRST, BATCH_LARGEST, Need, SocketError};
use crate::{config::Tcp, descriptors::Descriptors, uid::PodUid};

const KIND: SocketKind = SocketKind::ConnectV4;

fn stock() -> (Arc<AgentSockets>, mpsc::UnboundedReceiver<Need>) {
    stock_within(Descriptors::of(None))
}

fn stock_within(descriptors: Descriptors) -> (Arc<AgentSockets>, mpsc::UnboundedReceiver<Need>) {
    let (needs, asked) = mpsc::unbounded_channel();
    let pod = PodUid("pod".into());
    (Arc::new(AgentSockets::new(pod, needs, Tcp::default(), descriptors)), asked)
}

fn sockets(count: u32) -> Vec<OwnedFd> {
    (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap().into()).collect()
}

#[tokio::test]
async fn who_finds_none_waits_for_the_batch_that_it_asked_for() {
    let (stock, mut asked) = stock();
    let (taken, ()) = tokio::join!(stock.take(KIND), async {
        let need = asked.recv().await.unwrap();
        assert_eq!(need, Need { pod: PodUid("pod".into()), kind: KIND, count: BATCH_FIRST });
        stock.put(KIND, sockets(need.count));
    });
    taken.unwrap();
}

#[tokio::test]
async fn many_who_wait_ask_once_and_batches_grow_to_a_bound() {
    let (stock, mut asked) = stock();
    let mut counts = Vec::new();
    for _ in 0..200 {
        let agent = async {
            if let Ok(need) = asked.try_recv() {
                counts.push(need.count);
                stock.put(KIND, sockets(need.count));
            }
        };
        let (taken, ()) = tokio::join!(stock.take(KIND), agent);
        taken.unwrap();
    }
    assert_eq!(counts.get(..5), Some(&[4, 8, 16, 32, 64][..]));
    assert!(counts.iter().all(|count| *count <= BATCH_LARGEST), "{counts:?}");
}

#[tokio::test]
async fn an_agent_that_cannot_make_any_fails_those_who_wait_and_is_asked_again() {
    let (stock, mut asked) = stock();
    let (taken, ()) = tokio::join!(stock.take(KIND), async {
        asked.recv().await.unwrap();
        stock.put(KIND, Vec::new());
    });
    assert!(matches!(taken, Err(SocketError::NoSocket(_))), "{taken:?}");
    let (taken, ()) = tokio::join!(stock.take(KIND), async {
        let need = asked.recv().await.unwrap();
        stock.put(KIND, sockets(need.count));
    });
    taken.unwrap();
}

#[tokio::test]
async fn an_agent_that_has_gone_is_asked_again_in_its_successor() {
    let (stock, mut asked) = stock();
    let (taken, ()) = tokio::join!(stock.take(KIND), async {
        let first = asked.recv().await.unwrap();
        stock.ask_again();
        assert_eq!(asked.recv().await, Some(first));
        stock.put(KIND, sockets(1));
    });
    taken.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever() {
    let (stock, _asked) = stock();
    let taken = stock.take(KIND).await;
    assert!(matches!(taken, Err(SocketError::NoSocket(_))), "{taken:?}");
}

#[tokio::test]
async fn where_only_reserved_descriptors_are_left_nobody_asks_and_stock_is_used_up() {
    let (stock, mut asked) = stock_within(Descriptors::of(Some(0)));
    stock.put(KIND, sockets(1));
    stock.take(KIND).await.unwrap();
    let taken = stock.take(KIND).await;
    assert!(matches!(taken, Err(SocketError::NoSocket(_))), "{taken:?}");
    assert!(asked.try_recv().is_err(), "there is no room for what it would pass");
}
