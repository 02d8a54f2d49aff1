//! An append-only file of chained lines: how it is written, and how it is read back after a crash.
//!
//! The first line is a header, which states where the previous journal ends. After each sync, a
//! *mark* line `{"durable":N,…}` states that the first N bytes are on the disk; the mark itself
//! becomes durable with the next sync. So if a line is damaged and a mark follows it, the line had
//! been durable, and the damage is corruption; if no mark follows, the line is the torn tail of a
//! write that was cut off.
//!
//! Beyond its end the file is filled with newlines, so that a sync does not have to update the file
//! size; readers of JSON Lines skip blank lines. The fill also reserves the space for what must be
//! written later however full the disk is: the effects of waiting jobs.
//!
//! This module does not know what the lines mean: see `record.rs`.

pub(crate) mod chain;
pub(crate) mod contents;
pub(crate) mod line;
pub(crate) mod manifest;
pub(crate) mod record;
pub(crate) mod scan;

use std::io;

use serde::{Deserialize, Serialize};

use self::line::Chain;
use crate::json_file::disk::{Disk, DiskFile, is_full};

/// The file is filled ahead in pieces of this size. A larger write would make each later sync more
/// expensive.
const FILL_BYTES: u64 = 256 << 10;

/// Enough space for a mark.
const MARK_BYTES: u64 = 80;

/// Returns the temporary name of a file until its first lines are on the disk.
pub(crate) fn begun_name(name: &str) -> String {
    format!(".{name}.begun")
}

/// The end of a journal, or where it ended when it was last synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) length: u64,
    /// The CRC of the line that ends there.
    pub(crate) crc: Chain,
}

/// A journal that is being written.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Box<dyn DiskFile>,
    /// Where the next line goes.
    end: End,
    /// Everything before this is known to be on the disk.
    durable: End,
    /// The file is filled with newlines up to here.
    filled: u64,
}

/// Why an append failed.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// There was no space. The file has been cut back and synced: nothing happened.
    Full(io::Error),
    /// The lines may or may not be on the disk, and nothing more can be written.
    Broken(io::Error),
}

impl AppendError {
    /// Returns the underlying I/O error.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Full(error) | Self::Broken(error) => error,
        }
    }
}

impl Journal {
    /// Creates a file that starts with `lines`, the first of which is its header, and reserves
    /// `reserve` bytes after them. It gets its name once all of that is synced, so a file of that
    /// name is never incomplete.
    pub(crate) fn create(
        disk: &dyn Disk,
        name: &str,
        lines: &[impl AsRef<[u8]>],
        reserve: u64,
    ) -> io::Result<Self> {
        let begun = begun_name(name);
        let mut text = Vec::new();
        let mut chain = 0;
        for body in lines {
            push_line(&mut text, body.as_ref(), &mut chain);
        }
        let durable = End {
            length: text.len() as u64,
            crc: chain,
        };
        // Without a mark, damage in those lines would look like the torn tail of a write. A header
        // needs no mark to be missed.
        if lines.len() > 1 {
            push_line(&mut text, &mark_body(durable), &mut chain);
        }
        let end = End {
            length: text.len() as u64,
            crc: chain,
        };
        let mut journal = Self {
            file: disk.create(&begun)?,
            end,
            durable,
            filled: end.length,
        };
        journal.file.write_at(0, &text)?;
        if reserve > 0 {
            journal.fill(end.length + reserve)?;
        }
        journal.file.sync()?;
        disk.rename(&begun, name)?;
        disk.sync_folder()?;
        Ok(journal)
    }

    /// Returns the end that is known to be on the disk.
    pub(crate) fn durable(&self) -> End {
        self.durable
    }

    /// Returns the bytes written so far.
    pub(crate) fn len(&self) -> u64 {
        self.end.length
    }

    /// Appends `lines` (each an object without its closing brace) and makes them durable, with one
    /// write and one sync for all. When it returns, a process that reads the file finds them
    /// covered by a mark, and there is space for `reserve` more bytes.
    pub(crate) fn append(&mut self, lines: &[Vec<u8>], reserve: u64) -> Result<(), AppendError> {
        let before = (self.end, self.durable);
        self.write(lines, MARK_BYTES + reserve)?;
        self.file.sync().map_err(AppendError::Broken)?;
        self.durable = self.end;
        match self.mark() {
            // The lines are not acknowledged yet, and other readers of the file would not see them
            // without a mark.
            Err(AppendError::Full(full)) => {
                (self.end, self.durable) = before;
                self.cut_back(full)
            }
            marked => marked,
        }
    }

    /// Writes a mark of what is durable. The mark is not synced: if it is lost, recovery cannot
    /// tell a torn tail from damage there, and logs that.
    fn mark(&mut self) -> Result<(), AppendError> {
        self.write(&[mark_body(self.durable)], 0)
    }

    /// Appends `lines` for the next sync to make durable, if `reserve` more bytes fit after them.
    /// They survive the end of the process at once.
    pub(crate) fn write(&mut self, lines: &[Vec<u8>], reserve: u64) -> Result<(), AppendError> {
        let mut text = Vec::with_capacity(lines.iter().map(|line| line.len() + 32).sum());
        let mut chain = self.end.crc;
        for body in lines {
            push_line(&mut text, body, &mut chain);
        }
        let length = self.end.length + text.len() as u64;
        if let Err(error) = self.fill(length + reserve) {
            return match is_full(&error) {
                true => Err(AppendError::Full(error)),
                false => Err(AppendError::Broken(error)),
            };
        }
        match self.file.write_at(self.end.length, &text) {
            Ok(()) => {
                self.end = End { length, crc: chain };
                Ok(())
            }
            // Some file systems need space even to overwrite existing bytes.
            Err(error) if is_full(&error) => self.cut_back(error),
            Err(error) => Err(AppendError::Broken(error)),
        }
    }

    /// Fills ahead if `length` bytes would pass what is filled. If the disk lacks the space for a
    /// generous fill, fills only as far as necessary.
    fn fill(&mut self, length: u64) -> io::Result<()> {
        if length <= self.filled {
            return Ok(());
        }
        let ample = length.next_multiple_of(FILL_BYTES);
        let ample = ample.max(length + FILL_BYTES / 2);
        self.fill_to(ample).or_else(|_| self.fill_to(length))
    }

    fn fill_to(&mut self, length: u64) -> io::Result<()> {
        while self.filled < length {
            let piece = FILL_BYTES.min(length - self.filled);
            let newlines = vec![b'\n'; usize::try_from(piece).unwrap_or_default()];
            self.file.write_at(self.filled, &newlines)?;
            self.filled += piece;
        }
        Ok(())
    }

    fn cut_back(&mut self, full: io::Error) -> Result<(), AppendError> {
        self.finish().map_err(AppendError::Broken)?;
        self.filled = self.end.length;
        Err(AppendError::Full(full))
    }

    /// Cuts off the fill of a file that is complete.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.file.set_len(self.end.length)?;
        self.file.sync()
    }
}

fn push_line(text: &mut Vec<u8>, body: &[u8], chain: &mut Chain) {
    let start = text.len();
    text.extend_from_slice(body);
    line::seal(text, start, chain);
}

/// Returns a mark line without its closing brace.
pub(crate) fn mark_body(durable: End) -> Vec<u8> {
    line::open_object(&MarkLine { durable })
}

/// The start of a mark line.
const MARK: &str = "{\"durable\":";

/// A mark line. It contains the CRC that its own CRC starts from, so it can be checked even if the
/// lines before it are damaged.
#[derive(Serialize, Deserialize)]
struct MarkLine {
    durable: End,
}

impl MarkLine {
    fn parse(line: &[u8]) -> Option<End> {
        let mark: Self = serde_json::from_slice(line).ok()?;
        line::check(line, mark.durable.crc).map(|_| mark.durable)
    }
}

/// Returns the end that the mark at the end of `text` states, wherever the mark starts: the newline
/// before it may be what is damaged.
pub(crate) fn mark_at_end(text: &[u8]) -> Option<End> {
    let mut windows = text.windows(MARK.len());
    let start = windows.rposition(|window| window == MARK.as_bytes())?;
    MarkLine::parse(&text[start..])
}

/// Returns the end that `line` states if it is a mark. A mark proves itself, whatever precedes it.
pub(crate) fn marked(line: &[u8]) -> Option<End> {
    let is_mark = line.starts_with(MARK.as_bytes());
    is_mark.then(|| MarkLine::parse(line)).flatten()
}
