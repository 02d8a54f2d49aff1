//! The queue: a stream for each partition, with what is remembered of it beside it.

mod enqueue;
mod pack;
mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redis::{FromRedisValue, ScriptInvocation};

use crate::error::{Error, Result, Subject};
use crate::limits::WORK_BATCH_BYTES;
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{Job, NewJob};
use crate::queue::{Accepted, AppliedListener, Claim, Depth, Found, JobQueue, WorkQueue, WorkerId};
use crate::redis::link::wake::{ASK_FOR_JOBS_AFTER, Wake, woken};
use crate::redis::options::Options;
use crate::redis::queue::enqueue::{Lane, Waiting};
use crate::redis::queue::pack::{Entry, unpack, unpack_all};
use crate::redis::queue::share::share;
use crate::redis::session::Session;
use crate::redis::text::{number, position, stream_id};

/// A part of a position up to which Lua counts exactly, with room for more jobs than there will ever be.
const PART_MAX: u64 = 1 << 52;

/// A queue on a Redis server.
pub(crate) struct RedisQueue {
    inner: Arc<Inner>,
    /// For each partition what waits to be sent there.
    lanes: Vec<Arc<Lane>>,
    claim_period: Duration,
    /// What each worker of this process may hold: the rest it need not give up. One that was not told of ends by itself.
    claimed: Mutex<BTreeMap<WorkerId, BTreeSet<Partition>>>,
    /// How often the claims had changed when they were asked for last.
    claims_seen: AtomicU64,
    /// For each partition the jobs read last, with the jobs and bytes ever accepted up to each: what the server need not look up when
    /// they are applied.
    read: Vec<Mutex<Vec<(Position, u64, u64)>>>,
    /// For each partition the try that was counted last.
    tries: Vec<Mutex<Try>>,
    /// False if the store is a folder.
    store_is_beside: bool,
}

/// A try of a partition's head, under a name of its own, so that it is counted once.
#[derive(Debug, Default)]
struct Try {
    head: Position,
    number: u64,
    is_answered: bool,
}

/// What a batch on its way needs, too.
pub(crate) struct Inner {
    pub(crate) session: Arc<Session>,
    pub(crate) id: QueueId,
    pub(crate) jobs_max: usize,
    pub(crate) bytes_max: usize,
    pub(crate) idempotency_keys_max: usize,
    wake: Wake,
    closed: AtomicBool,
}

impl fmt::Debug for RedisQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisQueue")
            .field("id", &self.inner.id)
            .field("session", &self.inner.session)
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn key(&self, partition: Partition, name: &str) -> String {
        self.session.keys.of(partition, name)
    }

    pub(crate) fn job_id(&self, partition: Partition, position: Position) -> JobId {
        JobId {
            queue: self.id,
            partition,
            position,
        }
    }

    pub(crate) fn channel(&self) -> String {
        self.session.keys.jobs_channel()
    }

    /// Some job has come, by this process' own doing.
    pub(crate) fn accepted(&self, partition: Partition) {
        self.wake.moved(partition);
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            Err(Error::unavailable("the Redis queue"))
        } else {
            Ok(())
        }
    }

    async fn read<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T> {
        self.check_open()?;
        self.session.read(script).await
    }

    pub(crate) async fn change<T: FromRedisValue>(
        &self,
        what: &str,
        script: &ScriptInvocation<'_>,
    ) -> Result<T> {
        self.check_open()?;
        self.session.change(what, script).await
    }
}

impl RedisQueue {
    pub(crate) fn new(session: Arc<Session>, options: &Options, store_is_beside: bool) -> Self {
        let inner = Inner {
            wake: session.another_wake(session.keys.jobs_channel()),
            id: session.queue,
            jobs_max: options.jobs_max,
            bytes_max: options.bytes_max,
            idempotency_keys_max: options.idempotency_keys_max,
            closed: AtomicBool::new(false),
            session,
        };
        let partitions = inner.session.partitions;
        Self {
            read: partitions.iter().map(|_| Mutex::default()).collect(),
            tries: partitions.iter().map(|_| Mutex::default()).collect(),
            store_is_beside,
            lanes: partitions.iter().map(|_| Arc::default()).collect(),
            inner: Arc::new(inner),
            claim_period: options.claim_period,
            claimed: Mutex::default(),
            claims_seen: AtomicU64::new(0),
        }
    }

    fn session(&self) -> &Session {
        &self.inner.session
    }

    pub(crate) fn stop(&self) {
        self.inner.closed.store(true, Ordering::Release);
        self.inner.wake.close();
    }

    /// Returns the field of a partition's state that holds the store's position, or an empty text.
    async fn applied_field(&self) -> Result<String> {
        if self.store_is_beside {
            self.session().applied_field().await
        } else {
            Ok(String::new())
        }
    }

    fn last_try(&self, partition: Partition) -> MutexGuard<'_, Try> {
        let last = &self.tries[usize::from(partition.0)];
        last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn count_attempt(
        &self,
        claim: &Claim,
        head: Position,
        add: i8,
        number: u64,
    ) -> Result<u32> {
        self.inner
            .change(
                "the attempt was recorded",
                self.session()
                    .scripts
                    .attempt
                    .key(self.inner.key(claim.partition, "queue"))
                    .arg(stream_id(head))
                    .arg(add)
                    .arg(format!("{} {number}", claim.worker)),
            )
            .await
    }

    fn read(&self, partition: Partition) -> MutexGuard<'_, Vec<(Position, u64, u64)>> {
        let read = &self.read[usize::from(partition.0)];
        read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claimed(&self) -> MutexGuard<'_, BTreeMap<WorkerId, BTreeSet<Partition>>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes or renews a partition (`period`), or gives it up (zero); whether it is held then.
    async fn hold(
        &self,
        worker: &WorkerId,
        partition: Partition,
        period: Duration,
    ) -> Result<bool> {
        self.inner
            .change(
                "the claim was changed",
                self.session()
                    .scripts
                    .claim
                    .key(self.inner.key(partition, "claim"))
                    .key(self.inner.key(partition, "requests"))
                    .key(self.inner.key(partition, "request-deadlines"))
                    .arg(self.session().skew())
                    .arg(worker.as_str())
                    .arg(period.as_millis() as u64)
                    .arg(self.inner.channel()),
            )
            .await
    }
}

impl RedisQueue {
    /// Returns the last job that was dropped from a partition, and the entries that hold jobs
    /// behind `after`.
    ///
    /// # Errors
    /// [`Error::Stale`] if the state's field `applied_field` names a position before `after`.
    async fn held(
        &self,
        partition: Partition,
        after: Position,
        max: usize,
        applied_field: &str,
    ) -> Result<(Position, Vec<Entry>)> {
        let (trimmed, applied, entries): (String, String, Vec<Entry>) = self
            .inner
            .read(
                self.session()
                    .scripts
                    .read
                    .key(self.inner.key(partition, "queue"))
                    .key(self.inner.key(partition, "jobs"))
                    .key(self.inner.key(partition, "state"))
                    .arg(stream_id(after))
                    .arg(max)
                    .arg(WORK_BATCH_BYTES)
                    .arg(applied_field),
            )
            .await?;
        check_applied(partition, &applied, after)?;
        Ok((position(&trimmed)?, entries))
    }
}

#[async_trait]
impl JobQueue for RedisQueue {
    fn id(&self) -> QueueId {
        self.inner.id
    }

    fn partitions(&self) -> PartitionCount {
        self.session().partitions
    }

    async fn start_after(&self, partition: Partition, position: Position) -> Result<()> {
        self.session().check_partition(partition)?;
        let applied_field = self.applied_field().await?;
        let (major, minor) = match position {
            Position { major, .. } if major >= PART_MAX => {
                return Err(Error::invalid(
                    Subject::Position,
                    format!("{position} is further than a queue on Redis can count"),
                ));
            }
            Position { major, minor } if minor >= PART_MAX => (major + 1, 0),
            Position { major, minor } => (major, minor),
        };
        let _: u8 = self
            .inner
            .change(
                "the queue numbers on behind its store",
                self.session()
                    .scripts
                    .start_after
                    .key(self.inner.key(partition, "queue"))
                    .key(self.inner.key(partition, "jobs"))
                    .key(self.inner.key(partition, "state"))
                    .arg(major)
                    .arg(minor)
                    .arg(applied_field),
            )
            .await?;
        Ok(())
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>> {
        let partitions = self.partitions();
        let mut answers = Vec::with_capacity(jobs.len());
        let mut waiting: BTreeMap<Partition, Vec<Waiting>> = BTreeMap::new();
        for job in jobs {
            let checked = self
                .inner
                .check_open()
                .and_then(|()| job.command.check(partitions));
            if let Err(error) = checked {
                answers.push(Err(error));
                continue;
            }
            let partition = partitions.partition_of(job.command.first_key());
            let (job, answer) = Waiting::new(job);
            waiting.entry(partition).or_default().push(job);
            answers.push(Ok(answer));
        }
        for (partition, jobs) in waiting {
            let lane = &self.lanes[usize::from(partition.0)];
            lane.send(&self.inner, partition, jobs);
        }
        let mut accepted = Vec::with_capacity(answers.len());
        for answer in answers {
            accepted.push(match answer {
                Ok(answer) => answer.await.unwrap_or_else(|_| {
                    Err(Error::Unknown {
                        what: "the job was accepted".to_owned(),
                        source: None,
                    })
                }),
                Err(error) => Err(error),
            });
        }
        accepted
    }

    async fn find(&self, id: &JobId) -> Result<Found> {
        self.inner.check_open()?;
        let known = id.queue == self.inner.id
            && id.position > Position::START
            && self.session().check_partition(id.partition).is_ok();
        if !known {
            return Ok(Found::Unknown);
        }
        let (last, attempts, ended, held): (String, String, Option<String>, Option<Entry>) = self
            .inner
            .read(
                self.session()
                    .scripts
                    .find
                    .key(self.inner.key(id.partition, "queue"))
                    .key(self.inner.key(id.partition, "jobs"))
                    .arg(stream_id(id.position))
                    .arg(id.position.major),
            )
            .await?;
        if let Some(ended) = ended
            && id.position.minor > number(&ended)?
        {
            // A server has lost it, or never gave it out.
            return Ok(Found::Unknown);
        }
        let held = held.map(|entry| unpack(&entry, self.inner.id, id.partition, Position::START));
        Ok(match held.transpose()?.and_then(|mut jobs| jobs.pop()) {
            Some(counted) => Found::Held {
                job: Box::new(counted.job),
                attempts: u32::try_from(number(&attempts)?).unwrap_or(u32::MAX),
            },
            None if id.position <= position(&last)? => Found::Dropped,
            None => Found::Unknown,
        })
    }

    async fn peek(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<Job>> {
        self.session().check_partition(partition)?;
        let (trimmed, entries) = self.held(partition, after, max, "").await?;
        let after = after.max(trimmed);
        let jobs = unpack_all(&entries, self.inner.id, partition, after, max)?;
        Ok(jobs.into_iter().map(|counted| counted.job).collect())
    }

    async fn depth(&self) -> Result<Depth> {
        let asked = self.partitions().iter().map(async |partition| {
            let depth: (u64, u64, i64) = self
                .inner
                .read(
                    self.session()
                        .scripts
                        .depth
                        .key(self.inner.key(partition, "queue"))
                        .key(self.inner.key(partition, "jobs"))
                        .arg(self.session().skew()),
                )
                .await?;
            Ok::<_, Error>(depth)
        });
        let mut depth = Depth {
            lost: self.session().runs.lost(),
            ..Depth::default()
        };
        for (jobs, bytes, age) in futures_util::future::try_join_all(asked).await? {
            depth.jobs += jobs;
            depth.bytes += bytes;
            let age = u64::try_from(age).ok().map(Duration::from_millis);
            depth.oldest_age = depth.oldest_age.max(age);
        }
        Ok(depth)
    }

    async fn ping(&self) -> Result<()> {
        self.inner.check_open()?;
        self.session().ask(&redis::cmd("PING")).await
    }

    async fn close(&self) -> Result<()> {
        self.stop();
        Ok(())
    }
}

#[async_trait]
impl WorkQueue for RedisQueue {
    fn is_shared(&self) -> bool {
        true
    }

    async fn claim(&self, worker: &WorkerId) -> Result<Vec<Claim>> {
        let changes = *self.inner.wake.claims().borrow();
        self.claims_seen.store(changes, Ordering::Relaxed);
        let workers: Vec<String> = self
            .inner
            .change(
                "the worker was registered",
                self.session()
                    .scripts
                    .workers
                    .key(self.session().keys.workers())
                    .arg(self.session().skew())
                    .arg(worker.as_str())
                    .arg(self.claim_period.as_millis() as u64)
                    .arg(self.inner.channel()),
            )
            .await?;
        let mine = share(&workers, worker.as_str(), self.partitions());
        let before = self.claimed().remove(worker).unwrap_or_default();
        let touched: BTreeSet<_> = mine.union(&before).copied().collect();
        // If anything fails below, all of it may be held still.
        self.claimed().insert(worker.clone(), touched.clone());
        let asked = touched.iter().map(async |&partition| {
            let period = match mine.contains(&partition) {
                true => self.claim_period,
                false => Duration::ZERO,
            };
            let is_held = self.hold(worker, partition, period).await?;
            Ok::<_, Error>(is_held.then(|| Claim {
                worker: worker.clone(),
                partition,
            }))
        });
        let held = futures_util::future::try_join_all(asked).await?;
        self.claimed().insert(worker.clone(), mine);
        Ok(held.into_iter().flatten().collect())
    }

    async fn claims_changed(&self) {
        let seen = self.claims_seen.load(Ordering::Relaxed);
        let mut changes = self.inner.wake.claims();
        if changes.wait_for(|count| *count != seen).await.is_err() {
            // The queue is gone, and whoever asks it anything is told so.
            std::future::pending().await
        }
    }

    async fn release(&self, claim: Claim) -> Result<()> {
        let session = self.session();
        session.check_partition(claim.partition)?;
        self.inner.check_open()?;
        let held = self.claimed().get(&claim.worker).cloned();
        if held.is_some_and(|held| held.contains(&claim.partition)) {
            // Whoever gives back a part of its share is leaving, so the others' shares have room for it.
            let mut command = redis::cmd("ZREM");
            command
                .arg(session.keys.workers())
                .arg(claim.worker.as_str());
            let _: u64 = session.ask(&command).await?;
        }
        self.hold(&claim.worker, claim.partition, Duration::ZERO)
            .await?;
        let mut claimed = self.claimed();
        if let Some(held) = claimed.get_mut(&claim.worker) {
            held.remove(&claim.partition);
            if held.is_empty() {
                claimed.remove(&claim.worker);
            }
        }
        Ok(())
    }

    async fn read(
        &self,
        claim: &Claim,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Job>> {
        let start = Instant::now();
        self.session().check_partition(claim.partition)?;
        let mut moved = self.inner.wake.of(claim.partition);
        let applied_field = self.applied_field().await?;
        loop {
            moved.mark_unchanged();
            let (trimmed, entries) = self
                .held(claim.partition, after, max, &applied_field)
                .await?;
            if trimmed > after {
                return Err(Error::Gap {
                    partition: claim.partition,
                    after,
                    trimmed,
                });
            }
            let left = wait.saturating_sub(start.elapsed());
            if !entries.is_empty() || left.is_zero() {
                let jobs = unpack_all(&entries, self.inner.id, claim.partition, after, max)?;
                let counts = jobs
                    .iter()
                    .map(|counted| (counted.job.id.position, counted.jobs, counted.bytes));
                *self.read(claim.partition) = counts.collect();
                return Ok(jobs.into_iter().map(|counted| counted.job).collect());
            }
            woken(&mut moved, left.min(ASK_FOR_JOBS_AFTER)).await;
        }
    }

    async fn begin_attempt(&self, claim: &Claim, head: Position) -> Result<u32> {
        self.session().check_partition(claim.partition)?;
        let number = {
            let mut last = self.last_try(claim.partition);
            // A try whose answer was lost may be counted already, so it keeps its name.
            if last.is_answered || last.head != head {
                *last = Try {
                    head,
                    number: last.number + 1,
                    is_answered: false,
                };
            }
            last.number
        };
        let attempts = self.count_attempt(claim, head, 1, number).await?;
        self.last_try(claim.partition).is_answered = true;
        Ok(attempts)
    }

    async fn withdraw_attempt(&self, claim: &Claim, head: Position) -> Result<()> {
        self.session().check_partition(claim.partition)?;
        let number = self.last_try(claim.partition).number;
        self.count_attempt(claim, head, -1, number).await.map(drop)
    }

    async fn complete(&self, claim: &Claim, up_to: Position) -> Result<()> {
        self.session().check_partition(claim.partition)?;
        let applied_field = self.applied_field().await?;
        let counts = {
            let read = self.read(claim.partition);
            let place = read.binary_search_by_key(&up_to, |(at, ..)| *at);
            place.map(|place| read[place])
        };
        let (jobs, bytes) = match counts {
            Ok((_, jobs, bytes)) => (jobs.to_string(), bytes.to_string()),
            Err(_) => Default::default(),
        };
        let applied: String = self
            .inner
            .change(
                "the applied jobs were dropped",
                self.session()
                    .scripts
                    .complete
                    .key(self.inner.key(claim.partition, "queue"))
                    .key(self.inner.key(claim.partition, "jobs"))
                    .key(self.inner.key(claim.partition, "state"))
                    .arg(stream_id(up_to))
                    .arg(jobs)
                    .arg(bytes)
                    .arg(applied_field),
            )
            .await?;
        check_applied(claim.partition, &applied, up_to)
    }

    fn apply_on_acceptance(&self, _: AppliedListener) {
        // It only keeps jobs.
    }
}

/// # Errors
/// [`Error::Stale`] if the position of the store beside the queue, as a script has answered it
/// (empty if the store is elsewhere), lies before `expected`.
fn check_applied(partition: Partition, applied: &str, expected: Position) -> Result<()> {
    if applied.is_empty() {
        return Ok(());
    }
    let applied = position(applied)?;
    if applied >= expected {
        return Ok(());
    }
    Err(Error::Stale { partition, applied })
}
