//! What a process says in numbers, in the text format that Prometheus reads.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use kvstore_core::{Depth, Store};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The media type of [`Metrics::text`].
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Seconds = Gauge<f64, AtomicU64>;

/// The metrics of a process that uses a store and a queue. Their names are in the README, and stay.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    up: Gauge,
    jobs: Gauge,
    bytes: Gauge,
    oldest: Seconds,
    /// Where a store is read that another process writes.
    lag: Option<Seconds>,
}

impl Metrics {
    pub(crate) fn new(store: &dyn Store) -> Self {
        let mut registry = Registry::with_prefix("kvstore");
        let (up, jobs, bytes) = (Gauge::default(), Gauge::default(), Gauge::default());
        let oldest = Seconds::default();
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Which version this is", version);
        registry.register(
            "up",
            "1 if the queue answers, 0 if not: its figures are the last ones then",
            up.clone(),
        );
        registry.register(
            "queue_jobs",
            "Jobs accepted and not applied yet",
            jobs.clone(),
        );
        registry.register_with_unit(
            "queue",
            "Keys and values of these jobs",
            Unit::Bytes,
            bytes.clone(),
        );
        registry.register_with_unit(
            "queue_oldest_job_age",
            "How long the oldest of these jobs has been waiting; 0 if there is none",
            Unit::Seconds,
            oldest.clone(),
        );
        let lag = store.lag().map(|_| {
            let lag = Seconds::default();
            registry.register_with_unit(
                "follower_lag",
                "How long ago this reader had everything that was acknowledged",
                Unit::Seconds,
                lag.clone(),
            );
            lag
        });
        Self {
            registry,
            up,
            jobs,
            bytes,
            oldest,
            lag,
        }
    }

    /// All of them as they are now. `depth`: what waits, if the queue says so.
    pub(crate) fn text(&self, store: &dyn Store, depth: Option<Depth>) -> String {
        self.up.set(depth.is_some().into());
        if let Some(depth) = depth {
            let seconds = depth.oldest_age.unwrap_or(Duration::ZERO).as_secs_f64();
            self.jobs.set(saturated(depth.jobs));
            self.bytes.set(saturated(depth.bytes));
            self.oldest.set(seconds);
        }
        if let (Some(gauge), Some(lag)) = (&self.lag, store.lag()) {
            gauge.set(lag.as_secs_f64());
        }
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn saturated(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
