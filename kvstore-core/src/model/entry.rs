//! What is stored under a key: a value, its version and, if it ends, when.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::value::Value;

/// The number of one applied change of a key.
///
/// Every change of a key gets a larger one, also after it was deleted and created again; none is ever used twice for a key. The
/// first is at least 1: no entry ever has version 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A moment, in whole milliseconds since 1970-01-01T00:00:00Z. It is what is written to files and to Redis.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The moment `span` later; the end of time if there is none.
    pub fn after(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// The moment `span` earlier; the start of 1970 if there is none.
    pub fn before(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// How long ago `earlier` was, seen from here; nothing if it is in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// An entry as it is read: never expired, never half-written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value, byte for byte as it was written but for white space between tokens.
    pub value: Value,
    /// The change that wrote it.
    pub version: Version,
    /// When it will be absent; `None` if never.
    pub expires_at: Option<Timestamp>,
}

/// An entry where it is kept, lent to somebody who reads it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// The value's JSON text.
    pub value: &'a [u8],
    /// The change that wrote it.
    pub version: Version,
    /// When it will be absent; `None` if never.
    pub expires_at: Option<Timestamp>,
}
