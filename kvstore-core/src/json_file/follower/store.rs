//! The store of a folder that another process writes: every read first catches up with what that
//! process has acknowledged.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::clock::{Clock, StoreTime};
use crate::error::{Error, Result};
use crate::in_memory::log::PartitionLog;
use crate::in_memory::state::{Shared, State};
use crate::json_file::PARTITION;
use crate::json_file::disk::{Disk, Folder, lock};
use crate::json_file::error::{blocking, io_error, unavailable};
use crate::json_file::follower::queue::JsonReaderQueue;
use crate::json_file::follower::tail::{Follower, Step, nothing_there};
use crate::json_file::journal::record::Line;
use crate::model::commit::{Commit, Committed};
use crate::model::entry::{Entry, Timestamp, milliseconds};
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::JobState;
use crate::model::key::Key;
use crate::queue::QueueOptions;
use crate::store::{DeadPage, DeadRequest, ListRequest, Page, Store, Watch, WatchRequest};

/// How often the follower thread checks the folder, for callers that wait for a change.
const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// How often it checks while the folder cannot be followed.
const RETRY_PERIOD: Duration = Duration::from_millis(250);

/// How often loading is retried because the writer was faster.
const LOADS_MAX: u32 = 20;

/// A read-only view of a folder that another process writes. It takes no lock and changes nothing,
/// so a read-only mount will do.
///
/// Every read sees all writes that the writer acknowledged before the read began. [`Store::watch`]
/// and calls that wait for outcomes follow within milliseconds. Methods that would change something
/// fail with [`Error::ReadOnly`], which names the process to ask.
///
/// While the folder cannot be followed, because it does not exist yet, is damaged, or is older than
/// the state shown before, reads fail with the reason. They work again once the folder can be
/// followed. If the writer is restarted, or this process falls far behind, the data is reloaded,
/// and watches end with [`Error::Compacted`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::sync::Arc;
///
/// use kvstore_core::json_file::{JsonFile, JsonReader, Options};
/// use kvstore_core::StoreExt;
/// use kvstore_core::clock::SystemClock;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// let file = JsonFile::open(folder, Options::default()).await?; // in one process
/// let reader = JsonReader::open(folder, Arc::new(SystemClock)).await?; // in others
/// file.store().set("user:1", &"Ada").await?;
/// assert_eq!(reader.get_as::<String>("user:1").await?.as_deref(), Some("Ada"));
/// # Ok::<(), kvstore_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct JsonReader(Arc<ReaderInner>);

#[derive(Debug)]
struct ReaderInner {
    folder: PathBuf,
    shared: Arc<Shared>,
    /// The waiting jobs. The visible state changes only while this is locked, so a job that is
    /// neither waiting nor applied was never accepted.
    log: std::sync::Mutex<PartitionLog>,
    following: Arc<Mutex<Following>>,
    /// How many looks have begun, each with `following` locked.
    looks: AtomicU64,
    /// When the data was last known to be complete, in milliseconds after `opened`.
    current_at: AtomicU64,
    opened: Instant,
    reloads: AtomicU64,
    rotations: AtomicU64,
    queue: OnceLock<QueueId>,
    is_closed: AtomicBool,
}

/// The place in the files that was reached.
#[derive(Debug)]
struct Following {
    /// `None` until the folder could be loaded.
    follower: Option<Follower>,
    /// Why the folder cannot be followed at present, if so.
    trouble: Option<Error>,
}

impl JsonReader {
    /// Follows `folder`, starting now or as soon as there is a store in it. [`Store::ping`]
    /// succeeds once it can be read.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the follower thread cannot be started.
    ///
    /// # Cost
    /// Loads the data, as opening the folder would; a read costs three system calls more than the
    /// writer's.
    pub async fn open(folder: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self> {
        let inner = Arc::new(ReaderInner {
            folder: folder.as_ref().to_owned(),
            shared: Arc::new(Shared::new(
                State::default(),
                Arc::new(StoreTime::new(clock, Timestamp(0))),
            )),
            log: std::sync::Mutex::new(PartitionLog::new(
                QueueId::random(),
                PARTITION,
                &QueueOptions::default(),
            )),
            following: Arc::new(Mutex::new(Following {
                follower: None,
                trouble: None,
            })),
            looks: AtomicU64::new(0),
            current_at: AtomicU64::new(0),
            opened: Instant::now(),
            reloads: AtomicU64::new(0),
            rotations: AtomicU64::new(0),
            queue: OnceLock::new(),
            is_closed: AtomicBool::new(false),
        });
        let following = Arc::clone(&inner.following).lock_owned().await;
        // An error is kept, and returned to callers that read.
        let _ = look_aside(&inner, following).await;
        let weak = Arc::downgrade(&inner);
        thread::Builder::new()
            .name("kvstore-follower".into())
            .spawn(move || follow(&weak))
            .map_err(|error| io_error(&inner.folder, "cannot start a thread for", error))?;
        Ok(Self(inner))
    }

    /// Returns the queue of the folder for reading: it shows the waiting jobs and accepts none.
    pub fn queue(&self) -> Arc<JsonReaderQueue> {
        Arc::new(JsonReaderQueue::new(self.clone()))
    }

    /// Returns how often the data was loaded, including the first time.
    pub fn reloads(&self) -> u64 {
        self.0.reloads.load(Ordering::SeqCst)
    }

    /// Returns how many journals were followed to their end and into the next.
    pub fn rotations(&self) -> u64 {
        self.0.rotations.load(Ordering::SeqCst)
    }

    /// Returns the queue as of the last look.
    pub(crate) fn log(&self) -> MutexGuard<'_, PartitionLog> {
        self.0.log()
    }

    pub(crate) fn time(&self) -> Arc<StoreTime> {
        self.0.shared.time()
    }

    /// Returns the id of the folder's queue, once it has been read.
    pub(crate) fn queue_id(&self) -> Option<QueueId> {
        self.0.queue.get().copied()
    }

    /// Returns the lasting identity of the folder: the id of its own queue, which was created with
    /// it.
    pub(crate) async fn folder_id(&self) -> Result<QueueId> {
        self.catch_up().await?;
        self.queue_id()
            .ok_or_else(|| Error::unavailable("the store"))
    }

    /// Returns the error for callers that try to change something.
    pub(crate) fn refusal(&self) -> Error {
        let folder = &self.0.folder;
        let writer = match lock::holder(folder) {
            Some(Some(pid)) => format!(
                "process {pid}, which holds {}",
                folder.join("LOCK").display()
            ),
            Some(None) => format!("the process that holds {}", folder.join("LOCK").display()),
            None => format!(
                "a process that is started with a worker on {}: there is none now",
                folder.display()
            ),
        };
        Error::ReadOnly { writer }
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.0.is_closed.load(Ordering::SeqCst) {
            return Err(Error::unavailable("the store"));
        }
        Ok(())
    }

    /// Catches up with everything that was acknowledged before this call.
    pub(crate) async fn catch_up(&self) -> Result<()> {
        self.check_open()?;
        let before = self.0.looks.load(Ordering::SeqCst);
        let following = Arc::clone(&self.0.following).lock_owned().await;
        // A look that began after this call has already caught up.
        let is_done = self.0.looks.load(Ordering::SeqCst) > before;
        if let Some(trouble) = &following.trouble {
            return Err(trouble.clone());
        }
        let is_current = || {
            let follower = following.follower.as_ref();
            follower.is_some_and(|follower| follower.is_current().unwrap_or(false))
        };
        if is_done || is_current() {
            return Ok(());
        }
        look_aside(&self.0, following).await
    }
}

/// Runs a look on a thread that may block.
async fn look_aside(inner: &Arc<ReaderInner>, following: OwnedMutexGuard<Following>) -> Result<()> {
    let inner = Arc::clone(inner);
    let mut following = following;
    blocking("following the folder", move || inner.look(&mut following)).await
}

/// Runs the follower thread, which looks even when no caller reads. It ends when the store is
/// closed or dropped.
fn follow(inner: &Weak<ReaderInner>) {
    while let Some(inner) = inner.upgrade() {
        if inner.is_closed.load(Ordering::SeqCst) {
            return;
        }
        let mut following = inner.following.blocking_lock();
        let looked = inner.look(&mut following);
        drop(following);
        drop(inner);
        thread::sleep(if looked.is_ok() {
            LOOK_PERIOD
        } else {
            RETRY_PERIOD
        });
    }
}

impl ReaderInner {
    fn log(&self) -> MutexGuard<'_, PartitionLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> Result<Arc<dyn Disk>> {
        match Folder::unlocked(&self.folder) {
            Ok(disk) => Ok(Arc::new(disk)),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(nothing_there(&self.folder)),
            Err(error) => Err(io_error(&self.folder, "cannot open", error)),
        }
    }

    fn publish(&self, lines: Vec<Line>) -> Result<(), String> {
        let mut log = self.log();
        let mut records = Vec::new();
        for line in lines {
            if let Line::Job(job, _) = &line {
                self.shared.time().observe(job.accepted_at);
            }
            records.extend(line.apply_to_log(&mut log)?);
        }
        self.shared.publish(records);
        Ok(())
    }

    fn look(&self, following: &mut Following) -> Result<()> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        let began = self.opened.elapsed();
        match self.follow(following) {
            Ok(()) => {
                if following.trouble.take().is_some() {
                    tracing::info!(folder = %self.folder.display(), "the folder can be followed");
                }
                self.current_at.store(milliseconds(began), Ordering::SeqCst);
                Ok(())
            }
            Err(error) => {
                let told = following.trouble.as_ref().map(Error::to_string);
                let is_told = told.is_some_and(|told| told == error.to_string());
                const CANT: &str =
                    "the folder cannot be followed, and reads are refused until it can be";
                let folder = self.folder.display();
                match error {
                    _ if is_told => {}
                    // Damage is not transient.
                    Error::Corrupt { .. } => tracing::error!(%folder, %error, "{CANT}"),
                    _ => tracing::warn!(%folder, %error, "{CANT}"),
                }
                // The place in the files may no longer be valid.
                following.follower = None;
                following.trouble = Some(error.clone());
                Err(error)
            }
        }
    }

    fn follow(&self, following: &mut Following) -> Result<()> {
        let Some(follower) = &mut following.follower else {
            following.follower = Some(self.load()?);
            return Ok(());
        };
        loop {
            let before = follower.rotations;
            let step = follower.step()?;
            self.rotations
                .fetch_add(follower.rotations - before, Ordering::SeqCst);
            match step {
                Step::Lines(lines) if lines.is_empty() => {}
                Step::Lines(lines) => {
                    let published = self.publish(lines);
                    published.map_err(|detail| follower.nonsense(&detail))?;
                }
                Step::Current => return Ok(()),
                Step::Lost => {
                    *follower = self.load()?;
                    return Ok(());
                }
            }
        }
    }

    /// Loads the folder, and publishes the result unless it is older than what was shown.
    fn load(&self) -> Result<Follower> {
        for _ in 0..LOADS_MAX {
            let (mut follower, mut state, mut log) = Follower::load(self.disk()?)?;
            loop {
                match follower.step()? {
                    Step::Lines(lines) => {
                        let mut lines = lines.into_iter();
                        let applied = lines.try_for_each(|line| line.apply(&mut state, &mut log));
                        applied.map_err(|detail| follower.nonsense(&detail))?;
                    }
                    Step::Current => {
                        self.check_newer(&follower, &state)?;
                        let mut shown = self.log();
                        self.shared.replace(state);
                        *shown = log;
                        drop(shown);
                        self.reloads.fetch_add(1, Ordering::SeqCst);
                        return Ok(follower);
                    }
                    Step::Lost => break,
                }
            }
        }
        let folder = self.folder.display();
        Err(unavailable(format!(
            "{folder} changes faster than it can be loaded"
        )))
    }

    fn check_newer(&self, follower: &Follower, state: &State) -> Result<()> {
        let queue = self.queue.get_or_init(|| follower.meta.queue);
        let (shown, new) = (self.shared.read(), &state.progress);
        let mut queues = shown.progress.queues.iter();
        let is_behind = queues.any(|(&(queue, at), old)| new.applied(queue, at) < old.applied);
        if *queue == follower.meta.queue && state.version >= shown.version && !is_behind {
            return Ok(());
        }
        Err(unavailable(format!(
            "{} holds another store or an older copy: it is at version {}, and {} was shown already; start this process \
             again to show it all the same",
            self.folder.display(),
            state.version,
            shown.version
        )))
    }
}

#[async_trait]
impl Store for JsonReader {
    fn partitions(&self) -> Option<PartitionCount> {
        None
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.catch_up().await?;
        Ok(self.0.shared.get(key))
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        self.catch_up().await?;
        Ok(self.0.shared.get_many(keys))
    }

    async fn list(&self, request: &ListRequest) -> Result<Page> {
        self.catch_up().await?;
        self.0.shared.list(request)
    }

    async fn commit(&self, _: Commit) -> Result<Committed> {
        Err(self.refusal())
    }

    async fn applied(&self, queue: QueueId, partition: Partition) -> Result<Position> {
        self.catch_up().await?;
        Ok(self.0.shared.read().progress.applied(queue, partition))
    }

    async fn active_queue(&self) -> Result<Option<QueueId>> {
        self.catch_up().await?;
        Ok(self.0.shared.read().progress.active)
    }

    async fn adopt_queue(&self, _: QueueId) -> Result<()> {
        Err(self.refusal())
    }

    async fn outcome(&self, job: &JobId, wait: Duration) -> Result<JobState> {
        self.catch_up().await?;
        self.0.shared.outcome(job, wait).await
    }

    async fn expire(&self, _: Partition) -> Result<usize> {
        Err(self.refusal())
    }

    async fn dead(&self, request: &DeadRequest) -> Result<DeadPage> {
        self.catch_up().await?;
        Ok(self.0.shared.dead(request))
    }

    async fn forget(&self, _: &JobId) -> Result<bool> {
        Err(self.refusal())
    }

    async fn watch(&self, request: &WatchRequest) -> Result<Watch> {
        self.catch_up().await?;
        self.0.shared.watch(request)
    }

    /// Returns a few milliseconds, or the time since the folder was last followed.
    fn lag(&self) -> Option<Duration> {
        let current_at = Duration::from_millis(self.0.current_at.load(Ordering::SeqCst));
        Some(self.0.opened.elapsed().saturating_sub(current_at))
    }

    /// Succeeds if reads are possible.
    async fn ping(&self) -> Result<()> {
        self.catch_up().await
    }

    async fn close(&self) -> Result<()> {
        if !self.0.is_closed.swap(true, Ordering::SeqCst) {
            self.0.shared.close();
        }
        Ok(())
    }
}
