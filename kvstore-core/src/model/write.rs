//! One change of one key, and the condition that it may depend on.

use std::num::ParseIntError;
use std::sync::Arc;
use std::time::Duration;

use crate::model::entry::{Timestamp, Version};
use crate::model::key::Key;
use crate::model::value::Value;

/// What must hold for a key before an operation happens. An expired entry counts as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// The key is present with one of these versions.
    OneOf(Arc<[Version]>),
    /// The key is present with none of these versions.
    NoneOf {
        /// The versions.
        versions: Arc<[Version]>,
        /// The key may be absent as well.
        or_absent: bool,
    },
}

impl Condition {
    /// Returns the condition that a key is present with one of `versions`.
    pub fn one_of(versions: &[Version]) -> Self {
        match versions {
            // It comes before every change.
            [] => Self::Version(Version(0)),
            [version] => Self::Version(*version),
            _ => Self::OneOf(versions.into()),
        }
    }

    /// Returns the condition that a key has none of `versions`: absent, if it may be, or present.
    pub fn none_of(versions: &[Version], or_absent: bool) -> Self {
        match (versions, or_absent) {
            // No entry has this version: a condition all the same, and one that holds.
            ([], true) => Self::none_of(&[Version(0)], true),
            ([], false) => Self::Present,
            _ => Self::NoneOf {
                versions: versions.into(),
                or_absent,
            },
        }
    }

    /// Returns true if the condition holds for a key with version `current` (`None`: absent).
    pub fn holds(&self, current: Option<Version>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => current.is_none(),
            Self::Present => current.is_some(),
            Self::Version(version) => current == Some(*version),
            Self::OneOf(versions) => current.is_some_and(|current| versions.contains(&current)),
            Self::NoneOf {
                versions,
                or_absent,
            } => current.map_or(*or_absent, |current| !versions.contains(&current)),
        }
    }

    /// Returns it as a text, one for each meaning; `None` if nothing needs to hold.
    pub(crate) fn to_text(&self) -> Option<String> {
        let list = |versions: &[Version]| {
            let versions: Vec<_> = versions.iter().map(Version::to_string).collect();
            versions.join(",")
        };
        Some(match self {
            Self::Any => return None,
            Self::Absent => "absent".to_owned(),
            Self::Present => "present".to_owned(),
            Self::Version(version) => version.to_string(),
            Self::OneOf(versions) => list(versions),
            Self::NoneOf {
                versions,
                or_absent,
            } => {
                let present = if *or_absent { "" } else { "present " };
                format!("{present}not {}", list(versions))
            }
        })
    }

    /// Reads what [`Condition::to_text`] has written.
    pub(crate) fn from_text(text: &str) -> Result<Self, ParseIntError> {
        let list = |text: &str| {
            let versions = text.split(',').map(|version| version.parse().map(Version));
            versions.collect::<Result<Vec<_>, _>>()
        };
        Ok(match (text, text.strip_prefix("present ")) {
            ("absent", _) => Self::Absent,
            ("present", _) => Self::Present,
            (text, present) => match present.unwrap_or(text).strip_prefix("not ") {
                Some(versions) => Self::none_of(&list(versions)?, present.is_none()),
                None => Self::one_of(&list(text)?),
            },
        })
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
