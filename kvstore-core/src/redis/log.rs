//! What a process knows of the logs without asking: a script that drops jobs also returns those
//! that follow, for the worker's next batch.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::WORK_BATCH_JOBS;
use crate::model::id::{Partition, PartitionCount, Position};

/// An entry of a log: its id, then its fields and values in turn.
pub(crate) type LogEntry = (String, Vec<String>);

/// What is known of each partition's log.
#[derive(Debug)]
pub(crate) struct Logs(Vec<Mutex<Log>>);

impl Logs {
    pub(crate) fn new(partitions: PartitionCount) -> Self {
        Self(partitions.iter().map(|_| Mutex::default()).collect())
    }

    pub(crate) fn of(&self, partition: Partition) -> MutexGuard<'_, Log> {
        let log = &self.0[usize::from(partition.0)];
        log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a partition's log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// The last job that a worker has read.
    pub(crate) read: Position,
    /// The position up to which a commit has dropped jobs, until the worker asks for that.
    dropped: Option<Position>,
    /// The entries that follow a position.
    following: Option<(Position, Vec<LogEntry>)>,
}

impl Log {
    /// Returns how many jobs behind `position` a worker needs once it has completed those up to
    /// there.
    pub(crate) fn wanted(&self, position: Position) -> usize {
        match self.read > position {
            true => 0,
            false => WORK_BATCH_JOBS,
        }
    }

    /// Keeps what follows `position`, if it was `wanted`.
    pub(crate) fn keep(&mut self, position: Position, wanted: usize, following: Vec<LogEntry>) {
        self.following = (wanted > 0).then_some((position, following));
    }

    /// Remembers that a commit has dropped the jobs up to `position`.
    pub(crate) fn drop_up_to(&mut self, position: Position) {
        self.dropped = Some(position);
    }

    /// Returns true, once, if the last commit has dropped the jobs up to `position`.
    pub(crate) fn has_dropped(&mut self, position: Position) -> bool {
        self.dropped.take() == Some(position)
    }

    /// Returns what follows `position`, once, if that is known.
    pub(crate) fn following(&mut self, position: Position) -> Option<Vec<LogEntry>> {
        let (behind, following) = self.following.take()?;
        (behind == position).then_some(following)
    }
}
