use super::{Pressure, judge};

#[test]
fn room_comes_back_only_when_a_tenth_is_free() {
    let cases = [
        (Pressure::Normal, 99, Pressure::Normal),
        (Pressure::Normal, 100, Pressure::Full),
        (Pressure::Full, 99, Pressure::Full),
        (Pressure::Full, 90, Pressure::Full),
        (Pressure::Full, 89, Pressure::Normal),
    ];
    for (now, used, expected) in cases {
        assert_eq!(judge(now, used, 100), expected, "{now:?} at {used}");
    }
}
