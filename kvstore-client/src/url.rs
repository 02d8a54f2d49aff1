//! The address of a server: `http://host:port`, `https://host` or `unix:/path/to/socket`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use hyper::Uri;
use kvstore_core::{Error, Result};

/// The URL of a server, parsed.
///
/// ```
/// use kvstore_client::ServerUrl;
///
/// for url in [
///     "http://127.0.0.1:8000",
///     "https://kv.example.org/store",
///     "unix:/run/kvstore/http.sock",
/// ] {
///     assert_eq!(url.parse::<ServerUrl>()?.to_string(), url);
/// }
/// assert!("localhost:8000".parse::<ServerUrl>().is_err()); // http:// is missing
/// # Ok::<(), kvstore_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    pub(crate) endpoint: ServerEndpoint,
    /// The path before `/v1` of a server behind a proxy, without a final slash.
    pub(crate) path: String,
}

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerEndpoint {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

impl ServerUrl {
    /// Returns true if `text` has the scheme of a server.
    pub fn is_url(text: &str) -> bool {
        ["http://", "https://", "unix:"]
            .iter()
            .any(|scheme| text.starts_with(scheme))
    }

    /// Returns the value of `Host`.
    pub(crate) fn authority(&self) -> String {
        match &self.endpoint {
            ServerEndpoint::Tcp { host, port, tls } if *port == default_port(*tls) => host.clone(),
            ServerEndpoint::Tcp { host, port, .. } => format!("{host}:{port}"),
            ServerEndpoint::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl ServerEndpoint {
    /// Returns the host without the brackets of an IPv6 address.
    pub(crate) fn name(host: &str) -> &str {
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

impl FromStr for ServerUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = |reason: &str| {
            // A password is never repeated, not even in part.
            let shown = match text.contains(['@', '=']) {
                true => "this".to_owned(),
                false => format!("{text:?}"),
            };
            Error::Config(format!(
                "{shown} is not the URL of a server: {reason}; expected http://HOST:PORT, https://HOST:PORT or unix:/SOCKET"
            ))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path.starts_with('/') {
                true => Ok(Self {
                    endpoint: ServerEndpoint::Unix(path.into()),
                    path: String::new(),
                }),
                false => Err(refused("the path of the socket must begin with /")),
            };
        }
        if !Self::is_url(text) {
            return Err(refused("its scheme is missing or unknown"));
        }
        let uri: Uri = text.parse().map_err(|_| refused("it cannot be read"))?;
        let authority = uri.authority().ok_or_else(|| refused("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(refused("it must not contain a token"));
        }
        if authority.port_u16().is_none() && authority.as_str() != authority.host() {
            return Err(refused("its port is not a number up to 65535"));
        }
        if uri.query().is_some() || text.contains('#') {
            return Err(refused("it takes no parameters"));
        }
        let tls = uri.scheme_str() == Some("https");
        Ok(Self {
            endpoint: ServerEndpoint::Tcp {
                host: authority.host().to_owned(),
                port: authority.port_u16().unwrap_or(default_port(tls)),
                tls,
            },
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            ServerEndpoint::Tcp { tls, .. } => {
                let scheme = if *tls { "https" } else { "http" };
                write!(f, "{scheme}://{}{}", self.authority(), self.path)
            }
            ServerEndpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_read_and_printed() {
        for (text, printed, authority) in [
            (
                "http://localhost:8000",
                "http://localhost:8000",
                "localhost:8000",
            ),
            ("http://[::1]:8000/", "http://[::1]:8000", "[::1]:8000"),
            (
                "https://example.org:443/kv/",
                "https://example.org/kv",
                "example.org",
            ),
            ("http://example.org", "http://example.org", "example.org"),
            ("unix:///run/kv.sock", "unix:/run/kv.sock", "localhost"),
        ] {
            let url: ServerUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), printed);
            assert_eq!(url.authority(), authority);
        }
    }

    #[test]
    fn errors_about_urls_do_not_repeat_passwords() {
        for text in [
            "",
            "localhost:8000",
            "http://",
            "http://a:secret@host",
            "http://host/?a=1",
            "http://host/#a",
            "unix:kv.sock",
            "redis://host",
            "http://host:99999",
        ] {
            let error = text.parse::<ServerUrl>().unwrap_err();
            assert!(matches!(error, Error::Config(_)), "{text}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
