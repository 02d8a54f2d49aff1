//! Where the servers are and how to log in: the part of a URL before its parameters.

use std::fmt;
use std::str::FromStr;

use redis::{ConnectionInfo, IntoConnectionInfo};

use crate::error::{Error, Result};
use crate::redis::link::tls;

/// One server, or some servers of a cluster. `Display` leaves the login out, and errors repeat
/// nothing of the text, any part of which may be a password.
#[derive(Clone)]
pub struct Address {
    text: String,
    pub(crate) nodes: Vec<ConnectionInfo>,
    pub(crate) is_cluster: bool,
    is_tls: bool,
    shown: String,
}

impl Address {
    /// Returns the servers' addresses, for messages.
    pub(crate) fn endpoints(&self) -> String {
        let nodes = self.nodes.iter().map(|node| node.addr().to_string());
        nodes.collect::<Vec<_>>().join(", ")
    }

    /// Returns true if the connection is encrypted.
    pub(crate) fn is_tls(&self) -> bool {
        self.is_tls
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Address {}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shown, f)
    }
}

impl FromStr for Address {
    type Err = Error;

    /// Parses `redis://[:password@]host[:port][/database]`, `redis+unix:///path` or
    /// `redis+cluster://[:password@]host[:port],host[:port]`; `rediss` in place of `redis` is TLS.
    fn from_str(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let (one, is_cluster) = match scheme {
            "redis" | "rediss" | "redis+unix" => (scheme, false),
            "redis+cluster" => ("redis", true),
            "rediss+cluster" => ("rediss", true),
            _ => return Err(wrong()),
        };
        let is_tls = one == "rediss";
        if is_tls {
            tls::check()?;
        }
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) if one != "redis+unix" => (format!("{login}@"), place),
            _ => (String::new(), rest),
        };
        // The client would end the server's name at any of these, and take a piece of the password
        // for the server.
        if login.contains(['/', '?', '#']) || place.contains(['?', '#']) {
            return Err(wrong());
        }
        let hosts: Vec<&str> = match is_cluster {
            true if place.contains('/') => return Err(wrong()),
            true => place.split(',').collect(),
            false => vec![place],
        };
        let parse = |host: &&str| format!("{one}://{login}{host}").into_connection_info();
        let nodes = hosts.iter().map(parse).collect::<Result<_, _>>();
        Ok(Self {
            // The client's reason may quote the text.
            nodes: nodes.map_err(|_| wrong())?,
            is_cluster,
            is_tls,
            shown: match login.as_str() {
                "" => text.to_owned(),
                _ => format!("{scheme}://***@{place}"),
            },
            text: text.to_owned(),
        })
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
