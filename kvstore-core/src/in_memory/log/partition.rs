//! One partition: its jobs in order, their bounds, and what is remembered of those that are gone.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::idempotency::{IdempotencyTable, Remembered};
use crate::error::{Error, Result, Subject, Unit};
use crate::model::entry::Timestamp;
use crate::model::id::{Fingerprint, JobId, Partition, Position, QueueId};
use crate::model::job::{Job, NewJob};
use crate::queue::QueueOptions;
use crate::queue::{Depth, Found};

/// The log of one partition.
///
/// Accepting has two phases: [`admit`](Self::admit) gives jobs their positions, and then either
/// [`publish`](Self::publish) makes all admitted jobs readable, or [`withdraw`](Self::withdraw)
/// takes all of them back. A number is given out only once; the numbers of withdrawn jobs are
/// skipped, since those jobs may have reached a disk.
pub(crate) struct PartitionLog {
    pub(super) queue: QueueId,
    pub(super) partition: Partition,
    /// In ascending order of position; the last `admitted` of them are not readable yet.
    pub(super) jobs: VecDeque<Arc<Job>>,
    admitted: usize,
    /// The idempotency keys of those, in case they are withdrawn.
    admitted_keys: Vec<Fingerprint>,
    /// The size of all keys and values in `jobs`.
    pub(super) bytes: usize,
    jobs_max: usize,
    bytes_max: usize,
    /// The last position given out. Its major half is the number of the opening.
    pub(super) last: Position,
    /// The last job that was dropped. A reader that is not past it has missed at least that one.
    pub(super) trimmed: Position,
    /// The job that was tried last, and its number of attempts.
    pub(super) attempts: Option<(Position, u32)>,
    pub(super) idempotency: IdempotencyTable,
}

/// The result of admitting a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The job has a position.
    New {
        /// The job, as it will be read.
        job: Arc<Job>,
        /// What is remembered of its idempotency key.
        remembered: Option<Remembered>,
    },
    /// The same request came before, under the same idempotency key, and became this job. Where the
    /// job is only admitted, the request may be answered only once it is published, and fails if it
    /// is withdrawn.
    Replayed(JobId),
}

impl PartitionLog {
    /// Creates an empty log.
    pub(crate) fn new(queue: QueueId, partition: Partition, options: &QueueOptions) -> Self {
        Self {
            queue,
            partition,
            jobs: VecDeque::new(),
            admitted: 0,
            admitted_keys: Vec::new(),
            bytes: 0,
            jobs_max: options.jobs_max,
            bytes_max: options.bytes_max,
            last: Position::START,
            trimmed: Position::START,
            attempts: None,
            idempotency: IdempotencyTable::new(options.idempotency_keys_max),
        }
    }

    /// Gives `new` the next position, and reserves its bytes and its idempotency key. The caller
    /// has checked the command.
    ///
    /// # Errors
    /// [`Error::KeyReused`]; [`Error::Full`] at a bound; [`Error::TooLarge`] for a job that exceeds
    /// the bound on bytes by itself. On any error the log is unchanged.
    pub(crate) fn admit(&mut self, new: NewJob, now: Timestamp) -> Result<Admission> {
        let identity = new.idempotency.as_ref().map(|idempotency| {
            (
                Remembered::hash(idempotency),
                new.command.fingerprint(),
                now.after(idempotency.window.min(idempotency.minimum)),
                now.after(idempotency.window),
            )
        });
        // First: a retry is answered even at a bound.
        if let Some((key, request, ..)) = identity
            && let Some(position) = self.idempotency.look_up(key, request, now)?
        {
            return Ok(Admission::Replayed(self.job_id(position)));
        }
        let size = new.size_bytes();
        let position = self.room_for(size)?;

        self.last = position;
        self.bytes += size;
        self.admitted += 1;
        let remembered = identity.map(|(key, request, guaranteed_until, expires_at)| Remembered {
            key,
            job: position,
            request,
            guaranteed_until,
            expires_at,
        });
        if let Some(remembered) = remembered {
            self.idempotency.insert(remembered);
            self.admitted_keys.push(remembered.key);
        }
        let job = Arc::new(Job {
            id: self.job_id(position),
            command: new.command,
            keep_outcome: new.keep_outcome || remembered.is_some(),
            accepted_at: now,
            traceparent: new.traceparent,
        });
        self.jobs.push_back(Arc::clone(&job));
        Ok(Admission::New { job, remembered })
    }

    /// Returns the position that a job of `size` bytes gets, if there is space for it.
    fn room_for(&self, size: usize) -> Result<Position> {
        let full = |what, limit| {
            Err(Error::Full {
                what,
                limit,
                room_in: None,
            })
        };
        if size > self.bytes_max {
            return Err(Error::TooLarge {
                subject: Subject::Job,
                limit: self.bytes_max as u64,
                unit: Unit::Bytes,
            });
        }
        if self.jobs.len() >= self.jobs_max {
            return full("the queue (jobs)", self.jobs_max as u64);
        }
        // Recovered jobs may exceed a bound that has been lowered since, hence the saturation.
        if size > self.bytes_max.saturating_sub(self.bytes) {
            return full("the queue (bytes)", self.bytes_max as u64);
        }
        match self.last.minor.checked_add(1) {
            Some(minor) => Ok(Position { minor, ..self.last }),
            None => full("the queue (positions)", u64::MAX),
        }
    }

    /// Returns how many jobs wait or are being accepted.
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Returns the size of their keys and values, in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the id of the queue.
    pub(crate) fn id(&self) -> QueueId {
        self.queue
    }

    /// Releases the job that was admitted last, since it is applied at once and never read.
    /// [`withdraw`](Self::withdraw) also takes back what is remembered of its request.
    pub(crate) fn release_admitted(&mut self) {
        if let Some(job) = self.jobs.pop_back() {
            self.admitted -= 1;
            self.bytes -= job.command.size_bytes();
        }
    }

    /// Drops the jobs up to `up_to`, which the store of this queue has applied, whether they were
    /// held or not.
    pub(crate) fn apply(&mut self, up_to: Position) {
        self.complete(up_to);
        self.trimmed = self.trimmed.max(up_to);
        self.last = self.last.max(up_to);
    }

    /// Makes the numbers after `last` available again. They belonged to withdrawn jobs that reached
    /// no disk.
    pub(crate) fn reuse_after(&mut self, last: Position) {
        self.last = last;
    }

    /// Makes all admitted jobs readable.
    pub(crate) fn publish(&mut self) {
        self.admitted = 0;
        self.admitted_keys.clear();
    }

    /// Takes all admitted jobs back, as if they had never come; only their numbers are used up.
    pub(crate) fn withdraw(&mut self) {
        for job in self.jobs.drain(self.published()..) {
            self.bytes -= job.command.size_bytes();
        }
        for key in self.admitted_keys.drain(..) {
            self.idempotency.remove(key);
        }
        self.admitted = 0;
    }

    /// Makes the next job come after `position`, the store's applied position, unless it does
    /// already. Jobs held before that are dropped. Workers that start later may call this while
    /// jobs are admitted, but it must have nothing to do then.
    pub(crate) fn start_after(&mut self, position: Position) {
        if position > self.last {
            debug_assert_eq!(
                self.admitted, 0,
                "jobs are being accepted behind the store's position"
            );
            self.complete(position);
            self.last = position;
            self.trimmed = position;
        }
    }

    /// Returns the published jobs after `after`, at most `max`.
    ///
    /// # Errors
    /// [`Error::Gap`] if a job after it has been dropped.
    pub(crate) fn read(&self, after: Position, max: usize) -> Result<Vec<Job>> {
        if after < self.trimmed {
            return Err(Error::Gap {
                partition: self.partition,
                after,
                trimmed: self.trimmed,
            });
        }
        Ok(self.peek(after, max))
    }

    /// Returns the published jobs after `after` that are still held, at most `max`.
    pub(crate) fn peek(&self, after: Position, max: usize) -> Vec<Job> {
        let end = self.published();
        let start = self.count_up_to(after).min(end);
        let jobs = self.jobs.range(start..end).take(max);
        jobs.map(|job| Job::clone(job)).collect()
    }

    /// Returns what is known of the job at `position`. A job that is only admitted is not known
    /// yet.
    pub(crate) fn find(&self, position: Position) -> Found {
        match self.held(position) {
            Some(job) => Found::Held {
                job: Box::new(Job::clone(job)),
                attempts: match self.attempts {
                    Some((head, count)) if head == position => count,
                    _ => 0,
                },
            },
            None if position > Position::START && position <= self.trimmed => Found::Dropped,
            None => Found::Unknown,
        }
    }

    /// Drops the published jobs up to `up_to`.
    pub(crate) fn complete(&mut self, up_to: Position) {
        let count = self.count_up_to(up_to).min(self.published());
        for job in self.jobs.drain(..count) {
            self.bytes -= job.command.size_bytes();
            self.trimmed = job.id.position;
        }
        if self.attempts.is_some_and(|(head, _)| head <= self.trimmed) {
            self.attempts = None;
        }
    }

    /// Counts an attempt of the job at `head`, and returns its number, starting at 1. Trying
    /// another job starts at 1 again. Nothing is counted for a job that is not held: that worker is
    /// behind, and the store will reject its commit.
    pub(crate) fn begin_attempt(&mut self, head: Position) -> u32 {
        let before = match self.attempts {
            Some((tried, count)) if tried == head => count,
            _ => 0,
        };
        let count = before.saturating_add(1);
        if self.held(head).is_some() {
            self.attempts = Some((head, count));
        }
        count
    }

    /// Withdraws the last attempt of the job at `head`.
    pub(crate) fn withdraw_attempt(&mut self, head: Position) {
        self.attempts = match self.attempts {
            Some((tried, count)) if tried == head => {
                (count > 1).then(|| (tried, count.saturating_sub(1)))
            }
            other => other,
        };
    }

    /// Returns how much is held, including admitted jobs: they already take up space.
    pub(crate) fn depth(&self, now: Timestamp) -> Depth {
        Depth {
            jobs: self.jobs.len() as u64,
            bytes: self.bytes as u64,
            oldest_age: self.jobs.front().map(|job| now.since(job.accepted_at)),
            lost: 0,
            idempotency_keys: self.idempotency.len() as u64,
        }
    }

    fn job_id(&self, position: Position) -> JobId {
        JobId {
            queue: self.queue,
            partition: self.partition,
            position,
        }
    }

    /// Returns how many of `jobs` are published.
    fn published(&self) -> usize {
        self.jobs.len() - self.admitted
    }

    /// Returns the published job at `position`.
    pub(super) fn held(&self, position: Position) -> Option<&Arc<Job>> {
        let found = self
            .jobs
            .binary_search_by_key(&position, |job| job.id.position);
        let index = found.ok().filter(|index| *index < self.published());
        index.map(|index| &self.jobs[index])
    }

    /// Returns how many of `jobs` are at or before `position`.
    fn count_up_to(&self, position: Position) -> usize {
        self.jobs.partition_point(|job| job.id.position <= position)
    }
}

/// Omits the jobs: they are many, and their contents do not belong in a log.
impl fmt::Debug for PartitionLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionLog")
            .field("partition", &self.partition)
            .field("jobs", &self.jobs.len())
            .field("bytes", &self.bytes)
            .field("last", &self.last)
            .field("trimmed", &self.trimmed)
            .finish_non_exhaustive()
    }
}
