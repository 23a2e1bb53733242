use super::*;

#[test]
fn an_authority_is_an_address_or_a_host_with_a_port() {
    let parsed = |text: &str| text.parse::<Authority>().map(|a| a.to_string());
    for (text, expected) in [
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("[fd00::1]:80", "[fd00::1]:80"),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
        ("Web.Shop.svc.cluster.local.:8080", "web.shop.svc.cluster.local:8080"),
    ] {
        assert_eq!(parsed(text).as_deref(), Ok(expected));
    }
}

#[test]
fn an_authority_that_could_be_read_two_ways_is_refused() {
    for text in [
        "",
        "web",
        "web:",
        ":80",
        "web:0",
        "web:65536",
        "web:+80",
        "10.0.0.1",
        "10.0.0.1:0",
        "10.0.0.1.:80",
        "[fd00::1]",
        "fd00::1",
        "*.shop:80",
        "a@web:80",
        "web/x:80",
        "web :80",
        "web:80:90",
        "web\r\n:80",
    ] {
        assert!(text.parse::<Authority>().is_err(), "{text:?} was taken");
    }
}

proptest::proptest! {
    /// What was taken is written in one way, which is taken again as the same.
    #[test]
    fn an_authority_has_one_spelling(text in "[a-zA-Z0-9.:\\[\\]%@/_* -]{0,40}") {
        if let Ok(authority) = text.parse::<Authority>() {
            proptest::prop_assert_eq!(authority.to_string().parse::<Authority>(), Ok(authority));
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,300}") {
        let _ = text.parse::<Authority>();
    }
}
