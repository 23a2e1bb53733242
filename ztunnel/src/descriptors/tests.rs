use std::fs::File;

use rustix::io::fcntl_dupfd_cloexec;

use super::Descriptors;

#[test]
fn an_eighth_is_reserved_of_few_and_128_of_many() {
    let reserved = |limit| Descriptors::of(limit).reserved;
    assert_eq!(reserved(Some(100)), 88);
    assert_eq!(reserved(Some(1 << 20)), (1 << 20) - 128);
    assert_eq!(reserved(None), i32::MAX);
}

#[test]
fn they_are_short_from_the_first_reserved_one_until_a_lower_one_is_free() {
    let file = File::open("/").unwrap();
    let none = Descriptors { reserved: 0, ..Descriptors::of(None) };
    assert!(!none.are_short(), "nobody has taken one");
    none.taken(&file);
    assert!(none.are_short(), "all are reserved");

    let most = Descriptors { reserved: 900, ..Descriptors::of(None) };
    most.taken(&file);
    assert!(!most.are_short(), "a low one was taken");
    most.taken(fcntl_dupfd_cloexec(&file, 900).unwrap());
    assert!(most.short.load(std::sync::atomic::Ordering::Relaxed));
    assert!(!most.are_short(), "a lower one is free");
    assert!((1..900).contains(&most.room()));
    assert_eq!(none.room(), 0);
}

#[test]
fn what_was_promised_is_nobody_elses_until_it_has_come() {
    let some = Descriptors { reserved: 2_000, ..Descriptors::of(None) };
    let first = some.promise(1_500).unwrap();
    assert_eq!(first.count(), 1_500);
    let second = some.promise(1_500).unwrap();
    assert!((1..=500).contains(&second.count()), "{second:?}");
    drop((first, second));
    assert_eq!(some.promise(1_500).unwrap().count(), 1_500);
    let none = Descriptors { reserved: 0, ..Descriptors::of(None) };
    assert!(none.promise(1).is_none());
}
