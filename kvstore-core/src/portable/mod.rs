//! Entries as text that any program reads and writes, to bring them in and out of a store, whatever its backend.
//!
//! There are two forms, and [`Form`] says what each keeps. Every problem of a text is told with line and column.
//!
//! ```
//! use kvstore_core::portable::{Form, Lines, Writer};
//!
//! let text = "{\"key\":\"user:1\",\"value\":{\"name\":\"Ada\"}}\n{\"key\":\"\",\"value\":1}\n";
//! let mut lines = Lines::new(text.as_bytes());
//! let entry = lines.next().unwrap()?.unwrap();
//! assert_eq!(entry.key.as_str(), "user:1");
//! let refused = lines.next().unwrap()?.unwrap_err();
//! assert_eq!((refused.line, refused.column), (2, 8));
//!
//! let mut writer = Writer::new(Form::Object, Vec::new());
//! writer.write(&entry)?;
//! assert_eq!(writer.finish()?, b"{\n\"user:1\":{\"name\":\"Ada\"}\n}\n");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! What is not here: taking a `data.json` as the data of a folder, which keeps the versions of what did not change.

mod lines;
mod object;
mod writer;

use std::fmt;
use std::str::FromStr;

use crate::entry::{Entry, Timestamp, Version};
use crate::json::{JsonError, Place};
use crate::key::Key;
use crate::value::Value;
pub use lines::{LINE_BYTES_MAX, Lines};
pub use object::Object;
pub use writer::Writer;

/// How entries are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `json`: one JSON object, with a member for each entry, as in `data.json`. Keys and values only; it has to fit in memory.
    Object,
    /// `ndjson`: an object a line, `{"key":…,"value":…,"version":…,"expires_at":…}`. The deadline, in milliseconds since
    /// 1970, is absent or `null` where there is none. It is read line by line.
    Lines,
}

impl FromStr for Form {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Object),
            "ndjson" => Ok(Self::Lines),
            _ => Err("it is neither json nor ndjson"),
        }
    }
}

/// An entry on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortableEntry {
    /// Its key.
    pub key: Key,
    /// Its value.
    pub value: Value,
    /// When it ends; `None` if never.
    pub expires_at: Option<Timestamp>,
    /// What it had where it comes from, if that is known. A store that it is written to gives it one of its own.
    pub version: Option<Version>,
}

impl From<(Key, Entry)> for PortableEntry {
    fn from((key, entry): (Key, Entry)) -> Self {
        Self {
            key,
            value: entry.value,
            expires_at: entry.expires_at,
            version: Some(entry.version),
        }
    }
}

/// A place in a text that is no entry, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The line, from 1.
    pub line: u64,
    /// The column, from 1, in characters.
    pub column: u64,
    /// What is wrong there.
    pub reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {} column {}: {}",
            self.line, self.column, self.reason
        )
    }
}

impl std::error::Error for Refused {}

/// What is wrong at which byte of a text.
#[derive(Debug)]
struct Wrong {
    at: usize,
    reason: String,
}

impl Wrong {
    fn new(at: usize, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { at, reason }
    }

    /// With its place in `text`, the first line of which is number `first_line`.
    fn within(self, text: &[u8], first_line: u64) -> Refused {
        let place = Place::of(text, self.at);
        Refused {
            line: first_line + place.line - 1,
            column: place.column,
            reason: self.reason,
        }
    }
}

impl From<JsonError> for Wrong {
    fn from(error: JsonError) -> Self {
        Self::new(
            error.at,
            format!("it is not JSON: expected {}", error.expected),
        )
    }
}

/// Reads the JSON string `text`, quotes included, that stands at `at`, as a key.
fn read_key(at: usize, text: &[u8]) -> Result<Key, Wrong> {
    let text: String = serde_json::from_slice(text)
        .map_err(|error| Wrong::new(at, format!("the key can't be read: {error}")))?;
    Key::new(&text).map_err(|error| Wrong::new(at, format!("{text:?}: {error}")))
}
