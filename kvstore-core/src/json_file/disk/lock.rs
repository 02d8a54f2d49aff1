//! One writer per folder, enforced by locks that the kernel holds and drops with the process,
//! however the process ends.
//!
//! A writer takes two locks. `LOCK` holds the owner's process id. The folder itself is locked as
//! well: `LOCK` can be removed, and a process that then created a new one would be a second writer.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, openat};

use crate::error::{Error, Result};
use crate::json_file::disk::{Identity, irregular};
use crate::json_file::error::io_error;

/// The name of the file that holds the owner's process id.
pub(crate) const LOCK: &str = "LOCK";

/// [`holder`] locks the folder for a moment, so a writer tries this often before it reports the
/// folder as locked.
const TRIES_MAX: u32 = 100;
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// The locks on a folder.
#[derive(Debug)]
pub(crate) struct Lock {
    folder: File,
    file: File,
}

impl Lock {
    /// Takes both locks, or fails if another process holds one of them.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let failed = |error| io_error(&path.join(LOCK), "cannot write", error);
        let folder = File::open(path).map_err(failed)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(&folder, LOCK, flags, Mode::from_raw_mode(0o666))
            .map_err(|error| failed(irregular(error)))?;
        let mut file = File::from(file);
        let locked = |file: &mut File| Error::Locked {
            path: path.to_owned(),
            pid: read_pid(file),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked(&mut file)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let mut tries = 1;
        loop {
            match folder.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if tries < TRIES_MAX => thread::sleep(BETWEEN_TRIES),
                Err(TryLockError::WouldBlock) => return Err(locked(&mut file)),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            tries += 1;
        }
        let write_pid = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write_pid(&mut file).map_err(failed)?;
        Ok(Self { folder, file })
    }

    /// Returns the open folder.
    pub(crate) fn folder(&self) -> &File {
        &self.folder
    }

    /// Fails if `path` leads to another folder by now, or `LOCK` is not the locked file: another
    /// process may then write there.
    pub(crate) fn check(&self, path: &Path) -> io::Result<()> {
        let check = |path: &Path, file: &File, otherwise: &str| match std::fs::metadata(path) {
            Ok(there) if Identity::of(&there) == Identity::of(&file.metadata()?) => Ok(()),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Err(io::Error::other(otherwise)),
        };
        let moved = "the folder was moved or removed while it was open";
        check(path, &self.folder, moved)?;
        let removed = "the file LOCK was removed while the folder was open";
        check(&path.join(LOCK), &self.file, removed)
    }

    /// Releases both locks before this value is dropped.
    pub(crate) fn release(&self) {
        for file in [&self.file, &self.folder] {
            if let Err(error) = file.unlock() {
                tracing::warn!(%error, "cannot release a lock before the process ends");
            }
        }
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Returns the holder of the lock on the folder `path`, with its process id if that can be read;
/// `None` if no process holds it. Tries a shared lock on the folder, so processes of other pid
/// namespaces are seen as well; a writer that starts at this moment tries again.
pub(crate) fn holder(path: &Path) -> Option<Option<u32>> {
    let folder = File::open(path).ok()?;
    match folder.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            let file = File::open(path.join(LOCK)).ok();
            Some(file.and_then(|mut file| read_pid(&mut file)))
        }
        // Dropping the file releases the lock.
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}
