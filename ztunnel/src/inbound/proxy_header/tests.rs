use weft_model::{Identity, PeerAddr};

use super::write;

fn at(address: &str) -> PeerAddr {
    PeerAddr::new(address.parse().unwrap())
}

#[test]
fn a_header_for_ipv4_says_who_calls_and_as_whom() {
    let identity: Identity = "spiffe://td/ns/n/sa/s".parse().unwrap();
    let header = write(at("10.0.0.1:1234"), at("10.0.0.2:80"), Some(&identity));
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    expected.extend([0, 12 + 3 + 21]);
    expected.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    expected.extend([0x04, 0xd2, 0, 80]);
    expected.extend([0xd0, 0, 21]);
    expected.extend(b"spiffe://td/ns/n/sa/s");
    assert_eq!(header, expected);
}

#[test]
fn an_unproved_caller_has_no_identity_in_it() {
    let header = write(at("[fd00::1]:1"), at("[fd00::2]:2"), None);
    assert_eq!(header.get(12..16), Some(&[0x21, 0x21, 0, 36][..]));
    assert_eq!(header.len(), 16 + 36);
}

#[test]
fn two_families_are_written_as_one() {
    let header = write(at("10.0.0.1:1"), at("[fd00::2]:2"), None);
    assert_eq!(header.get(13), Some(&0x21));
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
    assert_eq!(header.get(16..32), Some(&mapped[..]));
}
