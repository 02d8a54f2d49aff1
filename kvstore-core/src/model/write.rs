//! One change of one key, and the condition it may depend on.

use std::time::Duration;

use crate::model::entry::{Timestamp, Version};
use crate::model::key::Key;
use crate::model::value::Value;

/// What must hold for a key before something happens. An expired entry counts as absent.
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
    /// Whether it holds for a key that has `current` (`None`: absent).
    pub fn holds(self, current: Option<Version>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => current.is_none(),
            Self::Present => current.is_some(),
            Self::Version(version) => current == Some(version),
        }
    }

    /// The condition that holds only as long as nothing changes.
    pub fn unchanged(current: Option<Version>) -> Self {
        current.map_or(Self::Absent, Self::Version)
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: Key,
    /// What becomes of it.
    pub change: Change,
}

/// What a [`Write`] makes of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has this value, until then. A deadline that has passed already leaves the key absent, and is still an applied write.
    Set {
        /// The new value.
        value: Value,
        /// When it ends; `None` if never.
        expires_at: Option<Timestamp>,
    },
    /// It has this value for this long, counted by the store's clock from the commit.
    SetFor {
        /// The new value.
        value: Value,
        /// How long it lives.
        ttl: Duration,
    },
    /// It is absent.
    Delete,
}

impl Change {
    /// Returns the value that a key has after this change, made at `now`, and when that ends; `None` for a delete.
    pub fn value_at(&self, now: Timestamp) -> Option<(&Value, Option<Timestamp>)> {
        match self {
            Self::Set { value, expires_at } => Some((value, *expires_at)),
            Self::SetFor { value, ttl } => Some((value, Some(now.after(*ttl)))),
            Self::Delete => None,
        }
    }
}
