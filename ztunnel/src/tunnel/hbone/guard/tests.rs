use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::{Abuse, END_HEADERS, END_STREAM, Meter, PREFACE};
use crate::tunnel::hbone::frames::HEAD;

const HEADERS_WITHIN: Duration = Duration::from_secs(10);

fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
    let length = u32::try_from(payload).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    frame.resize(HEAD + payload, 0xff);
    frame
}

fn meter(now: Instant) -> Meter {
    Meter::new(0, now, HEADERS_WITHIN)
}

/// Frames that pass before the flood is called one.
fn passed(meter: &mut Meter, frame: &[u8], now: Instant) -> u32 {
    (0..1_000_000).find(|_| meter.pass(frame, now).is_err()).unwrap()
}

#[test]
fn frames_that_carry_nothing_are_bounded_whatever_their_kind() {
    let now = Instant::now();
    let cases = [
        // Empty DATA, and one that ends its stream.
        (frame(0, 0, 0), 8_000),
        (frame(0, END_STREAM, 0), 64_000),
        // HEADERS, whole and begun; CONTINUATION, empty and not.
        (frame(1, END_HEADERS, 5), 64_000),
        (frame(1, 0, 5), 8_000),
        (frame(9, END_HEADERS, 0), 8_000),
        (frame(9, 0, 3), 8_000),
        // PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, and one that nobody knows.
        (frame(2, 0, 5), 8_000),
        (frame(3, 0, 4), 16_000),
        (frame(4, 0, 6), 8_000),
        (frame(6, 0, 8), 8_000),
        (frame(7, 0, 8), 8_000),
        (frame(8, 0, 4), 8_000),
        (frame(0xbe, 0, 40), 8_000),
    ];
    for (frame, allowed) in cases {
        assert_eq!(passed(&mut meter(now), &frame, now), allowed, "{frame:?}");
    }
}

#[test]
fn the_allowance_comes_back_with_time_and_no_higher_than_it_was() {
    let now = Instant::now();
    let ping = frame(6, 0, 8);
    let mut meter = meter(now);
    let mut spend = |count: u32, now| {
        for _ in 0..count {
            meter.pass(&ping, now).unwrap();
        }
    };
    spend(8_000, now);
    let later = now + Duration::from_secs(1);
    spend(2_000, later);
    let much_later = later + Duration::from_hours(1);
    spend(8_000, much_later);
    assert_eq!(meter.pass(&ping, much_later), Err(Abuse::Flood));
}

#[test]
fn a_busy_peer_may_open_and_end_thousands_of_streams_a_second_for_ever() {
    let start = Instant::now();
    let mut meter = meter(start);
    let (open, end) = (frame(1, END_HEADERS, 40), frame(0, END_STREAM, 0));
    for second in 0..60 {
        for _ in 0..8_000 {
            for part in [&open, &end] {
                meter.pass(part, start + Duration::from_secs(second)).unwrap();
            }
        }
    }
}

#[test]
fn data_pays_for_the_window_updates_that_go_with_it_but_not_for_ever() {
    let now = Instant::now();
    let mut meter = meter(now);
    let (data, update) = (frame(0, 0, 16_384), frame(8, 0, 4));
    for _ in 0..100_000 {
        for part in [&data, &update, &update] {
            meter.pass(part, now).unwrap();
        }
    }
    // One burst that was paid for, less the last two, and one that is allowed.
    assert_eq!(passed(&mut meter, &update, now), 15_998);
}

#[test]
fn a_header_block_must_end_in_time() {
    let now = Instant::now();
    let mut meter = meter(now);
    meter.pass(&frame(1, 0, 3), now).unwrap();
    let in_time = now + HEADERS_WITHIN;
    meter.pass(&frame(9, 0, 3), in_time).unwrap();
    let late = in_time + Duration::from_millis(1);
    assert_eq!(meter.pass(&[0], late), Err(Abuse::SlowHeaders(HEADERS_WITHIN)));
}

#[test]
fn a_header_block_that_ended_is_forgotten() {
    let now = Instant::now();
    let mut meter = meter(now);
    meter.pass(&frame(1, 0, 3), now).unwrap();
    meter.pass(&frame(9, END_HEADERS, 3), now).unwrap();
    meter.pass(&frame(6, 0, 8), now + Duration::from_hours(1)).unwrap();
}

proptest! {
    #[test]
    fn what_is_counted_does_not_depend_on_how_the_bytes_are_cut(
        frames in prop::collection::vec((0u8..12, any::<u8>(), 0usize..600), 0..40),
        cuts in prop::collection::vec(1usize..700, 1..40),
    ) {
        let now = Instant::now();
        let mut bytes = PREFACE.to_vec();
        for (kind, flags, payload) in frames {
            bytes.extend(frame(kind, flags, payload));
        }
        let mut whole = Meter::new(PREFACE.len(), now, HEADERS_WITHIN);
        whole.pass(&bytes, now).unwrap();
        let mut pieces = Meter::new(PREFACE.len(), now, HEADERS_WITHIN);
        let mut rest = bytes.as_slice();
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            pieces.pass(piece, now).unwrap();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(pieces.allowance, whole.allowance);
        prop_assert_eq!(pieces.paid_bytes, whole.paid_bytes);
        prop_assert!(pieces.frames.is_between_two());
    }
}
