//! The seam between the format and the machine: one folder, a handful of operations. Tests put a disk in its place that forgets
//! what was not synced.

pub(crate) mod lock;
#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), expect(dead_code, reason = "a fuzzer needs no faults"))]
pub(crate) mod simulated;

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, linkat, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::json_file::disk::lock::Lock;

/// One folder. All names are relative to it, and nothing is durable until it is said so here.
pub(crate) trait Disk: fmt::Debug + Send + Sync {
    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// Fails if the path leads to another folder by now, or the lock on this one is gone: another process may write there then.
    fn check(&self) -> io::Result<()>;

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

/// A real folder: a handle, not a path. Wherever the path leads later, everything happens in the folder that was opened. It keeps
/// the lock for as long as any thread, also one in the background, can write to it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    handle: Handle,
}

#[derive(Debug)]
enum Handle {
    Locked(Arc<Lock>),
    /// For reading alone.
    Unlocked(File),
}

impl Folder {
    pub(crate) fn new(path: &Path, lock: Arc<Lock>) -> Self {
        Self {
            path: path.to_owned(),
            handle: Handle::Locked(lock),
        }
    }

    /// For reading alone, beside a process that writes.
    pub(crate) fn unlocked(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            handle: Handle::Unlocked(File::open(path)?),
        })
    }

    fn handle(&self) -> &File {
        match &self.handle {
            Handle::Locked(lock) => lock.folder(),
            Handle::Unlocked(folder) => folder,
        }
    }
}

impl Disk for Folder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn check(&self) -> io::Result<()> {
        match &self.handle {
            Handle::Locked(lock) => lock.check(&self.path),
            Handle::Unlocked(_) => Ok(()),
        }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.handle())? {
            let entry = entry?;
            let name = entry.file_name().to_str().unwrap_or(".");
            if !matches!(name, "." | "..") {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        // A FIFO or a device would block or never end.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mut file = match openat(self.handle(), name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        let mut text = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        file.read_to_end(&mut text)?;
        Ok(Some(text))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = openat(self.handle(), name, flags, Mode::from_raw_mode(0o666))?;
        Ok(Box::new(RealFile(file.into())))
    }

    fn link(&self, name: &str, second: &str) -> io::Result<()> {
        self.remove(second)?;
        let folder = self.handle();
        Ok(linkat(folder, name, folder, second, AtFlags::empty())?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(self.handle(), from, self.handle(), to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(self.handle(), name, AtFlags::empty()) {
            Err(error) if error != Errno::NOENT => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.handle().sync_all()
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
