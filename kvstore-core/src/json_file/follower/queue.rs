//! The queue of a folder, for a process that only reads: it shows the waiting jobs, and accepts
//! none.

use async_trait::async_trait;

use crate::error::{Error, Result};
use crate::in_memory::log::{found_out, jobs_out};
use crate::json_file::PARTITION;
use crate::json_file::follower::store::JsonReader;
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{Job, NewJob};
use crate::queue::{Accepted, Depth, Found, JobQueue};

/// The queue of a folder that another process writes. Made by [`JsonReader::queue`].
///
/// An answer includes everything that the writer acknowledged before the call.
#[derive(Debug)]
pub struct JsonReaderQueue {
    reader: JsonReader,
    /// A unique id, used until the folder's own can be read.
    unknown: QueueId,
}

impl JsonReaderQueue {
    pub(crate) fn new(reader: JsonReader) -> Self {
        Self {
            reader,
            unknown: QueueId::random(),
        }
    }

    fn refuse<T>(&self) -> Result<T> {
        Err(self.reader.refusal())
    }
}

#[async_trait]
impl JobQueue for JsonReaderQueue {
    fn id(&self) -> QueueId {
        self.reader.queue_id().unwrap_or(self.unknown)
    }

    fn partitions(&self) -> PartitionCount {
        PartitionCount::ONE
    }

    async fn start_after(&self, _: Partition, _: Position) -> Result<()> {
        self.refuse()
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>> {
        jobs.iter().map(|_| self.refuse()).collect()
    }

    async fn find(&self, job: &JobId) -> Result<Found> {
        self.reader.catch_up().await?;
        if job.queue != self.id() || job.partition != PARTITION {
            return Ok(Found::Unknown);
        }
        let found = self.reader.log().find(job.position);
        Ok(found_out(found, &self.reader.time()))
    }

    async fn peek(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<Job>> {
        PartitionCount::ONE.check(partition)?;
        self.reader.catch_up().await?;
        let jobs = self.reader.log().peek(after, max);
        Ok(jobs_out(jobs, &self.reader.time()))
    }

    async fn depth(&self) -> Result<Depth> {
        self.reader.catch_up().await?;
        Ok(self.reader.log().depth(self.reader.time().now()))
    }

    /// Succeeds if the folder's queue is known.
    async fn ping(&self) -> Result<()> {
        self.reader.check_open()?;
        match self.reader.queue_id() {
            Some(_) => Ok(()),
            None => Err(Error::unavailable("the queue")),
        }
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
