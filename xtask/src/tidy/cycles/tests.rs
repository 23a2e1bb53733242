use super::*;

fn sources(files: &[(&str, &str)]) -> Sources {
    Sources::of(files)
}

fn found(files: &[(&str, &str)]) -> Vec<String> {
    check(&sources(files)).into_iter().map(|finding| finding.what).collect()
}

#[test]
fn siblings_that_use_each_other_are_a_cycle() {
    let files = [
        ("x/src/lib.rs", "mod a;\nmod b;\n"),
        ("x/src/a.rs", "use crate::b::B;\n"),
        ("x/src/b.rs", "pub struct B;\nfn f() { super::a::g(); }\n"),
    ];
    assert_eq!(found(&files), ["modules in a cycle: a -> b -> a (x/src/a.rs, x/src/b.rs)"]);
}

#[test]
fn a_name_passed_on_by_the_parent_counts_as_the_child_that_it_comes_from() {
    let files = [
        ("x/src/lib.rs", "mod a;\nmod b;\npub use b::{B, C as D};\nuse a::A;\n"),
        ("x/src/a.rs", "use crate::D;\n"),
        ("x/src/b.rs", "mod c;\n"),
        ("x/src/b/c.rs", "use crate::{A, other};\n"),
    ];
    assert_eq!(found(&files), ["modules in a cycle: a -> b -> a (x/src/a.rs, x/src/b/c.rs)"]);
}

#[test]
fn parent_and_child_may_use_each_other_and_tests_may_use_all() {
    let files = [
        ("x/src/lib.rs", "mod a;\nmod b;\npub struct P;\npub use b::B;\n"),
        (
            "x/src/a.rs",
            "use super::P;\nuse crate::B; // use crate::a::A\n#[cfg(test)]\nmod tests;\n",
        ),
        ("x/src/a/tests.rs", "use crate::b;\n"),
        ("x/src/b.rs", "use super::P;\n#[cfg(test)]\nmod tests;\n"),
        ("x/src/b/tests.rs", "use crate::a;\n"),
    ];
    assert_eq!(found(&files), Vec::<String>::new());
}
