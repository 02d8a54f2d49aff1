//! What one commit did: the unit that a file keeps, one line each.

use serde::{Deserialize, Serialize};

use crate::clock::first_number;
use crate::model::entry::{Timestamp, Version};
use crate::model::id::{JobId, Partition, Position, QueueId};
use crate::model::job::Outcome;
use crate::model::key::Key;
use crate::model::write::Write;

/// Everything that one commit did, ready to be applied or written down. Its writes have the versions after `before`, in
/// order, and then its expiries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The latest version before it.
    pub(crate) before: Version,
    /// The store's time when it happened.
    pub(crate) at: Timestamp,
    pub(crate) writes: Vec<Write>,
    /// Keys whose deadline has passed.
    pub(crate) expired: Vec<Key>,
    pub(crate) advance: Option<Advanced>,
    /// The queue that is the active one from here on.
    pub(crate) adopt: Option<QueueId>,
    /// A dead letter that is dropped.
    pub(crate) forget: Option<JobId>,
    /// The store was opened: its next version follows this one.
    pub(crate) opened: Option<Version>,
}

impl Record {
    pub(crate) fn empty(before: Version, at: Timestamp) -> Self {
        Self {
            before,
            at,
            writes: Vec::new(),
            expired: Vec::new(),
            advance: None,
            adopt: None,
            forget: None,
            opened: None,
        }
    }

    /// Begins the numbers of an opening, behind version `before`; `clock` is the wall clock, and `at` the
    /// store's time.
    pub(crate) fn opening(before: Version, at: Timestamp, clock: Timestamp) -> Self {
        Self {
            opened: Some(Version(first_number(before.0, clock))),
            ..Self::empty(before, at)
        }
    }

    /// The latest version after it.
    pub(crate) fn after(&self) -> Version {
        let changes = self.writes.len() + self.expired.len();
        self.opened
            .unwrap_or(Version(self.before.0 + changes as u64))
    }
}

/// A partition that moved on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Advanced {
    pub(crate) queue: QueueId,
    pub(crate) partition: Partition,
    pub(crate) from: Position,
    pub(crate) to: Position,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) outcomes: Vec<(Position, Outcome)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) lost: bool,
}
