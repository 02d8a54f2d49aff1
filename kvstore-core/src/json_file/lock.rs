//! One writer a folder: a lock that the kernel holds, and drops with the process, however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::io_error;
use crate::error::{Error, Result};

/// The folder's `LOCK` file, which holds the owner's process id for whoever is refused.
#[derive(Debug)]
pub(super) struct Lock(Mutex<Option<File>>);

impl Lock {
    /// Takes the lock, at once or not at all.
    pub(super) fn take(folder: &Path) -> Result<Self> {
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
    pub(super) fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
