//! The file backend: one folder with a `data.json` that any program can read, and a journal in
//! front of it.
//!
//! ```text
//! database/
//!   data.json            a plain JSON object, one entry per line, keys in byte order; always whole
//!   data.meta.json       what the plain object cannot hold: versions, deadlines, positions,
//!                        outcomes, waiting jobs, and which data.json it belongs to
//!   journal-<n>.jsonl    everything since the last snapshot: accepted jobs and commits, one per
//!                        line
//!   files.json           the number of the latest journal, so that its loss is detected
//!   LOCK                 locked by the process that writes; holds its process id
//! ```
//!
//! A journal:
//!
//! ```text
//! {"journal":7,"format":2,"queue":"…","previous":{…},"version":40,"jobs":"…-3","c":"8d3f01aa"}
//! {"v":40,"t":1767225600000,"w":[["user:1",{"name":"Ada"}],["old"]],"c":"9f3a01bc"}
//! {"v":42,"t":1767225600001,"w":[["b",1]],"q":{…},"idem":{…},"c":"1f0a93de"}
//! {"n":"1767225600000000-5","t":1767225600002,"job":{"set":"b","value":2},"c":"5b1c7e02"}
//! {"durable":{"length":204,"crc":2671378876},"c":"77ab01cd"}
//! ```
//!
//! In order: the header, which states the end of the previous journal, and the last version and job
//! before this one; a commit with a set and a delete; a job that was applied on acceptance; a job
//! that waits for a worker; and a mark, which states that the bytes before it are on the disk.
//!
//! # How it keeps its promises
//! * One thread owns the folder. It takes all pending requests, judges them in order, writes once,
//!   syncs once, publishes the result, and answers all (`writer/`). So a durable write costs a line
//!   and a share of one `fdatasync`, whatever the size of the data.
//! * Every line carries a CRC chained to the previous line, and marks state how far the file had
//!   been synced. So recovery can tell a torn tail, which is cut off, from damage, which is refused
//!   with its place.
//! * A snapshot rotates to a new journal, writes the pair in the background as of that moment, and
//!   removes the old journals. `data.json` is replaced in one step and is never absent.
//! * After a failed write or sync nothing more is acknowledged until the folder is reopened. A full
//!   disk is not such a failure: the file is cut back, and writes work again once there is space.
//!   The journal reserves space for the effects of waiting jobs.
//!
//! All data is in memory. The folder must be on a local file system: network file systems may lose
//! locks and syncs.

mod disk;
mod error;
mod follower;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod inspect;
mod journal;
mod queue;
mod recovery;
mod repair;
mod sealed;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use self::disk::Disk;
use self::disk::lock::Lock;
use self::error::{blocking, disk_error, io_error};
pub use self::follower::JsonReader;
pub use self::follower::JsonReaderQueue;
pub use self::inspect::FolderProblem;
pub use self::queue::JsonQueue;
pub use self::repair::repair;
pub use self::store::JsonStore;
pub use self::verify::{FolderSummary, Inspection};
use self::writer::Writer;
use self::writer::jobs::Queue;
use self::writer::quota::{self, Room};
use crate::clock::{Clock, StoreTime, SystemClock};
use crate::error::{Error, Result};
use crate::in_memory::log::Claims;
use crate::in_memory::state::Shared;
use crate::model::id::{Partition, PartitionCount};
use crate::queue::JobQueue;
use crate::queue::QueueOptions;
use crate::store::{Retention, Store};

/// The only partition of the queue.
const PARTITION: Partition = Partition(0);

/// Options of the file backend.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bounds of the queue. The queue has one partition, whatever is set here.
    pub queue: QueueOptions,
    /// The maximum memory for entries in bytes, including those of waiting jobs: keys, values, and
    /// [`ENTRY_BYTES`](crate::limits::ENTRY_BYTES) each; unlimited by default.
    pub data_bytes_max: Option<u64>,
    /// How much is kept besides the entries.
    pub retention: Retention,
    /// A snapshot is taken once the journal is larger than this and than `data.json`.
    pub snapshot_bytes_min: u64,
    /// Accept a `data.json` that was edited although the journals hold later commits, and discard
    /// those.
    pub keep_edit: bool,
    /// Apply a job on acceptance, when no job waits and a worker of this process has claimed the
    /// queue: its position, its effect and the new applied position are then one line and one sync.
    /// This is the default. Otherwise the worker applies it.
    pub apply_on_acceptance: bool,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue: QueueOptions::default(),
            data_bytes_max: None,
            retention: Retention::default(),
            snapshot_bytes_min: SNAPSHOT_BYTES_MIN,
            keep_edit: false,
            apply_on_acceptance: true,
            clock: Arc::new(SystemClock),
        }
    }
}

/// Below this size of the journal, rewriting a small `data.json` again and again would cost more
/// than reading the journal at the next start.
const SNAPSHOT_BYTES_MIN: u64 = 4 << 20;

/// An open folder: its store, and the queue in front of it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use kvstore_core::json_file::{JsonFile, Options};
/// use kvstore_core::{Store, StoreExt};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// let file = JsonFile::open(folder, Options::default()).await?;
/// file.store().set("user:1", &"Ada").await?;
/// assert_eq!(file.store().get_as::<String>("user:1").await?.as_deref(), Some("Ada"));
/// file.close().await?;
/// # Ok::<(), kvstore_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct JsonFile {
    store: Arc<JsonStore>,
    queue: Arc<JsonQueue>,
}

impl JsonFile {
    /// Opens `folder`, which is created if it is missing, and keeps every other process from
    /// writing to it.
    ///
    /// # Errors
    /// [`Error::Locked`] with the process that has the folder open, [`Error::Corrupt`] with file
    /// and line, [`Error::Unavailable`] if the folder cannot be read or written. In each case
    /// nothing was changed.
    ///
    /// # Cost
    /// Reads all of `data.json` and the journals.
    pub async fn open(folder: impl AsRef<Path>, options: Options) -> Result<Self> {
        let folder = folder.as_ref().to_owned();
        blocking("opening", move || Self::open_now(&folder, &options)).await
    }

    fn open_now(folder: &Path, options: &Options) -> Result<Self> {
        make_folder(folder)?;
        let lock = Arc::new(Lock::take(folder)?);
        let disk = disk::Folder::new(folder, Arc::clone(&lock));
        Self::start(Arc::new(disk), options, Some(lock))
    }

    fn start(disk: Arc<dyn Disk>, options: &Options, lock: Option<Arc<Lock>>) -> Result<Self> {
        let recovered = recovery::recover(&*disk, options)?;
        let id = recovered.meta.queue;
        let time = StoreTime::new(Arc::clone(&options.clock), recovered.state.time);
        // Logs a warning if the clock is behind the store's time.
        time.now();
        let claims = Claims::new(PartitionCount::ONE, options.queue.claim_period);
        let room = Room {
            limit: options.data_bytes_max,
            data: recovered.state.table.memory_bytes(),
            queued: quota::memory_bytes(&recovered.log),
        };
        let queue = Queue::new(recovered.log, claims, options.apply_on_acceptance);
        let queue = Arc::new(queue);
        let shared = Arc::new(Shared::new(recovered.state, Arc::new(time)));
        let writer = Writer {
            disk: Arc::clone(&disk),
            shared: Arc::clone(&shared),
            queue: Arc::clone(&queue),
            room,
            meta: recovered.meta,
            written: recovered.written,
            latest: recovered.latest,
            snapshot_bytes_min: options.snapshot_bytes_min,
            status: writer::WriterStatus::default(),
        };
        let requests = writer::start(writer)
            .map_err(|error| disk_error(&*disk, "cannot start a thread for", "", error))?;
        let queue = JsonQueue {
            id,
            queue,
            shared: Arc::clone(&shared),
            requests: requests.clone(),
            is_closed: AtomicBool::new(false),
        };
        let store = JsonStore {
            shared,
            requests,
            lock,
        };
        Ok(Self {
            store: Arc::new(store),
            queue: Arc::new(queue),
        })
    }

    /// Returns the store.
    pub fn store(&self) -> Arc<JsonStore> {
        Arc::clone(&self.store)
    }

    /// Returns the queue.
    pub fn queue(&self) -> Arc<JsonQueue> {
        Arc::clone(&self.queue)
    }

    /// Closes both: brings `data.json` up to date, and frees the folder for other processes.
    ///
    /// # Errors
    /// Those of [`Store::close`].
    pub async fn close(&self) -> Result<()> {
        let queue = self.queue.close().await;
        self.store.close().await.and(queue)
    }
}

fn make_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    check_is_no_file(folder)?;
    let made = std::fs::create_dir_all(folder).and_then(|()| {
        // Without this sync, a loss of power could remove the folder with everything in it.
        folder
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
    });
    made.map_err(|error| io_error(folder, "cannot create the folder", error))
}

/// Refuses a path that leads to a file.
///
/// # Errors
/// [`Error::Config`] for a file, such as the `data.json` in the folder that was meant.
fn check_is_no_file(folder: &Path) -> Result<()> {
    match folder.is_file() {
        true => Err(Error::Config(format!(
            "{} is a file: name the folder that data.json is in",
            folder.display()
        ))),
        false => Ok(()),
    }
}
