//! The server's own metrics. Their names are stable; docs/configuration.md lists them.

use std::hash::{Hash, Hasher};
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use hyper::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::server::in_flight::InFlight;

/// Upper bounds in seconds, from a read in memory to the longest wait.
const BUCKETS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0,
];

/// The server's own metrics. Clones are cheap and share their counts.
#[derive(Clone, Debug)]
pub(crate) struct ServerMetrics {
    requests: Family<Labels, Histogram, fn() -> Histogram>,
    connections: Gauge<i64, AtomicI64>,
    pub(crate) refused: Counter,
    pub(crate) unreadable: Counter,
    pub(crate) panics: Counter,
}

/// Every label has a fixed set of values, so that clients cannot create new series.
#[derive(Clone, Debug, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    route: &'static str,
    method: &'static str,
    status: &'static str,
}

/// Hashes only a few bytes, since every request does: few combinations are in use, and most differ
/// in these bytes.
impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let first = |text: &str| text.as_bytes().first().copied().unwrap_or_default();
        let bytes = [first(self.method), first(self.status)];
        state.write_usize(self.route.len() << 16 | usize::from(u16::from_ne_bytes(bytes)));
    }
}

/// Counts a connection until dropped.
#[derive(Debug)]
pub(crate) struct Counted(Gauge<i64, AtomicI64>);

impl ServerMetrics {
    /// Registers all metrics at zero.
    pub(crate) fn new(registry: &mut Registry, in_flight: &InFlight) -> Self {
        let new = Self {
            requests: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            connections: Gauge::default(),
            refused: Counter::default(),
            unreadable: Counter::default(),
            panics: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("kvstore_http");
        registry.register_with_unit(
            "request_duration",
            "How long requests took, from their head to the head of their answer",
            Unit::Seconds,
            new.requests.clone(),
        );
        registry.register(
            "connections",
            "Connections that are open",
            new.connections.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections for which there was no room",
            new.refused.clone(),
        );
        registry.register(
            "heads_unreadable",
            "Requests whose head cannot be read: answered 400 or 431 without a body, or not at all",
            new.unreadable.clone(),
        );
        registry.register_collector(Box::new(in_flight.clone()));
        registry.register(
            "panics",
            "Requests and connections that ended in a panic: always 0 unless the program has a bug",
            new.panics.clone(),
        );
        new
    }

    /// Counts a new connection until the guard is dropped.
    pub(crate) fn connection(&self) -> Counted {
        self.connections.inc();
        Counted(self.connections.clone())
    }

    /// Records an answered request to `route`.
    pub(crate) fn request(
        &self,
        route: &'static str,
        method: &Method,
        status: StatusCode,
        took: Duration,
    ) {
        let labels = Labels {
            route,
            method: known(method),
            status: class(status),
        };
        self.requests
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    }
}
