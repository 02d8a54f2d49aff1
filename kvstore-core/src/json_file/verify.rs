//! Reads a folder without changing it: reports whether everything in it is as it was written, and
//! what it contains.

use std::ops::Bound;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::json_file::check_is_no_file;
use crate::json_file::disk::lock;
use crate::json_file::disk::{Disk, Folder};
use crate::json_file::error::{disk_error, io_error};
use crate::json_file::inspect::{Beside, FolderProblem, Salvage, has_anything};
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::key::Key;
use crate::queue::Depth;

/// How often a folder is reread because it changes meanwhile.
const TRIES_MAX: usize = 10;

/// The pause before a folder is reread: a snapshot may be about to end.
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// A folder as it was found, held in memory. The folder itself is not changed, no file is created
/// in it, and its lock is not taken.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use kvstore_core::StoreExt;
/// use kvstore_core::json_file::{Inspection, JsonFile, Options};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// let file = JsonFile::open(folder, Options::default()).await?;
/// file.store().set("user:1", &"Ada").await?;
/// let found = Inspection::of(folder)?; // beside a running store, too
/// assert!(found.problems().is_empty());
/// assert_eq!(found.entries().count(), 1);
/// # Ok::<(), kvstore_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Inspection {
    salvage: Salvage,
    writer: Option<Option<u32>>,
    now: Timestamp,
    /// How far the wall clock is behind `now`.
    behind: Duration,
    data_bytes: u64,
    snapshot_at: Option<SystemTime>,
}

/// Figures about the contents of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderSummary {
    /// Entries that have not expired.
    pub entries: u64,
    /// The size of their keys and values, in bytes.
    pub bytes: u64,
    /// The version of the latest write.
    pub version: Version,
    /// The number of writes, deletes and expiries so far.
    pub changes: u64,
    /// The size of `data.json`, in bytes.
    pub data_bytes: u64,
    /// The age of `data.json`.
    pub snapshot_age: Option<Duration>,
    /// The size of the journals that are not in `data.json` yet, in bytes.
    pub journal_bytes: u64,
    /// The waiting jobs.
    pub waiting: Depth,
    /// The number of dead letters.
    pub dead: u64,
}

impl Inspection {
    /// Reads `folder`. If a process is writing there, the result is a state that was durable at
    /// some moment after this call, so it includes everything that was acknowledged before.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such folder, or no store in it; [`Error::Unavailable`] if
    /// a file cannot be read; [`Error::Corrupt`] for a format of another version. Damage is not an
    /// error: [`Inspection::problems`] reports it.
    ///
    /// # Cost
    /// Reads all files, and holds the data in memory, as opening the folder would. Blocks the
    /// calling thread.
    pub fn of(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        check_is_no_file(folder)?;
        if !folder.is_dir() {
            return Err(Error::NotFound {
                what: format!("the folder {}", folder.display()),
            });
        }
        let disk =
            Folder::unlocked(folder).map_err(|error| io_error(folder, "cannot open", error))?;
        if !has_anything(&disk)? {
            return Err(Error::NotFound {
                what: format!(
                    "data.json, or any other file of a store, in {}",
                    folder.display()
                ),
            });
        }
        let mut tries = 1;
        loop {
            let before = look(folder);
            let writer = lock::holder(folder);
            let salvage = Salvage::read(&disk, writer.map_or(Beside::Nobody, |_| Beside::Writer));
            let is_sound = matches!(&salvage, Ok(salvage) if salvage.found.problems.is_empty());
            // Sound files may look damaged if they change while they are read.
            let is_still = writer.is_none() && before == look(folder);
            if is_sound || is_still || tries == TRIES_MAX {
                return Self::new(&disk, salvage?, writer);
            }
            tries += 1;
            std::thread::sleep(BETWEEN_TRIES);
        }
    }

    fn new(disk: &dyn Disk, salvage: Salvage, writer: Option<Option<u32>>) -> Result<Self> {
        let name = crate::json_file::snapshot::DATA;
        let metadata = match std::fs::symlink_metadata(disk.path().join(name)) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(disk_error(disk, "cannot read", name, error)),
        };
        let clock = SystemClock.now();
        // The store's time never goes back.
        let now = clock.max(salvage.pair.state.time);
        Ok(Self {
            now,
            behind: now.since(clock),
            salvage,
            writer,
            data_bytes: metadata.as_ref().map_or(0, std::fs::Metadata::len),
            snapshot_at: metadata.and_then(|metadata| metadata.modified().ok()),
        })
    }

    /// Returns everything that is wrong; empty if opening the folder loses nothing.
    pub fn problems(&self) -> &[FolderProblem] {
        &self.salvage.found.problems
    }

    /// Returns remarks that do not report damage, such as the torn end of a write that was never
    /// acknowledged.
    pub fn notes(&self) -> &[String] {
        &self.salvage.found.notes
    }

    /// Returns the process that had the folder open, with its id if that can be read; `None` if
    /// there was none.
    pub fn writer(&self) -> Option<Option<u32>> {
        self.writer
    }

    /// Returns the entries that have not expired, in byte order of their keys. If there are
    /// problems, these are the entries that could be read.
    pub fn entries(&self) -> impl Iterator<Item = (Key, Entry)> {
        let table = &self.salvage.pair.state.table;
        let live = table
            .range_from(Bound::Unbounded)
            .filter(|row| row.is_live(self.now));
        live.map(|row| {
            let mut entry = row.entry();
            let deadline = entry.expires_at;
            entry.expires_at = deadline.map(|deadline| deadline.before(self.behind));
            (row.key(), entry)
        })
    }

    /// Returns figures about the contents.
    pub fn summary(&self) -> FolderSummary {
        let (mut entries, mut bytes) = (0, 0);
        for (key, entry) in self.entries() {
            entries += 1;
            bytes += (key.as_str().len() + entry.value.len()) as u64;
        }
        let progress = &self.salvage.pair.state.progress;
        let dead = progress
            .queues
            .values()
            .map(|queue| queue.dead.len() as u64);
        FolderSummary {
            entries,
            bytes,
            version: self.salvage.pair.state.version,
            changes: (self.salvage.pair.state.version.0).saturating_sub(progress.skipped),
            data_bytes: self.data_bytes,
            snapshot_age: self.snapshot_at.map(|at| at.elapsed().unwrap_or_default()),
            journal_bytes: self.salvage.journal_bytes,
            waiting: self.salvage.log.depth(self.now),
            dead: dead.sum(),
        }
    }
}

/// Returns names, sizes and times of the files, which differ after any change.
fn look(folder: &Path) -> Option<Vec<(std::ffi::OsString, u64, Option<SystemTime>)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).ok()? {
        let entry = entry.ok()?;
        let metadata = entry.metadata().ok()?;
        files.push((entry.file_name(), metadata.len(), metadata.modified().ok()));
    }
    files.sort();
    Some(files)
}
