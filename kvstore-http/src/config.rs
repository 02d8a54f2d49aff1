//! The operator's settings: times, sizes and numbers.

use std::sync::Arc;
use std::time::Duration;

use kvstore_core::limits::PAGE_ENTRIES_MAX;

use crate::access::cors::Cors;
use crate::access::host::Hosts;
use crate::access::token::Tokens;

/// Limits and defaults of the server. [`ServiceOptions`](kvstore_core::service::ServiceOptions)
/// holds those that also apply without HTTP.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long `PUT` and `DELETE` on `/v1` wait for the write unless the client states a time.
    pub resource_wait: Duration,
    /// How long `POST /set` and `DELETE /delete/…` wait for the write unless the client states a
    /// time.
    pub simple_wait: Duration,
    /// Maximum wait, whatever the client asks for.
    pub wait_max: Duration,
    /// Maximum size of a request body, in bytes; `None` for the largest value plus
    /// [`ENVELOPE_BYTES`].
    pub body_bytes_max: Option<usize>,
    /// Maximum number of keys of one `mget`, up to [`PAGE_ENTRIES_MAX`].
    pub mget_keys_max: usize,
    /// Maximum number of items on a page, up to [`PAGE_ENTRIES_MAX`]. A request for more
    /// gets this many.
    pub page_items_max: usize,
    /// Maximum size of a request head, including the request line, in bytes. A larger one is
    /// answered 431.
    pub head_bytes_max: usize,
    /// Maximum number of header lines of a request. More are answered 431.
    pub headers_max: usize,
    /// Time limit for the head of a request, from its first byte; then the connection is closed.
    pub head_timeout: Duration,
    /// Time limit for the body of a request; then it is answered 408.
    pub body_timeout: Duration,
    /// Time limit for a request from its head to its answer. Must exceed `wait_max` and
    /// `body_timeout` together, so that both can be used up.
    pub request_timeout: Duration,
    /// How long a client may take nothing of its answer, or less than 1 KiB a second; then the
    /// connection is closed.
    pub write_timeout: Duration,
    /// How long a connection may stay open without a request, including before its first.
    pub idle_timeout: Duration,
    /// Maximum number of connections. One above it is answered 503 and closed; beyond 64 such
    /// refusals at a time, connections are closed without an answer.
    pub connections_max: usize,
    /// Maximum number of clients that wait for changes, by `/v1/watch` or for one key. One more is
    /// answered 503.
    pub watchers_max: usize,
    /// Maximum number of bytes of bodies, pages and events in flight, except for 16 KiB each that
    /// are not counted. A request that finds no room within a second is answered 503. `None` for a
    /// quarter of the memory of the machine or container.
    pub in_flight_bytes_max: Option<usize>,
    /// Bounds of the store and its queue, by the names of their parameters in the URL. The server
    /// only reports them.
    pub store_bounds: Vec<(&'static str, u64)>,
    /// How long a watch may be silent before it sends a comment, which shows the client that it is
    /// still connected.
    pub watch_heartbeat: Duration,
    /// How long the server continues to serve, while reporting itself not ready, after the signal
    /// to stop. Gives load balancers time to notice.
    pub drain_delay: Duration,
    /// How long requests in progress then have to finish.
    pub drain_timeout: Duration,
    /// True if the routes include `/livez`, `/readyz` and `/metrics`; false if these have a
    /// listener of their own.
    pub admin_routes: bool,
    /// Who may do what; `None` gives every client full access.
    pub tokens: Option<Arc<Tokens>>,
    /// Names that requests may address besides those of this machine, on a loopback address without
    /// tokens. If there are any, requests for other names are refused on every address.
    pub hosts: Hosts,
    /// Web pages of other origins that may use the service in a browser; none by default.
    pub cors: Cors,
}

/// Allowance for the rest of a body around a value: a key, other members, white space.
pub const ENVELOPE_BYTES: usize = 64 << 10;

impl Default for Options {
    fn default() -> Self {
        Self {
            resource_wait: Duration::from_secs(5),
            simple_wait: Duration::ZERO,
            wait_max: Duration::from_secs(60),
            body_bytes_max: None,
            mget_keys_max: PAGE_ENTRIES_MAX,
            page_items_max: PAGE_ENTRIES_MAX,
            // The longest key takes about 6 KiB percent-encoded.
            head_bytes_max: 32 << 10,
            // hyper holds this many on the stack; any other limit costs an allocation per request.
            headers_max: HEADERS_ON_STACK,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(30),
            // Longer than the minute after which common proxies close idle connections, so that the
            // server does not close one just as the proxy sends.
            idle_timeout: Duration::from_secs(75),
            // Below the usual limit of 1024 open files per process: the store must always be able
            // to open its own.
            connections_max: 800,
            // Half of the connections, which leaves the others to ordinary requests.
            watchers_max: 400,
            in_flight_bytes_max: None,
            store_bounds: Vec::new(),
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

/// Number of header lines that hyper parses without an allocation.
pub(crate) const HEADERS_ON_STACK: usize = 100;

impl Options {
    /// Checks that the settings are consistent.
    ///
    /// # Errors
    /// Describes the first contradiction.
    pub fn check(&self) -> Result<(), String> {
        // A wait must end, and its answer be built, before the request's time limit.
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
        // Heartbeats are the only way to notice a client that no longer reads.
        if self.watch_heartbeat.is_zero() {
            return Err("watch-heartbeat must be longer than nothing".to_owned());
        }
        Ok(())
    }
}
