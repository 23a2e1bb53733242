use std::sync::Arc;

use super::*;

fn served(at: Instant) -> Served {
    let written = Written {
        api_version: "security.istio.io/v1".into(),
        plural: "authorizationpolicies",
        uid: "u".into(),
        generation: 3,
        marks: 0,
        version: "9".into(),
        form: Form::Read,
        conditions: Vec::new(),
    };
    Served { written: Arc::new(written), since: 7, at, reach: Reach::AsSaid }
}

fn own() -> Reached {
    Reached { nodes: 20, applied: 20, refused: None }
}

fn part(beat: u64, applied: usize, refused: Option<&str>) -> String {
    let of = Of { applied, refused: refused.map(str::to_owned) };
    let part = Part { beat, nodes: 20, objects: [("u/3/0".to_owned(), of)].into() };
    serde_json::to_string(&part).unwrap()
}

fn read(others: &mut Others, parts: &[(&str, &str)], now: Instant) -> Vec<String> {
    let parts = parts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    others.read("me", parts.collect(), now)
}

#[tokio::test(start_paused = true)]
async fn nodes_of_all_replicas_count_and_what_a_replica_does_not_say_none_of_its_nodes_has() {
    let (mut others, then) = (Others::default(), crate::clock::instant());
    let now = then + Duration::from_millis(1);
    assert_eq!(others.with(Some(own()), 20, &served(then), now), None, "before others were read");
    read(&mut others, &[], then);
    assert_eq!(others.with(Some(own()), 20, &served(then), now), None, "they may have more by now");
    read(&mut others, &[], now);
    assert_eq!(others.with(Some(own()), 20, &served(then), now), Some(own()));
    let (mine, two) = (part(1, 0, None), part(1, 17, None));
    let old = part(1, 20, None).replace("u/3/0", "u/2/0");
    read(&mut others, &[("me", &mine), ("two", &two), ("three", &old), ("four", "{}")], now);
    let wanted = Reached { nodes: 60, applied: 37, refused: None };
    assert_eq!(others.with(Some(own()), 20, &served(then), now), Some(wanted));
    assert_eq!(others.with(None, 20, &served(then), now), None, "that is said already");
    let refused = part(2, 19, Some("node-7 refused it: no"));
    read(&mut others, &[("two", &refused)], now);
    let refused = Some("node-7 refused it: no".to_owned());
    let wanted = Reached { nodes: 40, applied: 39, refused };
    assert_eq!(others.with(None, 20, &served(then), now), Some(wanted));
    assert_eq!(others.with(Some(own()), 20, &served(then), now + READ_WITHIN * 2), None);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_says_nothing_more_is_gone_and_its_nodes_are_not_waited_for() {
    let (mut others, then) = (Others::default(), crate::clock::instant());
    let mut now = then + Duration::from_millis(1);
    for beat in 0..9 {
        let (alive, dead) = (part(beat, 20, None), part(0, 3, None));
        let gone = read(&mut others, &[("alive", &alive), ("dead", &dead)], now);
        assert_eq!(gone, if beat == 3 { vec!["dead"] } else { vec![] }, "{beat}");
        now += Duration::from_secs(10);
        if beat == 3 {
            break;
        }
    }
    let wanted = Reached { nodes: 40, applied: 40, refused: None };
    assert_eq!(others.with(Some(own()), 20, &served(then), now), Some(wanted));
}
