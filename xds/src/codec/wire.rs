//! The pieces that workloads, services and policies are made of.

use std::net::IpAddr;

use bytes::Bytes;
use ipnet::{IpNet, Ipv4Net};
use weft_model::{GatewayAddress, NameError, Network, NetworkAddress, NetworkCidr, ServiceName};

use super::error::{Bad, Problem};
use crate::proto::workload as pb;

/// An enum's number as its value.
pub(super) fn known<E: TryFrom<i32>>(field: &'static str, number: i32) -> Result<E, Bad> {
    E::try_from(number).map_err(|_| Bad::new(field, Problem::UnknownValue(number)))
}

pub(super) fn name<T>(field: &'static str, parsed: Result<T, NameError>) -> Result<T, Bad> {
    parsed.map_err(|e| Bad::new(field, e))
}

pub(super) fn port(field: &'static str, number: u32) -> Result<u16, Bad> {
    u16::try_from(number).map_err(|_| Bad::new(field, Problem::Port(number)))
}

/// Stores an IPv4-mapped address as IPv4, as the model does.
pub(super) fn ip(field: &'static str, bytes: &[u8]) -> Result<IpAddr, Bad> {
    let address = if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        IpAddr::from(v4)
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        IpAddr::from(v6)
    } else {
        // So much is enough to recognise it.
        let head = bytes.iter().copied().take(20).collect();
        return Err(Bad::new(field, Problem::AddressLength { head, bytes: bytes.len() }));
    };
    Ok(address.to_canonical())
}

pub(super) fn ip_bytes(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(v4) => Bytes::copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => Bytes::copy_from_slice(&v6.octets()),
    }
}

/// A range. One of IPv4-mapped addresses becomes the IPv4 range, or it would match no stored address.
pub(super) fn cidr(field: &'static str, bytes: &[u8], length: u32) -> Result<IpNet, Bad> {
    let max: u8 = if bytes.len() == 4 { 32 } else { 128 };
    let too_long = || Bad::new(field, Problem::PrefixLength { length, max });
    let address = ip(field, bytes)?;
    let prefix = u8::try_from(length).map_err(|_| too_long())?;
    match address {
        IpAddr::V4(v4) if max == 128 => {
            if prefix > max {
                return Err(too_long());
            }
            match prefix.checked_sub(96) {
                Some(v4_prefix) => {
                    Ipv4Net::new(v4, v4_prefix).map(IpNet::V4).map_err(|_| too_long())
                }
                None => IpNet::new(v4.to_ipv6_mapped().into(), prefix).map_err(|_| too_long()),
            }
        }
        address => IpNet::new(address, prefix).map_err(|_| too_long()),
    }
}

pub(super) fn network(field: &'static str, value: &str) -> Result<Network, Bad> {
    name(field, Network::new(value))
}

pub(super) fn network_address(
    field: &'static str,
    value: &pb::NetworkAddress,
) -> Result<NetworkAddress, Bad> {
    Ok(NetworkAddress::new(network(field, &value.network)?, ip(field, &value.address)?))
}

pub(super) fn network_cidr(
    field: &'static str,
    value: &pb::NetworkAddress,
    length: u32,
) -> Result<NetworkCidr, Bad> {
    let cidr = cidr(field, &value.address, length)?;
    Ok(NetworkCidr { network: network(field, &value.network)?, cidr })
}

pub(super) fn gateway(
    field: &'static str,
    value: pb::GatewayAddress,
) -> Result<GatewayAddress, Bad> {
    use pb::gateway_address::Destination;
    let hbone_port = port(field, value.hbone_mtls_port)?;
    match value.destination {
        Some(Destination::Hostname(to)) => {
            let text = format!("{}/{}", to.namespace, to.hostname);
            Ok(GatewayAddress::Hostname {
                name: name(field, text.parse::<ServiceName>())?,
                hbone_port,
            })
        }
        Some(Destination::Address(to)) => {
            Ok(GatewayAddress::Address { address: network_address(field, &to)?, hbone_port })
        }
        None => Err(Bad::new(field, Problem::Missing)),
    }
}

pub(super) fn address_message(address: &NetworkAddress) -> pb::NetworkAddress {
    pb::NetworkAddress {
        network: address.network.as_str().to_owned(),
        address: ip_bytes(address.address()),
        length: None,
    }
}

pub(super) fn cidr_message(range: &NetworkCidr) -> pb::NetworkAddress {
    pb::NetworkAddress {
        network: range.network.as_str().to_owned(),
        address: ip_bytes(range.cidr.addr()),
        length: Some(range.cidr.prefix_len().into()),
    }
}

pub(super) fn gateway_message(gateway: &GatewayAddress) -> pb::GatewayAddress {
    use pb::gateway_address::Destination;
    let (destination, hbone_port) = match gateway {
        GatewayAddress::Hostname { name, hbone_port } => (
            Destination::Hostname(pb::NamespacedHostname {
                namespace: name.namespace.as_str().to_owned(),
                hostname: name.hostname.as_str().to_owned(),
            }),
            *hbone_port,
        ),
        GatewayAddress::Address { address, hbone_port } => {
            (Destination::Address(address_message(address)), *hbone_port)
        }
    };
    pb::GatewayAddress { destination: Some(destination), hbone_mtls_port: hbone_port.into() }
}
