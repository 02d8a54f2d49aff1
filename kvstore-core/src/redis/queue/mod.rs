//! The queue: a stream for each partition, and a hash with what is remembered of it.

mod enqueue;
mod pack;
mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};

use crate::error::{Error, Result, Subject};
use crate::limits::WORK_BATCH_BYTES;
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{Job, NewJob};
use crate::queue::{Accepted, AppliedListener, Claim, Depth, Found, JobQueue, WorkQueue, WorkerId};
use crate::redis::link::wake::{ASK_FOR_JOBS_AFTER, reached};
use crate::redis::log::LogEntry;
use crate::redis::per_partition::PerPartition;
use crate::redis::queue::enqueue::Lane;
use crate::redis::queue::pack::{carried, unpack};
use crate::redis::queue::share::share;
use crate::redis::scripts::{Call, Script};
use crate::redis::session::Session;
use crate::redis::text::{position, stream_id};

/// The end of a position's parts: Lua counts exactly up to here, and there will never be so many
/// jobs.
const PART_MAX: u64 = 1 << 52;

/// A queue on a Redis server.
pub(crate) struct RedisQueue {
    session: Arc<Session>,
    closed: AtomicBool,
    /// The jobs of each partition that wait to be sent.
    lanes: Vec<Arc<Lane>>,
    /// The claims that workers of this process may hold.
    claimed: Mutex<BTreeSet<Claim>>,
    /// The number of changes to the claims when they were last asked for.
    claims_seen: AtomicU64,
    /// The tries of the first job of each partition.
    tries: PerPartition<Tries>,
    /// False if the store is a folder.
    store_is_beside: bool,
}

/// The last job dropped, the position of the store on the same server, entries of the log.
type HeldRow = (String, Option<String>, Vec<LogEntry>);

/// How often a worker of this process has tried the first job of a partition.
#[derive(Clone, Copy, Default)]
struct Tries {
    head: Position,
    /// Tries that count: neither withdrawn nor in progress.
    counted: u32,
    is_under_way: bool,
}

impl Tries {
    /// Returns how many tries of `job` are known here, with the one in progress.
    fn of(&self, job: Position) -> u32 {
        match job == self.head {
            true => self.counted + u32::from(self.is_under_way),
            false => 0,
        }
    }

    /// Counts the try in progress.
    fn end(&mut self) {
        self.counted += u32::from(mem::take(&mut self.is_under_way));
    }
}

impl fmt::Debug for RedisQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisQueue")
            .field("id", &self.session.queue)
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl RedisQueue {
    pub(crate) fn new(session: Arc<Session>, store_is_beside: bool) -> Self {
        let partitions = session.partitions;
        Self {
            tries: PerPartition::new(partitions),
            store_is_beside,
            lanes: partitions.iter().map(|_| Arc::default()).collect(),
            claimed: Mutex::default(),
            claims_seen: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            session,
        }
    }

    pub(crate) fn stop(&self) {
        self.closed.store(true, Ordering::Release);
        self.session.wake.queue.missed();
    }

    /// Returns the session, unless the queue is closed.
    fn session(&self) -> Result<&Arc<Session>> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(Error::unavailable("the Redis queue")),
            false => Ok(&self.session),
        }
    }

    /// Returns the session, unless the queue is closed or does not have `partition`.
    fn session_of(&self, partition: Partition) -> Result<&Arc<Session>> {
        self.session.partitions.check(partition)?;
        self.session()
    }

    /// Returns the field of a partition's state that holds the store's position, or an empty text.
    async fn applied_field(&self) -> Result<String> {
        match self.store_is_beside {
            true => self.session.applied_field().await,
            false => Ok(String::new()),
        }
    }

    /// Returns true if jobs are applied only once the required replicas have them. A store elsewhere
    /// keeps what it applied of a job that a failover loses with its idempotency key, and applies
    /// the client's retry as well.
    fn applies_what_replicas_have(&self) -> bool {
        !self.store_is_beside && self.session.options.wait_replicas > 0
    }

    fn claimed(&self) -> MutexGuard<'_, BTreeSet<Claim>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes or renews a partition (`period`), or releases it (zero), and records the tries of its
    /// first job. Returns true if the worker holds it afterwards.
    async fn hold(&self, claim: &Claim, period: Duration) -> Result<bool> {
        let session = self.session()?;
        let call = session.call(Script::Claim, claim.partition);
        let tries = *self.tries.of(claim.partition);
        let call = call.arg((
            session.skew(),
            claim.worker.as_str(),
            period.as_millis() as u64,
            session.keys.jobs_channel(),
            stream_id(tries.head),
            tries.counted,
        ));
        let change = session.change("the claim was changed", &call);
        let (is_held, first): (bool, Option<(String, u32)>) = change.await?;
        if let Some((first, counted)) = first {
            // The tries that another worker has recorded, and one more if its claim ended without a
            // release.
            *self.tries.of(claim.partition) = Tries {
                head: position(&first)?,
                counted,
                is_under_way: false,
            };
        }
        if !is_held {
            self.claimed().remove(claim);
        }
        Ok(is_held)
    }

    /// Returns a call of a script that reads at most `max` jobs behind `after`;
    /// [`Script::Complete`] also drops those up to there. `applied_field` names the field of the
    /// state with the store's position, if that matters.
    fn reading(
        &self,
        script: Script,
        partition: Partition,
        after: Position,
        max: usize,
        applied_field: &str,
    ) -> Call {
        let is_drop = matches!(script, Script::Complete);
        self.session.call(script, partition).arg((
            stream_id(after),
            max,
            WORK_BATCH_BYTES,
            applied_field,
            u8::from(is_drop),
        ))
    }
}

/// Decodes the last job that was dropped from `partition`, and the entries that hold jobs behind
/// `after`.
///
/// # Errors
/// [`Error::Stale`] if the store's position lies before `after`.
fn held(
    (trimmed, applied, entries): HeldRow,
    partition: Partition,
    after: Position,
) -> Result<(Position, Vec<LogEntry>)> {
    let applied = applied.as_deref().map(position).transpose()?;
    match applied.filter(|applied| *applied < after) {
        Some(applied) => Err(Error::Stale { partition, applied }),
        None => Ok((position(&trimmed)?, entries)),
    }
}

#[async_trait]
impl JobQueue for RedisQueue {
    fn id(&self) -> QueueId {
        self.session.queue
    }

    fn partitions(&self) -> PartitionCount {
        self.session.partitions
    }

    async fn start_after(&self, partition: Partition, position: Position) -> Result<()> {
        let session = self.session_of(partition)?;
        if position.major >= PART_MAX {
            let reason = format!("{position} is further than a queue on Redis can count");
            return Err(Error::invalid(Subject::Position, reason));
        }
        let (major, minor) = match position.minor >= PART_MAX {
            true => (position.major + 1, 0),
            false => (position.major, position.minor),
        };
        let call = session.call(Script::StartAfter, partition);
        let call = call.arg((major, minor, self.applied_field().await?));
        let what = "the numbering of the queue continues after the position of its store";
        session.change(what, &call).await
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>> {
        let mut partitions = BTreeSet::new();
        let add = |job: &NewJob| {
            let session = self.session()?;
            job.command.check(session.partitions)?;
            let partition = session.partitions.partition_of(job.command.first_key());
            let lane = &self.lanes[usize::from(partition.0)];
            let answer = lane.add(job, session.options.bytes_max)?;
            partitions.insert(partition);
            Ok(answer)
        };
        let answers: Vec<_> = jobs.iter().map(add).collect();
        for partition in partitions {
            self.lanes[usize::from(partition.0)].send(&self.session, partition);
        }
        let answered = answers.into_iter().map(async |answer| {
            let unknown = |_| Error::Unknown {
                what: "the job was accepted".to_owned(),
                source: None,
            };
            answer?.await.map_err(unknown)?
        });
        join_all(answered).await
    }

    async fn find(&self, id: &JobId) -> Result<Found> {
        let session = self.session()?;
        let is_possible = id.queue == session.queue
            && id.position > Position::START
            && session.partitions.check(id.partition).is_ok();
        if !is_possible {
            return Ok(Found::Unknown);
        }
        let call = session.call(Script::Find, id.partition);
        let call = call.arg((stream_id(id.position), id.position.major));
        let (was_accepted, attempts, held): (bool, u32, Vec<LogEntry>) =
            session.read(&call).await?;
        let jobs = unpack(&held, session.queue, id.partition, Position::START, 1);
        let own = self.tries.of(id.partition).of(id.position);
        Ok(match jobs?.pop() {
            Some(job) => Found::Held {
                job: Box::new(job),
                attempts: own.max(attempts),
            },
            None if was_accepted => Found::Dropped,
            None => Found::Unknown,
        })
    }

    async fn peek(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<Job>> {
        let session = self.session_of(partition)?;
        let call = self.reading(Script::Read, partition, after, max, "");
        let (trimmed, entries) = held(session.read(&call).await?, partition, after)?;
        unpack(&entries, session.queue, partition, after.max(trimmed), max)
    }

    async fn depth(&self) -> Result<Depth> {
        let session = self.session()?;
        let asked = session.partitions.iter().map(async |partition| {
            let call = session.call(Script::Depth, partition).arg(session.skew());
            session.read::<(u64, u64, Option<u64>, u64)>(&call).await
        });
        let mut depth = Depth {
            lost: session.runs.lost(),
            ..Depth::default()
        };
        for (jobs, bytes, age, keys) in try_join_all(asked).await? {
            depth.jobs += jobs;
            depth.bytes += bytes;
            depth.idempotency_keys += keys;
            depth.oldest_age = depth.oldest_age.max(age.map(Duration::from_millis));
        }
        Ok(depth)
    }

    async fn ping(&self) -> Result<()> {
        self.session()?.ask(&redis::cmd("PING")).await
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
        let session = self.session()?;
        let changes = *session.wake.claims().borrow();
        self.claims_seen.store(changes, Ordering::Relaxed);
        let period = session.options.claim_period;
        let call = Call::new(Script::Workers).key(session.keys.workers());
        let call = call.arg((
            session.skew(),
            worker.as_str(),
            period.as_millis() as u64,
            session.keys.jobs_channel(),
        ));
        let registered = session.change("the worker was registered", &call);
        let workers: Vec<String> = registered.await?;
        let mut periods = BTreeMap::new();
        for claim in self
            .claimed()
            .iter()
            .filter(|claim| claim.worker == *worker)
        {
            // It is released if it is no longer in the share.
            periods.insert(claim.clone(), Duration::ZERO);
        }
        for partition in share(&workers, worker.as_str(), session.partitions) {
            let worker = worker.clone();
            periods.insert(Claim { worker, partition }, period);
        }
        let asked = periods.into_iter().map(async |(claim, period)| {
            // If this fails, the worker may still hold it.
            self.claimed().insert(claim.clone());
            let is_held = self.hold(&claim, period).await?;
            Ok::<_, Error>(is_held.then_some(claim))
        });
        let held = try_join_all(asked).await?;
        Ok(held.into_iter().flatten().collect())
    }

    async fn claims_changed(&self) {
        let seen = self.claims_seen.load(Ordering::Relaxed);
        let mut changes = self.session.wake.claims();
        if changes.wait_for(|count| *count != seen).await.is_err() {
            // The queue is closed, and every call reports that.
            std::future::pending().await
        }
    }

    async fn release(&self, claim: Claim) -> Result<()> {
        let session = self.session_of(claim.partition)?;
        if self.claimed().contains(&claim) {
            // A worker that releases a part of its share is leaving, so the others' shares may
            // grow.
            let leave = redis::Cmd::zrem(session.keys.workers(), claim.worker.as_str());
            let _: u64 = session.ask(&leave).await?;
        }
        // A try that was not withdrawn counts, whatever its result.
        self.tries.of(claim.partition).end();
        self.hold(&claim, Duration::ZERO).await?;
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
        let partition = claim.partition;
        let session = self.session_of(partition)?;
        let mut accepted = session.wake.queue.of(partition);
        let applied_field = self.applied_field().await?;
        let call = self.reading(Script::Read, partition, after, max, &applied_field);
        let mut following = session.logs.of(partition).following(after);
        loop {
            let known = {
                let news = accepted.borrow_and_update();
                // Without time to wait for a message, only the server knows.
                let is_up_to_date = news.position <= after && !wait.is_zero();
                let is_known = |entries: &Vec<_>| !entries.is_empty() || is_up_to_date;
                let known = following.take().filter(is_known);
                // Only the store beside the log rejects a job that the log has lost meanwhile.
                known.or_else(|| self.store_is_beside.then(|| carried(&news, after))?)
            };
            let entries = match known {
                Some(entries) => entries,
                None => {
                    let mut row: HeldRow = self.session()?.read(&call).await?;
                    if self.applies_what_replicas_have() && !row.2.is_empty() {
                        row = session.replicated(&call).await?.ok_or_else(|| {
                            Error::unavailable(
                                "a replica that must have a job before it is applied",
                            )
                        })?;
                    }
                    let (trimmed, entries) = held(row, partition, after)?;
                    if trimmed > after {
                        return Err(Error::Gap {
                            partition,
                            after,
                            trimmed,
                        });
                    }
                    entries
                }
            };
            let left = wait.saturating_sub(start.elapsed());
            if !entries.is_empty() || left.is_zero() {
                let jobs = unpack(&entries, session.queue, partition, after, max)?;
                if let Some(last) = jobs.last() {
                    session.logs.of(partition).read = last.id.position;
                }
                return Ok(jobs);
            }
            let most = left.min(ASK_FOR_JOBS_AFTER);
            reached(&mut accepted, |position| position > after, most).await;
        }
    }

    async fn begin_attempt(&self, claim: &Claim, head: Position) -> Result<u32> {
        let session = self.session_of(claim.partition)?;
        let counted = {
            let mut tries = self.tries.of(claim.partition);
            if tries.head != head {
                *tries = Tries {
                    head,
                    ..Tries::default()
                };
            }
            tries.end();
            tries.counted
        };
        if counted > 0 {
            self.hold(claim, session.options.claim_period).await?;
        }
        let mut tries = self.tries.of(claim.partition);
        tries.is_under_way = true;
        Ok(tries.counted + 1)
    }

    async fn withdraw_attempt(&self, claim: &Claim, head: Position) -> Result<()> {
        self.session.partitions.check(claim.partition)?;
        let mut tries = self.tries.of(claim.partition);
        if tries.head == head {
            tries.is_under_way = false;
        }
        Ok(())
    }

    async fn complete(&self, claim: &Claim, up_to: Position) -> Result<()> {
        let partition = claim.partition;
        let session = self.session_of(partition)?;
        {
            let mut tries = self.tries.of(partition);
            if tries.head <= up_to {
                *tries = Tries::default();
            }
        }
        let wanted = {
            let mut log = session.logs.of(partition);
            // A log alone may have been replaced by an older copy since.
            if self.store_is_beside && log.has_dropped(up_to) {
                return Ok(());
            }
            match self.applies_what_replicas_have() {
                true => 0,
                false => log.wanted(up_to),
            }
        };
        let applied_field = self.applied_field().await?;
        let call = self.reading(Script::Complete, partition, up_to, wanted, &applied_field);
        let row = session.change("the applied jobs were dropped", &call);
        let (trimmed, following) = held(row.await?, partition, up_to)?;
        if trimmed == up_to {
            let following = (wanted > 0).then_some(following);
            session.logs.of(partition).drop_up_to(up_to, following);
        }
        Ok(())
    }

    fn apply_on_acceptance(&self, _: AppliedListener) {
        // This queue only keeps jobs.
    }
}
