//! The expected state: a plain map and the waiting jobs.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kvstore_core::model::command::{Action, Command, Expiry, Operation};
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::id::{JobId, Partition};
use kvstore_core::model::job::{NewJob, Outcome};
use kvstore_core::model::write::{Change, Condition, Write};
use kvstore_core::{Key, Value, Version};

use super::steps::{Guess, Put, Request, key};

/// The expected state: a map, the waiting jobs, and how the others ended.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) now: Timestamp,
    pub(crate) entries: BTreeMap<Key, Held>,
    /// The last version seen of each key: the next must be larger.
    pub(crate) latest: BTreeMap<Key, Version>,
    pub(crate) waiting: BTreeMap<Partition, VecDeque<(JobId, NewJob, Timestamp)>>,
    /// Applied, but the queue was not informed.
    pub(crate) untold: BTreeMap<Partition, u64>,
    pub(crate) ended: BTreeMap<JobId, Outcome>,
    pub(crate) repeatable: Vec<(JobId, NewJob)>,
    pub(crate) values: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    pub(crate) value: Value,
    pub(crate) version: Version,
    pub(crate) expires_at: Option<Timestamp>,
}

impl Model {
    pub(crate) fn get(&self, key: &Key) -> Option<&Held> {
        let held = self.entries.get(key)?;
        held.expires_at
            .is_none_or(|deadline| deadline > self.now)
            .then_some(held)
    }

    pub(crate) fn version(&self, key: &Key) -> Option<Version> {
        self.get(key).map(|held| held.version)
    }

    pub(crate) fn present(&self) -> impl Iterator<Item = (&Key, &Held)> {
        self.entries
            .keys()
            .filter_map(|key| Some((key, self.get(key)?)))
    }

    pub(crate) fn condition(&self, key: &Key, guess: Guess) -> Condition {
        let latest = self.latest.get(key).copied().unwrap_or(Version(1));
        match guess {
            Guess::Any => Condition::Any,
            Guess::Absent => Condition::Absent,
            Guess::Present => Condition::Present,
            Guess::Current => Condition::Version(self.version(key).unwrap_or(latest)),
            Guess::Other => Condition::Version(Version(latest.0.saturating_sub(1))),
        }
    }

    /// Returns a value that no other write has.
    pub(crate) fn value(&mut self) -> Value {
        self.values += 1;
        Value::parse(format!("{}.0", self.values)).unwrap()
    }

    /// Applies a write, for which the store reported `version` and whether the key `existed`.
    pub(crate) fn write(&mut self, write: &Write, version: Version, existed: bool) {
        assert_eq!(
            existed,
            self.get(&write.key).is_some(),
            "whether {:?} existed",
            write.key
        );
        let before = self.latest.insert(write.key.clone(), version);
        assert!(
            before < Some(version),
            "{:?}: {version} after {before:?}",
            write.key
        );
        match write.change.value_at(self.now) {
            Some((value, expires_at)) => {
                let held = Held {
                    value: value.clone(),
                    version,
                    expires_at,
                };
                self.entries.insert(write.key.clone(), held);
            }
            None => {
                self.entries.remove(&write.key);
            }
        }
    }

    pub(crate) fn command(&mut self, request: &Request) -> Command {
        let mut operations: Vec<Operation> = Vec::new();
        for &(index, guess, put) in &request.operations {
            let key = key(index);
            let condition = self.condition(&key, guess);
            let expiry = match put {
                Put::Delete | Put::Forever => Expiry::Never,
                Put::For(seconds) => Expiry::After(Duration::from_secs(seconds.max(1))),
                Put::Keep => Expiry::Keep,
            };
            let action = match put {
                Put::Delete => Action::Delete,
                _ => Action::Set {
                    value: self.value(),
                },
            };
            operations.push(Operation {
                key,
                condition,
                action,
                expiry,
            });
        }
        if request.batch {
            Command::Batch(operations)
        } else {
            Command::One(operations.swap_remove(0))
        }
    }

    /// Applies the head of a partition; `outcome` is the store's report of it.
    pub(crate) fn apply(&mut self, partition: Partition, outcome: impl FnOnce(&JobId) -> Outcome) {
        let (id, job, accepted_at) = self
            .waiting
            .get_mut(&partition)
            .unwrap()
            .pop_front()
            .unwrap();
        let outcome = outcome(&id);
        let broken = job
            .command
            .operations()
            .iter()
            .position(|operation| !operation.condition.holds(self.version(&operation.key)));
        match (&outcome, broken) {
            (Outcome::Failed(failed), Some(operation)) => {
                let current = self.version(&job.command.operations()[operation].key);
                assert_eq!(
                    (failed.operation, failed.current),
                    (operation, current),
                    "{job:?}"
                );
            }
            (Outcome::Succeeded(Some(succeeded)), None) => {
                assert_eq!(succeeded.writes.len(), job.command.operations().len());
                for (operation, &applied) in job.command.operations().iter().zip(&succeeded.writes)
                {
                    let change = match &operation.action {
                        Action::Delete => Change::Delete,
                        Action::Set { value } => Change::Set {
                            value: value.clone(),
                            expires_at: match operation.expiry {
                                Expiry::Never => None,
                                Expiry::After(span) => Some(accepted_at.after(span)),
                                Expiry::Keep => {
                                    self.get(&operation.key).and_then(|held| held.expires_at)
                                }
                            },
                        },
                        other => panic!("no step produces {other:?}"),
                    };
                    let key = operation.key.clone();
                    self.write(&Write { key, change }, applied.version, applied.existed);
                }
            }
            _ => panic!("{job:?} ended with {outcome:?}; broken condition: {broken:?}"),
        }
        self.ended.insert(id, outcome);
    }
}
