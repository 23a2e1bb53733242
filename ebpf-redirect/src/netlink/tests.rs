use super::wire::{self, Message, NLM_F_CREATE, NLM_F_EXCL, Reply};
use super::*;

#[test]
fn a_rule_is_the_message_that_ip_rule_sends() {
    let rule = CAPTURE_RULES[0].message(RTM_NEWRULE, wire::AF_INET);
    let bytes = rule.finish(NLM_F_CREATE | NLM_F_EXCL, 7);
    let header: Vec<u8> = [
        &60u32.to_ne_bytes()[..],
        &32u16.to_ne_bytes(),
        &0x605u16.to_ne_bytes(),
        &7u32.to_ne_bytes(),
        &[0; 4],
    ]
    .concat();
    assert_eq!(bytes[..16], header);
    assert_eq!(bytes[16..28], [2, 0, 0, 0, 100, 0, 0, 1, 0, 0, 0, 0]);
    let attribute = |kind: u16, value: u32| {
        [&8u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value.to_ne_bytes()].concat()
    };
    let expected =
        [attribute(6, 90), attribute(15, 100), attribute(10, 0x111), attribute(16, 0xfff)];
    assert_eq!(bytes[28..], expected.concat());
}

#[test]
fn what_was_built_is_read_again() {
    let sent = Message::dump(RTM_GETADDR, &[2, 24, 0, 0, 9, 0, 0, 0])
        .with(IFA_LOCAL, &[10, 0, 0, 1])
        .with(IFLA_IFNAME, b"odd");
    let datagram = [sent.clone().finish(0, 1), sent.finish(0, 2)].concat();
    let replies = Reply::all(&datagram);
    assert_eq!(replies.len(), 2);
    assert_eq!((replies[0].sequence, replies[1].sequence), (1, 2));
    let body = replies[1].of_kind(RTM_GETADDR, 8).unwrap();
    assert_eq!((body.u8_at(1), body.u32_at(4)), (24, 9));
    assert_eq!(body.attribute(IFA_LOCAL).and_then(wire::ip), Some([10, 0, 0, 1].into()));
    assert_eq!(body.attribute(IFLA_IFNAME), Some(&b"odd"[..]));
    assert_eq!(body.attribute(99), None);
}

#[test]
fn what_is_cut_short_is_no_message() {
    let whole = Message::dump(RTM_GETADDR, &[0; 8]).with(IFA_LOCAL, &[10, 0, 0, 1]).finish(0, 1);
    for length in 0..whole.len() {
        assert_eq!(Reply::all(&whole[..length]), [], "{length} bytes");
    }
    // An attribute that claims more than there is.
    let mut lying = whole.clone();
    lying[24] = 200;
    let replies = Reply::all(&lying);
    assert_eq!(replies[0].of_kind(RTM_GETADDR, 8).unwrap().attribute(IFA_LOCAL), None);
    // A header that is longer than the body.
    assert!(replies[0].of_kind(RTM_GETADDR, 64).is_none());
}

#[test]
fn an_acknowledgement_is_an_error_number() {
    let refused = Message::dump(2, &(-libc::EEXIST).to_ne_bytes()).finish(0, 3);
    assert_eq!(Reply::all(&refused)[0].error(), Some(libc::EEXIST));
    let done = Message::dump(2, &[0; 4]).finish(0, 3);
    assert_eq!(Reply::all(&done)[0].error(), Some(0));
    let other = Message::dump(RTM_NEWADDR, &[0; 4]).finish(0, 3);
    assert_eq!(Reply::all(&other)[0].error(), None);
}
