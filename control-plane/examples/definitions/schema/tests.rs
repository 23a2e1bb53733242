use super::*;

fn mtls(field: &'static str) -> Shape {
    Shape::Struct { name: "Mtls", fields: vec![(field, Shape::Text)] }
}

#[test]
fn a_field_without_a_meaning_and_a_meaning_without_a_field_are_errors() {
    let mut schemas = Schemas::new();
    let error = schemas.of(&mtls("size")).unwrap_err().to_string();
    assert_eq!(error, "what does `size` of Mtls mean?");
    schemas.of(&mtls("mode")).unwrap();
    assert!(schemas.end().unwrap_err().to_string().contains("has no field"));
}

#[test]
fn what_a_type_does_not_know_is_kept_at_every_level() {
    let outer =
        Shape::Struct { name: "PeerAuthenticationSpec", fields: vec![("mtls", mtls("mode"))] };
    let schema = Schemas::new().of(&outer).unwrap();
    for level in ["", "/properties/mtls"] {
        let kept = schema.pointer(&format!("{level}/x-kubernetes-preserve-unknown-fields"));
        assert_eq!(kept, Some(&Value::Bool(true)), "{level}");
    }
}
