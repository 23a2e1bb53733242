//! The values in a policy: each is parsed, or said to be wrong.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use weft_model::{Identity, Namespace, ServiceAccountMatch, ServiceAccountName, StringMatch};

/// An address or a range of addresses.
pub(super) fn cidr(text: &str) -> Result<IpNet, &'static str> {
    let net = match text.parse::<IpAddr>() {
        Ok(ip) => Ok(IpNet::from(ip)),
        Err(_) => text.parse::<IpNet>(),
    };
    net.map(|net| net.trunc()).map_err(|_| "is not an IP address or range")
}

pub(super) fn port(text: &str) -> Result<u16, &'static str> {
    match text.parse::<u16>() {
        Ok(0) | Err(_) => Err("is not a port (1 to 65535)"),
        Ok(port) => Ok(port),
    }
}

/// `*`, `prefix*`, `*suffix`, or the text itself.
fn string_match(text: &str) -> Result<StringMatch, &'static str> {
    let inner = |text: &str| {
        if text.contains('*') {
            Err("has a `*` elsewhere than at one end: it would never match")
        } else {
            Ok(Arc::from(text))
        }
    };
    match (text, text.strip_prefix('*'), text.strip_suffix('*')) {
        ("", ..) => Err("is empty: it would never match"),
        ("*", ..) => Ok(StringMatch::Presence),
        (_, Some(suffix), _) => inner(suffix).map(StringMatch::Suffix),
        (_, None, Some(prefix)) => inner(prefix).map(StringMatch::Prefix),
        (_, None, None) => inner(text).map(StringMatch::Exact),
    }
}

pub(super) fn namespace(text: &str) -> Result<StringMatch, &'static str> {
    let matched = string_match(text)?;
    match &matched {
        StringMatch::Exact(name) if Namespace::new(name).is_err() => {
            Err("is not a namespace: it would never match")
        }
        StringMatch::Exact(_)
        | StringMatch::Prefix(_)
        | StringMatch::Suffix(_)
        | StringMatch::Presence => Ok(matched),
    }
}

/// Principals are compared without their scheme, so one that is written with it is meant without it.
pub(super) fn principal(text: &str) -> Result<StringMatch, &'static str> {
    let matched = string_match(text.strip_prefix("spiffe://").unwrap_or(text))?;
    match &matched {
        StringMatch::Exact(id) if format!("spiffe://{id}").parse::<Identity>().is_err() => Err(
            "is not of the form <trust domain>/ns/<namespace>/sa/<service account>: it would never match",
        ),
        StringMatch::Exact(_)
        | StringMatch::Prefix(_)
        | StringMatch::Suffix(_)
        | StringMatch::Presence => Ok(matched),
    }
}

/// `<namespace>/<service account>`, or a service account of the policy's own namespace.
pub(super) fn service_account(
    own_namespace: &str,
    text: &str,
) -> Result<ServiceAccountMatch, &'static str> {
    let (namespace, account) = text.split_once('/').unwrap_or((own_namespace, text));
    let namespace = Namespace::new(namespace).map_err(|_| "names no valid namespace")?;
    let account = ServiceAccountName::new(account).map_err(|_| "names no valid service account")?;
    Ok(ServiceAccountMatch { namespace, service_account: account })
}
