//! The chain of numbered journals, `journal-<n>.jsonl`.
//!
//! Each header states where the previous file ends, so a file that is missing, cut short or from
//! another folder is detected. A header that states nothing begins a chain: the files before it are
//! left over.

use std::io;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::json_file::disk::Disk;
use crate::json_file::error::{corrupt, disk_error, read};
use crate::json_file::journal::contents::{self, Contents, ReadLine};
use crate::json_file::journal::line::open_object;
use crate::json_file::journal::manifest::Roll;
use crate::json_file::journal::{AppendError, End, Journal};
use crate::json_file::sealed::{self, Format};
use crate::json_file::snapshot::pair::free_name;
use crate::model::entry::Version;
use crate::model::id::{Position, QueueId};

/// The detail of a wrong checksum in a line that had been written whole.
const DAMAGED: &str = "its checksum does not match, although the line was whole on the disk; nothing was changed, restore a backup of the folder";

const FOREIGN: &str = "it has the header of another journal; restore a backup of the folder";

const MISSING: &str = "it is missing, but a later journal is there; restore a backup of the folder";

const PREFIX: &str = "journal-";

/// The maximum number of missing journals that are listed.
const MISSING_MAX: usize = 1000;

/// The first line of a journal.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The number of this file.
    pub(crate) journal: u64,
    pub(crate) format: Format,
    /// The id of the folder's queue.
    pub(crate) queue: QueueId,
    /// Where the previous journal ends; `null` in a header that begins a chain.
    pub(crate) previous: Option<End>,
    /// The latest version before the first line of this journal.
    pub(crate) version: Version,
    /// The last position that was assigned to a job before this journal.
    pub(crate) jobs: Position,
}

impl Header {
    /// Returns the header line without its closing brace.
    pub(crate) fn line(&self) -> Vec<u8> {
        open_object(self)
    }

    /// Reads the first line of `text`, which should be journal `number`.
    pub(crate) fn read(disk: &dyn Disk, number: u64, text: &[u8]) -> Result<Self> {
        let name = name(number);
        let header: Self = sealed::parse(disk, &name, first_line(text))?;
        match header.journal == number {
            true => Ok(header),
            false => Err(corrupt(disk, &name, Some(1), FOREIGN)),
        }
    }
}

fn first_line(text: &[u8]) -> &[u8] {
    let end = memchr::memchr(b'\n', text).unwrap_or(text.len());
    &text[..end]
}

/// Returns the file name of journal `number`.
pub(crate) fn name(number: u64) -> String {
    format!("{PREFIX}{number}.jsonl")
}

/// Parses the number from the file name of a journal.
fn number(name: &str) -> Option<u64> {
    let number = name.strip_prefix(PREFIX)?.strip_suffix(".jsonl")?;
    number.parse().ok()
}

/// Returns true for the name of a journal that is not complete yet.
pub(crate) fn is_begun(name: &str) -> bool {
    let name = name
        .strip_prefix('.')
        .and_then(|name| name.strip_suffix(".begun"));
    name.and_then(number).is_some()
}

/// Returns the numbers of all journals in the folder, in ascending order.
pub(crate) fn numbers(disk: &dyn Disk) -> Result<Vec<u64>> {
    find(disk).map_err(|error| disk_error(disk, "cannot read", "", error))
}

fn find(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let names = disk.names()?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The journal that is being written: the last of its chain.
#[derive(Debug)]
pub(crate) struct Latest {
    pub(crate) journal: Journal,
    pub(crate) number: u64,
    /// Bytes of the older journals that are not in `data.json` yet.
    pub(crate) older_bytes: u64,
    roll: Roll,
}

impl Latest {
    /// Creates a journal with `header` and `lines`, and reserves `reserve` bytes after them.
    pub(crate) fn begin(
        disk: &dyn Disk,
        mut roll: Roll,
        header: &Header,
        lines: &[Vec<u8>],
        reserve: u64,
        older_bytes: u64,
    ) -> Result<Self, AppendError> {
        let number = header.journal;
        let header = header.line();
        let lines = lines.iter().map(Vec::as_slice);
        let lines: Vec<&[u8]> = std::iter::once(&header[..]).chain(lines).collect();
        let journal = Journal::create(disk, &name(number), &lines, reserve);
        let journal = journal.map_err(AppendError::Full)?;
        roll.call(disk, number)?;
        Ok(Self {
            journal,
            number,
            older_bytes,
            roll,
        })
    }

    /// Rotates to a new journal. The current one stays in use if there is no space for another.
    pub(crate) fn go_on(
        &mut self,
        disk: &dyn Disk,
        header: &Header,
        lines: &[Vec<u8>],
        reserve: u64,
    ) -> Result<(), AppendError> {
        match Self::begin(disk, self.roll, header, lines, reserve, self.bytes()) {
            Ok(next) => *self = next,
            // The new file may exist after all. Recovery would then cut off what the current
            // journal receives from here on.
            Err(AppendError::Full(full)) => {
                let removed = disk.remove(&name(header.journal));
                let removed = removed.and_then(|()| disk.sync_folder());
                removed.map_err(AppendError::Broken)?;
                return Err(AppendError::Full(full));
            }
            Err(broken) => return Err(broken),
        }
        Ok(())
    }

    /// Returns the bytes of all journals that are not in `data.json` yet.
    pub(crate) fn bytes(&self) -> u64 {
        self.older_bytes + self.journal.len()
    }
}

/// Removes the journals before `number`. One that cannot be removed is removed when the folder is
/// opened next.
pub(crate) fn remove_before(disk: &dyn Disk, number: u64) {
    let remove = || {
        let mut old = find(disk)?.into_iter().take_while(|old| *old < number);
        old.try_for_each(|old| disk.remove(&name(old)))
    };
    if let Err(error) = remove() {
        tracing::warn!(folder = %disk.path().display(), %error, "cannot remove an old journal");
    }
}

/// A chain of journals, read into memory.
pub(crate) struct Files {
    pub(crate) files: Vec<File>,
    /// The numbers of the journals that should be there and are not.
    pub(crate) missing: Vec<u64>,
}

/// One journal of a chain.
pub(crate) struct File {
    pub(crate) number: u64,
    pub(crate) header: Result<Header>,
    pub(crate) contents: Contents,
}

impl Files {
    /// Reads the journals from `first` on, or all of them. `latest` is the highest number that the
    /// folder is known to have had. The caller judges what is wrong with them.
    pub(crate) fn read(disk: &dyn Disk, first: Option<u64>, latest: u64) -> Result<Self> {
        let mut numbers = numbers(disk)?;
        numbers.retain(|number| first.is_none_or(|first| *number >= first));
        let known = Some(latest).filter(|it| *it > 0);
        let latest = numbers.last().copied().max(known);
        let begin = first.or(numbers.first().copied()).or(latest);
        let expected = begin.zip(latest).map(|(begin, latest)| begin..=latest);
        let missing = expected.into_iter().flatten();
        let missing = missing.filter(|number| numbers.binary_search(number).is_err());
        let missing = missing.take(MISSING_MAX).collect();
        let mut files = Vec::new();
        let mut stated: Option<(u64, End)> = None;
        // In descending order, since each header states where the previous file ends.
        for number in numbers.into_iter().rev() {
            let text = read(disk, &name(number))?.unwrap_or_default();
            let header = Header::read(disk, number, &text);
            if sealed::is_of_other_format(first_line(&text)) {
                // This version cannot read it.
                header?;
                continue;
            }
            let end = stated.filter(|(of, _)| *of == number);
            let contents = contents::read(text, end.map(|(_, end)| end));
            let previous = header.as_ref().ok().map(|header| header.previous);
            let before = number.saturating_sub(1);
            stated = previous.flatten().map(|end| (before, end));
            files.push(File {
                number,
                header,
                contents,
            });
            // It begins a chain, so the files before it are left over.
            if previous == Some(None) {
                break;
            }
        }
        files.reverse();
        Ok(Self { files, missing })
    }

    /// Refuses journals that are not as they were written in the folder with `queue`, except for
    /// the torn end of a write.
    pub(crate) fn check(&self, disk: &dyn Disk, queue: QueueId) -> Result<()> {
        if let Some(missing) = self.missing.first() {
            return Err(corrupt(disk, &name(*missing), None, MISSING));
        }
        for file in self.files.iter().rev() {
            let refused = |line, detail| Err(corrupt(disk, &name(file.number), Some(line), detail));
            let header = file.header.clone()?;
            if header.queue != queue {
                return refused(1, elsewhere(queue, header.queue));
            }
            if let Some(damaged) = file.contents.damage().filter(|damaged| !damaged.is_torn) {
                return refused(damaged.line, DAMAGED.to_owned());
            }
        }
        Ok(())
    }

    /// Returns the total size of the files in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.contents.len()).sum()
    }

    /// Returns all lines except the headers.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&File, ReadLine<'_>)> {
        self.files
            .iter()
            .flat_map(|file| file.contents.lines().skip(1).map(move |line| (file, line)))
    }

    /// Returns true if any part of the chain is missing or unreadable.
    pub(crate) fn are_damaged(&self) -> bool {
        let damaged = |file: &File| file.header.is_err() || file.contents.damage().is_some();
        !self.missing.is_empty() || self.files.iter().any(damaged)
    }

    /// Returns the number that follows that of the last file.
    pub(crate) fn next_number(&self) -> Option<u64> {
        self.files.last().map(|file| file.number + 1)
    }

    /// Returns how far the last file is known to be on the disk: the end that the next header
    /// states.
    pub(crate) fn durable_end(&self) -> Option<End> {
        self.files.last().map(|file| file.contents.durable)
    }

    /// Copies the unreadable end of the last file into a file beside it, and logs that.
    pub(crate) fn keep_torn_tail(&self, disk: &dyn Disk) -> Result<()> {
        let Some(file) = self.files.last() else {
            return Ok(());
        };
        let Some(damage) = file.contents.damage() else {
            return Ok(());
        };
        let (tail, has_whole_lines) = file.contents.tail();
        let name = name(file.number);
        let keep = || {
            let kept = free_name(disk, &format!("{name}.torn"))?;
            let mut copy = disk.create(&kept)?;
            copy.write_at(0, tail)?;
            copy.sync()?;
            disk.sync_folder()?;
            Ok(kept)
        };
        let kept = keep()
            .map_err(|error| disk_error(disk, "cannot keep the torn end of", &name, error))?;
        let (file, line) = (disk.path().join(name), damage.line);
        if has_whole_lines {
            tracing::error!(file = %file.display(), line, kept, "the end of this file is unreadable and may have been acknowledged: it is cut off, and kept in a separate file");
        } else {
            tracing::warn!(file = %file.display(), line, kept, "a write was cut off before it was acknowledged: it is kept in a separate file");
        }
        Ok(())
    }
}

/// Returns the message for a journal whose queue is not that of its folder.
pub(crate) fn elsewhere(folder: QueueId, journal: QueueId) -> String {
    format!(
        "it belongs to the folder with queue {journal}, but this folder has queue {folder}: it was put here from elsewhere"
    )
}

/// Returns the error for a line of journal `number` that parses but makes no sense.
pub(crate) fn nonsense(disk: &dyn Disk, number: u64, line: u64, detail: String) -> Error {
    corrupt(disk, &name(number), Some(line), detail)
}
