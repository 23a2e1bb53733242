use super::*;
use crate::watch::decode::Body;

fn name(name: &str) -> Name {
    Name::new("", name)
}

fn item(of: &str) -> Item {
    Item { name: name(of), body: Body::Definition, written: None }
}

fn page(items: &[&str], next: Option<&str>, version: &str) -> Page {
    let items = items.iter().map(|of| item(of)).collect();
    Page { items, next: next.map(str::to_owned), version: version.into() }
}

fn put(of: &str, version: &str) -> Event {
    Event::Put(item(of), version.into())
}

/// `+name` and `-name`.
fn told(steps: Vec<Step>) -> Vec<String> {
    let tell = |step: Step| match step {
        Step::Put(item) => format!("+{}", item.name.name),
        Step::Delete(name) => format!("-{}", name.name),
    };
    steps.into_iter().map(tell).collect()
}

/// Follows from version 1, and knows these.
fn knowing(items: &[&str]) -> Tracker {
    let mut tracker = Tracker::new();
    assert_eq!(tracker.ask(Listing::Paged), Ask::Page { after: None });
    tracker.page(page(items, None, "1"));
    assert_eq!(tracker.ask(Listing::Paged), Ask::Since("1"));
    tracker
}

#[test]
fn a_paged_list_is_told_when_it_is_whole_and_then_followed() {
    let mut tracker = Tracker::new();
    assert_eq!(tracker.ask(Listing::Paged), Ask::Page { after: None });
    assert_eq!(told(tracker.page(page(&["a", "b"], Some("more"), "7"))), Vec::<String>::new());
    assert!(!tracker.is_whole());
    assert_eq!(tracker.ask(Listing::Paged), Ask::Page { after: Some("more") });
    assert_eq!(told(tracker.page(page(&["c"], None, "7"))), ["+a", "+b", "+c"]);
    assert!(tracker.is_whole());
    assert_eq!(tracker.ask(Listing::Streamed), Ask::Since("7"));
}

#[test]
fn a_streamed_list_is_told_when_its_end_is_and_then_goes_on_by_itself() {
    let mut tracker = Tracker::new();
    assert_eq!(tracker.ask(Listing::Streamed), Ask::Everything);
    for event in [
        put("a", "3"),
        put("b", "4"),
        Event::Bookmark("5".into()),
        Event::Delete(name("b"), "6".into()),
    ] {
        assert_eq!(told(tracker.event(event).unwrap()), Vec::<String>::new());
    }
    assert_eq!(told(tracker.event(Event::Complete("9".into())).unwrap()), ["+a"]);
    assert_eq!(told(tracker.event(put("c", "10")).unwrap()), ["+c"]);
    assert_eq!(tracker.ask(Listing::Streamed), Ask::Since("10"));
}

#[test]
fn bookmarks_and_events_move_the_place_to_go_on_from() {
    let mut tracker = knowing(&["a"]);
    for (event, version, steps) in [
        (Event::Bookmark("5".into()), "5", vec![]),
        (put("b", "6"), "6", vec!["+b"]),
        (Event::Delete(name("a"), "7".into()), "7", vec!["-a"]),
        (Event::Delete(name("never seen"), "8".into()), "8", vec![]),
    ] {
        assert_eq!(told(tracker.event(event).unwrap()), steps);
        assert_eq!(tracker.ask(Listing::Streamed), Ask::Since(version));
    }
}

#[test]
fn a_list_after_410_drops_what_was_deleted_meanwhile_and_nothing_else() {
    for listing in [Listing::Paged, Listing::Streamed] {
        let mut tracker = knowing(&["a", "b", "c"]);
        let gone = Status { code: 410, ..Status::default() };
        assert_eq!(tracker.event(Event::Error(gone.clone())).unwrap_err(), gone);
        tracker.lost();
        let steps = match tracker.ask(listing) {
            Ask::Everything => {
                tracker.event(put("b", "8")).unwrap();
                tracker.event(put("d", "9")).unwrap();
                tracker.event(Event::Complete("9".into())).unwrap()
            }
            Ask::Page { after: None } => tracker.page(page(&["b", "d"], None, "9")),
            other => panic!("{other:?}"),
        };
        assert_eq!(told(steps), ["-a", "-c", "+b", "+d"], "{listing:?}");
        assert_eq!(tracker.len(), 2);
        assert_eq!(tracker.ask(listing), Ask::Since("9"));
    }
}

#[test]
fn an_interrupted_list_drops_nothing_and_the_next_one_is_compared_with_what_was_known() {
    // In pages it goes on; the page that failed is asked for again.
    let mut tracker = knowing(&["a", "b"]);
    tracker.lost();
    tracker.ask(Listing::Paged);
    tracker.page(page(&["b"], Some("more"), "5"));
    assert_eq!(tracker.ask(Listing::Paged), Ask::Page { after: Some("more") });
    // The server has forgotten the list meanwhile.
    tracker.lost();
    assert_eq!(tracker.ask(Listing::Paged), Ask::Page { after: None });
    assert_eq!(tracker.len(), 2);
    assert_eq!(told(tracker.page(page(&["a", "c"], None, "6"))), ["-b", "+a", "+c"]);

    // Streamed it begins anew, and what came of the first is no part of the second.
    tracker.lost();
    tracker.ask(Listing::Streamed);
    tracker.event(put("x", "7")).unwrap();
    assert_eq!(tracker.ask(Listing::Streamed), Ask::Everything);
    tracker.event(put("c", "8")).unwrap();
    assert_eq!(told(tracker.event(Event::Complete("8".into())).unwrap()), ["-a", "+c"]);
}

#[test]
fn a_kind_that_goes_takes_its_objects_with_it_and_comes_back_empty() {
    let mut tracker = knowing(&["a", "b"]);
    assert_eq!(told(tracker.clear()), ["-a", "-b"]);
    assert_eq!(told(tracker.clear()), Vec::<String>::new());
    assert_eq!(tracker.ask(Listing::Streamed), Ask::Everything);
}
