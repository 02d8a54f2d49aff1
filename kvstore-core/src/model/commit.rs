//! The unit of change of a store: checks, writes, and the queue's new position.
//!
//! A store knows nothing of commands; [`evaluate`](crate::model::evaluate) turns them into commits.

use crate::error::{Error, Result, Subject};
use crate::limits::DEAD_LETTERS_BYTES_MAX;
use crate::model::entry::Version;
use crate::model::id::{Partition, Position, QueueId};
use crate::model::job::{Applied, Computed, Dead, Failed, Failure, Outcome, Succeeded, Summary};
use crate::model::key::Key;
use crate::model::write::{Condition, Write};

/// Changes that take effect together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Conditions that must hold, judged before the first write.
    pub checks: Vec<(Key, Condition)>,
    /// The writes, in order. A key may repeat: each write gets its own version.
    pub writes: Vec<Write>,
    /// How far this commit advances a partition of the queue; `None` for a direct commit.
    pub advance: Option<Advance>,
}

/// The new position of a partition of the queue. Committing it with the writes gives every job
/// exactly one effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The queue.
    pub queue: QueueId,
    /// Its partition.
    pub partition: Partition,
    /// The position that the store must be at for this commit to happen.
    pub from: Position,
    /// The position after the commit.
    pub to: Position,
    /// The outcomes that cannot be derived from the position alone, in ascending order of position.
    pub outcomes: Vec<(Position, Verdict)>,
    /// True if the jobs between `from` and `to` are lost and an operator has accepted this: they
    /// are unknown from then on.
    pub lost: bool,
}

impl Advance {
    /// Checks what can be judged without a store, for a commit of `writes` writes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it does not move forward, or if its outcomes are out of order, concern
    /// jobs that it does not pass, or name writes that the commit does not hold.
    pub fn check(&self, writes: usize) -> Result<()> {
        if self.to <= self.from {
            return Err(Error::invalid(
                Subject::Commit,
                "it must advance the partition",
            ));
        }
        let mut last = self.from;
        for (position, verdict) in &self.outcomes {
            let in_order = *position > last && *position <= self.to;
            let has_writes = match verdict {
                Verdict::Succeeded {
                    first, computed, ..
                } => first
                    .checked_add(computed.len())
                    .is_some_and(|end| end <= writes),
                Verdict::Failed { .. } | Verdict::Dead(_) => true,
            };
            if !in_order || !has_writes {
                return Err(Error::invalid(
                    Subject::Commit,
                    "its outcomes must be in order, and name writes that it holds",
                ));
            }
            last = *position;
        }
        Ok(())
    }
}

/// Returns the error for one dead letter above `limit`, in the same words for every backend.
pub(crate) fn dead_letters_full(limit: usize) -> Error {
    Error::Full {
        what: "the table of dead letters",
        limit: limit as u64,
        room_in: None,
    }
}

/// Returns the same refusal where their bytes are too many.
pub(crate) fn dead_letters_full_by_bytes() -> Error {
    Error::Full {
        what: "the table of dead letters (bytes)",
        limit: DEAD_LETTERS_BYTES_MAX as u64,
        room_in: None,
    }
}

/// An outcome as the worker knows it before the commit. The store fills in the versions, which
/// makes it an [`Outcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The job succeeds by writes of the commit, starting at index `first`.
    Succeeded {
        /// What the job was.
        summary: Summary,
        /// The index of its first write in [`Commit::writes`].
        first: usize,
        /// The computed result of each of its writes.
        computed: Vec<Computed>,
    },
    /// The job cannot be done.
    Failed {
        /// What the job was.
        summary: Summary,
        /// The index of the operation in the command.
        operation: usize,
        /// The reason.
        reason: Failure,
        /// The current version of the operation's key; `None` if it is absent.
        current: Option<Version>,
    },
    /// The job is given up.
    Dead(Dead),
}

impl Verdict {
    /// Returns the outcome; `applied` returns the result of a write, given its index in the commit
    /// and what was computed for it.
    pub(crate) fn into_outcome(self, applied: impl Fn(usize, Computed) -> Applied) -> Outcome {
        match self {
            Self::Succeeded {
                summary,
                first,
                computed,
            } => {
                let writes = (first..).zip(computed);
                let writes = writes.map(|(index, computed)| applied(index, computed));
                Outcome::Succeeded(Some(Succeeded {
                    summary,
                    writes: writes.collect(),
                }))
            }
            Self::Failed {
                summary,
                operation,
                reason,
                current,
            } => Outcome::Failed(Failed {
                summary,
                operation,
                reason,
                current,
            }),
            Self::Dead(dead) => Outcome::Dead(dead),
        }
    }
}

/// The result of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The version of the first write; each following write has the next one. Without writes, the
    /// latest version of the store.
    pub first_version: Version,
    /// For each write, whether the key existed immediately before it.
    pub existed: Vec<bool>,
}
