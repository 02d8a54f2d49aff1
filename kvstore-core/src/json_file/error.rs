//! The private errors of the backend as the errors of the crate.

use std::io;
use std::path::Path;

use super::disk::{Disk, is_irregular};
use super::journal;
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

pub(super) fn check_format(disk: &dyn Disk, name: &str, format: u32) -> Result<()> {
    if format == journal::FORMAT {
        return Ok(());
    }
    Err(corrupt(
        disk,
        name,
        Some(1),
        format!(
            "it has format {format}, and this version knows format {}",
            journal::FORMAT
        ),
    ))
}

pub(super) fn disk_error(disk: &dyn Disk, what: &str, name: &str, error: io::Error) -> Error {
    io_error(&disk.path().join(name), what, error)
}

/// What the machine says about a file, for people.
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
