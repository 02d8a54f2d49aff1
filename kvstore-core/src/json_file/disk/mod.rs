//! The seam between the format and the machine: one folder, a handful of operations. Tests replace
//! it by a disk that forgets unsynced data.

pub(crate) mod lock;
#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), expect(dead_code, reason = "a fuzzer needs no faults"))]
pub(crate) mod simulated;

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, linkat, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::json_file::disk::lock::Lock;

/// The size of each read past the length that the file had at first.
const READ_BYTES: usize = 16 << 10;

/// One folder. All names are relative to it. Nothing is durable until the method that makes it so
/// has returned.
pub(crate) trait Disk: fmt::Debug + Send + Sync {
    /// Returns the folder's path, for messages.
    fn path(&self) -> &Path;

    /// Fails if the path leads to another folder by now, or the lock on this one is gone: another
    /// process may then write there.
    fn check(&self) -> io::Result<()>;

    /// Returns the names of the folder's files.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Reads a whole file; `None` if it does not exist.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = self.open(name)?;
        file.map(|file| read_all(&*file)).transpose()
    }

    /// Opens a file for reading; `None` if it does not exist.
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskReader>>>;

    /// Returns the identity of the file that has this name now, below the folder's path; `None` if
    /// there is none.
    fn identity(&self, name: &str) -> io::Result<Option<Identity>>;

    /// Creates an empty file, replacing any that exists. Its name is durable after
    /// [`Disk::sync_folder`].
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file a second name, replacing any file of that name.
    fn link(&self, name: &str, second: &str) -> io::Result<()>;

    /// Renames a file in one step, replacing any file of the new name. Durable after
    /// [`Disk::sync_folder`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Succeeds if it does not exist.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all changes of names durable.
    fn sync_folder(&self) -> io::Result<()>;
}

/// The identity of a file, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    number: u64,
}

impl Identity {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            number: metadata.ino(),
        }
    }
}

/// A file that is open for reading. It may grow meanwhile.
pub(crate) trait DiskReader: fmt::Debug + Send + Sync {
    fn identity(&self) -> io::Result<Identity>;

    fn length(&self) -> io::Result<u64>;

    /// Reads up to `length` bytes from `offset`; returns fewer only at the end of the file.
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;
}

/// Reads a whole file, including what is appended meanwhile.
pub(crate) fn read_all(file: &dyn DiskReader) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.length()?).unwrap_or(usize::MAX);
    let mut text = file.read_at(0, length)?;
    loop {
        let more = file.read_at(text.len() as u64, READ_BYTES)?;
        text.extend_from_slice(&more);
        if more.len() < READ_BYTES {
            return Ok(text);
        }
    }
}

/// A file that is open for writing.
pub(crate) trait DiskFile: fmt::Debug + Send {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Truncates the file, or extends it with zeros.
    fn set_len(&mut self, length: u64) -> io::Result<()>;

    /// Makes everything written so far durable. An error is final: the kernel may have dropped the
    /// pages that it could not write.
    ///
    /// Source: Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
    fn sync(&mut self) -> io::Result<()>;
}

/// Returns true for out-of-space errors, which are transient.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// A name of the backend that belongs to something other than a regular file, which a snapshot
/// could not replace.
#[derive(Debug, thiserror::Error)]
enum Irregular {
    /// Writing would replace the link, and leave its target as it was.
    #[error(
        "it is a symbolic link; put the file itself there, or name the folder that it leads to (which may be a link)"
    )]
    Link,
    /// A folder, or a file that would block or never end, such as a FIFO or a device.
    #[error("it is not a regular file; move it away, or use another folder")]
    Other,
}

/// Returns true if the error reports something other than a regular file.
pub(crate) fn is_irregular(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<Irregular>())
}

/// Converts the error of opening a file without following links.
pub(crate) fn irregular(error: Errno) -> io::Error {
    match error {
        Errno::LOOP => io::Error::other(Irregular::Link),
        Errno::ISDIR | Errno::NXIO => io::Error::other(Irregular::Other),
        error => error.into(),
    }
}

/// Opens a regular file without following a link. A FIFO or a device would block or never end.
fn open_regular(folder: &File, name: &str, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = openat(folder, name, flags, Mode::from_raw_mode(0o666)).map_err(irregular)?;
    let file = File::from(file);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other(Irregular::Other)),
    }
}

/// A real folder, held by a handle rather than a path: wherever the path leads later, every
/// operation happens in the folder that was opened. It keeps the lock for as long as any thread,
/// including one in the background, can write to it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    handle: Handle,
}

#[derive(Debug)]
enum Handle {
    Locked(Arc<Lock>),
    /// For reading only.
    Unlocked(File),
}

impl Folder {
    pub(crate) fn new(path: &Path, lock: Arc<Lock>) -> Self {
        Self {
            path: path.to_owned(),
            handle: Handle::Locked(lock),
        }
    }

    /// Opens a folder for reading only, beside a process that may be writing.
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

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskReader>>> {
        match open_regular(self.handle(), name, OFlags::RDONLY) {
            Ok(file) => Ok(Some(Box::new(RealFile(file)))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn identity(&self, name: &str) -> io::Result<Option<Identity>> {
        match std::fs::symlink_metadata(self.path.join(name)) {
            Ok(metadata) => Ok(Some(Identity::of(&metadata))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        Ok(Box::new(RealFile(open_regular(
            self.handle(),
            name,
            flags,
        )?)))
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

impl DiskReader for RealFile {
    fn identity(&self) -> io::Result<Identity> {
        Ok(Identity::of(&self.0.metadata()?))
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut text = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match FileExt::read_at(&self.0, &mut text[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        text.truncate(filled);
        Ok(text)
    }
}

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
