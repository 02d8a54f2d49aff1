//! One change of one key, and the condition that it may depend on.

use std::time::Duration;

use crate::model::entry::{Timestamp, Version};
use crate::model::key::Key;
use crate::model::value::Value;

/// What must hold for a key before an operation happens. An expired entry counts as absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing needs to hold.
    #[default]
    Any,
    /// The key is absent.
    Absent,
    /// The key is present.
    Present,
    /// The key is present with this version.
    Version(Version),
}

impl Condition {
    /// Returns true if the condition holds for a key with version `current` (`None`: absent).
    pub fn holds(self, current: Option<Version>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => current.is_none(),
            Self::Present => current.is_some(),
            Self::Version(version) => current == Some(version),
        }
    }

    /// Returns the condition that holds as long as nothing changes.
    pub fn unchanged(current: Option<Version>) -> Self {
        current.map_or(Self::Absent, Self::Version)
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: Key,
    /// The change.
    pub change: Change,
}

/// The effect of a [`Write`] on its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a value, until a deadline. If the deadline has already passed, the key becomes absent;
    /// the write still counts as applied.
    Set {
        /// The new value.
        value: Value,
        /// When it expires; `None` if never.
        expires_at: Option<Timestamp>,
    },
    /// Sets a value for a period, counted by the store's clock from the commit.
    SetFor {
        /// The new value.
        value: Value,
        /// The time to live.
        ttl: Duration,
    },
    /// Makes the key absent.
    Delete,
}

impl Change {
    /// Returns the value and the deadline of the key after this change, made at `now`; `None` for a
    /// delete.
    pub fn value_at(&self, now: Timestamp) -> Option<(&Value, Option<Timestamp>)> {
        match self {
            Self::Set { value, expires_at } => Some((value, *expires_at)),
            Self::SetFor { value, ttl } => Some((value, Some(now.after(*ttl)))),
            Self::Delete => None,
        }
    }
}
