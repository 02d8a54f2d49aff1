//! Converts the private errors of the backend into the errors of the crate.

use std::io;
use std::path::Path;

use super::disk::{Disk, is_irregular};
use crate::error::{Error, Result, source};

pub(super) fn corrupt(
    disk: &dyn Disk,
    name: &str,
    line: Option<u64>,
    detail: impl Into<String>,
) -> Error {
    Error::Corrupt {
        path: disk.path().join(name),
        line,
        detail: detail.into(),
    }
}

pub(super) fn unavailable(what: String) -> Error {
    Error::Unavailable { what, source: None }
}

/// Runs `work` on a thread that may block. `what` names it in error messages.
pub(super) async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| {
        Err(Error::Unavailable {
            what: format!("{what} failed"),
            source: source(panic),
        })
    })
}

/// Reads a whole file; `None` if it does not exist.
pub(super) fn read(disk: &dyn Disk, name: &str) -> Result<Option<Vec<u8>>> {
    let text = disk.read(name);
    text.map_err(|error| disk_error(disk, "cannot read", name, error))
}

pub(super) fn disk_error(disk: &dyn Disk, what: &str, name: &str, error: io::Error) -> Error {
    io_error(&disk.path().join(name), what, error)
}

/// Converts an I/O error about a file into a message for people.
pub(super) fn io_error(path: &Path, what: &str, error: io::Error) -> Error {
    if is_irregular(&error) {
        return Error::Corrupt {
            path: path.to_owned(),
            line: None,
            detail: error.to_string(),
        };
    }
    Error::Unavailable {
        what: format!("{what} {}", path.display()),
        source: source(error),
    }
}
