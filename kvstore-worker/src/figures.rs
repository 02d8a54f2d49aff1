//! The metrics of a process, in the text format of Prometheus.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use kvstore_core::queue::Depth;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The media type of [`ProcessMetrics::text`].
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Seconds = Gauge<f64, AtomicU64>;

/// The metrics of a process that uses a store and a queue. Their names are stable;
/// docs/configuration.md lists them.
#[derive(Debug)]
pub(crate) struct ProcessMetrics {
    process: Registry,
    /// The metrics of other parts of the process.
    parts: Mutex<Registry>,
    up: Gauge,
    /// Present where a store is read that another process writes.
    lag: OnceLock<Seconds>,
    /// Omitted while the depth is unknown: old values would be mistaken for current ones.
    queue: Registry,
    jobs: Gauge,
    bytes: Gauge,
    oldest: Seconds,
    lost: Counter,
    keys: Gauge,
}

/// The values at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// True if store and queue answer.
    pub(crate) is_up: bool,
    pub(crate) lag: Option<Duration>,
    /// The waiting jobs, if the queue can report them.
    pub(crate) depth: Option<Depth>,
}

impl ProcessMetrics {
    /// Creates the metrics.
    pub(crate) fn new() -> Self {
        let mut process = Registry::with_prefix("kvstore");
        let up = Gauge::default();
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        process.register("build", "The version of the program", version);
        process.register(
            "up",
            "1 if store and queue answer, or a worker stands by; 0 if not",
            up.clone(),
        );
        let mut queue = Registry::with_prefix("kvstore_queue");
        let (jobs, bytes, oldest) = (Gauge::default(), Gauge::default(), Seconds::default());
        queue.register("jobs", "Jobs accepted and not applied yet", jobs.clone());
        queue.register("bytes", "Keys and values of these jobs", bytes.clone());
        queue.register_with_unit(
            "oldest_job_age",
            "How long the oldest of these jobs has been waiting; 0 if there is none",
            Unit::Seconds,
            oldest.clone(),
        );
        let lost = Counter::default();
        queue.register(
            "jobs_lost",
            "Jobs that were acknowledged to this process, and that their server has lost",
            lost.clone(),
        );
        let keys = Gauge::default();
        queue.register(
            "idempotency_keys",
            "Idempotency keys that are remembered",
            keys.clone(),
        );
        Self {
            process,
            parts: Mutex::default(),
            up,
            lag: OnceLock::new(),
            queue,
            jobs,
            bytes,
            oldest,
            lost,
            keys,
        }
    }

    /// Adds the metrics of a store that another process writes.
    pub(crate) fn follow(&self) {
        let lag = self.lag.get_or_init(Seconds::default).clone();
        let help = "How long ago this reader had everything that was acknowledged";
        self.register(|registry| {
            let registry = registry.sub_registry_with_prefix("kvstore");
            registry.register_with_unit("follower_lag", help, Unit::Seconds, lag);
        });
    }

    /// Registers the metrics of a part.
    pub(crate) fn register<T>(&self, metrics: impl FnOnce(&mut Registry) -> T) -> T {
        metrics(&mut self.parts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Encodes all metrics as text.
    pub(crate) fn text(&self, figures: Figures) -> String {
        self.up.set(figures.is_up.into());
        if let (Some(gauge), Some(lag)) = (self.lag.get(), figures.lag) {
            gauge.set(lag.as_secs_f64());
        }
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode_registry(&mut text, &self.process);
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = encode_registry(&mut text, &parts);
        if let Some(depth) = figures.depth {
            let age = depth.oldest_age.unwrap_or(Duration::ZERO);
            self.jobs.set(saturated(depth.jobs));
            self.bytes.set(saturated(depth.bytes));
            self.oldest.set(age.as_secs_f64());
            self.keys.set(saturated(depth.idempotency_keys));
            self.lost.inner().store(depth.lost, Ordering::Relaxed);
            let _ = encode_registry(&mut text, &self.queue);
        }
        let _ = encode_eof(&mut text);
        text
    }
}

fn saturated(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
