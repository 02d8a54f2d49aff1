//! What a queue in a file needs to write a partition and to rebuild it from what it reads.
//!
//! Bounds do not apply here: accepted jobs are kept even if the bound has been lowered since.

use std::sync::Arc;

use super::idempotency::Remembered;
use super::partition::PartitionLog;
use crate::clock::first_number;
use crate::error::{Error, Result, Subject};
use crate::model::entry::Timestamp;
use crate::model::id::Position;
use crate::model::job::Job;

impl PartitionLog {
    /// Continues the numbering after `last`, with the jobs up to `trimmed` dropped. Must be called
    /// first.
    pub(crate) fn restore_numbering(&mut self, last: Position, trimmed: Position) -> Result<()> {
        if trimmed > last || !self.jobs.is_empty() {
            return Err(Error::invalid(
                Subject::Position,
                "the numbering is out of order",
            ));
        }
        self.last = last;
        self.trimmed = trimmed;
        Ok(())
    }

    /// Adds a job that was published before, and what was remembered of its request. Jobs come in
    /// order; one at or before the trimmed position is counted but not held.
    pub(crate) fn restore_job(&mut self, job: Job, remembered: Option<Remembered>) -> Result<()> {
        let position = job.id.position;
        if job.id.queue != self.queue || job.id.partition != self.partition {
            return Err(Error::invalid(
                Subject::Job,
                "it belongs to another queue or partition",
            ));
        }
        let follows = self
            .jobs
            .back()
            .is_none_or(|before| before.id.position < position);
        if position.minor == 0 || !follows {
            return Err(Error::invalid(Subject::Job, "its position is out of order"));
        }
        self.last = self.last.max(position);
        if let Some(remembered) = remembered {
            self.restore_idempotency(remembered);
        }
        if position > self.trimmed {
            self.bytes += job.command.size_bytes();
            self.jobs.push_back(Arc::new(job));
        }
        Ok(())
    }

    /// Remembers a request whose job may be gone. A later request under the same key replaces it.
    pub(crate) fn restore_idempotency(&mut self, remembered: Remembered) {
        if self.idempotency.job_of(remembered.key) < Some(remembered.job) {
            self.idempotency.insert(remembered);
        }
    }

    /// Restores the attempts of the job at `head`, as last counted. Must be called after the jobs.
    pub(crate) fn restore_attempts(&mut self, head: Position, count: u32) {
        self.attempts = (count > 0 && self.held(head).is_some()).then_some((head, count));
    }

    /// Continues the numbering after `opened` if that is ahead, and keeps the held jobs.
    pub(crate) fn start_numbering_after(&mut self, opened: Position) {
        self.last = self.last.max(opened);
    }

    /// Starts the numbers of an opening with a major half that was never used, and returns where
    /// they begin.
    pub(crate) fn open(&mut self, clock: Timestamp) -> Position {
        self.last = Position {
            major: first_number(self.last.major, clock),
            minor: 0,
        };
        self.last
    }

    /// Returns the held jobs, in order.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.iter()
    }

    /// Returns the last position given out.
    pub(crate) fn last(&self) -> Position {
        self.last
    }

    /// Returns the last job that was dropped.
    pub(crate) fn trimmed(&self) -> Position {
        self.trimmed
    }

    /// Returns the job that was tried last, and its number of attempts.
    pub(crate) fn attempts(&self) -> Option<(Position, u32)> {
        self.attempts
    }

    /// Returns the requests after `after` that are still remembered at `now`, by deadline.
    pub(crate) fn remembered(
        &self,
        now: Timestamp,
        after: Option<&Remembered>,
    ) -> impl Iterator<Item = &Remembered> {
        self.idempotency.live(now, after)
    }
}
