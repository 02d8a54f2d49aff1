//! A job's life: its place in the queue, what it asks for, and how it ended.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::entry::{Timestamp, Version};
use crate::error::{Error, Result};
use crate::key::Key;

/// One of the logs of a queue. Every key stands in exactly one, so its writes have one order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Partition(pub u16);

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many partitions a queue has: at least one, fixed when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartitionCount(std::num::NonZeroU16);

impl PartitionCount {
    /// One partition, what a queue in a file has.
    pub const ONE: Self = Self(std::num::NonZeroU16::MIN);

    /// `count` partitions.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `count` is 0.
    pub fn new(count: u16) -> Result<Self> {
        std::num::NonZeroU16::new(count)
            .map(Self)
            .ok_or_else(|| Error::invalid("partition count", "it must be at least 1"))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0.get()
    }

    /// All of them, in order.
    pub fn iter(self) -> impl Iterator<Item = Partition> {
        (0..self.get()).map(Partition)
    }

    /// Where `key` belongs: the CRC-32 (the one of zip and PNG) of the text in its first non-empty `{…}`, or of the whole key,
    /// modulo the count. This is part of the format: clients may compute it, and it never changes.
    pub fn partition_of(self, key: &Key) -> Partition {
        let crc = crc32fast::hash(key.tag().as_bytes());
        // The remainder is below a u16.
        Partition((crc % u32::from(self.get())) as u16)
    }
}

impl fmt::Display for PartitionCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in a partition's log. Larger is later; what lies between two positions is unspecified.
///
/// It has the two parts of a Redis stream id; a queue that counts leaves the first at 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The part that decides first.
    pub major: u64,
    /// The part that decides among equals.
    pub minor: u64,
}

impl Position {
    /// Before the first job.
    pub const START: Self = Self { major: 0, minor: 0 };

    /// The position of a queue that counts.
    pub fn counted(number: u64) -> Self {
        Self {
            major: 0,
            minor: number,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.major == 0 {
            self.minor.fmt(f)
        } else {
            write!(f, "{}-{}", self.major, self.minor)
        }
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (major, minor) = text.split_once('-').unwrap_or(("0", text));
        let position = Self {
            major: digits(major)?,
            minor: digits(minor)?,
        };
        if position.to_string() == text {
            Ok(position)
        } else {
            Err(malformed("position"))
        }
    }
}

/// Digits only: `u64::from_str` would also take a sign.
fn digits(text: &str) -> Result<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed("position"));
    }
    text.parse().map_err(|_| malformed("position"))
}

fn malformed(subject: &'static str) -> Error {
    Error::invalid(subject, "it is not of the form that this service hands out")
}

/// The random name that a queue gets when it is created. A store keeps its positions by it, so numbers of different queues
/// are never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(u64);

impl QueueId {
    /// A new one, never used before (64 random bits).
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for QueueId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() != 16
            || !text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(malformed("queue id"));
        }
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| malformed("queue id"))
    }
}

/// The name of a job, and with that its place in the order: also the *sync token* that a later read can wait for.
///
/// Clients see it as short opaque text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId {
    /// The queue that accepted it.
    pub queue: QueueId,
    /// The log it stands in.
    pub partition: Partition,
    /// Its place there.
    pub position: Position,
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.queue, self.partition, self.position)
    }
}

impl FromStr for JobId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split('.');
        let (Some(queue), Some(partition), Some(position), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("job id"));
        };
        let id = Self {
            queue: queue.parse().map_err(|_| malformed("job id"))?,
            partition: Partition(partition.parse().map_err(|_| malformed("job id"))?),
            position: position.parse().map_err(|_| malformed("job id"))?,
        };
        // One text for each id: "+1" and "01" also parse as numbers.
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(malformed("job id"))
        }
    }
}

/// Serialises through `Display` and `FromStr`: ids are text wherever bytes leave the process.
macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(Position, QueueId, JobId);

/// A retry of one request must be the same job: what it is recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's key, with whatever it is scoped to (who asks, the first key of the request), as one text.
    pub key: String,
    /// How long it is remembered.
    pub window: std::time::Duration,
}

/// The first half of a SHA-256: equal for equal requests, different for all others that anybody can find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// The hash of `parts`, each with its length, so that no two lists look alike.
    pub fn of(parts: &[&[u8]]) -> Self {
        use sha2::Digest;
        let mut hasher = sha2::Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let mut half = [0; 16];
        half.copy_from_slice(&hasher.finalize()[..16]);
        Self(half)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() != 32 {
            return Err(malformed("fingerprint"));
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| malformed("fingerprint"))?;
        Ok(Self(number.to_be_bytes()))
    }
}
serde_as_text!(Fingerprint);

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
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its writes are in the store. With their details if they were kept ([`NewJob::keep_outcome`]), one for each operation.
    Succeeded(Option<Succeeded>),
    /// A condition did not hold when its turn came; none of its writes took effect.
    Failed(Failed),
    /// The store refused it for good, or its attempts ran out. It is kept as a dead letter.
    Dead(Dead),
}

/// The details of a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succeeded {
    /// What it was: [`Command::name`] and [`Command::first_key`], since the queue no longer knows.
    pub summary: Summary,
    /// What each operation did, in the order of the command.
    pub writes: Vec<Applied>,
}

/// A condition that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What the job was.
    pub summary: Summary,
    /// Which operation of the command, from 0.
    pub operation: usize,
    /// The version that the operation's key had at that moment; `None` if it was absent.
    pub current: Option<Version>,
}

/// What is left of a command once it has been applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// `set`, `delete` or `batch`.
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
    use crate::command::Operation;

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
