//! Entries as text that any program can read and write, to move them into and out of a store with
//! any backend.
//!
//! There are two forms, and [`Form`] says what each keeps. Every problem is reported with its line
//! and column.
//!
//! ```
//! use kvstore_core::portable::{EntryWriter, Form, LinesReader};
//!
//! let text = "{\"key\":\"user:1\",\"value\":{\"name\":\"Ada\"}}\n{\"key\":\"\",\"value\":1}\n";
//! let mut lines = LinesReader::new(text.as_bytes());
//! let entry = lines.next().unwrap()?.unwrap();
//! assert_eq!(entry.key.as_str(), "user:1");
//! let refused = lines.next().unwrap()?.unwrap_err();
//! assert_eq!((refused.line, refused.column), (2, 8));
//!
//! let mut writer = EntryWriter::new(Form::Object, Vec::new());
//! writer.write(&entry)?;
//! assert_eq!(writer.finish()?, b"{\n\"user:1\":{\"name\":\"Ada\"}\n}\n");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! What is not here: replacing the `data.json` of a folder, which keeps the versions of unchanged
//! entries.

mod lines;
mod object;
mod writer;

use std::fmt;
use std::str::FromStr;

use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::json::{JsonError, TextPosition};
use crate::model::key::Key;
use crate::model::value::Value;
pub use lines::{LINE_BYTES_MAX, LinesReader};
pub use object::ObjectReader;
pub use writer::EntryWriter;

/// The format of exported entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `json`: one JSON object, with a member for each entry, as in `data.json`. Keys and values
    /// only; it has to fit in memory.
    Object,
    /// `ndjson`: one object per line, `{"key":…,"value":…,"version":…,"expires_at":…}`. The
    /// deadline, in milliseconds since 1970, is absent or `null` if there is none. Read line by
    /// line.
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

/// An entry in transit between stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortableEntry {
    /// Its key.
    pub key: Key,
    /// Its value.
    pub value: Value,
    /// When it expires; `None` if never.
    pub expires_at: Option<Timestamp>,
    /// Its version in the store it comes from, if known. The store that it is written to assigns
    /// its own.
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

/// A rejected entry: where it is in the text, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The line, counted from 1.
    pub line: u64,
    /// The column, counted from 1, in characters.
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

/// A problem at a byte offset of a text.
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

    /// Converts the offset to a line and column of `text`, whose first line is number `first_line`.
    fn within(self, text: &[u8], first_line: u64) -> Refused {
        let place = TextPosition::of(text, self.at);
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

/// Reads the JSON string `text`, quotes included, as the key at offset `at`.
fn read_key(at: usize, text: &[u8]) -> Result<Key, Wrong> {
    let text: String = serde_json::from_slice(text)
        .map_err(|error| Wrong::new(at, format!("the key cannot be read: {error}")))?;
    Key::new(&text).map_err(|error| Wrong::new(at, format!("{text:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    fn entry() -> impl Strategy<Value = PortableEntry> {
        const VALUES: &[&str] = &[
            "null",
            "1.50",
            "1e400",
            "\"\\u00e9\\ud83d\\ude00é\"",
            "{\"key\":1,\"key\":[2,{}]}",
        ];
        let key = "[a-c/{}\"\\\\é💡 ]{1,4}".prop_filter_map("a key", |text| Key::new(&text).ok());
        let value = proptest::sample::select(VALUES);
        let number = || proptest::option::of(any::<u64>());
        (key, value, number(), number()).prop_map(|(key, value, expires_at, version)| {
            PortableEntry {
                key,
                value: Value::parse(value).unwrap(),
                expires_at: expires_at.map(Timestamp),
                version: version.map(Version),
            }
        })
    }

    /// Generates text, mostly of fragments that parse far before they fail.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        const WORDS: &[&str] = &[
            "{\"a\":1,",
            "\"b\":[ 2]}",
            "{",
            "}",
            ",",
            ":",
            "\n",
            " ",
            "\"",
            "[]",
            "1",
            "null",
            "\"a\":1",
            "\"b\":\"é\"",
            "\"a/\":{}",
            "\"key\":\"a\"",
            "\"key\":",
            "\"value\":[1]",
            "\"value\":",
            "\"version\":1",
            "\"expires_at\":",
            "{\"key\":\"a\",\"value\":1}\n",
        ];
        let word = prop_oneof![
            12 => proptest::sample::select(WORDS).prop_map(|word| word.as_bytes().to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..3),
        ];
        let words = proptest::collection::vec(word, 0..12).prop_map(|words| words.concat());
        const MEMBERS: &[&str] = &[
            "\"key\":\"a\"",
            "\"key\" : \"b\"",
            "\"key\":1",
            "\"value\":[1, 2]",
            "\"value\":\"é\"",
            "\"version\":1",
            "\"expires_at\":null",
            "\"other\":{}",
            "\"a/\":1",
            "",
        ];
        let object = proptest::collection::vec(proptest::sample::select(MEMBERS), 0..5)
            .prop_map(|members| format!("{{{}}}", members.join(",")));
        let objects = proptest::collection::vec(object, 0..3)
            .prop_map(|objects| objects.join("\n").into_bytes());
        prop_oneof![words, objects]
    }

    fn assert_within(refused: &Refused, text: &[u8]) {
        let line = text
            .split(|&byte| byte == b'\n')
            .nth(refused.line as usize - 1);
        let columns = String::from_utf8_lossy(line.expect("a line of the text"))
            .chars()
            .count();
        assert!(
            (1..=columns as u64 + 1).contains(&refused.column),
            "{refused}"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(entries in proptest::collection::vec(entry(), 0..8)) {
            let write = |form, entries: &[PortableEntry]| {
                let mut writer = EntryWriter::new(form, Vec::new());
                entries.iter().for_each(|entry| writer.write(entry).unwrap());
                writer.finish().unwrap()
            };
            let text = write(Form::Lines, &entries);
            let found: Vec<_> = LinesReader::new(&text[..]).map(|entry| entry.unwrap().unwrap()).collect();
            prop_assert_eq!(&found, &entries);

            // In an object each key occurs once, with its value only.
            let by_key: BTreeMap<_, _> = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
            let entries: Vec<_> = by_key
                .into_values()
                .map(|entry| PortableEntry { expires_at: None, version: None, ..entry })
                .collect();
            let text = write(Form::Object, &entries);
            let found: Vec<_> = ObjectReader::new(&text).map(Result::unwrap).collect();
            prop_assert_eq!(found, entries);
        }

        #[test]
        fn object_is_what_another_reader_takes_for_one(text in text()) {
            let read: Result<Vec<_>, _> = ObjectReader::new(&text).collect();
            let other = serde_json::from_slice::<BTreeMap<String, Box<RawValue>>>(&text);
            match (read, other) {
                (Ok(entries), Ok(other)) => {
                    let entries: BTreeMap<_, _> =
                        entries.into_iter().map(|entry| (entry.key.to_string(), entry.value)).collect();
                    let other: BTreeMap<_, _> =
                        other.into_iter().map(|(key, raw)| (key, Value::parse(raw.get()).unwrap())).collect();
                    prop_assert_eq!(entries, other);
                }
                (Ok(entries), Err(error)) => prop_assert!(false, "{:?}: {}", entries, error),
                (Err(refused), _) => {
                    assert_within(&refused, &text);
                    // All problems are reported, and reading ends.
                    prop_assert!(ObjectReader::new(&text).count() <= text.len() + 1);
                }
            }
        }

        #[test]
        fn each_line_is_an_entry_or_refused_with_its_place(text in text()) {
            let is_empty = |line: &&[u8]| line.trim_ascii().is_empty();
            let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').filter(|line| !is_empty(line)).collect();
            let read: Vec<_> = LinesReader::new(&text[..]).map(Result::unwrap).collect();
            prop_assert_eq!(read.len(), lines.len());
            for (entry, line) in read.into_iter().zip(lines) {
                match entry {
                    Ok(entry) => {
                        let other: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(line).unwrap();
                        let key: String = serde_json::from_str(other["key"].get()).unwrap();
                        prop_assert_eq!(entry.key.as_str(), key);
                        prop_assert_eq!(entry.value, Value::parse(other["value"].get()).unwrap());
                    }
                    Err(refused) => assert_within(&refused, &text),
                }
            }
        }
    }
}
