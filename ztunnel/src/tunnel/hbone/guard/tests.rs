use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::{Abuse, FRAMES_BURST, FRAMES_PER_SECOND, HEAD, Meter, PREFACE};

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
    // Empty DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION, unknown.
    for (kind, payload) in
        [(0, 0), (1, 5), (2, 5), (3, 4), (4, 6), (6, 8), (7, 8), (8, 4), (9, 3), (0xbe, 40)]
    {
        let frame = frame(kind, super::END_HEADERS, payload);
        assert_eq!(passed(&mut meter(now), &frame, now), FRAMES_BURST, "kind {kind}");
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
    spend(FRAMES_BURST, now);
    let later = now + Duration::from_secs(1);
    spend(FRAMES_PER_SECOND, later);
    let much_later = later + Duration::from_hours(1);
    spend(FRAMES_BURST, much_later);
    assert_eq!(meter.pass(&ping, much_later), Err(Abuse::Flood));
}

#[test]
fn data_pays_for_the_window_updates_that_go_with_it() {
    let now = Instant::now();
    let mut meter = meter(now);
    let (data, update) = (frame(0, 0, 16_384), frame(8, 0, 4));
    for _ in 0..FRAMES_BURST {
        for part in [&data, &update, &update] {
            meter.pass(part, now).unwrap();
        }
    }
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
    meter.pass(&frame(9, super::END_HEADERS, 3), now).unwrap();
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
        prop_assert_eq!((pieces.skip, pieces.head_len), (0, 0));
    }
}
