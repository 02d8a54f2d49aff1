//! A queue on Redis in front of a folder: servers enqueue jobs, and the one worker that holds the
//! folder applies them.
//!
//! Store and queue cannot change in one step here, and each may lose its tail on its own. So before
//! a job is accepted, this process has checked that the folder applies this queue and no other, and
//! that the queue's numbers continue after what is applied.
//!
//! What is not here: claims. Only the process that holds the folder's lock can apply anything, so
//! it works on all partitions at once, and a worker that takes over waits for no claim to expire.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use crate::error::{Error, Result, source};
use crate::json_file::JsonReader;
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{Job, NewJob};
use crate::queue::{Accepted, AppliedListener, Claim, Depth, Found, JobQueue, WorkQueue, WorkerId};
use crate::redis::Redis;
use crate::service::join;
use crate::store::Store;

/// How this process uses the folder: as its holder or as a follower.
#[async_trait]
pub(crate) trait FolderRole: fmt::Debug + Send + Sync + 'static {
    /// Returns the id of the folder.
    async fn folder_id(&self) -> Result<QueueId>;
}

/// Holds the folder with this id.
#[derive(Debug)]
pub(crate) struct Holder(pub(crate) QueueId);

#[async_trait]
impl FolderRole for Holder {
    async fn folder_id(&self) -> Result<QueueId> {
        Ok(self.0)
    }
}

/// Follows a folder that another process writes.
#[async_trait]
impl FolderRole for JsonReader {
    async fn folder_id(&self) -> Result<QueueId> {
        JsonReader::folder_id(self).await
    }
}

/// The Redis queue of a folder.
#[derive(Debug)]
pub(crate) struct FolderQueue<R> {
    redis: Redis,
    store: Arc<dyn Store>,
    role: R,
    bound: OnceCell<()>,
    joined: OnceCell<()>,
}

impl<R: FolderRole> FolderQueue<R> {
    pub(crate) fn new(redis: Redis, store: Arc<dyn Store>, role: R) -> Self {
        Self {
            redis,
            store,
            role,
            bound: OnceCell::new(),
            joined: OnceCell::new(),
        }
    }

    fn queue(&self) -> Arc<dyn WorkQueue> {
        self.redis.queue()
    }

    /// Binds the queue to this folder, unless it belongs to another one.
    async fn bind(&self) -> Result<()> {
        let bind = async || {
            let folder = self.role.folder_id().await?;
            self.redis.bind(Some(folder)).await
        };
        self.bound.get_or_try_init(bind).await.copied()
    }

    /// Checks that jobs can be accepted: the folder is readable and applies this queue.
    async fn check(&self) -> Result<()> {
        self.joined
            .get_or_try_init(|| join(&*self.store, self))
            .await?;
        // The folder may have switched to another queue since.
        match self.store.active_queue().await? {
            Some(active) if active != self.id() => Err(Error::WrongQueue {
                active,
                queue: self.id(),
            }),
            _ => Ok(()),
        }
    }

    /// Returns the applied position of the partition of each of `jobs`.
    async fn applied(&self, jobs: &[NewJob]) -> Result<Vec<Position>> {
        self.check().await?;
        let mut applied = Vec::with_capacity(jobs.len());
        for job in jobs {
            applied.push(match job.command.check(self.partitions()) {
                Ok(()) => {
                    let partition = self.partitions().partition_of(job.command.first_key());
                    self.store.applied(self.id(), partition).await?
                }
                // The enqueue rejects it, with the reason.
                Err(_) => Position::START,
            });
        }
        Ok(applied)
    }

    /// Moves the queue's numbering past `applied`, and returns the error for `job`.
    ///
    /// A new job whose position is already applied would never be read: the queue has lost its
    /// tail, as a server without persistence does. Such a job has had no effect, and the next one
    /// gets a higher number.
    async fn advance_numbering(&self, job: JobId, applied: Position) -> Error {
        tracing::error!(
            partition = %job.partition, position = %job.position, %applied,
            "the queue is older than its folder: the jobs that it accepted last are lost unless they were applied; numbering continues after the folder's position"
        );
        let moved = self.queue().start_after(job.partition, applied).await;
        Error::Unavailable {
            what: "the queue was older than its folder".to_owned(),
            source: moved.err().and_then(source),
        }
    }
}

#[async_trait]
impl<R: FolderRole> JobQueue for FolderQueue<R> {
    fn id(&self) -> QueueId {
        self.queue().id()
    }

    fn partitions(&self) -> PartitionCount {
        self.queue().partitions()
    }

    async fn start_after(&self, partition: Partition, position: Position) -> Result<()> {
        self.bind().await?;
        self.queue().start_after(partition, position).await
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>> {
        let applied = match self.applied(&jobs).await {
            Ok(applied) => applied,
            Err(error) => return vec![Err(error); jobs.len()],
        };
        let mut answers = self.queue().enqueue(jobs).await;
        for (answer, applied) in answers.iter_mut().zip(applied) {
            if let Ok(accepted) = answer
                && !accepted.replayed
                && accepted.id.position <= applied
            {
                *answer = Err(self.advance_numbering(accepted.id, applied).await);
            }
        }
        answers
    }

    async fn find(&self, job: &JobId) -> Result<Found> {
        self.queue().find(job).await
    }

    async fn peek(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<Job>> {
        self.queue().peek(partition, after, max).await
    }

    async fn depth(&self) -> Result<Depth> {
        self.queue().depth().await
    }

    async fn ping(&self) -> Result<()> {
        self.queue().ping().await?;
        self.check().await
    }

    async fn close(&self) -> Result<()> {
        self.queue().close().await?;
        // This ends the session, which both share.
        self.redis.store().close().await
    }
}

#[async_trait]
impl WorkQueue for FolderQueue<Holder> {
    fn is_shared(&self) -> bool {
        self.queue().is_shared()
    }

    async fn claim(&self, worker: &WorkerId) -> Result<Vec<Claim>> {
        let claim = |partition| Claim {
            worker: worker.clone(),
            partition,
        };
        Ok(self.partitions().iter().map(claim).collect())
    }

    async fn claims_changed(&self) {
        // The holder of the folder sees every write.
        std::future::pending().await
    }

    async fn release(&self, _: Claim) -> Result<()> {
        Ok(())
    }

    async fn read(
        &self,
        claim: &Claim,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Job>> {
        self.queue().read(claim, after, max, wait).await
    }

    async fn begin_attempt(&self, claim: &Claim, head: Position) -> Result<u32> {
        self.queue().begin_attempt(claim, head).await
    }

    async fn withdraw_attempt(&self, claim: &Claim, head: Position) -> Result<()> {
        self.queue().withdraw_attempt(claim, head).await
    }

    async fn complete(&self, claim: &Claim, up_to: Position) -> Result<()> {
        self.queue().complete(claim, up_to).await
    }

    fn apply_on_acceptance(&self, _: AppliedListener) {
        // This queue only stores jobs.
    }
}
