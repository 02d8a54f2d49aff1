//! The host names under which requests may address this server.
//!
//! A web page whose owner points its name at this machine has the same origin as the server, so the
//! browser sends no preflight request before it reads and writes (DNS rebinding). Its requests
//! carry the page's name in `Host`. A server that is open to every program on this machine
//! therefore serves only requests that name this machine.

use std::net::{IpAddr, Ipv6Addr};

use hyper::Version;
use hyper::header::HOST;
use hyper::http::request::Parts;

use crate::answer::error::{Problem, Result};
use crate::answer::problems::Kind;

/// Names of this server, in addition to those that every machine has for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// Parses a comma-separated list of host names.
    ///
    /// # Errors
    /// Names the first one that is not a host name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = |name: &str| match Host::parse(name.trim()) {
            Some(Host {
                name,
                has_port: false,
            }) if !name.is_empty() => Ok(normal(name)),
            _ => Err(format!(
                "{name:?} is no name of a host, such as kv.example: it is written without scheme and port"
            )),
        };
        text.split(',')
            .map(name)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Returns true if there are no names.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks the host of a request. The request must name one valid host. If `address` is given,
    /// the host must also be this machine at that address.
    ///
    /// # Errors
    /// 400 for a request without exactly one valid host, 421 for one that names another machine.
    pub(crate) fn check(&self, parts: &Parts, address: Option<IpAddr>) -> Result<()> {
        let mut lines = parts.headers.get_all(HOST).iter();
        let host = match (lines.next(), lines.next()) {
            (Some(line), None) => {
                let text = line.to_str().ok();
                let host = text.and_then(Host::parse);
                Some(host.ok_or_else(|| {
                    Problem::malformed(
                        "Host must be a host, with a port or without: example.org:8000",
                    )
                })?)
            }
            (None, _) if parts.version < Version::HTTP_11 => None,
            _ => return Err(Problem::malformed("a request must have one Host header")),
        };
        let Some(address) = address else {
            return Ok(());
        };
        // A target in absolute form overrides the header (RFC 9112 §3.2.2).
        for name in parts
            .uri
            .host()
            .into_iter()
            .chain(host.map(|host| host.name))
        {
            if !self.has(name, address) {
                return Err(Problem::new(
                    Kind::Misdirected,
                    "this server does not serve that host: ask for localhost, or have its operator add the name with --allow-host",
                )
                .with("host", name));
            }
        }
        Ok(())
    }

    fn has(&self, name: &str, address: IpAddr) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("localhost") || self.0.iter().any(|known| is(known)) {
            return true;
        }
        let inner = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let named = inner.unwrap_or(name).parse::<IpAddr>();
        named.is_ok_and(|named| named.to_canonical().is_loopback() || named == address)
    }
}

/// Returns `name` in lower case, without the final dot of a fully qualified domain name.
fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// A host as in the header `Host` (RFC 9110 §7.2).
struct Host<'a> {
    name: &'a str,
    has_port: bool,
}

impl<'a> Host<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (name, port) = match text
            .strip_prefix('[')
            .and_then(|inner| inner.split_once(']'))
        {
            Some((inner, after)) => {
                inner.parse::<Ipv6Addr>().ok()?;
                (
                    &text[..inner.len() + 2],
                    after.strip_prefix(':').or(after.is_empty().then_some(""))?,
                )
            }
            None => match text.bytes().position(|byte| byte == b':') {
                Some(at) => (&text[..at], &text[at + 1..]),
                None => (text, ""),
            },
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
        let is_name = name.starts_with('[') || name.bytes().all(is_plain);
        let is_port = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
        (is_name && is_port).then_some(Self {
            name,
            has_port: name.len() < text.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use hyper::http::HeaderValue;

    use super::*;

    fn check(hosts: &Hosts, host: &str, target: &str, address: Option<&str>) -> Option<Kind> {
        let value = HeaderValue::from_bytes(host.as_bytes()).unwrap();
        let request = Request::get(target).header(HOST, value).body(()).unwrap();
        let address = address.map(|address| address.parse().unwrap());
        hosts
            .check(&request.into_parts().0, address)
            .err()
            .map(|problem| problem.kind())
    }

    #[test]
    fn only_hosts_of_this_machine_are_served_where_it_matters() {
        let hosts = Hosts::parse("kv.example, Other.").unwrap();
        let local = Some("127.0.0.1");
        for host in [
            "localhost",
            "LocalHost:8000",
            "localhost.",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]",
            "[::1]:80",
            "kv.example:9",
            "other",
        ] {
            assert_eq!(check(&hosts, host, "/", local), None, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8000",
            "10.0.0.1",
            "[2001:db8::1]",
            "",
            "localhost.evil.example",
            "x",
        ] {
            assert_eq!(
                check(&hosts, host, "/", local),
                Some(Kind::Misdirected),
                "{host}"
            );
            assert_eq!(check(&hosts, host, "/", None), None, "{host}");
        }
        assert_eq!(check(&hosts, "10.0.0.1", "/", Some("10.0.0.1")), None);
        assert_eq!(
            check(&hosts, "localhost", "http://evil.example/", local),
            Some(Kind::Misdirected)
        );
        assert_eq!(
            check(&hosts, "localhost", "http://localhost:1/", local),
            None
        );
    }

    #[test]
    fn what_is_no_host_is_refused_everywhere() {
        for host in [
            "a b",
            "a/b",
            "user@host",
            "a:b:c",
            "a,b",
            "[::1",
            "[::1]x",
            "[x]",
            "a:99999999",
            "é",
            "a#b",
            "a?b",
        ] {
            assert_eq!(
                check(&Hosts::default(), host, "/", None),
                Some(Kind::Malformed),
                "{host}"
            );
        }
        for name in ["", "http://a", "a:1", "a,", "a b"] {
            assert!(Hosts::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn only_a_request_of_http_1_0_may_leave_out_its_host() {
        for (version, refused) in [
            (Version::HTTP_10, None),
            (Version::HTTP_11, Some(Kind::Malformed)),
        ] {
            let request = Request::get("/").version(version).body(()).unwrap();
            let checked = Hosts::default().check(&request.into_parts().0, None);
            assert_eq!(checked.err().map(|problem| problem.kind()), refused);
        }
    }
}
