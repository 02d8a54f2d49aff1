//! The effect of one commit: the unit that a file stores, one line each.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::clock::first_number;
use crate::in_memory::log::Remembered;
use crate::model::entry::{Timestamp, Version};
use crate::model::id::{JobId, Partition, Position, QueueId};
use crate::model::job::Outcome;
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::{Change, Write};

/// The complete effect of one commit, ready to be applied or stored. Its writes have the versions
/// after `before`, in order, followed by its expiries. The serialized names are those in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Record {
    /// The latest version before this record.
    #[serde(rename = "v")]
    pub(crate) before: Version,
    /// The store's time of the commit.
    #[serde(rename = "t")]
    pub(crate) at: Timestamp,
    #[serde(rename = "w", default, deserialize_with = "writes")]
    pub(crate) writes: Vec<Write>,
    /// Keys whose deadline has passed.
    #[serde(rename = "x", default)]
    pub(crate) expired: Vec<Key>,
    #[serde(rename = "q")]
    pub(crate) advance: Option<Advanced>,
    /// The queue that becomes the active one.
    pub(crate) adopt: Option<QueueId>,
    /// A dead letter that is dropped.
    pub(crate) forget: Option<JobId>,
    /// The store was opened: its next version follows this one.
    pub(crate) opened: Option<Version>,
    /// The queue of the store numbers its next job after this position.
    pub(crate) jobs: Option<Position>,
    /// The request of the job that is applied here, if it is remembered.
    pub(crate) idem: Option<Remembered>,
}

impl Record {
    pub(crate) fn empty(before: Version, at: Timestamp) -> Self {
        Self {
            before,
            at,
            ..Self::default()
        }
    }

    /// Creates the record of an opening, which numbers commits after version `before`; `clock` is
    /// the wall clock, and `at` the store's time.
    pub(crate) fn opening(before: Version, at: Timestamp, clock: Timestamp) -> Self {
        Self {
            opened: Some(Version(first_number(before.0, clock))),
            ..Self::empty(before, at)
        }
    }

    /// Returns the latest version after this record.
    pub(crate) fn after(&self) -> Version {
        let changes = self.writes.len() + self.expired.len();
        self.opened
            .unwrap_or(Version(self.before.0 + changes as u64))
    }
}

/// The advance of one partition.
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

/// Reads writes, each an array of a key, perhaps a value, and perhaps a deadline.
fn writes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Write>, D::Error> {
    struct Text(Write);

    impl<'de> Deserialize<'de> for Text {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_seq(OneToThree)
        }
    }

    struct OneToThree;

    impl<'de> Visitor<'de> for OneToThree {
        type Value = Text;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a key, perhaps a value, perhaps a deadline")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<Text, A::Error> {
            let key = members
                .next_element()?
                .ok_or_else(|| serde::de::Error::invalid_length(0, &self))?;
            let change = match members.next_element::<&RawValue>()? {
                None => Change::Delete,
                Some(value) => Change::Set {
                    value: Value::trusted(value.get().to_owned().into()),
                    expires_at: members.next_element()?,
                },
            };
            Ok(Text(Write { key, change }))
        }
    }

    let writes = Vec::<Text>::deserialize(deserializer)?.into_iter();
    Ok(writes.map(|Text(write)| write).collect())
}
