//! Addresses as the dump spells them: `<network>/<address>`, `<network>/<address>/<length>`, and for a gateway
//! also `<namespace>/<hostname>`.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Hostname, Network, NetworkAddress, NetworkCidr, ServiceName};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressText(pub NetworkAddress);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CidrText(pub NetworkCidr);

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GatewayText {
    Hostname(ServiceName),
    Address(NetworkAddress),
}

impl FromStr for AddressText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is not of the form <network>/<address>", text.escape_debug());
        // From the right: the name of a network may contain a slash, an address never does.
        let (network, address) = text.rsplit_once('/').ok_or_else(wrong)?;
        let address = address.parse::<IpAddr>().map_err(|_| wrong())?;
        let network = Network::new(network).map_err(|e| e.to_string())?;
        Ok(Self(NetworkAddress::new(network, address)))
    }
}

impl FromStr for CidrText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{}` is not of the form <network>/<address>/<length>", text.escape_debug());
        let slash = text.rmatch_indices('/').nth(1).ok_or_else(wrong)?.0;
        let (network, cidr) = text.split_at_checked(slash).ok_or_else(wrong)?;
        let cidr = cidr.trim_start_matches('/').parse::<IpNet>().map_err(|_| wrong())?;
        let network = Network::new(network).map_err(|e| e.to_string())?;
        Ok(Self(NetworkCidr { network, cidr }))
    }
}

impl FromStr for GatewayText {
    type Err = String;

    /// What ends in an address is an address: a host name of digits only is not one that DNS can hold.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(AddressText(address)) = text.parse() {
            return Ok(Self::Address(address));
        }
        text.parse().map(Self::Hostname).map_err(|e| {
            format!("gateway is neither <namespace>/<hostname> nor <network>/<address>: {e}")
        })
    }
}

impl fmt::Display for AddressText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for CidrText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.network, self.0.cidr)
    }
}

impl fmt::Display for GatewayText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hostname(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

macro_rules! serde_by_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_by_text!(AddressText, CidrText, GatewayText);

/// Istio writes an empty host name where there is none.
pub(super) fn hostname_or_empty<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Hostname>, D::Error> {
    match Option::<String>::deserialize(d)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => Hostname::new(text).map(Some).map_err(serde::de::Error::custom),
    }
}
