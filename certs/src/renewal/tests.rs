use std::time::UNIX_EPOCH;

use super::*;

/// Both clocks, `seconds` after the start.
fn at(seconds: u64) -> Now {
    Now { wall: wall(seconds), steady: Duration::from_secs(seconds) }
}

fn wall(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn id(n: usize) -> Identity {
    format!("spiffe://cluster.local/ns/shop/sa/w{n}").parse().unwrap()
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn asks(renewal: &mut Renewal, seconds: u64) -> Vec<Identity> {
    renewal.next(at(seconds)).ask
}

#[test]
fn a_held_identity_is_asked_for_once_and_renewed_at_half_its_life() {
    let mut renewal = Renewal::default();
    renewal.hold(&id(1), Priority::Warmup);
    assert_eq!(renewal.next(at(0)), Step { ask: vec![id(1)], forget: vec![], wake_in: None });
    assert_eq!(asks(&mut renewal, 1), []);
    renewal.fetched(&id(1), wall(1000), 0.5, at(0));
    assert_eq!(asks(&mut renewal, 499), []);
    assert_eq!(asks(&mut renewal, 500), [id(1)]);
}

#[test]
fn renewals_are_spread_over_a_tenth_of_the_life() {
    for (draw, second) in [(0.0, 450), (0.25, 475), (1.0, 550)] {
        let mut renewal = Renewal::default();
        renewal.hold(&id(1), Priority::Warmup);
        assert_eq!(asks(&mut renewal, 0), [id(1)]);
        renewal.fetched(&id(1), wall(1000), draw, at(0));
        assert_eq!(asks(&mut renewal, second - 1), [], "draw {draw}");
        assert_eq!(asks(&mut renewal, second), [id(1)], "draw {draw}");
    }
}

#[test]
fn failures_back_off_from_500_ms_doubling_to_150_s_and_a_success_starts_anew() {
    let mut renewal = Renewal::default();
    renewal.hold(&id(1), Priority::Warmup);
    let mut now = at(0);
    for expected in [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 150_000, 150_000]
    {
        assert_eq!(renewal.next(now).ask, [id(1)]);
        assert_eq!(renewal.failed(&id(1), 0.5, now), Some(millis(expected)));
        let wait = millis(expected);
        now.steady += wait.saturating_sub(millis(1));
        assert_eq!(
            renewal.next(now),
            Step { ask: vec![], forget: vec![], wake_in: Some(millis(1)) }
        );
        now.steady += millis(1);
    }
    assert_eq!(renewal.next(now).ask, [id(1)]);
    renewal.fetched(&id(1), now.wall + Duration::from_secs(10), 0.5, now);
    now.wall += Duration::from_secs(5);
    assert_eq!(renewal.next(now).ask, [id(1)]);
    assert_eq!(renewal.failed(&id(1), 0.5, now), Some(millis(500)));
}

#[test]
fn a_back_off_varies_by_a_fifth_and_never_passes_150_s() {
    assert_eq!(back_off(1, 0.0), millis(400));
    assert_eq!(back_off(1, 1.0), millis(600));
    assert_eq!(back_off(2, 0.0), millis(800));
    assert_eq!(back_off(1000, 0.0), Duration::from_mins(2));
    assert_eq!(back_off(u32::MAX, 1.0), Duration::from_secs(150));
}

#[test]
fn a_waiting_connection_does_not_shorten_a_back_off() {
    let mut renewal = Renewal::default();
    renewal.hold(&id(1), Priority::Warmup);
    assert_eq!(asks(&mut renewal, 0), [id(1)]);
    for _ in 0..5 {
        renewal.failed(&id(1), 0.5, at(0));
    }
    renewal.want(&id(1), Priority::RealTime);
    assert_eq!(asks(&mut renewal, 7), []);
    assert_eq!(asks(&mut renewal, 8), [id(1)]);
}

#[test]
fn at_most_eight_requests_are_under_way_and_the_urgent_go_first() {
    let mut renewal = Renewal::default();
    for n in 0..10 {
        renewal.hold(&id(n), Priority::Background);
    }
    renewal.hold(&id(10), Priority::Warmup);
    renewal.want(&id(11), Priority::RealTime);
    // Raised after the fact, because a connection came.
    renewal.want(&id(9), Priority::RealTime);
    let order = [9, 11, 10, 0, 1, 2, 3, 4].map(id);
    assert_eq!(asks(&mut renewal, 0), order);
    assert_eq!(asks(&mut renewal, 0), []);
    renewal.fetched(&id(11), wall(1000), 0.5, at(0));
    renewal.failed(&id(9), 0.5, at(0));
    assert_eq!(asks(&mut renewal, 0), [id(5), id(6)]);
}

#[test]
fn an_identity_is_forgotten_with_its_last_workload() {
    let mut renewal = Renewal::default();
    renewal.hold(&id(1), Priority::Warmup);
    renewal.hold(&id(1), Priority::Warmup);
    assert_eq!(asks(&mut renewal, 0), [id(1)]);
    assert_eq!(renewal.release(&id(1)), Released::StillHeld);
    assert_eq!(renewal.release(&id(1)), Released::Forgotten);
    // The answer comes too late, and nothing is renewed.
    renewal.fetched(&id(1), wall(10), 0.5, at(0));
    assert_eq!(renewal.failed(&id(1), 0.5, at(0)), None);
    assert_eq!(renewal.next(at(1000)), Step { ask: vec![], forget: vec![], wake_in: None });
}

#[test]
fn an_identity_that_nobody_holds_is_served_once_and_forgotten_at_half_its_life() {
    let mut renewal = Renewal::default();
    renewal.want(&id(1), Priority::RealTime);
    assert_eq!(asks(&mut renewal, 0), [id(1)]);
    renewal.fetched(&id(1), wall(100), 0.5, at(0));
    assert_eq!(renewal.next(at(50)), Step { ask: vec![], forget: vec![id(1)], wake_in: None });
}

#[test]
fn a_restored_certificate_is_renewed_at_half_of_its_whole_life() {
    let mut renewal = Renewal::default();
    renewal.hold(&id(1), Priority::Warmup);
    renewal.restored(&id(1), wall(0), wall(100), 0.5);
    assert_eq!(asks(&mut renewal, 49), []);
    assert_eq!(asks(&mut renewal, 50), [id(1)]);
}

#[test]
fn a_step_of_the_wall_clock_is_noticed_within_five_seconds() {
    let mut renewal = Renewal::default();
    renewal.hold(&id(1), Priority::Warmup);
    assert_eq!(asks(&mut renewal, 0), [id(1)]);
    renewal.fetched(&id(1), wall(86_400), 0.5, at(0));
    assert_eq!(renewal.next(at(0)).wake_in, Some(Duration::from_secs(5)));
    let stepped = Now { wall: wall(80_000), steady: Duration::from_secs(5) };
    assert_eq!(renewal.next(stepped).ask, [id(1)]);
}

#[test]
fn certificates_of_a_second_do_not_make_a_busy_loop() {
    let mut renewal = Renewal::default();
    renewal.hold(&id(1), Priority::Warmup);
    assert_eq!(asks(&mut renewal, 0), [id(1)]);
    renewal.fetched(&id(1), wall(0), 0.5, at(0));
    assert_eq!(renewal.next(at(0)).wake_in, Some(Duration::from_secs(1)));
}
