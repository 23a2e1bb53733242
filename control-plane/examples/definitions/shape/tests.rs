use std::{collections::BTreeMap, num::NonZeroU16, sync::Arc};

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Mode {
    Off,
    On,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "only read")]
struct Inner {
    by_port: BTreeMap<NonZeroU16, Mode>,
    weight: u32,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Outer {
    names: Option<Vec<Arc<str>>>,
    inner: Vec<Inner>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only read")]
struct Odd {
    share: f64,
}

#[test]
fn a_types_shape_is_what_it_asks_for_when_it_is_read() {
    let list = |shape| Shape::List(Box::new(shape));
    let inner = vec![
        ("byPort", Shape::Map(Box::new(Shape::OneOf(&["OFF", "ON"])))),
        ("weight", Shape::Number(u32::MAX)),
    ];
    let fields = vec![
        ("names", list(Shape::Text)),
        ("inner", list(Shape::Struct { name: "Inner", fields: inner })),
    ];
    assert_eq!(Shape::of::<Outer>(), Ok(Shape::Struct { name: "Outer", fields }));
}

#[test]
fn a_type_that_has_no_schema_here_is_refused() {
    assert!(Shape::of::<Odd>().is_err());
}
