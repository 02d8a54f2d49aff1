//! The queue of a folder, for a process that only reads: it knows whose jobs these are, so that their ids and sync tokens can be
//! asked for, and accepts none.

use async_trait::async_trait;

use crate::error::{Error, Result};
use crate::json_file::PARTITION;
use crate::json_file::follower::store::JsonReader;
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{Job, NewJob};
use crate::queue::{Accepted, Depth, Found, JobQueue};

/// The queue of a folder that another process writes. Made by [`JsonReader::queue`].
///
/// Only the writer knows which jobs wait: [`JobQueue::find`] answers [`Found::Unseen`] for every id of this queue, so a read
/// under the sync token of a job that was never accepted is "not yet visible" instead of refused.
#[derive(Debug)]
pub struct JsonReaderQueue {
    reader: JsonReader,
    /// The id as long as the folder's own can't be read: one that nothing else has.
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
        self.ping().await?;
        let is_ours = job.queue == self.id() && job.partition == PARTITION;
        Ok(if is_ours {
            Found::Unseen
        } else {
            Found::Unknown
        })
    }

    async fn peek(&self, _: Partition, _: Position, _: usize) -> Result<Vec<Job>> {
        self.refuse()
    }

    async fn depth(&self) -> Result<Depth> {
        self.refuse()
    }

    /// Whether the folder's queue is known.
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
