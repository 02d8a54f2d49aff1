//! What an operator may set: how long, how large, how many.

use std::sync::Arc;
use std::time::Duration;

use crate::access::cors::Cors;
use crate::access::host::Hosts;
use crate::access::token::Tokens;

/// Limits and defaults of the server. [`ServiceOptions`](kvstore_core::service::ServiceOptions) has those that hold without HTTP too.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long `PUT` and `DELETE` on `/v1` wait for the write, if the client does not say.
    pub resource_wait: Duration,
    /// How long `POST /set` and `DELETE /delete/…` wait for the write, if the client does not say.
    pub simple_wait: Duration,
    /// The longest wait that a client gets, whatever it asks for.
    pub wait_max: Duration,
    /// Largest body of a request, in bytes; `None` for the largest value and [`ENVELOPE_BYTES`] around it.
    pub body_bytes_max: Option<usize>,
    /// Largest head of a request, request line included, in bytes: more is answered 431.
    pub head_bytes_max: usize,
    /// Most header lines of a request: more are answered 431.
    pub headers_max: usize,
    /// How long the head of a request may take from its first byte on; then the connection is closed.
    pub head_timeout: Duration,
    /// How long the body of a request may take: more is answered 408.
    pub body_timeout: Duration,
    /// How long a request may take from its head to its answer. Longer than `wait_max` and `body_timeout` together, or those
    /// cannot be had.
    pub request_timeout: Duration,
    /// How long a client may take nothing of an answer that is sent to it, or less than 1 KiB a
    /// second; then the connection is closed.
    pub write_timeout: Duration,
    /// How long a connection may stay open without a request, a new one too.
    pub idle_timeout: Duration,
    /// Most connections at a time. One more gets the answer 503 and is closed; 64 more than that are closed without one.
    pub connections_max: usize,
    /// Most clients that wait for changes at a time, by `/v1/watch` or for one key. One more is answered 503.
    pub watchers_max: usize,
    /// Most bytes of bodies, pages and events that are under way, together, besides 16 KiB of each
    /// that are not counted. What finds no room within a second is answered 503. `None` for a
    /// quarter of the machine's or container's memory.
    pub in_flight_bytes_max: Option<usize>,
    /// After how long without a change a watcher is sent a comment, so that it knows that it is still connected.
    pub watch_heartbeat: Duration,
    /// How long the server goes on as before, but not ready, when it is told to stop: so that whoever sends it requests
    /// learns of it.
    pub drain_delay: Duration,
    /// How long requests that are under way then have to finish.
    pub drain_timeout: Duration,
    /// Whether `/livez`, `/readyz` and `/metrics` are among the routes; not where they have a listener of their own.
    pub admin_routes: bool,
    /// Who may do what; `None` for everybody and everything.
    pub tokens: Option<Arc<Tokens>>,
    /// Names that requests may ask for besides those of this machine, on a loopback address without tokens. If there are any,
    /// requests for other names are refused on every address.
    pub hosts: Hosts,
    /// Which web pages of other origins may use the service in a browser; none by default.
    pub cors: Cors,
}

/// Room for what stands around a value in a body: a key, other members, white space.
pub const ENVELOPE_BYTES: usize = 64 << 10;

impl Default for Options {
    fn default() -> Self {
        Self {
            resource_wait: Duration::from_secs(5),
            simple_wait: Duration::ZERO,
            wait_max: Duration::from_secs(60),
            body_bytes_max: None,
            // The longest key takes some 6 KiB percent-encoded.
            head_bytes_max: 32 << 10,
            // What hyper keeps room for on the stack: another number costs an allocation a request.
            headers_max: HEADERS_ON_STACK,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(30),
            // Longer than the minute after which common proxies give a connection up, so that it is not us who close it just when
            // they send.
            idle_timeout: Duration::from_secs(75),
            // Below the 1024 files that a process may usually have open: the store must always be able to open its own.
            connections_max: 800,
            // Half of the connections, so that there is room for those who ask and go.
            watchers_max: 400,
            in_flight_bytes_max: None,
            watch_heartbeat: Duration::from_secs(15),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            admin_routes: true,
            tokens: None,
            hosts: Hosts::default(),
            cors: Cors::default(),
        }
    }
}

/// How many header lines hyper takes without asking for memory.
pub(crate) const HEADERS_ON_STACK: usize = 100;

impl Options {
    /// Whether the settings go together.
    ///
    /// # Errors
    /// What does not, as one sentence.
    pub fn check(&self) -> Result<(), String> {
        // A wait has to end, and its answer to be made, before the request's own time is over.
        let longest =
            self.wait_max.max(self.resource_wait).max(self.simple_wait) + self.body_timeout;
        if self.request_timeout <= longest {
            return Err(format!(
                "request-timeout must be longer than the longest wait and body-timeout together ({longest:?}), and is {:?}",
                self.request_timeout
            ));
        }
        if self.connections_max == 0 {
            return Err("connections-max must be at least 1".to_owned());
        }
        // Nobody else would notice a client that takes nothing any more.
        if self.watch_heartbeat.is_zero() {
            return Err("watch-heartbeat must be longer than nothing".to_owned());
        }
        Ok(())
    }
}
