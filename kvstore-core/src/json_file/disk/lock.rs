//! One writer a folder: a lock that the kernel holds, and drops with the process, however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::json_file::error::io_error;

/// The folder's `LOCK` file, which holds the owner's process id for whoever is refused.
#[derive(Debug)]
pub(crate) struct Lock(Mutex<Option<File>>);

impl Lock {
    /// Takes the lock, at once or not at all.
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join("LOCK");
        let failed = |error| io_error(&path, "can't write", error);
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = file
                    .read_to_string(&mut text)
                    .ok()
                    .and_then(|_| text.trim().parse().ok());
                return Err(Error::Locked {
                    path: folder.to_owned(),
                    pid,
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let write_pid = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write_pid(&mut file).map_err(failed)?;
        Ok(Self(Mutex::new(Some(file))))
    }

    /// Gives it back before this is dropped.
    pub(crate) fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Whether a process holds the lock on `folder`, and its id if that can be read. It asks the kernel's list instead of trying the
/// lock, so that nobody who wants it just then is refused.
///
/// Source: proc_locks(5): each line ends with the id, the device and the inode, and the range that is locked.
pub(crate) fn holder(folder: &Path) -> Option<Option<u32>> {
    let path = folder.join("LOCK");
    let inode = std::fs::metadata(&path).ok()?.ino().to_string();
    let text = std::fs::read_to_string(&path).ok();
    let pid = text.and_then(|text| text.trim().parse().ok());
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let is_held = locks.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&"FLOCK")
            && words
                .get(5)
                .is_some_and(|file| file.rsplit(':').next() == Some(&inode))
    });
    is_held.then_some(pid)
}
