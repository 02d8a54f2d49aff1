//! Checks that a fleet kept its promises: every accepted write is applied once, in the order of
//! acceptance, and reads show it.
//!
//! One pass compares the positions and versions in all answers. Beyond that, each key needs one
//! order that explains every answer about it, which `linear.rs` looks for.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::linear;
use super::{NEVER, Operation, Verdict, What};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The promise.
    pub kind: Kind,
    /// The operations that show it, as text.
    pub what: String,
}

/// The kinds of broken promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An accepted write without effect.
    Lost,
    /// A write with more than one.
    Duplicated,
    /// Two writes with their effects in the wrong order.
    Reordered,
    /// An answer that no order of the writes explains.
    Unexplained,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}

/// Returns every promise that `history` breaks.
pub fn check(history: &[Operation]) -> Vec<Violation> {
    let mut found = Found::default();
    found.jobs(history);
    found.values(history);
    found.partitions(history);
    let mut keys: BTreeMap<usize, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(operation.key).or_default().push(operation);
    }
    for (key, operations) in keys {
        // No order can explain a write without a result, which is reported already.
        let is_whole = operations.iter().all(|operation| {
            operation
                .write()
                .is_none_or(|write| !matches!(write.verdict, Verdict::Accepted | Verdict::Lost(_)))
        });
        if is_whole && let Err(end) = linear::explain(&operations) {
            found.add(Kind::Unexplained, format!("key {key}: {end}"));
        }
    }
    found.0
}

#[derive(Default)]
struct Found(Vec<Violation>);

impl Found {
    fn add(&mut self, kind: Kind, what: String) {
        self.0.push(Violation { kind, what });
    }

    /// Checks that each accepted write is one job, and that each job ends.
    fn jobs(&mut self, history: &[Operation]) {
        let mut owners: HashMap<_, &Operation> = HashMap::new();
        for operation in history {
            let Some(write) = operation.write() else {
                continue;
            };
            if let Verdict::Accepted | Verdict::Lost(_) = write.verdict {
                self.add(
                    Kind::Lost,
                    format!("it was accepted, and then: {operation:?}"),
                );
            }
            if write.jobs.len() > 1 {
                self.add(
                    Kind::Duplicated,
                    format!("one idempotency key, several jobs: {operation:?}"),
                );
            }
            for job in &write.jobs {
                if let Some(owner) = owners.insert(*job, operation) {
                    self.add(
                        Kind::Lost,
                        format!("two writes, one job: {owner:?} and {operation:?}"),
                    );
                }
            }
        }
    }

    /// Checks that each value comes from a write that may have happened and has one version, and
    /// that each version has one value.
    fn values(&mut self, history: &[Operation]) {
        let mut writers = HashMap::new();
        let mut partitions = HashMap::new();
        for operation in history {
            let Some(write) = operation.write() else {
                continue;
            };
            if let Some(value) = write.value {
                writers.insert(value, operation);
            }
            if let Some(job) = write.job() {
                partitions.insert(operation.key, (job.queue, job.partition));
            }
        }
        let mut versions = HashMap::new();
        let mut values = HashMap::new();
        for operation in history {
            let Some((value, version)) = operation.version() else {
                continue;
            };
            let may_be = writers.get(&value).is_some_and(|writer| {
                writer.key == operation.key
                    && writer.invoked <= operation.done
                    && writer.write().is_some_and(|write| {
                        matches!(write.verdict, Verdict::Applied { .. } | Verdict::Unknown)
                    })
            });
            if !may_be {
                let writer = writers.get(&value);
                self.add(
                    Kind::Unexplained,
                    format!("{operation:?} has a value that was not applied: {writer:?}"),
                );
            }
            if let Some(other) = versions.insert(value, version)
                && other != version
            {
                self.add(
                    Kind::Duplicated,
                    format!("value {value} has the versions {other} and {version}: {operation:?}"),
                );
            }
            let place = (partitions.get(&operation.key), version);
            if let Some(other) = values.insert(place, value)
                && other != value
            {
                self.add(
                    Kind::Unexplained,
                    format!("version {version} is that of {other} and of {value}: {operation:?}"),
                );
            }
        }
    }

    /// Checks that in each log the positions follow the times of acceptance, and the versions
    /// follow the positions.
    fn partitions(&mut self, history: &[Operation]) {
        let mut logs: BTreeMap<_, BTreeMap<_, &Operation>> = BTreeMap::new();
        for operation in history {
            if let Some(job) = operation.write().and_then(|write| write.job()) {
                let log = logs.entry((job.queue, job.partition)).or_default();
                log.insert(job.position, operation);
            }
        }
        for log in logs.values() {
            let mut last: Option<(u64, &Operation)> = None;
            for operation in log.values() {
                let What::Write(_) = operation.what else {
                    continue;
                };
                let Some((_, version)) = operation.version() else {
                    continue;
                };
                if let Some((before, earlier)) = last
                    && before >= version
                {
                    self.add(
                        Kind::Reordered,
                        format!(
                            "{earlier:?} precedes {operation:?} in the log, and has a later version"
                        ),
                    );
                }
                last = Some((version, operation));
            }
            let mut earliest: Option<&Operation> = None;
            for operation in log.values().rev() {
                if let Some(later) = earliest
                    && later.accepted < operation.invoked
                {
                    self.add(
                        Kind::Reordered,
                        format!(
                            "{later:?} was accepted before {operation:?} was sent, and follows it in the log"
                        ),
                    );
                }
                if earliest.map_or(NEVER, |later| later.accepted) > operation.accepted {
                    earliest = Some(operation);
                }
            }
        }
    }
}
