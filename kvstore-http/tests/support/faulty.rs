//! A store and a queue that break when they are told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kvstore_core::model::commit::{Commit, Committed};
use kvstore_core::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use kvstore_core::model::job::{Job, JobState, NewJob};
use kvstore_core::queue::{Accepted, Claim, Depth, Found, WorkerId};
use kvstore_core::store::{DeadPage, DeadRequest, ListRequest, Page, Watch, WatchFrom};
use kvstore_core::{Entry, Error, JobQueue, Key, Result, Store};

/// What happens to reads of the store, to writes into the queue, and to pings of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fault {
    /// All is well.
    None,
    /// It is known that nothing happened.
    Unavailable,
    /// It is not known.
    Unknown,
    /// The disk is full.
    StorageFull,
    /// An earlier write failed.
    Poisoned,
    /// No answer comes.
    Hang,
    /// A bug.
    Panic,
}

const ALL: [Fault; 7] = [
    Fault::None,
    Fault::Unavailable,
    Fault::Unknown,
    Fault::StorageFull,
    Fault::Poisoned,
    Fault::Hang,
    Fault::Panic,
];

/// Where the fault is set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Switch(Arc<AtomicU8>);

impl Switch {
    /// From now on this happens.
    pub(crate) fn set(&self, fault: Fault) {
        self.0.store(fault as u8, Ordering::SeqCst);
    }

    async fn pass(&self) -> Result<()> {
        let secret = || "/secret/path".to_owned();
        match ALL[usize::from(self.0.load(Ordering::SeqCst))] {
            Fault::None => Ok(()),
            Fault::Unavailable => Err(Error::Unavailable {
                what: secret(),
                source: None,
            }),
            Fault::Unknown => Err(Error::Unknown {
                what: secret(),
                source: None,
            }),
            Fault::StorageFull => Err(Error::StorageFull { detail: secret() }),
            Fault::Poisoned => Err(Error::Poisoned { reason: secret() }),
            Fault::Hang => std::future::pending().await,
            Fault::Panic => panic!("a bug that the test asked for"),
        }
    }
}

/// What breaks.
#[derive(Debug)]
pub(crate) struct Faulty<T> {
    /// What works.
    pub(crate) inner: T,
    /// Whether it does.
    pub(crate) switch: Switch,
}

#[async_trait]
impl<S: Store> Store for Faulty<S> {
    fn partitions(&self) -> Option<PartitionCount> {
        self.inner.partitions()
    }
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.switch.pass().await?;
        self.inner.get(key).await
    }
    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        self.inner.get_many(keys).await
    }
    async fn list(&self, request: &ListRequest) -> Result<Page> {
        self.inner.list(request).await
    }
    async fn commit(&self, commit: Commit) -> Result<Committed> {
        self.inner.commit(commit).await
    }
    async fn applied(&self, queue: QueueId, partition: Partition) -> Result<Position> {
        self.inner.applied(queue, partition).await
    }
    async fn active_queue(&self) -> Result<Option<QueueId>> {
        self.inner.active_queue().await
    }
    async fn adopt_queue(&self, queue: QueueId) -> Result<()> {
        self.inner.adopt_queue(queue).await
    }
    async fn outcome(&self, job: &JobId, wait: Duration) -> Result<JobState> {
        self.inner.outcome(job, wait).await
    }
    async fn expire(&self, partition: Partition) -> Result<usize> {
        self.inner.expire(partition).await
    }
    async fn dead(&self, request: &DeadRequest) -> Result<DeadPage> {
        self.inner.dead(request).await
    }
    async fn forget(&self, job: &JobId) -> Result<bool> {
        self.inner.forget(job).await
    }
    async fn watch(&self, from: WatchFrom) -> Result<Watch> {
        self.inner.watch(from).await
    }
    async fn ping(&self) -> Result<()> {
        self.switch.pass().await?;
        self.inner.ping().await
    }
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[async_trait]
impl<Q: JobQueue> JobQueue for Faulty<Q> {
    fn id(&self) -> QueueId {
        self.inner.id()
    }
    fn partitions(&self) -> PartitionCount {
        self.inner.partitions()
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }
    async fn start_after(&self, partition: Partition, position: Position) -> Result<()> {
        self.inner.start_after(partition, position).await
    }
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>> {
        match self.switch.pass().await {
            Ok(()) => self.inner.enqueue(jobs).await,
            Err(error) => vec![Err(error)],
        }
    }
    async fn claim(&self, worker: &WorkerId) -> Result<Vec<Claim>> {
        self.inner.claim(worker).await
    }
    async fn claims_changed(&self) {
        self.inner.claims_changed().await;
    }
    async fn release(&self, claim: Claim) -> Result<()> {
        self.inner.release(claim).await
    }
    async fn read(
        &self,
        claim: &Claim,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Job>> {
        self.inner.read(claim, after, max, wait).await
    }
    async fn begin_attempt(&self, claim: &Claim, head: Position) -> Result<u32> {
        self.inner.begin_attempt(claim, head).await
    }
    async fn withdraw_attempt(&self, claim: &Claim, head: Position) -> Result<()> {
        self.inner.withdraw_attempt(claim, head).await
    }
    async fn complete(&self, claim: &Claim, up_to: Position) -> Result<()> {
        self.inner.complete(claim, up_to).await
    }
    async fn find(&self, job: &JobId) -> Result<Found> {
        self.inner.find(job).await
    }
    async fn depth(&self) -> Result<Depth> {
        self.inner.depth().await
    }
    async fn ping(&self) -> Result<()> {
        self.switch.pass().await?;
        self.inner.ping().await
    }
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
