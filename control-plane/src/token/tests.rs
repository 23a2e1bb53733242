use super::*;

const HOUR: Duration = Duration::from_hours(1);

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

fn tokens() -> Tokens {
    Tokens::new(&[7; KEY_BYTES])
}

#[test]
fn a_token_says_which_node_calls_until_it_expires() {
    let token = tokens().issue("node-a", HOUR, start()).unwrap();
    let caller = Caller { node: "node-a".into(), uid: None, expires: start() + HOUR };
    assert_eq!(tokens().verify(&token, start()), Ok(caller));
    assert_eq!(
        tokens().verify(&token, start() + HOUR),
        Err(TokenError::Expired { node: "node-a".into() })
    );
}

#[test]
fn a_token_that_was_changed_or_signed_by_another_key_is_forged() {
    let token = tokens().issue("node-a", HOUR, start()).unwrap();
    let other = Tokens::new(&[8; KEY_BYTES]);
    assert_eq!(other.verify(&token, start()), Err(TokenError::Forged));
    for at in 0..token.len() - 1 {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(tokens().verify(&changed, start()), Err(TokenError::Forged), "at {at}");
    }
    for nonsense in ["", ".", "..", "a.b.c", &"x".repeat(5000)] {
        assert_eq!(tokens().verify(nonsense, start()), Err(TokenError::Forged));
    }
}

#[test]
fn a_token_for_another_audience_is_refused() {
    let claims = encode(br#"{"aud":"vault","node":"node-a","exp":9000000000}"#);
    let head = format!("{}.{claims}", encode(HEADER.as_bytes()));
    let signature = encode(hmac::sign(&tokens().0, head.as_bytes()).as_ref());
    assert_eq!(
        tokens().verify(&format!("{head}.{signature}"), start()),
        Err(TokenError::OtherAudience { audience: "vault".into() })
    );
}

#[test]
fn a_node_name_is_a_name() {
    for node in ["", "a/b", "A", "a b"] {
        assert!(tokens().issue(node, HOUR, start()).is_err(), "{node}");
    }
}
