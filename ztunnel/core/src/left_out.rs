//! Why an endpoint was not taken.

use std::fmt;

/// One reason, the first that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LeftOut {
    Unhealthy,
    /// The endpoint does not serve the port.
    NoPort,
    /// It has neither address nor host name, and its network is ours.
    NoAddress,
    /// It is in another network, whose gateway is not known.
    NoGateway,
    /// Its capacity is 0.
    NoCapacity,
    /// STRICT, and it is not local enough.
    NotLocal,
    /// FAILOVER, and a more local one exists.
    Farther,
    /// A connection to it failed a moment ago.
    Tried,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unhealthy => "unhealthy",
            Self::NoPort => "without the port",
            Self::NoAddress => "without an address",
            Self::NoGateway => "behind an unknown gateway",
            Self::NoCapacity => "of capacity 0",
            Self::NotLocal => "not local",
            Self::Farther => "farther away",
            Self::Tried => "just tried",
        })
    }
}
