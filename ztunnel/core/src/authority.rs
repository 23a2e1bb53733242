//! What a CONNECT asks for: an address or a service's name, and always a port.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use weft_model::{Hostname, NameError};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Authority {
    Address(SocketAddr),
    Host { hostname: Hostname, port: u16 },
}

/// Why an authority was refused. The client's fault; the same text is refused again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("authority `{value}` has no port")]
    NoPort { value: String },
    #[error("authority `{value}` has a port that is not between 1 and 65535")]
    BadPort { value: String },
    #[error("authority `{value}` names no host")]
    BadHost { value: String, source: NameError },
    #[error("authority `{value}` is a wildcard")]
    Wildcard { value: String },
    #[error("authority `{value}` is an address with a dot behind it")]
    DottedAddress { value: String },
}

impl Authority {
    /// An IPv4-mapped IPv6 address is stored as IPv4, so that one endpoint has one spelling.
    pub fn address(ip: IpAddr, port: u16) -> Self {
        Self::Address(SocketAddr::new(ip.to_canonical(), port))
    }

    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Host { port, .. } => *port,
        }
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(value: &str) -> Result<Self, AuthorityError> {
        let shown = || value.chars().take(256).collect::<String>().escape_debug().to_string();
        if let Ok(address) = value.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(AuthorityError::BadPort { value: shown() }),
                port => Ok(Self::address(address.ip(), port)),
            };
        }
        let (host, port) =
            value.rsplit_once(':').ok_or_else(|| AuthorityError::NoPort { value: shown() })?;
        // Digits only: `u16::from_str` takes a leading plus sign.
        let port = match port.parse::<u16>() {
            Ok(number) if number != 0 && port.bytes().all(|b| b.is_ascii_digit()) => number,
            Ok(_) | Err(_) => return Err(AuthorityError::BadPort { value: shown() }),
        };
        if host.starts_with('*') {
            return Err(AuthorityError::Wildcard { value: shown() });
        }
        let hostname = Hostname::new(host)
            .map_err(|source| AuthorityError::BadHost { value: shown(), source })?;
        // A name is kept without its last dot, and would then be read as an address: two meanings of one text.
        if hostname.as_str().parse::<IpAddr>().is_ok() {
            return Err(AuthorityError::DottedAddress { value: shown() });
        }
        Ok(Self::Host { hostname, port })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host { hostname, port } => write!(f, "{hostname}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests;
