//! A job's life: what it asks for, and how it ended.

use serde::{Deserialize, Serialize};

use crate::limits::ENTRY_BYTES;
use crate::model::command::Command;
use crate::model::entry::{Timestamp, Version};
use crate::model::id::JobId;
use crate::model::key::Key;

/// A retry of one request must be the same job: what it is recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's key, with whatever it is scoped to (who asks, the first key of the request), as one text.
    pub key: String,
    /// How long it is remembered.
    pub window: std::time::Duration,
}

/// A write on its way into the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJob {
    /// What is asked for.
    pub command: Command,
    /// Whether somebody will want to know more than that it succeeded: its versions and whether the keys existed.
    /// An idempotency key implies it.
    pub keep_outcome: bool,
    /// What a retry of the request is recognised by.
    pub idempotency: Option<Idempotency>,
    /// The W3C `traceparent` of the request, for the worker's log.
    pub traceparent: Option<String>,
}

impl NewJob {
    /// A job for `command` with nothing else asked for.
    pub fn new(command: Command) -> Self {
        Self {
            command,
            keep_outcome: false,
            idempotency: None,
            traceparent: None,
        }
    }

    /// What it counts for against the queue's bound on bytes: keys and values.
    pub fn size_bytes(&self) -> usize {
        self.command.size_bytes()
    }

    /// The memory that its entries need in a store: none for deletes alone, which are accepted where nothing else is.
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
    /// Its name and place.
    pub id: JobId,
    /// What is asked for.
    pub command: Command,
    /// As in [`NewJob::keep_outcome`].
    pub keep_outcome: bool,
    /// When it was accepted, by the queue's clock.
    pub accepted_at: Timestamp,
    /// As in [`NewJob::traceparent`].
    pub traceparent: Option<String>,
}

/// What one write of a job did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The version that the write got.
    pub version: Version,
    /// Whether the key was there before it.
    pub existed: bool,
    /// What the caller could not know.
    #[serde(flatten)]
    pub computed: Computed,
}

/// What a write left behind that its caller could not know: nothing for a set or a delete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Computed {
    /// The number that an add came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
    /// The deadline of the entry after an add, a merge or a touch; `None` if it never ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its writes are in the store. With their details if they were kept ([`NewJob::keep_outcome`]).
    Succeeded(Option<Succeeded>),
    /// It could not be done when its turn came; none of its writes took effect.
    Failed(Failed),
    /// The store refused it for good, or its attempts ran out. It is kept as a dead letter.
    Dead(Dead),
}

/// The details of a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succeeded {
    /// What it was: [`Command::name`] and [`Command::first_key`], since the queue no longer knows.
    pub summary: Summary,
    /// What each operation did that writes, in the order of the command: all but checks.
    pub writes: Vec<Applied>,
}

/// An operation that could not be done, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What the job was.
    pub summary: Summary,
    /// Which operation of the command, from 0.
    pub operation: usize,
    /// Why.
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
    /// It adds to a value that is no 64-bit integer.
    NotInteger,
    /// The sum is no 64-bit integer.
    Overflow,
    /// It touches a key that is absent.
    NotFound,
    /// The value that it would leave is larger than this, alone or with the others of its batch.
    TooLarge {
        /// The bound, in bytes.
        limit_bytes: u64,
    },
}

impl Failure {
    /// Returns true for the usual reason, which texts leave out.
    pub(crate) fn is_condition(&self) -> bool {
        *self == Self::Condition
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Condition => f.write_str("the condition did not hold"),
            Self::NotInteger => f.write_str("the value is no 64-bit integer"),
            Self::Overflow => f.write_str("the sum is no 64-bit integer"),
            Self::NotFound => f.write_str("the key is absent"),
            Self::TooLarge { limit_bytes } => {
                write!(f, "the result is larger than {limit_bytes} bytes")
            }
        }
    }
}

/// What is left of a command once it has been applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// As in [`Command::name`].
    #[serde(rename = "op")]
    pub name: std::borrow::Cow<'static, str>,
    /// The key, or the first of a batch.
    pub key: Key,
    /// What all keys of a batch begin with; `None` for a command of one key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common: Option<String>,
}

impl Summary {
    /// Of `command`.
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

    /// Whether every key that it was about begins with `prefix`.
    pub fn is_within(&self, prefix: &str) -> bool {
        let common = self.common.as_deref().unwrap_or(self.key.as_str());
        common.starts_with(prefix)
    }
}

/// What both begin with, in whole characters.
fn common_prefix<'a>(one: &'a str, other: &str) -> &'a str {
    let same = one.chars().zip(other.chars()).take_while(|(a, b)| a == b);
    let bytes = same.map(|(character, _)| character.len_utf8()).sum();
    &one[..bytes]
}

/// A job that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    /// Why, for an operator.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// What it asked for, so that it can be tried again as a new job.
    pub command: Command,
}

impl Dead {
    /// Returns the bytes of its reason, keys and values.
    pub fn size_bytes(&self) -> usize {
        self.reason.len() + self.command.size_bytes()
    }
}

/// A dead letter: a job that was given up, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The job.
    pub id: JobId,
    /// When it was given up, by the store's clock.
    pub at: Timestamp,
    /// What is known of it.
    pub dead: Dead,
}

/// Where a job stands, as far as a store can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Its position lies ahead of the store's: it waits, or is being applied.
    Queued,
    /// Its position has been passed.
    Finished(Outcome),
    /// Its position was passed so long ago that how it ended is no longer kept. Never read as a success.
    Forgotten,
    /// It is of another queue than the store applies, or in an interval that was lost. Never read as a success.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::Operation;

    #[test]
    fn batch_is_within_what_all_of_its_keys_begin_with() {
        let batch = |keys: &[&str]| {
            let delete = |key: &&str| Operation::delete(Key::new(key).unwrap());
            Summary::of(&Command::Batch(keys.iter().map(delete).collect()))
        };
        for (keys, within, beyond) in [
            (&["team/a", "team/b"][..], "team/", "team/a"),
            (&["team/a"], "team/a", "team/ab"),
            (&["a", "b"], "", "a"),
            // They share their first byte.
            (&["é", "è"], "", "é"),
            (&["ab", "a", "abc"], "a", "ab"),
        ] {
            let summary = batch(keys);
            assert!(summary.is_within(within), "{summary:?}");
            assert!(!summary.is_within(beyond), "{summary:?}");
        }
    }
}
