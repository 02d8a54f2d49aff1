//! The counters of a worker. Their names are stable; docs/configuration.md lists them.

use kvstore_core::worker::{EventListener, PartitionState, WorkerEvent};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
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
    partitions: Family<StateLabels, Gauge>,
    retries: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

const STATES: [&str; 3] = ["working", "waiting", "stopped"];

/// Creates metrics that are not registered anywhere.
impl Default for Metrics {
    fn default() -> Self {
        Self {
            commits: Histogram::new(BUCKETS),
            jobs: Family::default(),
            partitions: Family::default(),
            retries: Counter::default(),
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
        for state in STATES {
            new.partitions(state).set(0);
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
        registry.register(
            "partitions",
            "Partitions of this worker: working, waiting after a failure, or stopped where jobs are missing",
            new.partitions.clone(),
        );
        registry.register(
            "retries",
            "Tries that failed and were made again after a wait",
            new.retries.clone(),
        );
        new
    }

    /// Returns true if every partition of this worker has stopped, and it has some.
    pub(crate) fn is_stopped(&self) -> bool {
        let [working, waiting, stopped] = STATES.map(|state| self.partitions(state).get());
        stopped > 0 && working + waiting == 0
    }

    fn partitions(&self, state: &'static str) -> Gauge {
        self.partitions
            .get_or_create(&StateLabels { state })
            .clone()
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
            WorkerEvent::Retried => {
                metrics.retries.inc();
            }
            WorkerEvent::Partition { was, is } => {
                // The new one first: a probe between the two must not find none that works.
                if let Some(state) = is {
                    metrics.partitions(name(state)).inc();
                }
                if let Some(state) = was {
                    metrics.partitions(name(state)).dec();
                }
            }
            _ => {}
        })
    }

    fn count(&self, outcome: &'static str, jobs: usize) {
        self.jobs
            .get_or_create(&OutcomeLabels { outcome })
            .inc_by(jobs as u64);
    }
}

fn name(state: PartitionState) -> &'static str {
    match state {
        PartitionState::Waiting => "waiting",
        PartitionState::Stopped => "stopped",
        _ => "working",
    }
}
