//! Accepts jobs. A job with nothing ahead of it is applied the moment it is accepted: its position,
//! its effect and the new applied position are one line and one sync, and it needs no worker. All
//! others wait in the log for a worker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::error::Result;
use crate::in_memory::log::{Admission, Claims, PartitionLog};
use crate::in_memory::state::{Record, Staging};
use crate::json_file::PARTITION;
use crate::json_file::journal::record;
use crate::json_file::writer::quota::Room;
use crate::json_file::writer::{Group, GroupReply, Writer};
use crate::model::entry::Timestamp;
use crate::model::evaluate::{evaluate, keys_needed};
use crate::model::id::{PartitionCount, Position};
use crate::model::job::{Job, NewJob, Outcome};
use crate::queue::{Accepted, AppliedJob, AppliedListener};

/// The queue, shared by the journal thread and its callers.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Held for short in-memory operations only, never across a wait or a write.
    log: Mutex<PartitionLog>,
    /// Notified when jobs are published, and when the queue is closed.
    pub(crate) changed: Notify,
    claims: Mutex<Claims>,
    /// Set by a worker of this process to receive the jobs that are applied on acceptance.
    listener: Mutex<Option<AppliedListener>>,
    applies_on_acceptance: bool,
}

impl Queue {
    pub(crate) fn new(log: PartitionLog, claims: Claims, applies_on_acceptance: bool) -> Self {
        Self {
            log: Mutex::new(log),
            changed: Notify::new(),
            claims: Mutex::new(claims),
            listener: Mutex::default(),
            applies_on_acceptance,
        }
    }

    // The guarded data is consistent at any time, even after a panic.
    pub(crate) fn log(&self) -> MutexGuard<'_, PartitionLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn listener(&self) -> MutexGuard<'_, Option<AppliedListener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if a worker of this process would apply the job anyway, so it may be applied on
    /// acceptance.
    pub(super) fn applies_on_acceptance(&self, now: Timestamp) -> bool {
        self.applies_on_acceptance && self.listener().is_some() && self.claims().are_all_held(now)
    }
}

impl Group {
    /// Judges the jobs of one call in order; the reply answers for all of them.
    pub(crate) fn enqueue(
        &mut self,
        writer: &Writer,
        staging: &mut Staging<'_>,
        jobs: Vec<NewJob>,
        answer: oneshot::Sender<Vec<Result<Accepted>>>,
    ) -> GroupReply {
        let mut log = writer.queue.log();
        let accept = |job| self.accept(staging, &mut log, &writer.room, job);
        let judged: Vec<Result<Accepted>> = jobs.into_iter().map(accept).collect();
        drop(log);
        let before = self.numbers_after;
        Box::new(move |group: Result<()>| {
            // A repeat of a request in this group succeeds or fails with the group.
            let answered = |accepted: Accepted| match accepted.id.position > before {
                true => group.clone().map(|()| accepted),
                false => Ok(accepted),
            };
            let answers = judged.into_iter().map(|judged| judged.and_then(answered));
            let _ = answer.send(answers.collect());
        })
    }

    fn accept(
        &mut self,
        staging: &mut Staging<'_>,
        log: &mut PartitionLog,
        room: &Room,
        new: NewJob,
    ) -> Result<Accepted> {
        let size = new.bytes_taken();
        new.command.check(PartitionCount::ONE)?;
        room.check(self.bytes + size)?;
        let (job, remembered) = match log.admit(new, staging.now)? {
            Admission::Replayed(id) => return Ok(Accepted::replayed(id)),
            Admission::New { job, remembered } => (job, remembered),
        };
        self.bytes += size;
        // If another store has applied jobs, this store may be behind those that the log has
        // dropped.
        let applied = staging.applied((log.id(), PARTITION));
        let nothing_is_ahead = log.len() == 1 && applied >= log.trimmed();
        let applied = (self.applies_jobs && nothing_is_ahead)
            .then(|| judge(staging, &job))
            .flatten();
        let Some(mut record) = applied else {
            self.lines.push(record::encode_job(&job, remembered));
            self.has_waiting = true;
            return Ok(Accepted::waiting(job.id));
        };
        log.release_admitted();
        record.idem = remembered;
        Ok(self.apply(&job, record))
    }

    fn apply(&mut self, job: &Job, record: Record) -> Accepted {
        let outcome = outcome_of(&record, job.id.position);
        self.push(record);
        self.applied.push(AppliedJob {
            id: job.id,
            traceparent: job.traceparent.clone(),
            failed: matches!(outcome, Outcome::Failed(_)),
        });
        Accepted {
            outcome: Some(outcome),
            ..Accepted::waiting(job.id)
        }
    }
}

/// Returns the outcome of the job at `position` in `record`.
fn outcome_of(record: &Record, position: Position) -> Outcome {
    let mut outcomes = record.advance.iter().flat_map(|it| &it.outcomes);
    let kept = outcomes.find(|(at, _)| *at == position);
    kept.map_or(Outcome::Succeeded(None), |(_, outcome)| outcome.clone())
}

/// Stages the effect of `job` and returns its record. Returns `None` if evaluation panics or the
/// commit is refused: a worker then tries the job, and isolates it if it is a poison job.
fn judge(staging: &mut Staging<'_>, job: &Job) -> Option<Record> {
    let from = staging.applied((job.id.queue, job.id.partition));
    let jobs = std::slice::from_ref(job);
    let evaluation = catch_unwind(AssertUnwindSafe(|| {
        let entries = keys_needed(jobs).into_iter().filter_map(|key| {
            let entry = staging.entry(&key)?;
            Some((key, entry))
        });
        evaluate(from, jobs, &entries.collect())
    }));
    let commit = evaluation.ok()?.commit;
    staging.commit(commit).ok().map(|(record, _)| record)
}
