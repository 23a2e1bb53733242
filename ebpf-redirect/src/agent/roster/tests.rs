use std::path::Path;

use tokio::sync::mpsc;
use weft_xds::zds::WorkloadInfo;

use super::{Bearing, News, Offer, Order, Roster};
use crate::netns::Netns;
use crate::pod::PodUid;

fn roster() -> Roster {
    Roster::new(mpsc::channel(16).0)
}

fn uid(name: &str) -> PodUid {
    PodUid::parse(name).unwrap()
}

fn offer(name: &str) -> Offer {
    let netns = Netns::open(Path::new("/proc/self/ns/net")).unwrap();
    Offer { uid: uid(name), info: WorkloadInfo::default(), netns, listeners: Vec::new() }
}

/// What a proxy is told that it was not told before.
fn told(orders: &mut mpsc::Receiver<Order>) -> Vec<String> {
    let mut told = Vec::new();
    while let Ok(order) = orders.try_recv() {
        told.push(match order {
            Order::Add(offer) => format!("+{}", offer.uid),
            Order::Delete(uid) => format!("-{uid}"),
            Order::SnapshotSent => "all".to_owned(),
        });
    }
    told
}

#[test]
fn that_is_all_is_said_when_it_is_and_once() {
    let roster = roster();
    roster.add(offer("u1"));
    let (_, mut early) = roster.join(Bearing::Serving);
    assert_eq!(told(&mut early), ["+u1"]);
    roster.add(offer("u2"));
    assert_eq!(told(&mut early), ["+u2"]);
    roster.complete();
    assert_eq!(told(&mut early), ["all"]);
    roster.complete();
    roster.add(offer("u3"));
    assert_eq!(told(&mut early), ["+u3"]);
    let (_, mut late) = roster.join(Bearing::Serving);
    assert_eq!(told(&mut late), ["+u1", "+u2", "+u3", "all"]);
}

#[test]
fn a_proxy_that_was_not_told_all_is_not_told_that_it_was() {
    let roster = roster();
    let (_, mut old) = roster.join(Bearing::Serving);
    let (new, mut newest) = roster.join(Bearing::Serving);
    roster.add(offer("u1"));
    roster.complete();
    assert_eq!((told(&mut old), told(&mut newest)), (vec![], vec!["+u1".into(), "all".into()]));
    roster.leave(new);
    assert_eq!(told(&mut old), ["+u1", "all"]);
}

#[test]
fn a_proxy_that_drains_knows_all_pods_and_is_never_the_newest() {
    let roster = roster();
    roster.add(offer("u1"));
    let (serving, mut serves) = roster.join(Bearing::Serving);
    let (_, mut drains) = roster.join(Bearing::Draining);
    roster.add(offer("u2"));
    roster.complete();
    assert_eq!(told(&mut serves), ["+u1", "+u2", "all"]);
    assert_eq!(told(&mut drains), ["+u1", "+u2", "all"]);
    let (_, mut next) = roster.join(Bearing::Serving);
    roster.leave(serving);
    roster.add(offer("u3"));
    assert_eq!(told(&mut next), ["+u1", "+u2", "all", "+u3"]);
}

#[test]
fn that_none_serves_is_news_also_where_one_drains() {
    let (news, mut heard) = mpsc::channel(16);
    let roster = Roster::new(news);
    let (serving, _orders) = roster.join(Bearing::Serving);
    let (_, _others) = roster.join(Bearing::Draining);
    roster.leave(serving);
    assert_eq!(heard.try_recv(), Ok(News::AllGone));
}

#[test]
fn new_listeners_of_a_pod_are_told_to_a_proxy_that_becomes_the_newest() {
    let roster = roster();
    roster.complete();
    roster.add(offer("u1"));
    let (_, mut old) = roster.join(Bearing::Serving);
    assert_eq!(told(&mut old), ["+u1", "all"]);
    let (new, _orders) = roster.join(Bearing::Serving);
    roster.add(offer("u1"));
    assert_eq!(told(&mut old), [""; 0]);
    roster.leave(new);
    assert_eq!(told(&mut old), ["+u1"]);
}
