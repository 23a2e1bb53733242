use std::cell::Cell;

use futures_util::stream;
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn waits_for_the_api_server_double_up_to_five_seconds_and_chance_spreads_them() {
    let waits = async || {
        let (started, count) = (Instant::now(), 12);
        let mut asked = Vec::new();
        // As while nothing answers: each try is a list that does not come to anything.
        let tries = stream::iter((0..count).flat_map(|_| {
            let failed: watcher::Result<Event<()>> = Err(watcher::Error::NoResourceVersion);
            [Ok(Event::Init), failed]
        }));
        follow("nothing", tries, |_| asked.push(started.elapsed())).await;
        asked.windows(2).map(|two| two[1] - two[0]).collect::<Vec<_>>()
    };
    let (one, other) = (waits().await, waits().await);
    let mut most = FIRST_WAIT;
    for wait in &one {
        // The timer's own millisecond.
        assert!((most / 2..=most + Duration::from_millis(2)).contains(wait), "{one:?}");
        most = (most * 2).min(LONGEST_WAIT);
    }
    assert_eq!(most, Duration::from_secs(5));
    assert_ne!(one, other);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_answers_again_is_tried_soon_when_it_fails_again() {
    let failed = || Err(watcher::Error::NoResourceVersion);
    let fails = (0..6).map(|_| failed());
    let tries = fails.chain([Ok(Event::Apply(()))]).chain([failed(), Ok(Event::Apply(()))]);
    let (answered, waited) = (Cell::new(None), Cell::new(Duration::ZERO));
    follow("nothing", stream::iter(tries), |_| {
        if let Some(before) = answered.replace(Some(Instant::now())) {
            waited.set(before.elapsed());
        }
    })
    .await;
    assert!(waited.get() <= FIRST_WAIT + Duration::from_millis(2), "{waited:?}");
}
