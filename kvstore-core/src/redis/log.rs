//! What a process knows of the logs without asking: a script that drops jobs also returns those
//! that follow, for the worker's next batch.

use crate::limits::WORK_BATCH_JOBS;
use crate::model::id::Position;

/// An entry of a log: its id, then its fields and values in turn.
pub(crate) type LogEntry = (String, Vec<String>);

/// What is known of a partition's log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// The last job that a worker has read.
    pub(crate) read: Position,
    /// The position up to which jobs were dropped last, until the worker asks for that.
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

    /// Remembers that the jobs up to `position` were dropped, and what follows if that was wanted.
    pub(crate) fn drop_up_to(&mut self, position: Position, following: Option<Vec<LogEntry>>) {
        self.dropped = Some(position);
        self.following = following.map(|following| (position, following));
    }

    /// Returns true, once, if the jobs up to `position` were dropped last.
    pub(crate) fn has_dropped(&mut self, position: Position) -> bool {
        self.dropped.take() == Some(position)
    }

    /// Returns what follows `position`, once, if that is known.
    pub(crate) fn following(&mut self, position: Position) -> Option<Vec<LogEntry>> {
        let (behind, following) = self.following.take()?;
        (behind == position).then_some(following)
    }
}
