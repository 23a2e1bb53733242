//! Any authority of a CONNECT is an address or a host with a port, written as one spelling, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ztunnel_core::Authority;

fuzz_target!(|text: &str| {
    if let Ok(authority) = text.parse::<Authority>() {
        let spelled = authority.to_string();
        assert_eq!(spelled.parse(), Ok(authority), "{spelled}");
    }
});
