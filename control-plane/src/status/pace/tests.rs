use serde_json::json;

use super::*;
use crate::{
    objects::{Kind, Name},
    status::condition::{accepted, merged},
};

fn key() -> ObjectKey {
    ObjectKey { kind: Kind::ServiceEntry, name: Name::new("shop", "pay") }
}

fn written(version: &str, generation: i64, conditions: &[Value]) -> Written {
    Written {
        api_version: "networking.istio.io/v1".into(),
        plural: "serviceentries",
        uid: "u".into(),
        generation,
        marks: 0,
        version: version.into(),
        form: crate::written::Form::Read,
        conditions: conditions.to_vec(),
    }
}

fn asked() -> Vec<Condition> {
    vec![accepted(&[])]
}

fn said(generation: i64) -> Vec<Value> {
    let now = k8s_openapi::jiff::Timestamp::from_second(0).unwrap();
    merged(&[], &asked(), generation, now).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_write_is_waited_for_before_the_next_one() {
    let (mut paces, now) = (Paces::default(), crate::clock::instant());
    let first = written("1", 1, &[]);
    assert_eq!(paces.due(&key(), &first, &asked(), now), Due::Now);
    paces.wrote(&key(), &first, asked(), &said(1), now);
    assert_eq!(paces.due(&key(), &first, &asked(), now), Due::At(now + ECHO));
    assert_eq!(paces.due(&key(), &first, &asked(), now + ECHO), Due::Now);
    // Another generation is written soon, another object at once.
    let next = written("3", 2, &said(1));
    assert_eq!(paces.due(&key(), &next, &asked(), now), Due::At(now + BETWEEN));
    let other = Written { uid: "v".into(), ..written("3", 1, &[]) };
    assert_eq!(paces.due(&key(), &other, &asked(), now), Due::Now);
}

#[tokio::test(start_paused = true)]
async fn who_writes_over_us_is_answered_ever_more_rarely() {
    let (mut paces, mut now) = (Paces::default(), crate::clock::instant());
    let mut waits = Vec::new();
    for round in 0..9 {
        let emptied = written(&format!("{round}"), 1, &[]);
        let wait = match paces.due(&key(), &emptied, &asked(), now) {
            Due::At(at) => at - now,
            Due::Now => Duration::ZERO,
            Due::No => panic!("round {round}"),
        };
        waits.push(wait.as_secs());
        now += wait;
        assert_eq!(paces.due(&key(), &emptied, &asked(), now), Due::Now);
        paces.wrote(&key(), &emptied, asked(), &said(1), now);
    }
    assert_eq!(waits, [0, 5, 10, 20, 40, 80, 160, 300, 300]);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_does_not_keep_is_not_written_for_ever() {
    let (mut paces, now) = (Paces::default(), crate::clock::instant());
    let pruned = [json!({"type": "Accepted", "status": "True"})];
    paces.wrote(&key(), &written("1", 1, &[]), asked(), &pruned, now);
    let read = written("2", 1, &pruned);
    assert_eq!(paces.due(&key(), &read, &asked(), now + ECHO), Due::No);
    // Others may write beside it.
    let beside = [pruned[0].clone(), json!({"type": "Other"})];
    assert_eq!(paces.due(&key(), &written("3", 1, &beside), &asked(), now + ECHO), Due::No);
}
