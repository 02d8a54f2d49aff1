//! The contract of a queue: a partitioned log of jobs, accepted durably and in order.
//!
//! Deliberately not here: popping. A worker asks the *store* how far a partition is applied, reads
//! what follows, and commits the effects together with the new position. So no job can be lost in a
//! worker's hands, and none can be applied twice; a claim only keeps workers from duplicating work.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::limits::{CLAIM_PERIOD, IDEMPOTENCY_KEYS_MAX, QUEUE_BYTES_DEFAULT, QUEUE_JOBS_DEFAULT};
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{Job, NewJob, Outcome};

/// A partitioned log of jobs: the part of it that a server needs.
///
/// # What holds for every queue
/// * The jobs of a key are in one partition ([`PartitionCount::partition_of`]), in the order in
///   which they were accepted.
/// * An accepted job survives the events that the backend names, and keeps its id forever; ids are
///   never reused.
/// * Every bound, in jobs, bytes and idempotency keys, is answered with
///   [`Error::Full`](crate::error::Error::Full), never by growth.
/// * Dropping a future does not cancel a call.
///
/// ```
/// use kvstore_core::model::command::{Command, Operation};
/// use kvstore_core::model::id::Position;
/// use kvstore_core::model::job::NewJob;
/// use kvstore_core::{JobQueue, Key, Value};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let opened = kvstore_core::open(&"memory:".parse()?, None).await?;
/// let set = Operation::set(Key::new("user:1")?, Value::parse("\"Ada\"")?);
/// let answers = opened.queue.enqueue(vec![NewJob::new(Command::One(set))]).await;
/// let accepted = answers.into_iter().next().expect("an answer for each job")?;
///
/// // No worker runs here, so it waits.
/// assert_eq!(opened.queue.depth().await?.jobs, 1);
/// let waiting = opened.queue.peek(accepted.id.partition, Position::START, 10).await?;
/// assert_eq!(waiting[0].id, accepted.id);
/// # opened.close().await
/// # }).unwrap();
/// ```
#[async_trait]
pub trait JobQueue: fmt::Debug + Send + Sync + 'static {
    /// Returns the random name that the queue got when it was created.
    fn id(&self) -> QueueId;

    /// Returns the number of partitions.
    fn partitions(&self) -> PartitionCount;

    /// Ensures that the next job of `partition` comes after `position`. A queue may be behind its
    /// store if its files were lost or an old copy was restored. Called before the queue accepts
    /// the first job.
    async fn start_after(&self, partition: Partition, position: Position) -> Result<()>;

    /// Accepts `jobs`, each on its own, and returns the answers in the same order. Jobs of one call
    /// for one partition keep their order.
    ///
    /// An accepted job is durable when this returns. A job under an idempotency key that was used
    /// with the same request before is not accepted again: the answer is the id of the first one,
    /// marked `replayed`.
    ///
    /// # Errors
    /// For each job: those of [`Command::check`](crate::model::command::Command::check),
    /// [`Error::Full`](crate::error::Error::Full),
    /// [`Error::KeyReused`](crate::error::Error::KeyReused),
    /// [`Error::Unavailable`](crate::error::Error::Unavailable),
    /// [`Error::Unknown`](crate::error::Error::Unknown): it may have been accepted; repeating the
    /// request under the same idempotency key tells.
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>>;

    /// Returns what the queue itself knows about a job.
    async fn find(&self, job: &JobId) -> Result<Found>;

    /// Reads at most `max` jobs of `partition` that wait after `after`, in order, without claiming
    /// the partition. An empty answer means that none waits there. Applied jobs may be among them
    /// as long as the queue holds them.
    async fn peek(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<Job>>;

    /// Returns how much is waiting.
    async fn depth(&self) -> Result<Depth>;

    /// Checks that the queue would accept jobs now.
    async fn ping(&self) -> Result<()>;

    /// Finishes what is in flight and releases what the process holds. Later calls fail with
    /// [`Error::Unavailable`](crate::error::Error::Unavailable). Closing twice is not an error.
    async fn close(&self) -> Result<()>;
}

/// The part of a queue that a worker needs in addition: claims on partitions, and their jobs.
#[async_trait]
pub trait WorkQueue: JobQueue {
    /// Returns true if workers in other processes may share this queue and continue when this
    /// process ends. If false, a worker drains the queue before it stops, since nothing else would
    /// before the next start.
    fn is_shared(&self) -> bool;

    /// Renews the claims of `worker`, takes its fair share of the partitions, and returns what it
    /// holds now. It must stop working on claims that are missing from the answer. Call it every
    /// third of [`CLAIM_PERIOD`].
    async fn claim(&self, worker: &WorkerId) -> Result<Vec<Claim>>;

    /// Returns once another worker has come, gone or given something up since the last
    /// [`WorkQueue::claim`], which may now return something else. This is a hint that saves waiting
    /// for the next renewal; a queue without such news never returns.
    async fn claims_changed(&self);

    /// Gives a claim back, so that another worker can have the partition immediately. Not an error
    /// if it is no longer held.
    async fn release(&self, claim: Claim) -> Result<()>;

    /// Reads the jobs of the claimed partition that follow `after`: at most `max`, and at least one
    /// unless none arrives within `wait`.
    ///
    /// # Errors
    /// [`Error::Gap`](crate::error::Error::Gap) if jobs after `after` have already been dropped:
    /// the store is older than the queue. [`Error::Stale`](crate::error::Error::Stale) if the queue
    /// knows that the store is not at `after`, because another server has taken over: read the
    /// position again.
    async fn read(
        &self,
        claim: &Claim,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Job>>;

    /// Records that the job at `head` is about to be tried, and returns the attempt number,
    /// starting at 1. The record survives the process (not necessarily the loss of power), so a job
    /// that kills its worker is counted.
    async fn begin_attempt(&self, claim: &Claim, head: Position) -> Result<u32>;

    /// Withdraws the last [`WorkQueue::begin_attempt`]: the store was down, and the job is not to
    /// blame.
    async fn withdraw_attempt(&self, claim: &Claim, head: Position) -> Result<()>;

    /// Drops the jobs up to `up_to`, which are applied; they no longer count against any bound.
    ///
    /// # Errors
    /// [`Error::Stale`](crate::error::Error::Stale), as in [`WorkQueue::read`]: nothing was
    /// dropped.
    async fn complete(&self, claim: &Claim, up_to: Position) -> Result<()>;

    /// Lets the queue apply jobs as it accepts them, while nothing waits and a worker of this
    /// process holds the claims. `listener` receives the jobs applied this way and replaces an
    /// earlier listener. A queue that only stores jobs ignores this.
    fn apply_on_acceptance(&self, listener: AppliedListener);
}

/// A job that its queue applied on acceptance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedJob {
    /// Its id, which is also its place.
    pub id: JobId,
    /// The trace context of its request.
    pub traceparent: Option<String>,
    /// True if its own condition failed.
    pub failed: bool,
}

type Listen = dyn Fn(&[AppliedJob], Duration) + Send + Sync;

/// A function that receives the jobs of one durable write and the duration of the write. It must
/// not block.
#[derive(Clone)]
pub struct AppliedListener(Arc<Listen>);

impl AppliedListener {
    /// Creates a listener that calls `listen` for each write, before its jobs are answered.
    pub fn new(listen: impl Fn(&[AppliedJob], Duration) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listen))
    }

    /// Reports the jobs that one write applied.
    pub fn report(&self, jobs: &[AppliedJob], took: Duration) {
        (self.0)(jobs, took);
    }
}

impl fmt::Debug for AppliedListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AppliedListener")
    }
}

/// The answer for a job that is in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its id, which is also its place.
    pub id: JobId,
    /// True if an earlier request under the same idempotency key put it there.
    pub replayed: bool,
    /// Its outcome, if it was applied on acceptance; `None` if it waits for a worker or was
    /// accepted earlier.
    pub outcome: Option<Outcome>,
}

impl Accepted {
    /// Returns the answer for a new job that waits.
    pub fn waiting(id: JobId) -> Self {
        Self {
            id,
            replayed: false,
            outcome: None,
        }
    }

    /// Returns the answer for a request whose job was accepted before.
    pub fn replayed(id: JobId) -> Self {
        Self {
            id,
            replayed: true,
            outcome: None,
        }
    }
}

/// The name of a worker. It is never used again, neither by another worker nor by the same one
/// after a restart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(Arc<str>);

impl WorkerId {
    /// Creates a new id from `name` (for people, in logs) and a random part.
    pub fn new(name: &str) -> Self {
        Self(format!("{name}-{:016x}", fastrand::u64(..)).into())
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The claim of a worker on a partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The worker.
    pub worker: WorkerId,
    /// The partition.
    pub partition: Partition,
}

/// What a queue knows about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The queue holds it.
    Held {
        /// The job.
        job: Box<Job>,
        /// Its attempts so far; 0 for a job that has not been tried.
        attempts: u32,
    },
    /// It was once accepted and has been dropped since, applied or lost. It may also be a number
    /// that [`JobQueue::start_after`] skipped, which a queue that lost its files cannot
    /// distinguish.
    Dropped,
    /// No such job was ever accepted here.
    Unknown,
}

/// How much is waiting in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Jobs accepted and not yet completed.
    pub jobs: u64,
    /// Their keys and values, in bytes.
    pub bytes: u64,
    /// The age of the oldest of them; `None` if there is none.
    pub oldest_age: Option<Duration>,
    /// Jobs acknowledged to this process and later lost by the server. Never decreases.
    pub lost: u64,
    /// Idempotency keys that are remembered.
    pub idempotency_keys: u64,
}

/// The partitions and the bounds of a queue that is opened in this process.
///
/// ```
/// use kvstore_core::model::id::PartitionCount;
/// use kvstore_core::queue::QueueOptions;
///
/// let options = QueueOptions {
///     partitions: PartitionCount::new(8)?,
///     ..QueueOptions::default()
/// };
/// assert_eq!(options.jobs_max, kvstore_core::limits::QUEUE_JOBS_DEFAULT);
/// # Ok::<(), kvstore_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// The number of partitions: the most workers that can be busy at once.
    pub partitions: PartitionCount,
    /// Most jobs waiting in one partition.
    pub jobs_max: usize,
    /// Most bytes (keys and values) of the jobs waiting in one partition.
    pub bytes_max: usize,
    /// Most idempotency keys remembered in one partition.
    pub idempotency_keys_max: usize,
    /// How long a worker keeps its claims without renewing them.
    pub claim_period: Duration,
}

impl Default for QueueOptions {
    /// Returns one partition, and the bounds of [`crate::limits`].
    fn default() -> Self {
        Self {
            partitions: PartitionCount::ONE,
            jobs_max: QUEUE_JOBS_DEFAULT,
            bytes_max: QUEUE_BYTES_DEFAULT,
            idempotency_keys_max: IDEMPOTENCY_KEYS_MAX,
            claim_period: CLAIM_PERIOD,
        }
    }
}

/// Forwards to the shared queue.
impl<Q: JobQueue + ?Sized> JobQueue for Arc<Q> {
    crate::forward_queue!(|self| &**self);
}

/// Forwards to the shared queue.
impl<Q: WorkQueue + ?Sized> WorkQueue for Arc<Q> {
    crate::forward_work_queue!(|self| &**self);
}

/// Forwards methods of [`JobQueue`] to another queue, inside an `impl JobQueue for …`.
///
/// `forward_queue!(|self| &self.0)` forwards all of them;
/// `forward_queue!(|self| &self.0; except enqueue)` leaves out those that the wrapper implements
/// itself. [`forward_store`](crate::forward_store) has an example.
#[macro_export]
macro_rules! forward_queue {
    (|$self:ident| $inner:expr $(; except $($except:ident)+)?) => {
        $crate::forward_queue!(@each [$($($except)+)?] $self [$inner]
            id partitions start_after enqueue find peek depth ping close
        );
    };
    (@each $except:tt $self:ident $inner:tt $($method:ident)+) => {
        $($crate::forward_queue!(@unless $method $except $self $inner);)+
    };

    (@unless $method:ident [] $self:ident [$inner:expr]) => {
        $crate::forward_queue!(@method $method $self, $inner);
    };
    (@unless id [id $($rest:ident)*] $($other:tt)*) => {};
    (@unless partitions [partitions $($rest:ident)*] $($other:tt)*) => {};
    (@unless start_after [start_after $($rest:ident)*] $($other:tt)*) => {};
    (@unless enqueue [enqueue $($rest:ident)*] $($other:tt)*) => {};
    (@unless find [find $($rest:ident)*] $($other:tt)*) => {};
    (@unless peek [peek $($rest:ident)*] $($other:tt)*) => {};
    (@unless depth [depth $($rest:ident)*] $($other:tt)*) => {};
    (@unless ping [ping $($rest:ident)*] $($other:tt)*) => {};
    (@unless close [close $($rest:ident)*] $($other:tt)*) => {};
    (@unless $method:ident [$another:ident $($rest:ident)*] $($other:tt)*) => {
        $crate::forward_queue!(@unless $method [$($rest)*] $($other)*);
    };

    (@method id $self:ident, $inner:expr) => {
        fn id(&$self) -> $crate::model::id::QueueId {
            $crate::queue::JobQueue::id($inner)
        }
    };
    (@method partitions $self:ident, $inner:expr) => {
        fn partitions(&$self) -> $crate::model::id::PartitionCount {
            $crate::queue::JobQueue::partitions($inner)
        }
    };
    (@method start_after $self:ident, $inner:expr) => {
        $crate::__forward!(
            $crate::queue::JobQueue: start_after($self, $inner; partition: $crate::model::id::Partition, position: $crate::model::id::Position)
            -> $crate::error::Result<()>);
    };
    (@method enqueue $self:ident, $inner:expr) => {
        $crate::__forward!($crate::queue::JobQueue: enqueue($self, $inner; jobs: ::std::vec::Vec<$crate::model::job::NewJob>)
            -> ::std::vec::Vec<$crate::error::Result<$crate::queue::Accepted>>);
    };
    (@method find $self:ident, $inner:expr) => {
        $crate::__forward!($crate::queue::JobQueue: find($self, $inner; &job: $crate::model::id::JobId)
            -> $crate::error::Result<$crate::queue::Found>);
    };
    (@method peek $self:ident, $inner:expr) => {
        $crate::__forward!(
            $crate::queue::JobQueue: peek($self, $inner;
                partition: $crate::model::id::Partition, after: $crate::model::id::Position, max: usize
            ) -> $crate::error::Result<::std::vec::Vec<$crate::model::job::Job>>);
    };
    (@method depth $self:ident, $inner:expr) => {
        $crate::__forward!($crate::queue::JobQueue: depth($self, $inner;) -> $crate::error::Result<$crate::queue::Depth>);
    };
    (@method ping $self:ident, $inner:expr) => {
        $crate::__forward!($crate::queue::JobQueue: ping($self, $inner;) -> $crate::error::Result<()>);
    };
    (@method close $self:ident, $inner:expr) => {
        $crate::__forward!($crate::queue::JobQueue: close($self, $inner;) -> $crate::error::Result<()>);
    };
}

/// Forwards methods of [`WorkQueue`] to another queue, inside an `impl WorkQueue for …`.
///
/// `forward_work_queue!(|self| &self.0)` forwards all of them;
/// `forward_work_queue!(|self| &self.0; except claim)` leaves out those that the wrapper implements
/// itself. [`forward_store`](crate::forward_store) has an example.
#[macro_export]
macro_rules! forward_work_queue {
    (|$self:ident| $inner:expr $(; except $($except:ident)+)?) => {
        $crate::forward_work_queue!(@each [$($($except)+)?] $self [$inner]
            is_shared claim claims_changed release read begin_attempt withdraw_attempt complete apply_on_acceptance
        );
    };
    (@each $except:tt $self:ident $inner:tt $($method:ident)+) => {
        $($crate::forward_work_queue!(@unless $method $except $self $inner);)+
    };

    (@unless $method:ident [] $self:ident [$inner:expr]) => {
        $crate::forward_work_queue!(@method $method $self, $inner);
    };
    (@unless is_shared [is_shared $($rest:ident)*] $($other:tt)*) => {};
    (@unless claim [claim $($rest:ident)*] $($other:tt)*) => {};
    (@unless claims_changed [claims_changed $($rest:ident)*] $($other:tt)*) => {};
    (@unless release [release $($rest:ident)*] $($other:tt)*) => {};
    (@unless read [read $($rest:ident)*] $($other:tt)*) => {};
    (@unless begin_attempt [begin_attempt $($rest:ident)*] $($other:tt)*) => {};
    (@unless withdraw_attempt [withdraw_attempt $($rest:ident)*] $($other:tt)*) => {};
    (@unless complete [complete $($rest:ident)*] $($other:tt)*) => {};
    (@unless apply_on_acceptance [apply_on_acceptance $($rest:ident)*] $($other:tt)*) => {};
    (@unless $method:ident [$another:ident $($rest:ident)*] $($other:tt)*) => {
        $crate::forward_work_queue!(@unless $method [$($rest)*] $($other)*);
    };

    (@method is_shared $self:ident, $inner:expr) => {
        fn is_shared(&$self) -> bool {
            $crate::queue::WorkQueue::is_shared($inner)
        }
    };
    (@method claim $self:ident, $inner:expr) => {
        $crate::__forward!($crate::queue::WorkQueue: claim($self, $inner; &worker: $crate::queue::WorkerId)
            -> $crate::error::Result<::std::vec::Vec<$crate::queue::Claim>>);
    };
    (@method claims_changed $self:ident, $inner:expr) => {
        $crate::__forward!($crate::queue::WorkQueue: claims_changed($self, $inner;) -> ());
    };
    (@method release $self:ident, $inner:expr) => {
        $crate::__forward!($crate::queue::WorkQueue: release($self, $inner; claim: $crate::queue::Claim) -> $crate::error::Result<()>);
    };
    (@method read $self:ident, $inner:expr) => {
        $crate::__forward!(
            $crate::queue::WorkQueue: read($self, $inner;
                &claim: $crate::queue::Claim, after: $crate::model::id::Position, max: usize, wait: ::core::time::Duration
            ) -> $crate::error::Result<::std::vec::Vec<$crate::model::job::Job>>);
    };
    (@method begin_attempt $self:ident, $inner:expr) => {
        $crate::__forward!(
            $crate::queue::WorkQueue: begin_attempt($self, $inner; &claim: $crate::queue::Claim, head: $crate::model::id::Position)
            -> $crate::error::Result<u32>);
    };
    (@method withdraw_attempt $self:ident, $inner:expr) => {
        $crate::__forward!(
            $crate::queue::WorkQueue: withdraw_attempt($self, $inner; &claim: $crate::queue::Claim, head: $crate::model::id::Position)
            -> $crate::error::Result<()>);
    };
    (@method complete $self:ident, $inner:expr) => {
        $crate::__forward!(
            $crate::queue::WorkQueue: complete($self, $inner; &claim: $crate::queue::Claim, up_to: $crate::model::id::Position)
            -> $crate::error::Result<()>);
    };
    (@method apply_on_acceptance $self:ident, $inner:expr) => {
        fn apply_on_acceptance(&$self, listener: $crate::queue::AppliedListener) {
            $crate::queue::WorkQueue::apply_on_acceptance($inner, listener);
        }
    };
}
