//! Any text is an identity that is written as it was read, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_model::Identity;

fuzz_target!(|text: &str| {
    if let Ok(identity) = text.parse::<Identity>() {
        assert_eq!(identity.to_string(), text, "one identity, one spelling");
    }
});
