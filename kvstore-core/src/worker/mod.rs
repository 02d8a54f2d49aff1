//! The worker: claims partitions of a queue and applies their jobs to a store, exactly once in
//! effect.
//!
//! [`run`] is the entry point for the worker process, for a server with an embedded worker, and for
//! a program that embeds both.
//!
//! ```no_run
//! # async fn example() -> kvstore_core::Result<()> {
//! use kvstore_core::worker;
//!
//! let opened = kvstore_core::open(&"file:database".parse()?, None).await?;
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let until_stopped = async {
//!     let _ = stopped.await;
//! };
//! worker::run(opened.store, opened.queue, worker::Options::default(), until_stopped).await
//! # }
//! ```
//!
//! A claim only avoids duplicate work. If two workers process one partition, because one was paused
//! or cut off, the store accepts the commit of one and rejects the other's because its position is
//! stale.
//!
//! What is not here: processes, signals, probes and metrics. A worker reports its work as
//! [`WorkerEvent`]s.

mod backoff;
mod partition;

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::error::in_one_line;
use crate::limits::CLAIM_PERIOD;
use crate::model::id::{JobId, Partition};
use crate::queue::{AppliedListener, Claim, WorkQueue, WorkerId};
use crate::service::join;
use crate::{Error, JobQueue, Result, Store};

use crate::worker::backoff::Backoff;
use crate::worker::partition::{PartitionTask, Until};

/// How long to wait for further changes after a worker has come or gone, before claiming again.
const CLAIMS_SETTLE: Duration = Duration::from_millis(10);

/// How long a worker that shuts down keeps applying waiting jobs, if no other process can.
const IDLE_WITHIN: Duration = Duration::from_secs(10);

/// Something that a worker did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerEvent {
    /// A batch of jobs was committed, by the worker or by its queue as it accepted them.
    Committed {
        /// Jobs that were applied.
        succeeded: usize,
        /// Jobs whose own condition failed.
        failed: usize,
        /// How long the store took to make the batch durable.
        took: Duration,
    },
    /// A job became a dead letter.
    DeadLettered,
    /// A try failed, and the next one follows after a wait.
    Retried,
    /// A partition of this worker is in another state: `None` before its first and after its last.
    Partition {
        /// The state so far.
        was: Option<PartitionState>,
        /// The state from now on.
        is: Option<PartitionState>,
    },
}

/// What a partition of a worker is doing.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartitionState {
    /// It applies jobs, or has none.
    Working,
    /// A try failed, and it waits before the next: store or queue is down or full, or the store
    /// rejects a job.
    Waiting,
    /// Jobs are missing between the store and the queue, and it waits until the loss is accepted or
    /// a newer copy of the store is there.
    Stopped,
}

/// A function that receives [`WorkerEvent`]s.
#[derive(Clone)]
pub struct EventListener(Arc<dyn Fn(WorkerEvent) + Send + Sync>);

impl EventListener {
    /// Calls `listen` for each event.
    pub fn new(listen: impl Fn(WorkerEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listen))
    }
}

impl fmt::Debug for EventListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventListener")
    }
}

/// The decisions that belong to the operator.
#[derive(Clone, Debug)]
pub struct Options {
    /// The prefix of the worker's id, for people who read logs.
    pub name: String,
    /// How often a job is tried before it becomes a dead letter, at least 2 (smaller values count
    /// as 2): the first try may include other jobs, and only a job that is tried alone is known to
    /// be the cause.
    pub attempts_max: u32,
    /// Switches to this queue for good if the store applies another one: jobs that still wait in
    /// the other one are skipped.
    pub adopt_queue: bool,
    /// Continues after a gap, for good: jobs that the queue has dropped and the store has never
    /// applied (it was restored from an older copy) are lost.
    pub accept_gap: bool,
    /// Receives a [`WorkerEvent`] for everything worth counting. Called from the worker's tasks and
    /// the queue's thread, so it must not block.
    pub on_event: Option<EventListener>,
}

impl Options {
    fn report(&self, event: WorkerEvent) {
        if let Some(EventListener(listen)) = &self.on_event {
            listen(event);
        }
    }

    /// Counts and logs the jobs of one commit, each with its trace and whether its own condition
    /// failed.
    fn committed<'a>(
        &self,
        jobs: impl ExactSizeIterator<Item = (JobId, Option<&'a str>, bool)> + Clone,
        took: Duration,
    ) {
        let failed = jobs.clone().filter(|(_, _, failed)| *failed).count();
        self.report(WorkerEvent::Committed {
            succeeded: jobs.len() - failed,
            failed,
            took,
        });
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        for (job, traceparent, failed) in jobs {
            let outcome = if failed { "failed" } else { "succeeded" };
            tracing::debug!(%job, traceparent, outcome, "applied");
        }
    }

    /// Returns a listener that counts and logs what a queue applies on acceptance like the commits
    /// of the worker.
    fn applied_listener(self: &Arc<Self>) -> AppliedListener {
        let options = Arc::clone(self);
        AppliedListener::new(move |jobs, took| {
            let jobs = jobs.iter();
            options.committed(
                jobs.map(|job| (job.id, job.traceparent.as_deref(), job.failed)),
                took,
            );
        })
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "worker".to_owned(),
            attempts_max: 12,
            adopt_queue: false,
            accept_gap: false,
            on_event: None,
        }
    }
}

/// Applies the jobs of `queue` to `store` until `shutdown`; then finishes the current batches,
/// releases the claims, and returns. On a queue that only this process can use
/// ([`WorkQueue::is_shared`]) it first applies all waiting jobs, but stops after ten seconds or a
/// failure and leaves the rest to the next start.
///
/// Any number of workers may run on the same queue and store, in any number of processes. Dropping
/// the future is like killing the process: safe, but its claims last until they expire. Neither
/// store nor queue is closed.
///
/// Those of [`join`], at once. Later only [`Error::WrongQueue`], if the store has switched to
/// another queue, and [`Error::Config`], if the settings of a server have changed. While a store or
/// queue is down, even before the start, the worker waits for it.
pub async fn run(
    store: Arc<dyn Store>,
    queue: Arc<dyn WorkQueue>,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let mut shutdown = pin!(shutdown);
    if options.adopt_queue {
        tracing::warn!(queue = %queue.id(), "the store switches to this queue; jobs that wait in another one are skipped");
    }
    let mut backoff = Backoff::default();
    while let Err(error) = start(&*store, &*queue, options.adopt_queue).await {
        // Each step is safe to repeat.
        if !matches!(error, Error::Unavailable { .. } | Error::Unknown { .. }) {
            return Err(error);
        }
        tracing::warn!(error = %in_one_line(&error), "cannot start to work yet");
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            () = sleep(backoff.next()) => {}
        }
    }

    let mut worker = Runner {
        id: WorkerId::new(&options.name),
        store,
        queue,
        options: Arc::new(options),
        working: HashMap::new(),
        tasks: JoinSet::new(),
    };
    tracing::info!(worker = %worker.id, queue = %worker.queue.id(), "working");
    worker
        .queue
        .apply_on_acceptance(worker.options.applied_listener());
    let queue = Arc::clone(&worker.queue);
    let claims_changed = async || {
        queue.claims_changed().await;
        // Workers often come and go together.
        sleep(CLAIMS_SETTLE).await;
    };
    let mut renewal = interval(CLAIM_PERIOD / 3);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ended = loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break Ok(()),
            Some(ended) = worker.tasks.join_next() => {
                if let Err(error) = worker.clear_away(ended).await {
                    break Err(error);
                }
            }
            _ = renewal.tick() => worker.claim().await,
            () = claims_changed() => worker.claim().await,
        }
    };
    ended.and(worker.finish().await)
}

/// Checks that `store` applies `queue`, and makes it do so if it applies none or `adopt` is true.
async fn start(store: &dyn Store, queue: &dyn WorkQueue, adopt: bool) -> Result<()> {
    if adopt {
        store.adopt_queue(queue.id()).await?;
    }
    join(store, queue).await?;
    // The queue of a folder applies jobs on acceptance only if that folder's store applies this
    // queue.
    if store.active_queue().await?.is_none() {
        store.adopt_queue(queue.id()).await?;
    }
    Ok(())
}

struct Runner {
    id: WorkerId,
    store: Arc<dyn Store>,
    queue: Arc<dyn WorkQueue>,
    options: Arc<Options>,
    /// The partitions with a running task, each with the sender that tells the task when to stop.
    working: HashMap<Partition, watch::Sender<Until>>,
    tasks: JoinSet<(Claim, Result<()>)>,
}

impl Runner {
    /// Renews the claims, starts tasks for new ones and stops those of lost ones.
    async fn claim(&mut self) {
        let claims = match self.queue.claim(&self.id).await {
            Ok(claims) => claims,
            Err(error) => {
                // Running tasks continue: if another worker has taken over, the store rejects their
                // commits.
                tracing::warn!(worker = %self.id, error = %in_one_line(&error), "cannot renew the claims");
                return;
            }
        };
        for (partition, until) in &self.working {
            if !claims.iter().any(|claim| claim.partition == *partition)
                && until.send_replace(Until::Now) != Until::Now
            {
                tracing::info!(worker = %self.id, %partition, "lost the claim");
            }
        }
        for claim in claims {
            // A task that is still stopping keeps its entry: the next renewal starts the partition
            // again.
            if self.working.contains_key(&claim.partition) {
                continue;
            }
            tracing::info!(worker = %self.id, partition = %claim.partition, "claimed");
            let (tell, until) = watch::channel(Until::Running);
            self.working.insert(claim.partition, tell);
            let task = PartitionTask::new(
                Arc::clone(&self.store),
                Arc::clone(&self.queue),
                Arc::clone(&self.options),
                claim.clone(),
                until,
            );
            self.tasks.spawn(async move { (claim, task.run().await) });
        }
    }

    /// Releases the claim of a task that has ended. A claim that was lost already is no error.
    async fn clear_away(&mut self, ended: Result<(Claim, Result<()>), JoinError>) -> Result<()> {
        let (claim, result) = match ended {
            Ok(ended) => ended,
            // Panics of a try are caught within the task, so this is a bug in the worker itself.
            // Failing loudly beats a stalled partition.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.working.remove(&claim.partition);
        let partition = claim.partition;
        if let Err(error) = self.queue.release(claim).await {
            tracing::warn!(worker = %self.id, %partition, error = %in_one_line(&error), "cannot release the claim; it will expire");
        }
        result
    }

    /// Tells all tasks to stop, waits for them, and returns the first failure.
    async fn finish(mut self) -> Result<()> {
        let end = if self.queue.is_shared() {
            Until::Now
        } else {
            Until::Idle(Instant::now() + IDLE_WITHIN)
        };
        for until in self.working.values() {
            // A task that has lost its claim has nothing left to do.
            if *until.borrow() == Until::Running {
                until.send_replace(end);
            }
        }
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            result = result.and(self.clear_away(ended).await);
        }
        tracing::info!(worker = %self.id, "stopped");
        result
    }
}
