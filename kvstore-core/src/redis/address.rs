//! Where the servers are and how to log in: the part of a URL before its parameters.

use std::fmt;
use std::str::FromStr;

use redis::{ConnectionInfo, IntoConnectionInfo};

use crate::error::{Error, Result};

/// One server, or some servers of a cluster. `Display` leaves the login out, and errors repeat
/// nothing of the text, any part of which may be a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    scheme: String,
    /// With its `@`; empty without a login.
    login: String,
    place: String,
}

impl Address {
    /// Returns true for some servers of a cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        self.scheme.ends_with("+cluster")
    }

    /// Returns true if the connection is encrypted.
    pub(crate) fn is_tls(&self) -> bool {
        self.scheme.starts_with("rediss")
    }

    /// Returns the server, or the servers of a cluster, at least one.
    pub(crate) fn nodes(&self) -> Result<Vec<ConnectionInfo>> {
        let (login, scheme) = (&self.login, self.scheme.trim_end_matches("+cluster"));
        let nodes_max = if self.is_cluster() { usize::MAX } else { 1 };
        let nodes = self.place.splitn(nodes_max, ',').map(|host| {
            let node = format!("{scheme}://{login}{host}").into_connection_info();
            // The client's reason may quote the text.
            node.map_err(|_| wrong())
        });
        nodes.collect()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = if self.login.is_empty() { "" } else { "***@" };
        write!(f, "{}://{login}{}", self.scheme, self.place)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

impl FromStr for Address {
    type Err = Error;

    /// Parses `redis://[:password@]host[:port][/database]`, `redis+unix:///path` or
    /// `redis+cluster://[:password@]host[:port],host[:port]`; `rediss` in place of `redis` is TLS.
    fn from_str(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let login_end = match scheme {
            "redis" | "rediss" | "redis+cluster" | "rediss+cluster" => rest.rfind('@'),
            // The path of a socket may contain any character.
            "redis+unix" => None,
            _ => return Err(wrong()),
        };
        let (login, place) = rest.split_at(login_end.map_or(0, |at| at + 1));
        let address = Self {
            scheme: scheme.to_owned(),
            login: login.to_owned(),
            place: place.to_owned(),
        };
        if address.is_tls() && !cfg!(feature = "redis-tls") {
            return Err(Error::Config(
                "this program was built without TLS to Redis: build it with the feature redis-tls of kvstore-core".to_owned(),
            ));
        }
        // The client would end the server's name at any of these, and take a piece of the password
        // for the server. Only one server has databases.
        let is_cut = login.contains(['/', '?', '#']) || place.contains(['?', '#']);
        if is_cut || address.is_cluster() && place.contains('/') {
            return Err(wrong());
        }
        address.nodes()?;
        Ok(address)
    }
}

fn wrong() -> Error {
    Error::Config(
        "it is not of the form redis://[:password@]host[:port][/database], redis+unix:///path or \
         redis+cluster://[:password@]host[:port],host[:port]; rediss in place of redis is TLS; in a password \
         write / as %2F, ? as %3F, # as %23 and % as %25, or use the parameter password_file"
            .to_owned(),
    )
}
