//! The in-memory queue: a locked [`PartitionLog`] per partition, and readers that wait for changes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::clock::{Clock, StoreTime};
use crate::error::{Error, Result};
use crate::in_memory::log::{Admission, Claims, PartitionLog, found_out, jobs_out};
use crate::model::entry::Timestamp;
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{Job, NewJob};
use crate::queue::{
    Accepted, AppliedListener, Claim, Depth, Found, JobQueue, QueueOptions, WorkQueue, WorkerId,
};

/// A queue in memory, with any number of partitions. Its jobs and the claims on it end with it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use kvstore_core::clock::SystemClock;
/// use kvstore_core::memory::MemoryQueue;
/// use kvstore_core::model::command::{Command, Operation};
/// use kvstore_core::model::id::Position;
/// use kvstore_core::model::job::NewJob;
/// use kvstore_core::queue::{QueueOptions, WorkQueue, WorkerId};
/// use kvstore_core::{JobQueue, Key, Value};
///
/// let queue = MemoryQueue::new(QueueOptions::default(), Arc::new(SystemClock));
/// let set = Operation::set(Key::new("user:1")?, Value::parse(r#"{"name":"Ada"}"#)?);
/// let accepted = queue.enqueue(vec![NewJob::new(Command::One(set))]).await;
/// assert!(accepted[0].is_ok());
///
/// let claims = queue.claim(&WorkerId::new("example")).await?;
/// let jobs = queue.read(&claims[0], Position::START, 10, Duration::ZERO).await?;
/// assert_eq!(jobs[0].command.first_key().as_str(), "user:1");
/// # Ok::<(), kvstore_core::Error>(())
/// # }).unwrap();
/// ```
pub struct MemoryQueue {
    id: QueueId,
    partitions: PartitionCount,
    logs: Vec<MemoryLog>,
    claims: Mutex<Claims>,
    time: StoreTime,
    closed: AtomicBool,
}

/// A partition. A std lock suffices: it is held for a few memory operations and never across an
/// await.
struct MemoryLog {
    log: Mutex<PartitionLog>,
    /// Notified when jobs are published, and when the queue is closed.
    changed: Notify,
}

impl MemoryLog {
    fn lock(&self) -> MutexGuard<'_, PartitionLog> {
        self.log.lock().expect("nothing panics while it holds this")
    }
}

impl MemoryQueue {
    /// Creates an empty queue with a new id.
    pub fn new(options: QueueOptions, clock: Arc<dyn Clock>) -> Self {
        let id = QueueId::random();
        let time = StoreTime::new(clock, Timestamp(0));
        let log = |partition| {
            let mut log = PartitionLog::new(id, partition, &options);
            log.open(time.wall());
            MemoryLog {
                log: Mutex::new(log),
                changed: Notify::new(),
            }
        };
        Self {
            id,
            partitions: options.partitions,
            logs: options.partitions.iter().map(log).collect(),
            claims: Mutex::new(Claims::new(options.partitions, options.claim_period)),
            time,
            closed: AtomicBool::new(false),
        }
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::SeqCst) {
            Err(Error::unavailable("the memory queue"))
        } else {
            Ok(())
        }
    }

    fn log(&self, partition: Partition) -> Result<&MemoryLog> {
        self.partitions.check(partition)?;
        Ok(&self.logs[usize::from(partition.0)])
    }

    fn open_log(&self, partition: Partition) -> Result<&MemoryLog> {
        self.check_open()?;
        self.log(partition)
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims
            .lock()
            .expect("nothing panics while it holds this")
    }

    fn admit(&self, new: NewJob) -> Result<(Partition, Accepted)> {
        self.check_open()?;
        new.command.check(self.partitions)?;
        let partition = self.partitions.partition_of(new.command.first_key());
        let admission = self.log(partition)?.lock().admit(new, self.time.now())?;
        let accepted = match admission {
            Admission::New { job, .. } => Accepted::waiting(job.id),
            Admission::Replayed(id) => Accepted::replayed(id),
        };
        Ok((partition, accepted))
    }

    /// Waits until there is a job after `after`.
    async fn next(&self, log: &MemoryLog, after: Position, max: usize) -> Result<Vec<Job>> {
        loop {
            // Listen before looking: `Notified` receives every wake-up from its creation on, so no
            // change in between is missed.
            let changed = log.changed.notified();
            self.check_open()?;
            let jobs = log.lock().read(after, max)?;
            if !jobs.is_empty() {
                return Ok(jobs_out(jobs, &self.time));
            }
            changed.await;
        }
    }
}

#[async_trait]
impl JobQueue for MemoryQueue {
    fn id(&self) -> QueueId {
        self.id
    }

    fn partitions(&self) -> PartitionCount {
        self.partitions
    }

    async fn start_after(&self, partition: Partition, position: Position) -> Result<()> {
        self.open_log(partition)?.lock().start_after(position);
        Ok(())
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>> {
        let mut touched = BTreeSet::new();
        let answers = jobs
            .into_iter()
            .map(|new| {
                let (partition, accepted) = self.admit(new)?;
                touched.insert(partition);
                Ok(accepted)
            })
            .collect();
        // Readers are woken once for all jobs of the call. This may publish jobs that a concurrent
        // call has just admitted, which is harmless: nothing else happens to them between admission
        // and publication.
        for log in touched.into_iter().filter_map(|it| self.log(it).ok()) {
            log.lock().publish();
            log.changed.notify_waiters();
        }
        answers
    }

    async fn find(&self, job: &JobId) -> Result<Found> {
        self.check_open()?;
        match self.log(job.partition) {
            Ok(log) if job.queue == self.id => {
                Ok(found_out(log.lock().find(job.position), &self.time))
            }
            _ => Ok(Found::Unknown),
        }
    }

    async fn peek(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<Job>> {
        let jobs = self.open_log(partition)?.lock().peek(after, max);
        Ok(jobs_out(jobs, &self.time))
    }

    async fn depth(&self) -> Result<Depth> {
        self.check_open()?;
        let now = self.time.now();
        let depths = self.logs.iter().map(|log| log.lock().depth(now));
        Ok(depths.fold(Depth::default(), |sum, one| Depth {
            jobs: sum.jobs + one.jobs,
            bytes: sum.bytes + one.bytes,
            oldest_age: sum.oldest_age.max(one.oldest_age),
            lost: 0,
            idempotency_keys: sum.idempotency_keys + one.idempotency_keys,
        }))
    }

    async fn ping(&self) -> Result<()> {
        self.check_open()
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::SeqCst);
        for log in &self.logs {
            log.changed.notify_waiters();
        }
        Ok(())
    }
}

#[async_trait]
impl WorkQueue for MemoryQueue {
    fn is_shared(&self) -> bool {
        false
    }

    async fn claim(&self, worker: &WorkerId) -> Result<Vec<Claim>> {
        self.check_open()?;
        Ok(self.claims().claim(worker, self.time.now()))
    }

    async fn claims_changed(&self) {
        // All workers run in this process and learn of each other at every renewal.
        std::future::pending().await
    }

    async fn release(&self, claim: Claim) -> Result<()> {
        self.check_open()?;
        self.claims().release(&claim);
        Ok(())
    }

    async fn read(
        &self,
        claim: &Claim,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Job>> {
        let log = self.open_log(claim.partition)?;
        let jobs = log.lock().read(after, max)?;
        if !jobs.is_empty() || max == 0 || wait.is_zero() {
            return Ok(jobs_out(jobs, &self.time));
        }
        tokio::time::timeout(wait, self.next(log, after, max))
            .await
            .unwrap_or_else(|_elapsed| Ok(Vec::new()))
    }

    async fn begin_attempt(&self, claim: &Claim, head: Position) -> Result<u32> {
        Ok(self.open_log(claim.partition)?.lock().begin_attempt(head))
    }

    async fn withdraw_attempt(&self, claim: &Claim, head: Position) -> Result<()> {
        self.open_log(claim.partition)?
            .lock()
            .withdraw_attempt(head);
        Ok(())
    }

    async fn complete(&self, claim: &Claim, up_to: Position) -> Result<()> {
        self.open_log(claim.partition)?.lock().complete(up_to);
        Ok(())
    }

    fn apply_on_acceptance(&self, _: AppliedListener) {
        // This queue only stores jobs.
    }
}

impl fmt::Debug for MemoryQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryQueue")
            .field("id", &self.id)
            .field("partitions", &self.partitions)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::AtomicU64;

    use futures_util::FutureExt;

    use super::*;
    use crate::clock::ManualClock;
    use crate::model::command::{Command, Operation};
    use crate::model::job::Idempotency;
    use crate::model::key::Key;
    use crate::model::value::Value;

    fn clock() -> ManualClock {
        ManualClock::new(Timestamp(1_000_000))
    }

    fn open(partitions: u16) -> Arc<MemoryQueue> {
        let options = QueueOptions {
            partitions: PartitionCount::new(partitions).unwrap(),
            ..QueueOptions::default()
        };
        Arc::new(MemoryQueue::new(options, Arc::new(clock())))
    }

    fn set(key: &str, number: u64) -> NewJob {
        let value = Value::from_serialize(&number).unwrap();
        NewJob::new(Command::One(Operation::set(Key::new(key).unwrap(), value)))
    }

    async fn enqueue(queue: &MemoryQueue, job: NewJob) -> Result<Accepted> {
        queue.enqueue(vec![job]).await.pop().unwrap()
    }

    fn claim_of(partition: u16) -> Claim {
        Claim {
            worker: WorkerId::new("test"),
            partition: Partition(partition),
        }
    }

    #[tokio::test]
    async fn no_wake_up_is_lost_between_looking_and_sleeping() {
        const ROUNDS: u64 = 20_000;
        let queue = open(1);
        let round = Arc::new(AtomicU64::new(0));
        // A thread instead of a task, so that it runs while the reader goes to sleep.
        let producer = std::thread::spawn({
            let (queue, round) = (Arc::clone(&queue), Arc::clone(&round));
            move || {
                for number in 0..ROUNDS {
                    while round.load(Ordering::SeqCst) < number {
                        std::hint::spin_loop();
                    }
                    // Each round starts a little later, to hit every step of the reader.
                    for _ in 0..number % 100 {
                        std::hint::spin_loop();
                    }
                    let accepted = enqueue(&queue, set("k", number)).now_or_never();
                    accepted.expect("enqueue does not wait").unwrap();
                }
            }
        });
        let claim = claim_of(0);
        let mut after = Position::START;
        for number in 0..ROUNDS {
            round.store(number, Ordering::SeqCst);
            // This is the only job: no later one would hide a lost wake-up.
            let wait = Duration::from_secs(10);
            let jobs = queue.read(&claim, after, 1, wait).await.unwrap();
            let job = jobs.first().expect("a job came and no reader was woken");
            after = job.id.position;
        }
        producer.join().unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn with_many_readers_and_writers_each_key_keeps_its_order() {
        const PARTITIONS: u16 = 3;
        const PRODUCERS: usize = 4;
        const JOBS: u64 = 500;
        let queue = open(PARTITIONS);
        let reader = |partition| {
            let queue = Arc::clone(&queue);
            async move {
                let mut after = Position::START;
                let mut seen = Vec::new();
                loop {
                    // A lost wake-up means a wait of an hour, which the time limit below turns into
                    // a failure.
                    let wait = Duration::from_secs(3600);
                    match queue.read(&claim_of(partition), after, 7, wait).await {
                        Ok(jobs) => {
                            after = jobs.last().expect("a read ends with a job").id.position;
                            queue.complete(&claim_of(partition), after).await.unwrap();
                            seen.extend(jobs);
                        }
                        Err(Error::Unavailable { .. }) => return seen,
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        };
        let readers: Vec<_> = (0..PARTITIONS).map(|it| tokio::spawn(reader(it))).collect();
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let queue = Arc::clone(&queue);
                tokio::spawn(async move {
                    for number in 0..JOBS {
                        enqueue(&queue, set(&format!("key {producer}"), number))
                            .await
                            .unwrap();
                        if number % 16 == 0 {
                            tokio::task::yield_now().await;
                        }
                    }
                })
            })
            .collect();
        let everything = async {
            for producer in producers {
                producer.await.unwrap();
            }
            while queue.depth().await.unwrap().jobs > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            queue.close().await.unwrap();
            let mut by_key: HashMap<Key, Vec<u64>> = HashMap::new();
            for reader in readers {
                for job in reader.await.unwrap() {
                    let crate::model::command::Action::Set { value } =
                        &job.command.operations()[0].action
                    else {
                        panic!("expected a set");
                    };
                    let numbers = by_key.entry(job.command.first_key().clone()).or_default();
                    numbers.push(value.to().unwrap());
                }
            }
            by_key
        };
        let by_key = tokio::time::timeout(Duration::from_secs(60), everything).await;
        let by_key = by_key.expect("no reader waits forever");
        assert_eq!(by_key.len(), PRODUCERS);
        for numbers in by_key.values() {
            assert!(numbers.iter().copied().eq(0..JOBS), "{numbers:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_without_a_job_ends_after_its_wait_and_not_before() {
        let queue = open(1);
        let start = tokio::time::Instant::now();
        let wait = Duration::from_secs(5);
        let jobs = queue.read(&claim_of(0), Position::START, 10, wait).await;
        assert_eq!(jobs.unwrap(), []);
        assert_eq!(start.elapsed(), wait);
        let at_once = queue
            .read(&claim_of(0), Position::START, 10, Duration::ZERO)
            .await;
        assert_eq!(at_once.unwrap(), []);
        assert_eq!(start.elapsed(), wait);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_for_another_partition_wakes_no_reader() {
        let queue = open(2);
        let key = Key::new("k").unwrap();
        let other = 1 - queue.partitions().partition_of(&key).0;
        let claim = claim_of(other);
        let read = queue.read(&claim, Position::START, 10, Duration::from_secs(5));
        let (jobs, accepted) = tokio::join!(read, enqueue(&queue, set("k", 1)));
        assert_eq!(jobs.unwrap(), []);
        assert_ne!(accepted.unwrap().id.partition.0, other);
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_of_one_call_are_read_together_and_answered_one_by_one() {
        let queue = open(1);
        let claim = claim_of(0);
        let batch = Command::Batch(Vec::new());
        let jobs = vec![set("a", 1), NewJob::new(batch), set("b", 2)];
        let read = queue.read(&claim, Position::START, 10, Duration::from_secs(5));
        let (jobs, answers) = tokio::join!(read, queue.enqueue(jobs));
        let [Ok(first), Err(Error::Invalid { .. }), Ok(second)] = &answers[..] else {
            panic!("{answers:?}");
        };
        let ids: Vec<JobId> = jobs.unwrap().iter().map(|job| job.id).collect();
        assert_eq!(ids, [first.id, second.id]);
    }

    #[tokio::test]
    async fn a_retry_in_the_same_call_is_the_same_job() {
        let queue = open(1);
        let retried = || NewJob {
            idempotency: Some(Idempotency {
                key: "once".to_owned(),
                window: Duration::from_secs(60),
                minimum: Duration::from_secs(60),
            }),
            ..set("k", 1)
        };
        let answers = queue.enqueue(vec![retried(), retried()]).await;
        let [Ok(first), Ok(second)] = &answers[..] else {
            panic!("{answers:?}");
        };
        assert_eq!(
            (first.id, false, true),
            (second.id, first.replayed, second.replayed)
        );
        let jobs = queue
            .read(&claim_of(0), Position::START, 10, Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(jobs.len(), 1);
        assert!(jobs[0].keep_outcome);
    }

    #[tokio::test]
    async fn a_batch_across_two_partitions_is_rejected() {
        let queue = open(2);
        let partitions = queue.partitions();
        let keys: Vec<Key> = (0..20)
            .map(|it| Key::new(&format!("key {it}")).unwrap())
            .collect();
        let first = partitions.partition_of(&keys[0]);
        let other = keys
            .iter()
            .find(|key| partitions.partition_of(key) != first)
            .unwrap();
        let operations = [&keys[0], other].map(|key| Operation::delete(key.clone()));
        let answer = enqueue(&queue, NewJob::new(Command::Batch(operations.into()))).await;
        assert!(matches!(answer, Err(Error::CrossPartition { .. })));
    }

    #[tokio::test]
    async fn depth_counts_all_partitions() {
        let clock = clock();
        let options = QueueOptions {
            partitions: PartitionCount::new(4).unwrap(),
            ..QueueOptions::default()
        };
        let queue = MemoryQueue::new(options, Arc::new(clock.clone()));
        assert_eq!(queue.depth().await.unwrap(), Depth::default());
        for number in 0..8 {
            enqueue(&queue, set(&format!("key {number}"), number))
                .await
                .unwrap();
            clock.advance(Duration::from_secs(1));
        }
        let depth = Depth {
            jobs: 8,
            bytes: 8 * ("key 0".len() + "0".len()) as u64,
            oldest_age: Some(Duration::from_secs(8)),
            lost: 0,
            idempotency_keys: 0,
        };
        assert_eq!(queue.depth().await.unwrap(), depth);
    }

    #[tokio::test]
    async fn a_full_partition_rejects_jobs_until_some_complete() {
        let options = QueueOptions {
            jobs_max: 1,
            ..QueueOptions::default()
        };
        let queue = MemoryQueue::new(options, Arc::new(clock()));
        let first = enqueue(&queue, set("k", 1)).await.unwrap();
        assert!(matches!(
            enqueue(&queue, set("k", 2)).await,
            Err(Error::Full { limit: 1, .. })
        ));
        queue
            .complete(&claim_of(0), first.id.position)
            .await
            .unwrap();
        assert!(enqueue(&queue, set("k", 2)).await.is_ok());
    }

    #[tokio::test]
    async fn ids_of_other_queues_and_partitions_are_unknown() {
        let (queue, other) = (open(1), open(1));
        let id = enqueue(&queue, set("k", 1)).await.unwrap().id;
        assert!(matches!(
            queue.find(&id).await.unwrap(),
            Found::Held { attempts: 0, .. }
        ));
        assert_eq!(other.find(&id).await.unwrap(), Found::Unknown);
        let partition = Partition(1);
        let elsewhere = JobId { partition, ..id };
        assert_eq!(queue.find(&elsewhere).await.unwrap(), Found::Unknown);
        let read = queue
            .read(&claim_of(1), Position::START, 1, Duration::ZERO)
            .await;
        assert!(matches!(read, Err(Error::Invalid { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn close_wakes_all_waiters_and_fails_every_later_call() {
        let queue = open(1);
        let claim = claim_of(0);
        let start = tokio::time::Instant::now();
        let read = queue.read(&claim, Position::START, 1, Duration::from_secs(3600));
        let (read, closed) = tokio::join!(read, queue.close());
        closed.unwrap();
        assert!(matches!(read, Err(Error::Unavailable { .. })));
        assert_eq!(start.elapsed(), Duration::ZERO);

        let unavailable =
            |result: Result<()>| assert!(matches!(result, Err(Error::Unavailable { .. })));
        let position = Position::counted(1);
        let id = JobId {
            queue: queue.id(),
            partition: Partition(0),
            position,
        };
        unavailable(queue.start_after(Partition(0), position).await);
        unavailable(enqueue(&queue, set("k", 1)).await.map(drop));
        unavailable(queue.claim(&claim.worker).await.map(drop));
        unavailable(queue.release(claim.clone()).await);
        unavailable(
            queue
                .read(&claim, Position::START, 1, Duration::ZERO)
                .await
                .map(drop),
        );
        unavailable(queue.begin_attempt(&claim, position).await.map(drop));
        unavailable(queue.withdraw_attempt(&claim, position).await);
        unavailable(queue.complete(&claim, position).await);
        unavailable(queue.find(&id).await.map(drop));
        unavailable(queue.depth().await.map(drop));
        unavailable(queue.ping().await);
        queue.close().await.unwrap();
    }
}
