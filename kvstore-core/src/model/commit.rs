//! What a store does at once: checks, writes, and how far the queue is applied with them.
//!
//! A store knows nothing of commands; [`evaluate`](crate::model::evaluate) turns those into this.

use crate::error::{Error, Result, Subject};
use crate::limits::DEAD_LETTERS_MAX;
use crate::model::entry::Version;
use crate::model::id::{Partition, Position, QueueId};
use crate::model::job::{Computed, Dead, Failure, Summary};
use crate::model::key::Key;
use crate::model::write::{Condition, Write};

/// Everything that becomes true together, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// What must hold, judged before the first write.
    pub checks: Vec<(Key, Condition)>,
    /// The writes, in order. A key may repeat: each write gets its own version.
    pub writes: Vec<Write>,
    /// How far this brings a partition of the queue; `None` for a direct commit.
    pub advance: Option<Advance>,
}

/// A partition of the queue moves on with the commit: what keeps every job to exactly one effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The queue.
    pub queue: QueueId,
    /// The partition of it.
    pub partition: Partition,
    /// Where the store has to be for this commit to happen.
    pub from: Position,
    /// Where it is then.
    pub to: Position,
    /// The outcomes that can't be told from the position alone, in ascending order of position.
    pub outcomes: Vec<(Position, Verdict)>,
    /// The jobs between `from` and `to` are lost, and an operator has accepted it: they are unknown from then on.
    pub lost: bool,
}

impl Advance {
    /// Checks what can be judged without a store, for a commit of `writes` writes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it does not go forward, or its outcomes are out of order, of jobs that it does not pass, or name
    /// writes that the commit does not hold.
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
                    "its outcomes must be in order, and of writes that it holds",
                ));
            }
            last = *position;
        }
        Ok(())
    }
}

/// Returns the refusal of one more dead letter, in the same words for every backend.
pub(crate) fn dead_letters_full() -> Error {
    Error::Full {
        what: "the table of dead letters",
        limit: DEAD_LETTERS_MAX as u64,
    }
}

/// An outcome as the worker knows it before the commit. The store makes an [`Outcome`](crate::model::job::Outcome) of it, by filling in
/// the versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It succeeds by writes of the commit, from number `first` on.
    Succeeded {
        /// What it was.
        summary: Summary,
        /// The index of its first write in [`Commit::writes`].
        first: usize,
        /// One for each of its own writes: what it came to.
        computed: Vec<Computed>,
    },
    /// It cannot be done.
    Failed {
        /// What it was.
        summary: Summary,
        /// Which operation of the command.
        operation: usize,
        /// Why.
        reason: Failure,
        /// The version that the operation's key has; `None` if it is absent.
        current: Option<Version>,
    },
    /// It is given up.
    Dead(Dead),
}

/// What a commit did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The version of the first write; each following write has the next one. The latest version of the store if there was none.
    pub first_version: Version,
    /// For each write, whether the key existed just before it.
    pub existed: Vec<bool>,
}
