//! The queue of a folder: one partition, held in memory, in the same journal as the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::clock::StoreTime;
use crate::error::{Error, Result};
use crate::in_memory::log::{found_out, jobs_out};
use crate::in_memory::state::Shared;
use crate::json_file::PARTITION;
use crate::json_file::writer::jobs::Queue;
use crate::json_file::writer::{Answer, Requests, WriterRequest};
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{Job, NewJob};
use crate::queue::{Accepted, AppliedListener, Claim, Depth, Found, JobQueue, WorkQueue, WorkerId};

/// The queue of a folder. Made by [`JsonFile::open`](crate::json_file::JsonFile::open).
///
/// It ends with the store of the folder, which is closed last.
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
        if self.is_closed.load(Ordering::SeqCst) || self.requests.is_closed() {
            Err(closed())
        } else {
            Ok(())
        }
    }

    fn time(&self) -> Arc<StoreTime> {
        self.shared.time()
    }

    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> WriterRequest) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.send(request(sender), receiver).await?
    }

    async fn send<T>(&self, request: WriterRequest, answer: oneshot::Receiver<T>) -> Result<T> {
        self.check_open()?;
        self.requests.send(request).await.map_err(|_| closed())?;
        // The thread answers everything that it takes, unless it panics.
        answer.await.map_err(|_| Error::Unknown {
            what: "the job is in the queue".into(),
            source: None,
        })
    }

    /// Waits for as long as there is no job after `after`.
    async fn next(&self, after: Position, max: usize) -> Result<Vec<Job>> {
        loop {
            // Listen first and look then: what comes in between is heard.
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

fn closed() -> Error {
    Error::unavailable("the queue")
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
        // The usual case, which workers ask for often.
        self.check_open()?;
        if position <= self.queue.log().last() {
            return Ok(());
        }
        self.ask(|answer| WriterRequest::StartAfter(position, answer))
            .await
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>> {
        let count = jobs.len();
        let (sender, receiver) = oneshot::channel();
        self.send(WriterRequest::Enqueue(jobs, sender), receiver)
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
        // Its workers are in one process, and learn of each other with each renewal.
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
        let jobs = self.queue.log().read(after, max)?;
        if !jobs.is_empty() || max == 0 || wait.is_zero() {
            return Ok(jobs_out(jobs, &self.time()));
        }
        tokio::time::timeout(wait, self.next(after, max))
            .await
            .unwrap_or_else(|_| Ok(Vec::new()))
    }

    async fn begin_attempt(&self, _: &Claim, head: Position) -> Result<u32> {
        self.ask(|answer| WriterRequest::BeginAttempt(head, answer))
            .await
    }

    async fn withdraw_attempt(&self, _: &Claim, head: Position) -> Result<()> {
        self.ask(|answer| WriterRequest::WithdrawAttempt(head, answer))
            .await
    }

    async fn complete(&self, _: &Claim, up_to: Position) -> Result<()> {
        self.check_open()?;
        // Those that the store of the folder has applied are gone already.
        self.queue.log().complete(up_to);
        Ok(())
    }

    fn apply_on_acceptance(&self, listener: AppliedListener) {
        *self.queue.listener() = Some(listener);
    }
}
