//! The queue of a folder, for a process that only reads: it shows the jobs that wait, and accepts
//! none.

use std::path::Path;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::StoreTime;
use crate::error::{Error, Result, source};
use crate::in_memory::log::{PartitionLog, found_out, jobs_out};
use crate::json_file::PARTITION;
use crate::json_file::disk::Folder;
use crate::json_file::error::io_error;
use crate::json_file::follower::store::JsonReader;
use crate::json_file::journal::chain::{Files, Kind};
use crate::json_file::journal::jobs::restore;
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{Job, NewJob};
use crate::queue::{Accepted, Depth, Found, JobQueue, QueueOptions};
use crate::store::Store;

/// How often the files are read again when the writer exchanges them meanwhile, and how long it
/// gets in between.
const TRIES_MAX: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(2);

/// The queue of a folder that another process writes. Made by [`JsonReader::queue`].
///
/// What the writer has acknowledged before a call is in its answer. Each call reads the queue's
/// files, which are small as long as little waits.
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

    /// Returns what the writer has acknowledged. The store is read first: a job that is neither
    /// applied there nor in the files afterwards was never accepted.
    async fn log(&self) -> Result<PartitionLog> {
        self.ping().await?;
        let id = self.id();
        let applied = self.reader.applied(id, PARTITION).await?;
        let (folder, time) = (self.reader.folder().to_owned(), self.reader.time());
        let read = move || read(&folder, id, applied, &time);
        let log = tokio::task::spawn_blocking(read).await;
        log.unwrap_or_else(|panic| {
            Err(Error::Unavailable {
                what: "reading the queue failed".into(),
                source: source(panic),
            })
        })
    }
}

/// Reads the queue's files, as far as the writer says that they are on the disk, up to now.
fn read(folder: &Path, id: QueueId, applied: Position, time: &StoreTime) -> Result<PartitionLog> {
    let disk = Folder::unlocked(folder).map_err(|error| io_error(folder, "can't read", error))?;
    let options = QueueOptions {
        partitions: PartitionCount::ONE,
        ..QueueOptions::default()
    };
    let mut tries = 0;
    loop {
        tries += 1;
        let mut log = PartitionLog::new(id, PARTITION, &options);
        let restored = Files::read(&disk, Kind::Queue, None, false).and_then(|mut files| {
            files.leave_out_unmarked();
            restore(&disk, &files, id, &mut log, time)
        });
        match restored {
            // Files that are removed or written meanwhile look damaged.
            Err(Error::Corrupt { .. }) if tries < TRIES_MAX => thread::sleep(BETWEEN_TRIES),
            Err(error) => return Err(error),
            Ok(_) => {
                log.start_after(applied);
                log.complete(applied);
                log.pass(applied);
                return Ok(log);
            }
        }
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
        if job.queue != self.id() || job.partition != PARTITION {
            return Ok(Found::Unknown);
        }
        let found = self.log().await?.find(job.position);
        Ok(found_out(found, &self.reader.time()))
    }

    async fn peek(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<Job>> {
        PartitionCount::ONE.check(partition)?;
        let jobs = self.log().await?.peek(after, max);
        Ok(jobs_out(jobs, &self.reader.time()))
    }

    async fn depth(&self) -> Result<Depth> {
        let log = self.log().await?;
        Ok(log.depth(self.reader.time().now()))
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
