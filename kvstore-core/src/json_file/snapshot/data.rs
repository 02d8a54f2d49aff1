//! `data.json`: a plain JSON object, one entry per line, in the byte order of its keys.

use std::borrow::Cow;
use std::{io, iter};

use memchr::memchr_iter;
use serde::{Deserialize, Serialize};

use crate::json_file::disk::Disk;
use crate::json_file::journal::line::push_json;
use crate::model::key::Key;
use crate::model::value::Value;

/// Files are written, synced and read in pieces of about this size.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// The fingerprint of a file's contents, to detect whether it is still the file that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileFingerprint {
    length: u64,
    crc: u32,
}

impl FileFingerprint {
    pub(crate) fn of(text: &[u8]) -> Self {
        Self {
            length: text.len() as u64,
            crc: crc32c::crc32c(text),
        }
    }

    /// Returns the fingerprint of the concatenation of two texts.
    pub(super) fn and(self, behind: Self) -> Self {
        let behind_bytes = usize::try_from(behind.length).expect("the second text was in memory");
        Self {
            length: self.length + behind.length,
            crc: crc32c::crc32c_combine(self.crc, behind.crc, behind_bytes),
        }
    }

    pub(crate) fn length(self) -> u64 {
        self.length
    }
}

/// Computes the fingerprint of a file, piece by piece; `None` if the file does not exist.
pub(crate) fn fingerprint(disk: &dyn Disk, name: &str) -> io::Result<Option<FileFingerprint>> {
    let Some(file) = disk.open(name)? else {
        return Ok(None);
    };
    let mut is = FileFingerprint::default();
    loop {
        let text = file.read_at(is.length, PIECE_BYTES)?;
        is = is.and(FileFingerprint::of(&text));
        if text.len() < PIECE_BYTES {
            return Ok(Some(is));
        }
    }
}

/// Returns the entry lines in a piece of the file; `None` if it does not begin or end as it should.
pub(super) fn lines(
    text: &[u8],
    is_first: bool,
    is_last: bool,
) -> Option<impl Iterator<Item = &[u8]>> {
    let text = text.strip_prefix(if is_first { b"{" } else { b"," })?;
    let text = if is_last {
        text.strip_suffix(b"\n}\n")?
    } else {
        text
    };
    // Compact JSON holds no newline of its own.
    let ends = memchr_iter(b'\n', text)
        .skip(1)
        .chain(iter::once(text.len()));
    let lines = ends.scan(1, move |start, end| {
        let line = text.get(*start..end);
        *start = end + 1;
        line
    });
    Some(lines.map(|line| line.strip_suffix(b",").unwrap_or(line)))
}

/// Splits a line that [`push_entry`] wrote into key and value.
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

/// Appends the line of an entry, without comma and newline.
pub(super) fn push_entry(text: &mut Vec<u8>, key: &Key, value: &[u8]) {
    push_json(text, key);
    text.push(b':');
    text.extend_from_slice(value);
}

/// Returns the fingerprint that identifies an entry after the file was edited: two different CRCs
/// of its line, so 64 bits.
pub(crate) fn entry_fingerprint(key: &Key, value: &Value) -> u64 {
    let mut line = Vec::with_capacity(key.as_str().len() + value.len() + 3);
    push_entry(&mut line, key, value.as_bytes());
    line_fingerprint(&line)
}

pub(super) fn line_fingerprint(line: &[u8]) -> u64 {
    u64::from(crc32c::crc32c(line)) << 32 | u64::from(crc32fast::hash(line))
}
