//! The life of a job: what it asks for, and how it ended.

use serde::{Deserialize, Serialize};

use crate::limits::ENTRY_BYTES;
use crate::model::command::Command;
use crate::model::entry::{Timestamp, Version};
use crate::model::id::JobId;
use crate::model::key::Key;

/// Identifies retries: all requests with the same idempotency key are one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's key together with its scope (the caller, the first key of the request), as one
    /// text.
    pub key: String,
    /// How long it is remembered.
    pub window: std::time::Duration,
    /// The part of that time which is guaranteed. After it, the key may make room for others at the
    /// bound.
    pub minimum: std::time::Duration,
}

/// A write on its way into the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJob {
    /// The command.
    pub command: Command,
    /// True to keep more than the fact that it succeeded: its versions, and whether the keys
    /// existed. An idempotency key implies it.
    pub keep_outcome: bool,
    /// Identifies retries of the request.
    pub idempotency: Option<Idempotency>,
    /// The W3C `traceparent` of the request, for the worker's log.
    pub traceparent: Option<String>,
}

impl NewJob {
    /// Creates a job for `command` with all other fields empty.
    pub fn new(command: Command) -> Self {
        Self {
            command,
            keep_outcome: false,
            idempotency: None,
            traceparent: None,
        }
    }

    /// Returns its size against the queue's bound on bytes: keys and values.
    pub fn size_bytes(&self) -> usize {
        self.command.size_bytes()
    }

    /// Returns the memory that its entries need in a store: none for deletes alone, which are
    /// accepted even when nothing else is.
    pub(crate) fn bytes_taken(&self) -> u64 {
        if self.command.takes_room() {
            let entries = self.command.operations().len() as u64;
            self.size_bytes() as u64 + ENTRY_BYTES * entries
        } else {
            0
        }
    }
}

/// A job in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its id, which is also its place.
    pub id: JobId,
    /// The command.
    pub command: Command,
    /// See [`NewJob::keep_outcome`].
    pub keep_outcome: bool,
    /// When it was accepted, by the queue's clock.
    pub accepted_at: Timestamp,
    /// See [`NewJob::traceparent`].
    pub traceparent: Option<String>,
}

/// The result of one write of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The version of the write.
    pub version: Version,
    /// True if the key existed before it.
    pub existed: bool,
    /// The part that the caller could not know.
    #[serde(flatten)]
    pub computed: Computed,
}

/// The part of a write's result that its caller could not know: empty for a set or a delete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Computed {
    /// The result of an add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
    /// The deadline of the entry after an add, a merge or a touch; `None` if it never expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its writes are in the store. The details are present if they were kept
    /// ([`NewJob::keep_outcome`]).
    Succeeded(Option<Succeeded>),
    /// It could not be done when its turn came; none of its writes took effect.
    Failed(Failed),
    /// The store rejected it for good, or its attempts are used up. It is kept as a dead letter.
    Dead(Dead),
}

/// The details of a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succeeded {
    /// The job's [`Command::name`] and [`Command::first_key`], since the queue has dropped the job.
    pub summary: Summary,
    /// The result of each operation that writes (all except checks), in the order of the command.
    pub writes: Vec<Applied>,
}

/// The operation that could not be done, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What the job was.
    pub summary: Summary,
    /// The index of the operation in the command, from 0.
    pub operation: usize,
    /// The reason.
    pub reason: Failure,
    /// The version that the operation's key had at that moment; `None` if it was absent.
    pub current: Option<Version>,
}

/// Why an operation could not be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Failure {
    /// Its condition did not hold.
    #[default]
    Condition,
    /// It adds to a value that is not a 64-bit integer.
    NotInteger,
    /// The sum is not a 64-bit integer.
    Overflow,
    /// It touches a key that is absent.
    NotFound,
    /// The resulting value is too large, alone or together with the others of its batch.
    TooLarge {
        /// The limit, in bytes.
        limit_bytes: u64,
    },
}

impl Failure {
    /// Returns true for the usual reason, which the stored text omits.
    pub(crate) fn is_condition(&self) -> bool {
        *self == Self::Condition
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Condition => f.write_str("the condition did not hold"),
            Self::NotInteger => f.write_str("the value is not a 64-bit integer"),
            Self::Overflow => f.write_str("the sum is not a 64-bit integer"),
            Self::NotFound => f.write_str("the key is absent"),
            Self::TooLarge { limit_bytes } => {
                write!(f, "the result is larger than {limit_bytes} bytes")
            }
        }
    }
}

/// What remains of a command once it has been applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// See [`Command::name`].
    #[serde(rename = "op")]
    pub name: std::borrow::Cow<'static, str>,
    /// The key, or the first of a batch.
    pub key: Key,
    /// The common prefix of all keys of a batch; `None` for a command on one key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common: Option<String>,
}

impl Summary {
    /// Summarises `command`.
    pub fn of(command: &Command) -> Self {
        let key = command.first_key().clone();
        let common = match command {
            Command::One(_) => None,
            Command::Batch(operations) => {
                let keys = operations.iter().map(|operation| operation.key.as_str());
                Some(keys.fold(key.as_str(), common_prefix).to_owned())
            }
        };
        Self {
            name: command.name().into(),
            key,
            common,
        }
    }

    /// Returns true if every key of the command begins with `prefix`.
    pub fn is_within(&self, prefix: &str) -> bool {
        let common = self.common.as_deref().unwrap_or(self.key.as_str());
        common.starts_with(prefix)
    }
}

/// Returns the longest common prefix of both, in whole characters.
fn common_prefix<'a>(one: &'a str, other: &str) -> &'a str {
    let same = one.chars().zip(other.chars()).take_while(|(a, b)| a == b);
    let bytes = same.map(|(character, _)| character.len_utf8()).sum();
    &one[..bytes]
}

/// A job that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    /// The reason, for an operator.
    pub reason: String,
    /// The number of attempts.
    pub attempts: u32,
    /// The command, so that it can be retried as a new job.
    pub command: Command,
}

impl Dead {
    /// Returns the size of its reason, keys and values, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.reason.len() + self.command.size_bytes()
    }
}

/// A dead letter: a job that was given up, with the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The job.
    pub id: JobId,
    /// When it was given up, by the store's clock.
    pub at: Timestamp,
    /// The reason and the command.
    pub dead: Dead,
}

/// The state of a job, as far as a store can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Its position is ahead of the store's: it waits, or is being applied.
    Queued,
    /// Its position has been passed.
    Finished(Outcome),
    /// Its position was passed so long ago that its outcome is no longer kept. Never treated as a
    /// success.
    Forgotten,
    /// It belongs to another queue than the one that the store applies, or to an interval that was
    /// lost. Never treated as a success.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::Operation;

    #[test]
    fn a_batch_is_within_the_common_prefix_of_its_keys() {
        let batch = |keys: &[&str]| {
            let delete = |key: &&str| Operation::delete(Key::new(key).unwrap());
            Summary::of(&Command::Batch(keys.iter().map(delete).collect()))
        };
        for (keys, within, beyond) in [
            (&["team/a", "team/b"][..], "team/", "team/a"),
            (&["team/a"], "team/a", "team/ab"),
            (&["a", "b"], "", "a"),
            // They share only their first byte.
            (&["é", "è"], "", "é"),
            (&["ab", "a", "abc"], "a", "ab"),
        ] {
            let summary = batch(keys);
            assert!(summary.is_within(within), "{summary:?}");
            assert!(!summary.is_within(beyond), "{summary:?}");
        }
    }
}
