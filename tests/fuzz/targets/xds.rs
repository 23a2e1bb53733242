//! Any bytes are a resource that survives its own encoding, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use weft_xds::{codec, proto::envoy::service::discovery::v3::Resource};

fuzz_target!(|bytes: &[u8]| {
    for decoded in [codec::decode_address(bytes), codec::decode_authorization(bytes)] {
        let Ok(change) = decoded else { continue };
        let encoded = codec::encode(&change).expect("what was decoded is no removal");
        let wire = Resource::decode(&*encoded.wire).expect("our own encoding");
        let body = wire.resource.expect("a resource has a body").value;
        assert_eq!(codec::decode(encoded.kind, &body), Ok(change), "decoding what was encoded");
    }
});
