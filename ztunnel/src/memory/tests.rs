use tokio::sync::watch;

use super::{Pressure, judge, tell};
use crate::{
    config::Metrics,
    telemetry::{Format, Telemetry},
};

#[test]
fn room_comes_back_only_when_a_tenth_is_free() {
    let cases = [
        (Pressure::Normal, 99, Pressure::Normal),
        (Pressure::Normal, 100, Pressure::Full),
        (Pressure::Full, 99, Pressure::Full),
        (Pressure::Full, 90, Pressure::Full),
        (Pressure::Full, 89, Pressure::Normal),
        (Pressure::Full, 109, Pressure::Full),
        (Pressure::Full, 110, Pressure::Over { look: 0 }),
        (Pressure::Over { look: 0 }, 110, Pressure::Over { look: 1 }),
        (Pressure::Over { look: 1 }, 109, Pressure::Full),
        (Pressure::Over { look: 1 }, 89, Pressure::Normal),
    ];
    for (now, used, expected) in cases {
        assert_eq!(judge(now, used, 100), expected, "{now:?} at {used}");
    }
}

#[test]
fn reaching_the_limit_is_told_and_counted_once_for_each_time() {
    let telemetry = Telemetry::new(&Metrics::default(), 0, None);
    let (pressure, told) = watch::channel(Pressure::Normal);
    for used in [50, 100, 120, 95, 80, 100] {
        tell(used, 100, &pressure, &telemetry.control());
    }
    assert_eq!(*told.borrow(), Pressure::Full);
    let text = telemetry.render(Format::Prometheus);
    assert!(text.contains("\nweft_memory_limit_reached_total 2\n"), "{text}");
}
