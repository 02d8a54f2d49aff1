//! Partitions, positions, and the ids of queues and jobs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, Subject};

/// One of the logs of a queue. Every key belongs to exactly one, so its writes have one order.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(pub u16);

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of partitions of a queue: at least one, fixed when the queue is created.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartitionCount(std::num::NonZeroU16);

impl PartitionCount {
    /// One partition, as in every queue in a file.
    pub const ONE: Self = Self(std::num::NonZeroU16::MIN);

    /// Creates a count of `count` partitions.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `count` is 0.
    pub fn new(count: u16) -> Result<Self> {
        std::num::NonZeroU16::new(count)
            .map(Self)
            .ok_or_else(|| Error::invalid(Subject::PartitionCount, "it must be at least 1"))
    }

    /// Returns the number.
    pub fn get(self) -> u16 {
        self.0.get()
    }

    /// Checks that `partition` is below the count.
    pub(crate) fn check(self, partition: Partition) -> Result<()> {
        if partition.0 < self.get() {
            return Ok(());
        }
        Err(Error::invalid(
            Subject::Partition,
            format!("{partition} is not one of the {self}"),
        ))
    }

    /// Iterates over all partitions, in order.
    pub fn iter(self) -> impl Iterator<Item = Partition> {
        (0..self.get()).map(Partition)
    }
}

impl fmt::Display for PartitionCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in a partition's log. Larger means later; the distance between two positions has no
/// meaning.
///
/// It has the two parts of a Redis stream id; a queue that counts leaves the first at 0.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The part that is compared first.
    pub major: u64,
    /// The part that breaks ties.
    pub minor: u64,
}

impl Position {
    /// The position before the first job.
    pub const START: Self = Self { major: 0, minor: 0 };

    /// Returns the position with this number in a queue that counts.
    pub fn counted(number: u64) -> Self {
        Self {
            major: 0,
            minor: number,
        }
    }

    fn push_to(self, text: &mut String) {
        if self.major > 0 {
            push_number(text, self.major);
            text.push('-');
        }
        push_number(text, self.minor);
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
            Err(malformed(Subject::Position))
        }
    }
}

/// Parses digits only: `u64::from_str` would also accept a sign.
fn digits(text: &str) -> Result<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed(Subject::Position));
    }
    text.parse().map_err(|_| malformed(Subject::Position))
}

fn malformed(subject: Subject) -> Error {
    Error::invalid(
        subject,
        "it does not have the form that this service hands out",
    )
}

/// The random name that a queue gets when it is created. A store keeps its positions under this
/// name, so numbers of different queues are never compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(u64);

impl QueueId {
    /// Returns a new id, never used before (64 random bits).
    pub fn random() -> Self {
        Self(fastrand::u64(..))
    }

    fn push_to(self, text: &mut String) {
        push_hex(text, self.0);
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
            return Err(malformed(Subject::QueueId));
        }
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| malformed(Subject::QueueId))
    }
}

/// The name of a job, and thereby its place in the order. It is also the *sync token* that a later
/// read can wait for.
///
/// Clients see it as short opaque text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId {
    /// The queue that accepted it.
    pub queue: QueueId,
    /// The partition that holds it.
    pub partition: Partition,
    /// Its position there.
    pub position: Position,
}

impl JobId {
    fn push_to(self, text: &mut String) {
        self.queue.push_to(text);
        text.push('.');
        push_number(text, self.partition.0.into());
        text.push('.');
        self.position.push_to(text);
    }
}

/// The longest text of a [`JobId`]: 16 digits, and numbers of up to 5, 20 and 20.
const ID_BYTES_MAX: usize = 16 + 1 + 5 + 1 + 20 + 1 + 20;

fn push_number(text: &mut String, number: u64) {
    text.push_str(itoa::Buffer::new().format(number));
}

fn push_hex(text: &mut String, number: u64) {
    let digits = hex::<16>(number);
    text.push_str(std::str::from_utf8(&digits).expect("digits are ASCII"));
}

/// Returns the last `DIGITS` hexadecimal digits of `number`.
pub(crate) fn hex<const DIGITS: usize>(number: u64) -> [u8; DIGITS] {
    std::array::from_fn(|at| {
        let digit = number >> (4 * (DIGITS - 1 - at)) & 15;
        b"0123456789abcdef"[digit as usize]
    })
}

impl FromStr for JobId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split('.');
        let (Some(queue), Some(partition), Some(position), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed(Subject::JobId));
        };
        let id = Self {
            queue: queue.parse().map_err(|_| malformed(Subject::JobId))?,
            partition: Partition(partition.parse().map_err(|_| malformed(Subject::JobId))?),
            position: position.parse().map_err(|_| malformed(Subject::JobId))?,
        };
        // Each id has exactly one text, but "+1" and "01" parse as numbers too.
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(malformed(Subject::JobId))
        }
    }
}

/// The first half of a SHA-256: equal for equal requests, and different for any two others that
/// anyone can find.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Hashes `parts`, each with its length, so that no two lists have the same input.
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

    fn push_to(self, text: &mut String) {
        let number = u128::from_be_bytes(self.0);
        push_hex(text, (number >> 64) as u64);
        push_hex(text, number as u64);
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() != 32 {
            return Err(malformed(Subject::Fingerprint));
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| malformed(Subject::Fingerprint))?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// Implements `Display` through `push_to`, and serde through that and `FromStr`: ids are text
/// wherever they leave the process. Each write has its id in some texts, and the arguments of
/// `write!` cost ten times as much as `push_to`.
macro_rules! text_forms {
    ($($type:ty),*) => {$(
        impl $type {
            fn text(self) -> String {
                let mut text = String::with_capacity(ID_BYTES_MAX);
                self.push_to(&mut text);
                text
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text())
            }
        }

        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.text())
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
text_forms!(Position, QueueId, JobId, Fingerprint);

/// Implements `Debug` as the text that users see elsewhere.
macro_rules! debug_as_text {
    ($($type:ty),*) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
pub(super) use debug_as_text;
debug_as_text!(
    Partition,
    PartitionCount,
    Position,
    QueueId,
    JobId,
    Fingerprint
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_is_the_text_that_users_see() {
        let text = "0123456789abcdef.3.1767225600000000-42";
        let id: JobId = text.parse().unwrap();
        assert_eq!(format!("{id:?}"), text);
        let parts = (id.queue, id.partition, id.position);
        assert_eq!(
            format!("{parts:?}"),
            "(0123456789abcdef, 3, 1767225600000000-42)"
        );
        let hash = Fingerprint::of(&[]);
        assert_eq!(format!("{hash:?}"), hash.to_string());
    }
}
