//! The seam between the format and the machine: one folder, a handful of operations. Tests put a disk in its place that forgets
//! what was not synced.

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

/// What is read of a file at a time behind the length that it had.
const READ_BYTES: usize = 16 << 10;

/// One folder. All names are relative to it, and nothing is durable until it is said so here.
pub(crate) trait Disk: fmt::Debug + Send + Sync {
    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// Fails if the path leads to another folder by now, or the lock on this one is gone: another process may write there then.
    fn check(&self) -> io::Result<()>;

    /// The names of its files.
    fn names(&self) -> io::Result<Vec<String>>;

    /// A whole file; `None` if there is none of that name.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = self.open(name)?;
        file.map(|file| read_all(&*file)).transpose()
    }

    /// A file, opened for reading; `None` if there is none of that name.
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskReader>>>;

    /// Which file has this name by now, where the folder's path leads; `None` if none has.
    fn identity(&self, name: &str) -> io::Result<Option<Identity>>;

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

/// What a file is recognised by, whatever names it has.
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

/// A file that is open for reading, and may grow meanwhile.
pub(crate) trait DiskReader: fmt::Debug + Send + Sync {
    fn identity(&self) -> io::Result<Identity>;

    fn length(&self) -> io::Result<u64>;

    /// Up to `length` bytes from `offset` on; fewer only at the end of the file.
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;
}

/// Reads a file from its start to its end, which may move meanwhile.
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

/// A name of ours that is no file which a snapshot could replace.
#[derive(Debug, thiserror::Error)]
enum Irregular {
    /// Writing would replace the link and leave the file that it leads to as it was.
    #[error(
        "it is a symbolic link; put the file itself there, or give the folder that it leads to (which may be a link)"
    )]
    Link,
    /// A folder, or something that would block or never end.
    #[error("it is not a regular file; move it away, or use another folder")]
    Other,
}

/// Returns true if an error is about a name that is not that of a regular file.
pub(crate) fn is_irregular(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<Irregular>())
}

/// What it means that a file cannot be opened without following a link.
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
