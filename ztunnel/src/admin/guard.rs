//! Who may ask the admin address.
//!
//! It listens on loopback only. What could still reach it from elsewhere is a browser on the node that a page
//! sends there by a name of the page's own (DNS rebinding), or a program that fetches what others name (SSRF).
//! The first shows in `Host` or `Origin`; for the second, whatever changes something needs POST.

use std::net::IpAddr;

use hyper::{
    HeaderMap, Uri,
    header::{HOST, ORIGIN, REFERER},
};

/// Why a request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Foreign {
    #[error("admin answers only to requests whose Host is localhost or a loopback address")]
    Host,
    #[error("admin does not answer to web pages")]
    Page,
}

pub(super) fn check(uri: &Uri, headers: &HeaderMap) -> Result<(), Foreign> {
    if headers.contains_key(ORIGIN) || headers.contains_key(REFERER) {
        return Err(Foreign::Page);
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|h| h.to_str().ok()).ok_or(Foreign::Host)?;
    if hosts.next().is_some() || !is_loopback(host) {
        return Err(Foreign::Host);
    }
    // A request in absolute form names its host once more, and that one counts (RFC 9112, 3.2.2).
    match uri.authority() {
        Some(authority) if !is_loopback(authority.as_str()) => Err(Foreign::Host),
        Some(_) | None => Ok(()),
    }
}

fn is_loopback(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<http::uri::Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(uri: &str, headers: &[(&'static str, &str)]) -> Result<(), Foreign> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        check(&uri.parse().unwrap(), &map)
    }

    #[test]
    fn only_the_node_itself_is_answered() {
        for host in [
            "localhost",
            "LOCALHOST:15000",
            "127.0.0.1:15000",
            "127.8.9.1",
            "[::1]:15000",
            "[::ffff:127.0.0.1]",
        ] {
            assert_eq!(checked("/", &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "10.0.0.1:15000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "a@localhost",
            "",
            "0.0.0.0",
            "[::]",
        ] {
            assert_eq!(checked("/", &[("host", host)]), Err(Foreign::Host), "{host}");
        }
        assert_eq!(checked("/", &[]), Err(Foreign::Host));
        assert_eq!(
            checked("/", &[("host", "localhost"), ("host", "evil.example")]),
            Err(Foreign::Host)
        );
        assert_eq!(checked("http://evil.example/", &[("host", "localhost")]), Err(Foreign::Host));
        assert_eq!(checked("http://localhost/", &[("host", "localhost")]), Ok(()));
    }

    #[test]
    fn a_web_page_is_not_answered_whatever_its_origin() {
        for origin in ["http://localhost:15000", "null", "https://evil.example"] {
            let headers = [("host", "localhost:15000"), ("origin", origin)];
            assert_eq!(checked("/", &headers), Err(Foreign::Page), "{origin}");
        }
        let headers = [("host", "localhost:15000"), ("referer", "http://evil.example/")];
        assert_eq!(checked("/", &headers), Err(Foreign::Page));
    }
}
