//! wip

mod disk;
mod journal;
mod line;
mod lock;
#[cfg(test)]
mod simulated;

use std::io;
use std::path::Path;

use crate::error::Error;

/// What the machine says about a file, for people.
fn io_error(path: &Path, what: &str, error: io::Error) -> Error {
    Error::Unavailable { what: format!("{what} {}", path.display()), source: Some(error.into()) }
}
