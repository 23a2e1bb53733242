use std::future::pending;

use tokio::task::yield_now;

use super::*;

#[tokio::test]
async fn pods_that_came_and_went_leave_no_watch_behind() {
    let mut watches = Watches::default();
    let _kept = watches.begin(pending());
    for _ in 0..100 {
        watches.begin(pending()).abort();
        yield_now().await;
    }
    // The last one that went is joined when the next one begins.
    assert_eq!(watches.0.len(), 2);
}
