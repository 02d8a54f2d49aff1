//! `data.json`: a plain JSON object, one entry a line, in the byte order of its keys.

use std::borrow::Cow;
use std::iter;

use memchr::{memchr, memchr_iter};
use serde::{Deserialize, Serialize};

use crate::model::key::Key;
use crate::model::value::Value;

/// Files are written, and synced, in pieces of about this size.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// A file's contents, for telling whether it is still the one that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    pub(super) length: u64,
    pub(super) crc: u32,
}

impl Fingerprint {
    pub(crate) fn of(text: &[u8]) -> Self {
        Self {
            length: text.len() as u64,
            crc: crc32c::crc32c(text),
        }
    }

    pub(crate) fn length(self) -> u64 {
        self.length
    }
}

/// Some of the lines of entries, each with the newline before it.
pub(super) struct Part<'a> {
    pub(super) text: &'a [u8],
    /// The number of its first entry.
    pub(super) first: usize,
    /// How many entries it has.
    pub(super) count: usize,
}

impl<'a> Part<'a> {
    pub(super) fn lines(&self) -> impl Iterator<Item = &'a [u8]> {
        let text = self.text;
        let ends = memchr_iter(b'\n', text)
            .skip(1)
            .chain(iter::once(text.len()));
        ends.scan(1, move |start, end| {
            let line = text.get(*start..end);
            *start = end + 1;
            line
        })
    }
}

/// Cuts `text` into about `count` parts of whole lines: compact JSON holds no newline of its own.
pub(super) fn parts(text: &[u8], count: usize) -> Vec<Part<'_>> {
    let share = text.len() / count + 1;
    let (mut rest, mut first) = (text, 0);
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let newline = rest.get(share..).and_then(|rest| memchr(b'\n', rest));
        let (text, behind) = rest.split_at(newline.map_or(rest.len(), |at| share + at));
        let count = memchr_iter(b'\n', text).count();
        parts.push(Part { text, first, count });
        first += count;
        rest = behind;
    }
    parts
}

/// The key and the value of a line that [`push_entry`] wrote.
pub(crate) fn split_entry(line: &[u8]) -> Option<(Cow<'_, str>, &[u8])> {
    let mut end = 1;
    let mut is_plain = true;
    while *line.get(end)? != b'"' {
        is_plain &= line[end] != b'\\';
        end += if line[end] == b'\\' { 2 } else { 1 };
    }
    let key = if is_plain {
        Cow::Borrowed(std::str::from_utf8(&line[1..end]).ok()?)
    } else {
        Cow::Owned(serde_json::from_slice(&line[..=end]).ok()?)
    };
    Some((key, line[end + 1..].strip_prefix(b":")?))
}

/// The line of an entry, without comma and newline.
pub(super) fn push_entry(text: &mut Vec<u8>, key: &Key, value: &[u8]) {
    crate::json_file::journal::record::push_json(text, key);
    text.push(b':');
    text.extend_from_slice(value);
}

/// By what an entry is recognised after the file was edited: two different CRCs of its line, so 64 bits.
pub(crate) fn entry_fingerprint(key: &Key, value: &Value) -> u64 {
    let mut line = Vec::with_capacity(key.as_str().len() + value.len() + 3);
    push_entry(&mut line, key, value.as_bytes());
    line_fingerprint(&line)
}

pub(super) fn line_fingerprint(line: &[u8]) -> u64 {
    u64::from(crc32c::crc32c(line)) << 32 | u64::from(crc32fast::hash(line))
}
