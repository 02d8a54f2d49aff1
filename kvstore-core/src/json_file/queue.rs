//! The queue of a folder: one partition, held in memory, in the same journal as the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::StoreTime;
use crate::error::{Error, Result};
use crate::in_memory::log::{PartitionLog, found_out, jobs_out};
use crate::in_memory::state::{Shared, Staging};
use crate::json_file::PARTITION;
use crate::json_file::journal::record;
use crate::json_file::writer::jobs::Queue;
use crate::json_file::writer::requests::{Requests, WriterRequest};
use crate::json_file::writer::{Group, Writer};
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{Job, NewJob};
use crate::queue::{Accepted, AppliedListener, Claim, Depth, Found, JobQueue, WorkQueue, WorkerId};

/// The queue of a folder. Made by [`JsonFile::open`](crate::json_file::JsonFile::open).
///
/// It stops working when the store of the folder is closed, which should come last.
#[derive(Debug)]
pub struct JsonQueue {
    pub(super) id: QueueId,
    pub(super) queue: Arc<Queue>,
    pub(super) shared: Arc<Shared>,
    pub(super) requests: Requests,
    pub(super) is_closed: AtomicBool,
}

impl JsonQueue {
    fn check_open(&self) -> Result<()> {
        match self.is_closed.load(Ordering::SeqCst) {
            true => Err(Error::unavailable("the queue")),
            false => self.requests.check_open(),
        }
    }

    fn time(&self) -> Arc<StoreTime> {
        self.shared.time()
    }

    /// Records the number of attempts of the job at `head`, which `count` determines.
    async fn count_attempt(
        &self,
        head: Position,
        count: impl FnOnce(&mut PartitionLog) -> u32 + Send + 'static,
    ) -> Result<u32> {
        self.check_open()?;
        let judge = move |writer: &Writer, group: &mut Group, _: &mut Staging<'_>| {
            let count = count(&mut writer.queue.log());
            group.lines.push(record::encode_tried(head, count));
            Ok((None, count))
        };
        self.requests.change(true, judge).await
    }

    /// Waits until there are jobs after `after`, and returns up to `max` of them.
    async fn next(&self, after: Position, max: usize) -> Result<Vec<Job>> {
        loop {
            // Listen first, then look: a job that arrives in between is not missed.
            let changed = self.queue.changed.notified();
            self.check_open()?;
            let jobs = self.queue.log().read(after, max)?;
            if !jobs.is_empty() {
                return Ok(jobs_out(jobs, &self.time()));
            }
            changed.await;
        }
    }
}

#[async_trait]
impl JobQueue for JsonQueue {
    fn id(&self) -> QueueId {
        self.id
    }

    fn partitions(&self) -> PartitionCount {
        PartitionCount::ONE
    }

    async fn start_after(&self, _: Partition, position: Position) -> Result<()> {
        // The usual case, on a call that workers make often.
        self.check_open()?;
        if position <= self.queue.log().last() {
            return Ok(());
        }
        let request = |answer| WriterRequest::StartAfter(position, answer);
        self.requests.ask(request).await?
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>> {
        if let Err(error) = self.check_open() {
            return vec![Err(error); jobs.len()];
        }
        let count = jobs.len();
        let request = |answer| WriterRequest::Change {
            has_room: false,
            judge: Box::new(move |writer, group, staging| {
                group.enqueue(writer, staging, jobs, answer)
            }),
        };
        self.requests
            .ask(request)
            .await
            .unwrap_or_else(|error| vec![Err(error); count])
    }

    async fn find(&self, job: &JobId) -> Result<Found> {
        self.check_open()?;
        if job.queue != self.id || job.partition != PARTITION {
            return Ok(Found::Unknown);
        }
        let found = self.queue.log().find(job.position);
        Ok(found_out(found, &self.time()))
    }

    async fn peek(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<Job>> {
        self.check_open()?;
        PartitionCount::ONE.check(partition)?;
        let jobs = self.queue.log().peek(after, max);
        Ok(jobs_out(jobs, &self.time()))
    }

    async fn depth(&self) -> Result<Depth> {
        self.check_open()?;
        Ok(self.queue.log().depth(self.shared.now()))
    }

    async fn ping(&self) -> Result<()> {
        self.check_open()?;
        let poisoned = self.shared.poisoned();
        poisoned.map_or(Ok(()), |reason| Err(Error::Poisoned { reason }))
    }

    async fn close(&self) -> Result<()> {
        self.is_closed.store(true, Ordering::SeqCst);
        self.queue.changed.notify_waiters();
        Ok(())
    }
}

#[async_trait]
impl WorkQueue for JsonQueue {
    fn is_shared(&self) -> bool {
        false
    }

    async fn claim(&self, worker: &WorkerId) -> Result<Vec<Claim>> {
        self.check_open()?;
        Ok(self.queue.claims().claim(worker, self.shared.now()))
    }

    async fn claims_changed(&self) {
        // All its workers are in one process, and learn of each other with each renewal.
        std::future::pending().await
    }

    async fn release(&self, claim: Claim) -> Result<()> {
        self.check_open()?;
        self.queue.claims().release(&claim);
        Ok(())
    }

    async fn read(
        &self,
        _: &Claim,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Job>> {
        self.check_open()?;
        let wait = if max == 0 { Duration::ZERO } else { wait };
        let next = tokio::time::timeout(wait, self.next(after, max));
        next.await.unwrap_or_else(|_| Ok(Vec::new()))
    }

    async fn begin_attempt(&self, _: &Claim, head: Position) -> Result<u32> {
        self.count_attempt(head, move |log| log.begin_attempt(head))
            .await
    }

    async fn withdraw_attempt(&self, _: &Claim, head: Position) -> Result<()> {
        let withdraw = move |log: &mut PartitionLog| {
            log.withdraw_attempt(head);
            log.attempts().map_or(0, |(_, count)| count)
        };
        self.count_attempt(head, withdraw).await.map(drop)
    }

    async fn complete(&self, _: &Claim, up_to: Position) -> Result<()> {
        self.check_open()?;
        // Jobs that the store of the folder applied are already gone.
        self.queue.log().complete(up_to);
        Ok(())
    }

    fn apply_on_acceptance(&self, listener: AppliedListener) {
        *self.queue.listener() = Some(listener);
    }
}
