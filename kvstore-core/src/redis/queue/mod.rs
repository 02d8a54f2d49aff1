//! The queue: a stream for each partition, and a hash with what is remembered of it.

mod enqueue;
mod pack;
mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redis::FromRedisValue;

use crate::error::{Error, Result, Subject};
use crate::limits::WORK_BATCH_BYTES;
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{Job, NewJob};
use crate::queue::{Accepted, AppliedListener, Claim, Depth, Found, JobQueue, WorkQueue, WorkerId};
use crate::redis::link::wake::{ASK_FOR_JOBS_AFTER, reached};
use crate::redis::log::LogEntry;
use crate::redis::queue::enqueue::{Lane, WaitingJob};
use crate::redis::queue::pack::{carried, unpack, unpack_all};
use crate::redis::queue::share::share;
use crate::redis::scripts::{Call, Script};
use crate::redis::session::Session;
use crate::redis::text::{number, position, stream_id};

/// The end of a position's parts: Lua counts exactly up to here, and there will never be so many
/// jobs.
const PART_MAX: u64 = 1 << 52;

/// A queue on a Redis server.
pub(crate) struct RedisQueue {
    session: Arc<Session>,
    closed: AtomicBool,
    /// The jobs of each partition that wait to be sent.
    lanes: Vec<Arc<Lane>>,
    /// The partitions that each worker of this process may hold. Only these are released; any other
    /// claim expires by itself.
    claimed: Mutex<BTreeMap<WorkerId, BTreeSet<Partition>>>,
    /// The number of changes to the claims when they were last asked for.
    claims_seen: AtomicU64,
    /// The tries of the first job of each partition.
    tries: Vec<Mutex<Tries>>,
    /// False if the store is a folder.
    store_is_beside: bool,
}

/// The last job dropped, the position of the store on the same server, entries of the log.
type HeldRow = (String, Option<String>, Vec<LogEntry>);

/// What entries of the log are read for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Show,
    Apply,
    /// To drop the jobs before them.
    Drop,
}

/// How often a worker of this process has tried the first job of a partition.
#[derive(Debug, Default)]
struct Tries {
    head: Position,
    /// Tries that count: neither withdrawn nor in progress.
    counted: u32,
    /// How many of them the server has recorded.
    recorded: u32,
    is_under_way: bool,
}

impl Tries {
    /// Counts the try in progress. Returns true if the server has yet to record a try.
    fn end(&mut self) -> bool {
        self.counted += u32::from(std::mem::take(&mut self.is_under_way));
        self.counted > self.recorded
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
            tries: partitions.iter().map(|_| Mutex::default()).collect(),
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

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            Err(Error::unavailable("the Redis queue"))
        } else {
            Ok(())
        }
    }

    /// Checks that the queue is open and has `partition`.
    fn check(&self, partition: Partition) -> Result<()> {
        self.session.partitions.check(partition)?;
        self.check_open()
    }

    async fn ask<T: FromRedisValue>(&self, call: &Call) -> Result<T> {
        self.check_open()?;
        self.session.read(call).await
    }

    async fn change<T: FromRedisValue>(&self, what: &str, call: &Call) -> Result<T> {
        self.check_open()?;
        self.session.change(what, call).await
    }

    /// Returns the field of a partition's state that holds the store's position, or an empty text.
    async fn applied_field(&self) -> Result<String> {
        if self.store_is_beside {
            self.session.applied_field().await
        } else {
            Ok(String::new())
        }
    }

    /// Returns true if jobs are applied only once the required replicas have them. A store elsewhere
    /// keeps what it applied of a job that a failover loses with its idempotency key, and applies
    /// the client's retry as well.
    fn applies_what_replicas_have(&self) -> bool {
        !self.store_is_beside && self.session.options.wait_replicas > 0
    }

    fn tries(&self, partition: Partition) -> MutexGuard<'_, Tries> {
        let tries = &self.tries[usize::from(partition.0)];
        tries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claimed(&self) -> MutexGuard<'_, BTreeMap<WorkerId, BTreeSet<Partition>>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes or renews a partition (`period`), or releases it (zero), and records the tries of its
    /// first job. Returns true if the worker holds it afterwards.
    async fn hold(
        &self,
        worker: &WorkerId,
        partition: Partition,
        period: Duration,
    ) -> Result<bool> {
        let (head, counted) = {
            let tries = self.tries(partition);
            match tries.counted > tries.recorded {
                true => (stream_id(tries.head), tries.counted),
                false => (String::new(), 0),
            }
        };
        let call = self.session.call(Script::Claim, partition).arg((
            self.session.skew(),
            worker.as_str(),
            period.as_millis() as u64,
            self.session.keys.jobs_channel(),
            &head,
            counted,
        ));
        let change = self.change("the claim was changed", &call);
        let (is_held, first, attempts): (bool, Option<String>, Option<u32>) = change.await?;
        let mut tries = self.tries(partition);
        if let (Some(first), Some(attempts)) = (first, attempts) {
            // The tries that another worker has recorded, and one more if its claim ended without a
            // release.
            *tries = Tries {
                head: position(&first)?,
                counted: attempts,
                recorded: attempts,
                is_under_way: false,
            };
        } else if is_held && stream_id(tries.head) == head {
            tries.recorded = tries.recorded.max(counted);
        }
        Ok(is_held)
    }

    /// Returns the last job that was dropped from a partition, and the entries that hold jobs
    /// behind `after`; `to` [`Purpose::Drop`], the script drops the jobs up to `after`.
    ///
    /// # Errors
    /// [`Error::Stale`] if the state's field `applied_field` names a position before `after`.
    async fn held(
        &self,
        partition: Partition,
        after: Position,
        max: usize,
        applied_field: &str,
        to: Purpose,
    ) -> Result<(Position, Vec<LogEntry>)> {
        let script = match to {
            Purpose::Drop => Script::Complete,
            Purpose::Apply | Purpose::Show => Script::Read,
        };
        let call = self.session.call(script, partition).arg((
            stream_id(after),
            max,
            WORK_BATCH_BYTES,
            applied_field,
            u8::from(to == Purpose::Drop),
        ));
        let what = "the applied jobs were dropped";
        let (trimmed, applied, entries): HeldRow = match to {
            Purpose::Drop => self.change(what, &call).await?,
            Purpose::Apply | Purpose::Show => self.ask(&call).await?,
        };
        if to == Purpose::Apply && self.applies_what_replicas_have() && !entries.is_empty() {
            let replicated: Option<HeldRow> = self.session.replicated(&call).await?;
            let (trimmed, _, entries) = replicated.ok_or_else(|| {
                Error::unavailable("a replica that must have a job before it is applied")
            })?;
            return Ok((position(&trimmed)?, entries));
        }
        let applied = applied.as_deref().map(position).transpose()?;
        if let Some(applied) = applied.filter(|applied| *applied < after) {
            return Err(Error::Stale { partition, applied });
        }
        Ok((position(&trimmed)?, entries))
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
        self.session.partitions.check(partition)?;
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
        let call = self.session.call(Script::StartAfter, partition);
        let call = call.arg((major, minor, applied_field));
        let what = "the numbering of the queue continues after the position of its store";
        let _: u8 = self.change(what, &call).await?;
        Ok(())
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>> {
        let partitions = self.partitions();
        let mut answers = Vec::with_capacity(jobs.len());
        let mut waiting: BTreeMap<Partition, Vec<WaitingJob>> = BTreeMap::new();
        for job in jobs {
            let checked = self
                .check_open()
                .and_then(|()| job.command.check(partitions));
            if let Err(error) = checked {
                answers.push(Err(error));
                continue;
            }
            let partition = partitions.partition_of(job.command.first_key());
            let (job, answer) = WaitingJob::new(job);
            waiting.entry(partition).or_default().push(job);
            answers.push(Ok(answer));
        }
        for (partition, jobs) in waiting {
            let lane = &self.lanes[usize::from(partition.0)];
            lane.send(&self.session, partition, jobs);
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
        self.check_open()?;
        let known = id.queue == self.session.queue
            && id.position > Position::START
            && self.session.partitions.check(id.partition).is_ok();
        if !known {
            return Ok(Found::Unknown);
        }
        let call = self.session.call(Script::Find, id.partition);
        let call = call.arg((stream_id(id.position), id.position.major));
        let (last, attempts, ended, held): (String, String, Option<String>, Option<LogEntry>) =
            self.ask(&call).await?;
        if let Some(ended) = ended
            && id.position.minor > number(&ended)?
        {
            // A server has lost it, or never assigned its position.
            return Ok(Found::Unknown);
        }
        let held =
            held.map(|entry| unpack(&entry, self.session.queue, id.partition, Position::START));
        let tries = self.tries(id.partition);
        let own = match tries.head == id.position {
            true => tries.counted + u32::from(tries.is_under_way),
            false => 0,
        };
        Ok(match held.transpose()?.and_then(|mut jobs| jobs.pop()) {
            Some(job) => Found::Held {
                job: Box::new(job),
                attempts: own.max(u32::try_from(number(&attempts)?).unwrap_or(u32::MAX)),
            },
            None if id.position <= position(&last)? => Found::Dropped,
            None => Found::Unknown,
        })
    }

    async fn peek(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<Job>> {
        self.session.partitions.check(partition)?;
        let (trimmed, entries) = self.held(partition, after, max, "", Purpose::Show).await?;
        unpack_all(
            &entries,
            self.session.queue,
            partition,
            after.max(trimmed),
            max,
        )
    }

    async fn depth(&self) -> Result<Depth> {
        let asked = self.partitions().iter().map(async |partition| {
            let call = self.session.call(Script::Depth, partition);
            let call = call.arg(self.session.skew());
            let depth: (u64, u64, i64, u64) = self.ask(&call).await?;
            Ok::<_, Error>(depth)
        });
        let mut depth = Depth {
            lost: self.session.runs.lost(),
            ..Depth::default()
        };
        for (jobs, bytes, age, keys) in futures_util::future::try_join_all(asked).await? {
            depth.jobs += jobs;
            depth.bytes += bytes;
            depth.idempotency_keys += keys;
            let age = u64::try_from(age).ok().map(Duration::from_millis);
            depth.oldest_age = depth.oldest_age.max(age);
        }
        Ok(depth)
    }

    async fn ping(&self) -> Result<()> {
        self.check_open()?;
        self.session.ask(&redis::cmd("PING")).await
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
        let changes = *self.session.wake.claims().borrow();
        self.claims_seen.store(changes, Ordering::Relaxed);
        let call = Call::new(Script::Workers).key(self.session.keys.workers());
        let call = call.arg((
            self.session.skew(),
            worker.as_str(),
            self.session.options.claim_period.as_millis() as u64,
            self.session.keys.jobs_channel(),
        ));
        let registered = self.change("the worker was registered", &call);
        let workers: Vec<String> = registered.await?;
        let mine = share(&workers, worker.as_str(), self.partitions());
        let before = self.claimed().remove(worker).unwrap_or_default();
        let touched: BTreeSet<_> = mine.union(&before).copied().collect();
        // If anything fails below, the worker may still hold any of these.
        self.claimed().insert(worker.clone(), touched.clone());
        let asked = touched.iter().map(async |&partition| {
            let period = match mine.contains(&partition) {
                true => self.session.options.claim_period,
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
        let mut changes = self.session.wake.claims();
        if changes.wait_for(|count| *count != seen).await.is_err() {
            // The queue is closed, and every call reports that.
            std::future::pending().await
        }
    }

    async fn release(&self, claim: Claim) -> Result<()> {
        let session = &self.session;
        self.check(claim.partition)?;
        let held = self.claimed().get(&claim.worker).cloned();
        if held.is_some_and(|held| held.contains(&claim.partition)) {
            // A worker that releases a part of its share is leaving, so the others' shares may
            // grow.
            let mut command = redis::cmd("ZREM");
            command
                .arg(session.keys.workers())
                .arg(claim.worker.as_str());
            let _: u64 = session.ask(&command).await?;
        }
        // A try that was not withdrawn counts, whatever its result.
        self.tries(claim.partition).end();
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
        let (session, partition) = (&self.session, claim.partition);
        self.check(partition)?;
        let mut accepted = self.session.wake.queue.of(partition);
        let applied_field = self.applied_field().await?;
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
                    let held = self.held(partition, after, max, &applied_field, Purpose::Apply);
                    let (trimmed, entries) = held.await?;
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
                let jobs = unpack_all(&entries, self.session.queue, partition, after, max)?;
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
        self.check(claim.partition)?;
        let is_unrecorded = {
            let mut tries = self.tries(claim.partition);
            if tries.head != head {
                *tries = Tries {
                    head,
                    ..Tries::default()
                };
            }
            tries.end()
        };
        if is_unrecorded {
            self.hold(
                &claim.worker,
                claim.partition,
                self.session.options.claim_period,
            )
            .await?;
        }
        let mut tries = self.tries(claim.partition);
        tries.is_under_way = true;
        Ok(tries.counted + 1)
    }

    async fn withdraw_attempt(&self, claim: &Claim, head: Position) -> Result<()> {
        self.session.partitions.check(claim.partition)?;
        let mut tries = self.tries(claim.partition);
        if tries.head == head {
            tries.is_under_way = false;
        }
        Ok(())
    }

    async fn complete(&self, claim: &Claim, up_to: Position) -> Result<()> {
        let (session, partition) = (&self.session, claim.partition);
        self.check(partition)?;
        {
            let mut tries = self.tries(partition);
            if tries.head <= up_to {
                *tries = Tries::default();
            }
        }
        let wanted = {
            let mut log = session.logs.of(partition);
            if log.has_dropped(up_to) {
                return Ok(());
            }
            match self.applies_what_replicas_have() {
                true => 0,
                false => log.wanted(up_to),
            }
        };
        let applied_field = self.applied_field().await?;
        let held = self.held(partition, up_to, wanted, &applied_field, Purpose::Drop);
        let (trimmed, following) = held.await?;
        if trimmed == up_to {
            session.logs.of(partition).keep(up_to, wanted, following);
        }
        Ok(())
    }

    fn apply_on_acceptance(&self, _: AppliedListener) {
        // This queue only keeps jobs.
    }
}
