//! Jobs that are applied the moment they are accepted: nothing waits, so a job's place, its effect and the new position are one
//! line and one sync, and no worker is needed for it.
//!
//! This path and the queue's thread never accept at the same time. A call that has to wait its turn is counted until the
//! queue's thread has taken it; meanwhile, and as long as a job waits in the log, nothing is applied on acceptance. So the
//! order of acceptance is the order of the positions, whichever way a job takes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::in_memory::log::{Admission, PartitionLog, Remembered};
use crate::in_memory::state::{Record, Staging};
use crate::json_file::PARTITION;
use crate::json_file::writer::queue::{Shared, Turn};
use crate::json_file::writer::quota::Room;
use crate::model::commit::{Advance, Commit};
use crate::model::evaluate::{evaluate, keys_needed};
use crate::model::id::{PartitionCount, Position, QueueId};
use crate::model::job::{Job, NewJob, Outcome};
use crate::queue::{Accepted, Applied};

/// What a job does, and what is remembered of its request.
pub(crate) type JobRecord = (Record, Option<Remembered>);

/// What became of one job of a call.
#[derive(Debug)]
pub(crate) enum Answered {
    Done(Result<Accepted>),
    /// It has to wait its turn, and so do all behind it.
    Waits(NewJob),
}

/// A call, judged.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) answers: Vec<Answered>,
    /// Held by a call of which jobs have to wait.
    pub(crate) turn: Option<Turn>,
}

/// The queue, as the thread of the journal sees it.
pub(crate) struct Acceptance {
    queue: Arc<Shared>,
    /// What this group has accepted, with what has to be taken back if it fails.
    group: Vec<Applied>,
    remembered: Vec<Remembered>,
    /// The last number before this group.
    last: Option<Position>,
}

impl Acceptance {
    pub(crate) fn new(queue: Arc<Shared>) -> Self {
        Self {
            queue,
            group: Vec::new(),
            remembered: Vec::new(),
            last: None,
        }
    }

    pub(crate) fn queue(&self) -> &Shared {
        &self.queue
    }

    /// Returns true if what the first job comes to depends on a write of this group, of which only the version is known yet.
    pub(crate) fn needs_next_group(staging: &Staging<'_>, jobs: &[NewJob]) -> bool {
        jobs.first().is_some_and(|job| depends(staging, job))
    }

    /// Applies the jobs of one call in order, as far as that is possible here. `ahead` bytes of the group come before them.
    pub(crate) fn accept(
        &mut self,
        staging: &mut Staging<'_>,
        room: &Room,
        jobs: Vec<NewJob>,
        ahead: u64,
    ) -> (Call, Vec<JobRecord>) {
        let queue = Arc::clone(&self.queue);
        let mut log = queue.log();
        let mut answers = Vec::with_capacity(jobs.len());
        let mut records = Vec::new();
        let mut bytes = ahead;
        let id = log.id();
        let mut applies_here = queue.poisoned.get().is_none()
            && queue.is_turn_free()
            && log.is_empty()
            && staging.applied((id, PARTITION)) >= log.trimmed();
        for (index, job) in jobs.into_iter().enumerate() {
            // A job that depends on one before it in the call would need that one's effect.
            applies_here &= index == 0 || !depends(staging, &job);
            if !applies_here {
                answers.push(Answered::Waits(job));
                continue;
            }
            let size = job.bytes_taken();
            let checked = job
                .command
                .check(PartitionCount::ONE)
                .and_then(|()| room.check(bytes + size));
            if let Err(error) = checked {
                answers.push(Answered::Done(Err(error)));
                continue;
            }
            let new = job.clone();
            match self.apply(staging, &mut log, job, &mut records) {
                Ok(accepted) => {
                    bytes += if accepted.replayed { 0 } else { size };
                    answers.push(Answered::Done(Ok(accepted)));
                }
                Err(Refused::ForGood(error)) => answers.push(Answered::Done(Err(error))),
                // The worker tries it, and isolates it if it is a poison job.
                Err(Refused::Here) => {
                    applies_here = false;
                    answers.push(Answered::Waits(new));
                }
            }
        }
        let waits = answers
            .iter()
            .any(|answer| matches!(answer, Answered::Waits(_)));
        let turn = waits.then(|| Shared::wait_turn(&queue, &log));
        (Call { answers, turn }, records)
    }

    fn apply(
        &mut self,
        staging: &mut Staging<'_>,
        log: &mut PartitionLog,
        new: NewJob,
        records: &mut Vec<JobRecord>,
    ) -> Result<Accepted, Refused> {
        let before = log.last();
        let admission = log.admit(new, self.queue.time.now());
        let (job, remembered) = match admission.map_err(Refused::ForGood)? {
            // It is answered with the group, which the first one may be part of.
            Admission::Replayed { id, .. } => return Ok(Accepted::replayed(id)),
            Admission::New { job, remembered } => (job, remembered),
        };
        log.release_admitted();
        let position = job.id.position;
        records.extend(pass_over(staging, (job.id.queue, position)).map(|record| (record, None)));
        let Some(record) = judge(staging, &job) else {
            log.take_back(before, remembered.as_ref());
            return Err(Refused::Here);
        };
        let outcome = outcome_of(&record, position);
        records.push((record, remembered));
        self.last.get_or_insert(before);
        self.remembered.extend(remembered);
        self.group.push(Applied {
            id: job.id,
            traceparent: job.traceparent.clone(),
            failed: matches!(outcome, Outcome::Failed(_)),
        });
        Ok(Accepted {
            outcome: Some(outcome),
            ..Accepted::waiting(job.id)
        })
    }

    /// Publishes and reports what the group has accepted, which is durable by a write that took so
    /// long.
    pub(crate) fn publish(&mut self, took: Duration) {
        if let Some(last) = self.group.last() {
            self.queue.log().pass(last.id.position);
            if let Some(listener) = &*self.queue.listener() {
                listener.report(&self.group, took);
            }
        }
        self.group.clear();
        self.remembered.clear();
        self.last = None;
    }

    /// Nothing of what the group has accepted happened, or all of it is unknown. Numbers are used again only in the first case.
    pub(crate) fn withdraw(&mut self, is_certain: bool) {
        let mut log = self.queue.log();
        self.group.clear();
        for remembered in self.remembered.drain(..) {
            let last = log.last();
            log.take_back(last, Some(&remembered));
        }
        if let Some(last) = self.last.take().filter(|_| is_certain) {
            log.take_back(last, None);
        }
    }
}

/// Why a job is not applied here.
enum Refused {
    ForGood(Error),
    Here,
}

/// Returns true if `job` depends on an entry that this group has written already.
fn depends(staging: &Staging<'_>, job: &NewJob) -> bool {
    let mut operations = job.command.operations().iter();
    operations.any(|operation| operation.depends_on_entry() && staging.has_staged(&operation.key))
}

/// Returns the record that comes before the first job of an opening: what is numbered between the jobs of the one before and those
/// of this one belongs to a lost history.
fn pass_over(staging: &mut Staging<'_>, (queue, position): (QueueId, Position)) -> Option<Record> {
    let from = staging.applied((queue, PARTITION));
    if from.major == position.major {
        return None;
    }
    let advance = Advance {
        queue,
        partition: PARTITION,
        from,
        to: Position {
            minor: 0,
            ..position
        },
        outcomes: Vec::new(),
        lost: true,
    };
    let commit = Commit {
        advance: Some(advance),
        ..Commit::default()
    };
    staging.commit(commit).ok().map(|(record, _)| record)
}

/// Returns how the job at `position` ended by `record`.
fn outcome_of(record: &Record, position: Position) -> Outcome {
    let mut outcomes = record.advance.iter().flat_map(|it| &it.outcomes);
    let kept = outcomes.find(|(at, _)| *at == position);
    kept.map_or(Outcome::Succeeded(None), |(_, outcome)| outcome.clone())
}

/// Returns what `job` does, staged; `None` if it cannot be told here.
fn judge(staging: &mut Staging<'_>, job: &Job) -> Option<Record> {
    let id = (job.id.queue, job.id.partition);
    let from = staging.applied(id);
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
