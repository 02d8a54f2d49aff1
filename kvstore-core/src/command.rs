//! What a client asks for, and the one place that decides what it comes to.
//!
//! [`evaluate`] is a pure function: jobs and the entries they depend on go in, one [`Commit`] with its outcomes comes out. No
//! store is asked and no time is read here, so every backend and every worker decides alike.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::commit::{Advance, Change, Commit, Condition, Verdict, Write};
use crate::entry::{Entry, Version};
use crate::error::{Error, Result};
use crate::job::{Fingerprint, Job, PartitionCount, Position, Summary};
use crate::key::Key;
use crate::limits::{BATCH_OPERATIONS_MAX, TTL_MAX, TTL_MIN, WORK_BATCH_BYTES, WORK_BATCH_WRITES};
use crate::value::Value;

/// What one job does: one operation, or several that take effect together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A single operation.
    One(Operation),
    /// Several, each on another key.
    Batch(Vec<Operation>),
}

/// One change that a client asks for, under a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The key.
    pub key: Key,
    /// What must hold when its turn comes.
    pub condition: Condition,
    /// What to do then.
    pub action: Action,
}

/// What an [`Operation`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give the key a value.
    Set {
        /// The value.
        value: Value,
        /// How long it lives.
        expiry: Expiry,
    },
    /// Make the key absent.
    Delete,
}

/// How long a value lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// For ever.
    #[default]
    Never,
    /// This long from the moment the queue accepted the write, by the queue's clock: time in the queue does not prolong life.
    After(Duration),
    /// As long as the entry that it replaces; for ever if there is none.
    Keep,
}

impl Operation {
    /// Gives `key` the `value`, for ever and whatever was there.
    pub fn set(key: Key, value: Value) -> Self {
        Self {
            key,
            condition: Condition::Any,
            action: Action::Set {
                value,
                expiry: Expiry::Never,
            },
        }
    }

    /// Makes `key` absent, whatever was there.
    pub fn delete(key: Key) -> Self {
        Self {
            key,
            condition: Condition::Any,
            action: Action::Delete,
        }
    }

    /// Whether what it does depends on the entry that is there.
    fn depends_on_entry(&self) -> bool {
        self.condition != Condition::Any
            || matches!(
                self.action,
                Action::Set {
                    expiry: Expiry::Keep,
                    ..
                }
            )
    }

    /// All of it but key and value, as text: one for each meaning.
    fn terms(&self) -> String {
        let condition = match self.condition {
            Condition::Any => "any".to_owned(),
            Condition::Absent => "absent".to_owned(),
            Condition::Present => "present".to_owned(),
            Condition::Version(version) => format!("version {version}"),
        };
        let action = match &self.action {
            Action::Delete => "delete".to_owned(),
            Action::Set { expiry, .. } => match expiry {
                Expiry::Never => "set".to_owned(),
                Expiry::After(span) => format!("set for {} ms", span.as_millis()),
                Expiry::Keep => "set keep".to_owned(),
            },
        };
        format!("if {condition} {action}")
    }
}

impl Command {
    /// `set`, `delete` or `batch`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::One(Operation {
                action: Action::Set { .. },
                ..
            }) => "set",
            Self::One(Operation {
                action: Action::Delete,
                ..
            }) => "delete",
            Self::Batch(_) => "batch",
        }
    }

    /// Its operations.
    pub fn operations(&self) -> &[Operation] {
        match self {
            Self::One(operation) => std::slice::from_ref(operation),
            Self::Batch(operations) => operations,
        }
    }

    /// The key, or the first of a batch: what puts it into a partition.
    ///
    /// # Panics
    /// On a batch without operations, which [`Command::check`] refuses.
    pub fn first_key(&self) -> &Key {
        &self
            .operations()
            .first()
            .expect("a command has an operation")
            .key
    }

    /// Keys and values, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.operations()
            .iter()
            .map(|operation| {
                operation.key.as_str().len()
                    + match &operation.action {
                        Action::Set { value, .. } => value.len(),
                        Action::Delete => 0,
                    }
            })
            .sum()
    }

    /// What a retry is recognised by: equal for commands that ask for the same, different for all others.
    ///
    /// Queues write it down, so how it is made is part of their formats: the hash of the name, and for each operation of its
    /// key, its terms and, if it sets one, its value.
    pub fn fingerprint(&self) -> Fingerprint {
        let terms: Vec<String> = self.operations().iter().map(Operation::terms).collect();
        let mut parts = vec![self.name().as_bytes()];
        for (operation, terms) in self.operations().iter().zip(&terms) {
            parts.extend([operation.key.as_str().as_bytes(), terms.as_bytes()]);
            if let Action::Set { value, .. } = &operation.action {
                parts.push(value.as_bytes());
            }
        }
        Fingerprint::of(&parts)
    }

    /// Whether it may stand in a queue of `partitions`: every queue asks this before it accepts.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a time to live outside [`TTL_MIN`] to [`TTL_MAX`], and for a batch that is empty or names a key twice, [`Error::TooLarge`] for one of more than
    /// [`BATCH_OPERATIONS_MAX`] operations, [`Error::CrossPartition`] if its keys have no common order.
    pub fn check(&self, partitions: PartitionCount) -> Result<()> {
        let lives = |operation: &Operation| match operation.action {
            Action::Set {
                expiry: Expiry::After(span),
                ..
            } => (TTL_MIN..=TTL_MAX).contains(&span),
            _ => true,
        };
        if !self.operations().iter().all(lives) {
            return Err(Error::invalid(
                "ttl",
                "it must be from 1 to 315360000 seconds (10 years)",
            ));
        }
        let Self::Batch(operations) = self else {
            return Ok(());
        };
        let Some(first) = operations.first() else {
            return Err(Error::invalid(
                "batch",
                "it must hold at least one operation",
            ));
        };
        if operations.len() > BATCH_OPERATIONS_MAX {
            return Err(Error::TooLarge {
                subject: "batch",
                limit: BATCH_OPERATIONS_MAX as u64,
                unit: "operations",
            });
        }
        let mut keys = HashSet::with_capacity(operations.len());
        if let Some(twice) = operations
            .iter()
            .find(|operation| !keys.insert(&operation.key))
        {
            return Err(Error::invalid(
                "batch",
                format!("key {:?} stands in it twice", twice.key),
            ));
        }
        let partition = partitions.partition_of(&first.key);
        match operations
            .iter()
            .find(|operation| partitions.partition_of(&operation.key) != partition)
        {
            None => Ok(()),
            Some(other) => Err(Error::CrossPartition {
                first: first.key.clone(),
                other: other.key.clone(),
            }),
        }
    }
}

/// The keys whose entries [`evaluate`] needs to see for `jobs`. Most jobs need none.
pub fn keys_needed(jobs: &[Job]) -> Vec<Key> {
    let mut seen = HashSet::new();
    jobs.iter()
        .flat_map(|job| job.command.operations())
        .filter(|operation| operation.depends_on_entry() && seen.insert(&operation.key))
        .map(|operation| operation.key.clone())
        .collect()
}

/// What [`evaluate`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// What to commit. It advances the partition past the jobs taken.
    pub commit: Commit,
    /// How many of the jobs it covers, from the first; the rest depend on what these write.
    pub taken: usize,
}

/// Works out what `jobs`, which follow `from` in one partition, do to a store that has `entries`.
///
/// `entries` holds what was read for [`keys_needed`], absent keys left out. Every verdict that rests on an entry adds a check that
/// it has not changed since, so the commit can't act on what is no longer so: on
/// [`Error::Conflict`] read again and evaluate again.
///
/// The batch ends before the first job that depends on a key which an earlier job of it writes, and before one that would make
/// the commit larger than [`WORK_BATCH_WRITES`] or [`WORK_BATCH_BYTES`]; the first job is always in it.
///
/// # Panics
/// If `jobs` is empty.
pub fn evaluate(from: Position, jobs: &[Job], entries: &HashMap<Key, Entry>) -> Evaluation {
    let head = jobs.first().expect("there is a job to evaluate").id;
    let mut commit = Commit::default();
    let mut outcomes = Vec::new();
    let mut written = HashSet::new();
    let mut checked = HashSet::new();
    let mut to = from;
    let mut taken = 0;
    let mut bytes = 0;

    for job in jobs {
        let operations = job.command.operations();
        if operations
            .iter()
            .any(|operation| operation.depends_on_entry() && written.contains(&operation.key))
        {
            break;
        }
        bytes += job.command.size_bytes();
        let full =
            bytes > WORK_BATCH_BYTES || commit.writes.len() + operations.len() > WORK_BATCH_WRITES;
        if full && taken > 0 {
            break;
        }
        taken += 1;
        to = job.id.position;

        for operation in operations
            .iter()
            .filter(|operation| operation.depends_on_entry())
        {
            if checked.insert(&operation.key) {
                let current = entries.get(&operation.key).map(|entry| entry.version);
                commit
                    .checks
                    .push((operation.key.clone(), Condition::unchanged(current)));
            }
        }
        if let Some((operation, current)) = first_broken_condition(operations, entries) {
            let summary = Summary::of(&job.command);
            outcomes.push((
                to,
                Verdict::Failed {
                    summary,
                    operation,
                    current,
                },
            ));
            continue;
        }
        if job.keep_outcome {
            let (first, count) = (commit.writes.len(), operations.len());
            outcomes.push((
                to,
                Verdict::Succeeded {
                    summary: Summary::of(&job.command),
                    first,
                    count,
                },
            ));
        }
        for operation in operations {
            written.insert(&operation.key);
            commit.writes.push(Write {
                key: operation.key.clone(),
                change: change(job, operation, entries),
            });
        }
    }
    commit.advance = Some(Advance {
        queue: head.queue,
        partition: head.partition,
        from,
        to,
        outcomes,
        lost: false,
    });
    Evaluation { commit, taken }
}

fn first_broken_condition(
    operations: &[Operation],
    entries: &HashMap<Key, Entry>,
) -> Option<(usize, Option<Version>)> {
    operations
        .iter()
        .enumerate()
        .find_map(|(index, operation)| {
            let current = entries.get(&operation.key).map(|entry| entry.version);
            (!operation.condition.holds(current)).then_some((index, current))
        })
}

fn change(job: &Job, operation: &Operation, entries: &HashMap<Key, Entry>) -> Change {
    match &operation.action {
        Action::Delete => Change::Delete,
        Action::Set { value, expiry } => Change::Set {
            value: value.clone(),
            expires_at: match expiry {
                Expiry::Never => None,
                Expiry::After(span) => Some(job.accepted_at.after(*span)),
                Expiry::Keep => entries
                    .get(&operation.key)
                    .and_then(|entry| entry.expires_at),
            },
        },
    }
}
