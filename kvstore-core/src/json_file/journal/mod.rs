//! An append-only file of chained lines: how it is written, and how it is read back after whatever happened.
//!
//! The first line is a header; it states where the journal before it ends. After each sync a *mark* line `{"durable":N,…}`
//! says that the first N bytes are on the disk; the mark itself goes out with the next sync. So when a line is damaged, a
//! mark beyond it tells that it had been durable, and the damage is corruption; no mark beyond it, and it is the torn tail
//! of a write that was cut off. Ahead of its end the file is filled with newlines, so that a sync moves no file size; JSON
//! Lines readers skip blank lines. The fill is also the room that is reserved for what must be written later whatever else fills
//! the disk: the effects of jobs that wait.
//!
//! What the lines mean is not known here: see `record.rs`.

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

/// The file is filled ahead in pieces of this size. One larger write would make each later sync dearer.
const FILL_BYTES: u64 = 256 << 10;

/// Room for a mark.
const MARK_BYTES: u64 = 80;

/// The name of a file until all that it starts with is on the disk.
pub(crate) fn begun_name(name: &str) -> String {
    format!(".{name}.begun")
}

/// Where a journal ends, or ended when it was last synced.
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
    /// What is known to be on the disk.
    durable: End,
    /// The file has newlines up to here.
    filled: u64,
}

/// Why an append did not succeed.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// There was no room. The file has been cut back and synced: nothing happened.
    Full(io::Error),
    /// It may be on the disk or not, and nothing more can be written.
    Broken(io::Error),
}

impl AppendError {
    /// What the machine said.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Full(error) | Self::Broken(error) => error,
        }
    }
}

impl Journal {
    /// Starts a new file with `lines`, the first of which is its header, and room for `reserve` bytes behind them. It gets its
    /// name when all of them are synced, so a file of that name is never half begun.
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
        // Without it, damage in those lines would look like the torn tail of a write. A header needs none to be missed.
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

    /// What is known to be on the disk.
    pub(crate) fn durable(&self) -> End {
        self.durable
    }

    /// The bytes written so far.
    pub(crate) fn len(&self) -> u64 {
        self.end.length
    }

    /// Appends `lines` (each an object without its closing brace) and makes them durable, with one write and one sync for all.
    /// When it returns, whoever reads the file beside us finds them covered by a mark, and there is room for `reserve` bytes
    /// more.
    pub(crate) fn append(&mut self, lines: &[Vec<u8>], reserve: u64) -> Result<(), AppendError> {
        let before = (self.end, self.durable);
        self.write(lines, MARK_BYTES + reserve)?;
        self.file.sync().map_err(AppendError::Broken)?;
        self.durable = self.end;
        match self.mark() {
            // Nobody was told of the lines yet, and who reads beside us would not see them.
            Err(AppendError::Full(full)) => {
                (self.end, self.durable) = before;
                self.cut_back(full)
            }
            marked => marked,
        }
    }

    /// Says what is durable. Not synced itself: if it is lost, a torn tail cannot be told from damage there, and recovery says so.
    fn mark(&mut self) -> Result<(), AppendError> {
        self.write(&[mark_body(self.durable)], 0)
    }

    /// Appends `lines` for the next sync to make durable, if there is room for `reserve` bytes behind them. They survive the end
    /// of the process at once.
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
            // Some file systems need room to write where something stands already.
            Err(error) if is_full(&error) => self.cut_back(error),
            Err(error) => Err(AppendError::Broken(error)),
        }
    }

    /// Fills ahead if `length` bytes would pass what is filled: in pieces, and on a disk that has not so much room only as far as
    /// must be.
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

    /// Cuts off what was filled ahead, for a file that is complete.
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

/// A mark line without its closing brace.
pub(crate) fn mark_body(durable: End) -> Vec<u8> {
    line::open_object(&MarkLine { durable })
}

/// How a mark line begins.
const MARK: &str = "{\"durable\":";

/// A mark line. It names the CRC that its own starts from, so that it can be checked where the lines before it are damaged.
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

/// What the mark at the end of `text` says is on the disk, wherever it starts: the newline before it may be what is damaged.
pub(crate) fn mark_at_end(text: &[u8]) -> Option<End> {
    let mut windows = text.windows(MARK.len());
    let start = windows.rposition(|window| window == MARK.as_bytes())?;
    MarkLine::parse(&text[start..])
}

/// What a mark says is on the disk, if `line` is one; it proves itself, whatever stands before it.
pub(crate) fn marked(line: &[u8]) -> Option<End> {
    let is_mark = line.starts_with(MARK.as_bytes());
    is_mark.then(|| MarkLine::parse(line)).flatten()
}
