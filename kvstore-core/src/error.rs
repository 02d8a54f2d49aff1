//! The one public error: a variant for each thing that a caller can *do*.
//!
//! Absence is not an error (`Ok(None)`). Each backend keeps its own private errors and converts
//! them to this one in a single place.

use std::fmt::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::model::entry::Version;
use crate::model::id::{JobId, Partition, Position, QueueId};
use crate::model::key::Key;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A cause from a backend. Its type is erased, so that no client library appears in this crate's
/// public interface, and it is shared, so that one failure can answer many callers.
pub type Source = Arc<dyn std::error::Error + Send + Sync>;

/// Why a call failed.
///
/// Unless a variant says otherwise, nothing has happened. Each variant calls for one reaction;
/// [`Error::is_retryable`] says whether it is worth trying the same call again later.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The input breaks a rule; sending it again will not help.
    #[error("{subject} is invalid: {reason}")]
    Invalid {
        /// The part of the input that is invalid.
        subject: Subject,
        /// The rule, and where the input breaks it.
        reason: String,
    },

    /// The input is larger than a limit of [`crate::limits`] or of the settings.
    #[error("{subject} is too large: the limit is {limit} {unit}")]
    TooLarge {
        /// The part of the input that is too large.
        subject: Subject,
        /// The largest size allowed.
        limit: u64,
        /// What `limit` counts.
        unit: Unit,
    },

    /// A check of a commit did not hold: read again, then decide.
    #[error("the condition on key {key:?} does not hold, its version is {}", display_version(*.current))]
    Conflict {
        /// The key whose check failed.
        key: Key,
        /// The index of the failed check in the commit, from 0.
        check: usize,
        /// The key's current version; `None` if it is absent.
        current: Option<Version>,
    },

    /// Another worker has advanced the partition: read the position again.
    #[error("partition {partition} is already applied up to position {applied}")]
    Stale {
        /// The partition that the commit was to advance.
        partition: Partition,
        /// How far it is applied.
        applied: Position,
    },

    /// A bound is reached, one that keeps memory limited. There may be room later.
    #[error("{what} is full: the limit is {limit}")]
    Full {
        /// What is full, with its unit: `the queue (jobs)`.
        what: &'static str,
        /// The bound.
        limit: u64,
        /// How long it takes until there is room, if that is known.
        room_in: Option<Duration>,
    },

    /// The disk, or the configured ceiling on data, has no room. Reads continue to work; writes
    /// work again once there is space.
    #[error("no room to store this: {detail}")]
    StorageFull {
        /// Which disk or which ceiling.
        detail: String,
    },

    /// The idempotency key was used before, with a different request.
    #[error("this idempotency key was used before, with another request")]
    KeyReused,

    /// The keys of one batch belong to different partitions of the queue, so they have no common
    /// order.
    #[error(
        "keys {first:?} and {other:?} are in different partitions: give both the same {{tag}} to change them in one batch"
    )]
    CrossPartition {
        /// The first key of the batch.
        first: Key,
        /// The first key in another partition.
        other: Key,
    },

    /// The history before the requested point has been dropped: start again from a full listing.
    #[error("the history asked for has been dropped")]
    Compacted,

    /// The named thing does not exist (the absence of a key is `Ok(None)`, not this).
    #[error("{what} does not exist")]
    NotFound {
        /// The name of what is missing.
        what: String,
    },

    /// The store rejected a job for good, or its attempts are used up: it is kept as a dead letter,
    /// and none of its writes took effect. Remove the cause, then retry the letter.
    #[error("the job {job} became a dead letter: {reason}")]
    DeadLettered {
        /// The job.
        job: JobId,
        /// The reason, for an operator.
        reason: String,
    },

    /// Another process holds the folder. Stop that process, or use another folder.
    #[error("{} is in use by {}", .path.display(), display_holder(*.pid))]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The process that holds it, if that is known.
        pid: Option<u32>,
    },

    /// The write that a sync token names is not applied yet, so a read might not show it. Try again
    /// soon.
    #[error("the write {job} is not applied yet")]
    NotYetVisible {
        /// The write.
        job: JobId,
    },

    /// A file does not hold what was written to it, or not what this version can read. Nothing was
    /// changed; `detail` says what to do.
    #[error("{}{} cannot be used: {detail}", .path.display(), display_line(*.line))]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The line, from 1, if one can be named.
        line: Option<u64>,
        /// What is wrong, and what to do.
        detail: String,
    },

    /// The store is older than the queue: jobs that it has not applied are gone. The partition
    /// stops until an operator accepts the loss.
    #[error(
        "the jobs of partition {partition} after position {after} and up to {trimmed} are no longer in the queue, and the store has not applied them"
    )]
    Gap {
        /// The partition.
        partition: Partition,
        /// The position up to which the store has applied the partition.
        after: Position,
        /// The position up to which the queue has dropped its jobs.
        trimmed: Position,
    },

    /// The backend cannot be reached or is closing. Nothing has happened; try again later.
    #[error("{what}")]
    Unavailable {
        /// What cannot be reached, or what could not be done.
        what: String,
        /// Why.
        source: Option<Source>,
    },

    /// This process only reads what another one writes. Nothing has happened; use that process.
    #[error("this process only reads: write through {writer}")]
    ReadOnly {
        /// The writer, as far as it is known.
        writer: String,
    },

    /// It is unknown whether the call took effect, because the connection broke or the sync failed
    /// in between. Read before you repeat it, or repeat it under the same idempotency key.
    #[error("it is not known whether {what}")]
    Unknown {
        /// What may or may not have happened.
        what: String,
        /// What broke.
        source: Option<Source>,
    },

    /// An earlier write or sync failed, so memory and disk may differ: nothing more is accepted
    /// until the store is reopened.
    #[error("writing stopped after an earlier failure, restart to recover: {reason}")]
    Poisoned {
        /// The failure that stopped it.
        reason: String,
    },

    /// The store applies the jobs of a different queue. Use that queue, or let the store adopt this
    /// one, which skips the jobs that still wait in the other.
    #[error(
        "the store applies queue {active}, and this is queue {queue}: jobs that still wait in the other one would be skipped; \
         to switch to this queue all the same, start the worker once with --adopt-queue"
    )]
    WrongQueue {
        /// The queue whose jobs the store applies.
        active: QueueId,
        /// The queue that it was used with.
        queue: QueueId,
    },

    /// The server does not permit this: the token is unknown, or its rights do not cover the
    /// request.
    #[error("the server does not permit this: {reason}")]
    Denied {
        /// The server's explanation.
        reason: String,
    },

    /// A setting is wrong, or two settings contradict each other.
    #[error("{0}")]
    Config(String),
}

impl Error {
    /// Returns true if the same call, unchanged, may succeed later.
    ///
    /// False for [`Error::Unknown`]: the call may already have succeeded.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Full { .. }
                | Self::StorageFull { .. }
                | Self::Unavailable { .. }
                | Self::Locked { .. }
                | Self::NotYetVisible { .. }
        )
    }

    pub(crate) fn invalid(subject: Subject, reason: impl Into<String>) -> Self {
        Self::Invalid {
            subject,
            reason: reason.into(),
        }
    }

    /// Builds the error of a backend that is closed or closing.
    pub(crate) fn unavailable(backend: &str) -> Self {
        Self::Unavailable {
            what: format!("{backend} is unavailable"),
            source: None,
        }
    }
}

/// The subject of an [`Error::Invalid`] or an [`Error::TooLarge`]. Its `Display` is a noun, such as
/// `sync token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is the noun that it displays")]
pub enum Subject {
    Batch,
    ChangeId,
    Commit,
    Delimiter,
    Fingerprint,
    Job,
    JobId,
    Key,
    Limit,
    Partition,
    PartitionCount,
    Position,
    QueueId,
    SyncToken,
    Ttl,
    Value,
}

impl Subject {
    /// Returns the noun.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::ChangeId => "change id",
            Self::Commit => "commit",
            Self::Delimiter => "delimiter",
            Self::Fingerprint => "fingerprint",
            Self::Job => "job",
            Self::JobId => "job id",
            Self::Key => "key",
            Self::Limit => "limit",
            Self::Partition => "partition",
            Self::PartitionCount => "partition count",
            Self::Position => "position",
            Self::QueueId => "queue id",
            Self::SyncToken => "sync token",
            Self::Ttl => "ttl",
            Self::Value => "value",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The unit of the limit in an [`Error::TooLarge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is the noun that it displays")]
pub enum Unit {
    Bytes,
    Keys,
    Operations,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Keys => "keys",
            Self::Operations => "operations",
        })
    }
}

/// Converts `cause` into the source of an error.
pub(crate) fn source(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Option<Source> {
    Some(cause.into().into())
}

fn display_version(version: Option<Version>) -> String {
    version.map_or_else(
        || "none (it is absent)".to_owned(),
        |version| version.to_string(),
    )
}

fn display_holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

fn display_line(line: Option<u64>) -> String {
    line.map_or_else(String::new, |line| format!(", line {line},"))
}

/// Formats the error and its sources on one line, separated by colons.
pub fn in_one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a String does not fail.
        let _ = write!(line, ": {cause}");
        source = cause.source();
    }
    line.replace(['\r', '\n'], " ")
}
