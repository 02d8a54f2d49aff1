//! The counters of a worker. Their names are stable; docs/configuration.md lists them.

use kvstore_core::worker::{EventListener, WorkerEvent};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds in seconds: from a commit in memory to a disk that hangs.
const BUCKETS: [f64; 12] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0, 10.0,
];

/// The counters of a worker. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    commits: Histogram,
    jobs: Family<OutcomeLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// Creates metrics that are not registered anywhere.
impl Default for Metrics {
    fn default() -> Self {
        Self {
            commits: Histogram::new(BUCKETS),
            jobs: Family::default(),
        }
    }
}

impl Metrics {
    /// Registers all metrics at zero.
    pub fn new(registry: &mut Registry) -> Self {
        let new = Self::default();
        for outcome in ["succeeded", "failed", "dead"] {
            new.count(outcome, 0);
        }
        let registry = registry.sub_registry_with_prefix("kvstore_worker");
        registry.register_with_unit(
            "commit_duration",
            "How long the store took to make a batch of jobs durable",
            Unit::Seconds,
            new.commits.clone(),
        );
        registry.register(
            "jobs",
            "Jobs that have their outcome: applied, failed by their own condition, or dead letters",
            new.jobs.clone(),
        );
        new
    }

    /// Returns a listener for [`Options::on_event`](kvstore_core::worker::Options::on_event) that
    /// counts here.
    pub fn listener(&self) -> EventListener {
        let metrics = self.clone();
        EventListener::new(move |event| match event {
            WorkerEvent::Committed {
                succeeded,
                failed,
                took,
            } => {
                metrics.commits.observe(took.as_secs_f64());
                metrics.count("succeeded", succeeded);
                metrics.count("failed", failed);
            }
            WorkerEvent::DeadLettered => metrics.count("dead", 1),
            _ => {}
        })
    }

    fn count(&self, outcome: &'static str, jobs: usize) {
        self.jobs
            .get_or_create(&OutcomeLabels { outcome })
            .inc_by(jobs as u64);
    }
}
