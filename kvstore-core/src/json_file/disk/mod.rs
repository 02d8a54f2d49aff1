//! The seam between the format and the machine: one folder, a handful of operations. Tests put a disk in its place that forgets
//! what was not synced.

pub(crate) mod lock;
#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), expect(dead_code, reason = "a fuzzer needs no faults"))]
pub(crate) mod simulated;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::json_file::disk::lock::Lock;

/// One folder. All names are relative to it, and nothing is durable until it is said so here.
pub(crate) trait Disk: fmt::Debug + Send + Sync {
    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// The names of its files.
    fn names(&self) -> io::Result<Vec<String>>;

    /// A whole file; `None` if there is none of that name.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// A new, empty file in place of any that was there. Its name is durable after [`Disk::sync_folder`].
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// A second name for a file, in place of any that was there.
    fn link(&self, name: &str, second: &str) -> io::Result<()>;

    /// Another name for a file, in place of any that was there, in one step. Durable after [`Disk::sync_folder`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. No error if there is none.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names durable.
    fn sync_folder(&self) -> io::Result<()>;
}

/// A file that is open for writing.
pub(crate) trait DiskFile: fmt::Debug + Send {
    /// Writes all of `bytes` there.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts it, or fills it up with zeros.
    fn set_len(&mut self, length: u64) -> io::Result<()>;

    /// Makes what was written durable. An error is final: the kernel may have dropped what it could not write.
    ///
    /// Source: Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
    fn sync(&mut self) -> io::Result<()>;
}

/// Whether an error says that there is no room, which can pass, rather than that the disk is broken.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// A real folder. It keeps the lock for as long as anybody, a thread in the background included, can write to it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// None for whoever only reads.
    _lock: Option<Arc<Lock>>,
}

impl Folder {
    pub(crate) fn new(path: &Path, lock: Arc<Lock>) -> Self {
        Self {
            path: path.to_owned(),
            _lock: Some(lock),
        }
    }

    /// For reading alone, beside whoever writes.
    pub(crate) fn unlocked(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            _lock: None,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Disk for Folder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let names =
            std::fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        // A FIFO or a device would block or never end.
        match std::fs::metadata(self.at(name)) {
            Ok(metadata) if metadata.is_file() => std::fs::read(self.at(name)).map(Some),
            Ok(_) => Err(io::Error::new(
                ErrorKind::InvalidInput,
                "not a regular file",
            )),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.at(name))?;
        Ok(Box::new(RealFile(file)))
    }

    fn link(&self, name: &str, second: &str) -> io::Result<()> {
        self.remove(second)?;
        std::fs::hard_link(self.at(name), self.at(second))
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that renames")]
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.at(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}
