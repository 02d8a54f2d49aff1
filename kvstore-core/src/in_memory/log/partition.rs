//! One partition: its jobs in order, what they may take up at most, and what is remembered of those that are gone.

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
/// Accepting has two phases: [`admit`](Self::admit) gives jobs their places, and then either [`publish`](Self::publish) makes
/// all that are admitted readable, or [`withdraw`](Self::withdraw) takes all of them back. A number is given out once; those of
/// withdrawn jobs are skipped, since they may have reached a disk.
pub(crate) struct PartitionLog {
    pub(super) queue: QueueId,
    pub(super) partition: Partition,
    /// In ascending order of position; the last `admitted` of them are not readable yet.
    pub(super) jobs: VecDeque<Arc<Job>>,
    admitted: usize,
    /// The idempotency keys that those bring along, in case they are taken back.
    admitted_keys: Vec<Fingerprint>,
    /// Keys and values of `jobs`.
    pub(super) bytes: usize,
    jobs_max: usize,
    bytes_max: usize,
    /// The last position given out. Its major half is the number of the opening.
    pub(super) last: Position,
    /// The last job that was dropped. A reader that is not past it has missed at least that one.
    pub(super) trimmed: Position,
    /// The job that was tried last, and how often.
    pub(super) attempts: Option<(Position, u32)>,
    pub(super) idempotency: IdempotencyTable,
}

/// What became of a job that asked for a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It has one.
    New {
        /// The job, as it will be read.
        job: Arc<Job>,
        /// What is remembered of its idempotency key.
        remembered: Option<Remembered>,
    },
    /// The same request came before, under the same idempotency key.
    Replayed {
        /// The job that it became then.
        id: JobId,
        /// Whether that job is published. If not, this request may be answered only once it is, and fails if it is withdrawn.
        published: bool,
    },
}

impl PartitionLog {
    /// An empty log.
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

    /// Gives `new` the next place, and reserves its bytes and its idempotency key. The caller has checked the command.
    ///
    /// # Errors
    /// [`Error::KeyReused`]; [`Error::Full`] at a bound; [`Error::TooLarge`] for a job that is over the bound on bytes by itself.
    /// Nothing has happened then.
    pub(crate) fn admit(&mut self, new: NewJob, now: Timestamp) -> Result<Admission> {
        let identity = new.idempotency.as_ref().map(|idempotency| {
            (
                Remembered::hash(idempotency),
                new.command.fingerprint(),
                now.after(idempotency.window),
            )
        });
        // First: a retry is answered whatever the bounds say.
        if let Some((key, request, _)) = identity
            && let Some(position) = self.idempotency.look_up(key, request, now)?
        {
            return Ok(Admission::Replayed {
                id: self.job_id(position),
                published: !self.is_admitted(position),
            });
        }
        let size = new.size_bytes();
        let position = self.room_for(size)?;

        self.last = position;
        self.bytes += size;
        self.admitted += 1;
        let remembered = identity.map(|(key, request, expires_at)| Remembered {
            key,
            job: position,
            request,
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

    /// The position that a job of `size` bytes gets, if there is room for it.
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
        // Recovered jobs may be over a bound that was lowered meanwhile, hence the saturation.
        if size > self.bytes_max.saturating_sub(self.bytes) {
            return full("the queue (bytes)", self.bytes_max as u64);
        }
        match self.last.minor.checked_add(1) {
            Some(minor) => Ok(Position { minor, ..self.last }),
            None => full("the queue (positions)", u64::MAX),
        }
    }

    /// How many jobs wait or are being accepted.
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// The keys and values of those, in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.bytes
    }

    /// The id of the queue.
    pub(crate) fn id(&self) -> QueueId {
        self.queue
    }

    /// Lets go of the job that was admitted last, since it is applied at once and never read. [`withdraw`](Self::withdraw) takes
    /// back what is remembered of its request, too.
    pub(crate) fn release_admitted(&mut self) {
        if let Some(job) = self.jobs.pop_back() {
            self.admitted -= 1;
            self.bytes -= job.command.size_bytes();
        }
    }

    /// Drops the jobs up to `up_to`, which the store of this queue has applied, whether they were ever held or not.
    pub(crate) fn apply(&mut self, up_to: Position) {
        self.complete(up_to);
        self.trimmed = self.trimmed.max(up_to);
        self.last = self.last.max(up_to);
    }

    /// Gives the numbers after `last` out again, of jobs that were withdrawn and reached no disk.
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

    /// Makes the next job come after `position`, up to which the store says that it has applied the jobs, unless it does anyway.
    /// What is held is behind that then, and dropped. While jobs are admitted this may be asked,
    /// as workers do that start later, but must have nothing to do.
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

    /// The published jobs that follow `after`, at most `max`.
    ///
    /// # Errors
    /// [`Error::Gap`] if a job that followed it has been dropped.
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

    /// Returns the published jobs that are still held and follow `after`, at most `max`.
    pub(crate) fn peek(&self, after: Position, max: usize) -> Vec<Job> {
        let end = self.published();
        let start = self.count_up_to(after).min(end);
        let jobs = self.jobs.range(start..end).take(max);
        jobs.map(|job| Job::clone(job)).collect()
    }

    /// What is known of the job at `position`. One that is only admitted is not known yet.
    pub(crate) fn find(&self, position: Position) -> Found {
        match self.held(position) {
            Some(job) => Found::Held {
                job: Box::new(Job::clone(job)),
                attempts: self
                    .attempts
                    .filter(|(head, _)| *head == position)
                    .map_or(0, |(_, count)| count),
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

    /// Counts a try of the job at `head`, and says which one it is, from 1. Trying another job starts at 1 again. Nothing is
    /// counted for one that is not here: who tries that is behind, and the store will tell.
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

    /// Takes the last try of the job at `head` back.
    pub(crate) fn withdraw_attempt(&mut self, head: Position) {
        self.attempts = match self.attempts {
            Some((tried, count)) if tried == head => {
                (count > 1).then(|| (tried, count.saturating_sub(1)))
            }
            other => other,
        };
    }

    /// How much is held, with what is only admitted: it takes up room already.
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

    /// How many of `jobs` are published.
    fn published(&self) -> usize {
        self.jobs.len() - self.admitted
    }

    /// The published job at `position`.
    pub(super) fn held(&self, position: Position) -> Option<&Arc<Job>> {
        let index = self
            .jobs
            .binary_search_by_key(&position, |job| job.id.position)
            .ok()?;
        (index < self.published()).then(|| &self.jobs[index])
    }

    fn is_admitted(&self, position: Position) -> bool {
        self.jobs
            .get(self.published())
            .is_some_and(|first| position >= first.id.position)
    }

    /// How many of `jobs` stand at or before `position`.
    fn count_up_to(&self, position: Position) -> usize {
        self.jobs.partition_point(|job| job.id.position <= position)
    }
}

/// Without the jobs: they are many, and what they hold is nobody's business in a log.
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
