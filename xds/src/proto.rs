//! The messages on the wire. Generated: change `xds/proto` and run `cargo xtask codegen`.
//!
//! Nothing here is checked yet: `codec` turns it into the model's valid values.

#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    unused_qualifications,
    missing_debug_implementations,
    reason = "generated"
)]

// The modules nest as the packages do: generated code refers to other packages by relative paths.
pub mod google {
    pub mod rpc {
        include!("proto/google.rpc.rs");
    }
}
pub mod envoy {
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                include!("proto/envoy.service.discovery.v3.rs");
            }
        }
    }
}
pub mod istio {
    pub mod workload {
        include!("proto/istio.workload.rs");
        pub mod zds {
            include!("proto/istio.workload.zds.rs");
        }
    }
    pub mod security {
        include!("proto/istio.security.rs");
    }
    pub mod v1 {
        pub mod auth {
            include!("proto/istio.v1.auth.rs");
        }
    }
}

pub use envoy::service::discovery::v3 as discovery;
pub use google::rpc;
pub use istio::{security, v1::auth, workload};
