//! Numbered journals that follow each other, `journal-<n>.jsonl`.
//!
//! Each header states where the file before it ends, so they are one chain, and a file that is missing, cut short or of another
//! folder is found. One that states nothing begins a chain: files before it are left over.

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

/// What is said of a line whose checksum is wrong although it had been written whole.
const DAMAGED: &str = "its checksum does not match, and it had been on the disk whole; nothing was changed, restore a backup of the folder";

const FOREIGN: &str = "it has the header of another journal; restore a backup of the folder";

const MISSING: &str = "it is missing, and a later one is there; restore a backup of the folder";

const PREFIX: &str = "journal-";

/// The maximum number of missing journals that are listed.
const MISSING_MAX: usize = 1000;

/// The first line of a journal.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The number of the file.
    pub(crate) journal: u64,
    pub(crate) format: Format,
    /// The id of the folder's queue.
    pub(crate) queue: QueueId,
    /// Where the journal before it ends; `null` for one that begins a chain.
    pub(crate) previous: Option<End>,
    /// The latest version before its first line.
    pub(crate) version: Version,
    /// The last position that a job had got before it.
    pub(crate) jobs: Position,
}

impl Header {
    /// The line, without its closing brace.
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

/// The name of journal `number`.
pub(crate) fn name(number: u64) -> String {
    format!("{PREFIX}{number}.jsonl")
}

/// Returns the number in the name of a journal.
fn number(name: &str) -> Option<u64> {
    let number = name.strip_prefix(PREFIX)?.strip_suffix(".jsonl")?;
    number.parse().ok()
}

/// Returns true for the name that a journal has before it is complete.
pub(crate) fn is_begun(name: &str) -> bool {
    let name = name
        .strip_prefix('.')
        .and_then(|name| name.strip_suffix(".begun"));
    name.and_then(number).is_some()
}

/// The numbers of the journals that are there, in ascending order.
pub(crate) fn numbers(disk: &dyn Disk) -> Result<Vec<u64>> {
    find(disk).map_err(|error| disk_error(disk, "cannot read", "", error))
}

fn find(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let names = disk.names()?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The journal that is written: the last of its chain.
#[derive(Debug)]
pub(crate) struct Latest {
    pub(crate) journal: Journal,
    pub(crate) number: u64,
    /// Bytes of the journals before it that are not in `data.json` yet.
    pub(crate) older_bytes: u64,
    roll: Roll,
}

impl Latest {
    /// Begins a journal with `header` and `lines`, with room for `reserve` bytes.
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

    /// Continues in a new journal; this one stays in use if there is no room for it.
    pub(crate) fn go_on(
        &mut self,
        disk: &dyn Disk,
        header: &Header,
        lines: &[Vec<u8>],
        reserve: u64,
    ) -> Result<(), AppendError> {
        match Self::begin(disk, self.roll, header, lines, reserve, self.bytes()) {
            Ok(next) => *self = next,
            // If it is there after all, it would cut off what this one gets from here on.
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

    /// Returns the bytes of the journals that are not in `data.json` yet.
    pub(crate) fn bytes(&self) -> u64 {
        self.older_bytes + self.journal.len()
    }
}

/// Removes the journals before `number`. One that stays is removed when the folder is opened next.
pub(crate) fn remove_before(disk: &dyn Disk, number: u64) {
    let remove = || {
        let mut old = find(disk)?.into_iter().take_while(|old| *old < number);
        old.try_for_each(|old| disk.remove(&name(old)))
    };
    if let Err(error) = remove() {
        tracing::warn!(folder = %disk.path().display(), %error, "an old journal cannot be removed");
    }
}

/// Journals that follow each other, read whole.
pub(crate) struct Files {
    pub(crate) files: Vec<File>,
    /// The numbers of those that should be there and are not.
    pub(crate) missing: Vec<u64>,
}

/// One of them.
pub(crate) struct File {
    pub(crate) number: u64,
    pub(crate) header: Result<Header>,
    pub(crate) contents: Contents,
}

impl Files {
    /// Reads the journals from `first` on, or all that are there; the folder has had one of the
    /// number `latest`. What is wrong with them is for the caller to judge.
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
        // From the last to the first, since each header states where the file before it ends.
        for number in numbers.into_iter().rev() {
            let text = read(disk, &name(number))?.unwrap_or_default();
            let header = Header::read(disk, number, &text);
            if sealed::is_of_other_format(first_line(&text)) {
                // Nothing can be said of it.
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
            // It begins a chain, so what is before it is left over.
            if previous == Some(None) {
                break;
            }
        }
        files.reverse();
        Ok(Self { files, missing })
    }

    /// Refuses what is not as it was written in the folder with this queue, except for the torn end
    /// of a write.
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

    /// All their bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.contents.len()).sum()
    }

    /// All lines but the headers.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&File, ReadLine<'_>)> {
        self.files
            .iter()
            .flat_map(|file| file.contents.lines().skip(1).map(move |line| (file, line)))
    }

    /// Whether anything in them cannot be read.
    pub(crate) fn are_damaged(&self) -> bool {
        let damaged = |file: &File| file.header.is_err() || file.contents.damage().is_some();
        !self.missing.is_empty() || self.files.iter().any(damaged)
    }

    /// The number behind the last file.
    pub(crate) fn next_number(&self) -> Option<u64> {
        self.files.last().map(|file| file.number + 1)
    }

    /// How far the last file is known to be on the disk: where the next one says that it ends.
    pub(crate) fn durable_end(&self) -> Option<End> {
        self.files.last().map(|file| file.contents.durable)
    }

    /// Puts what could not be read at the end of the last file into another one beside it, and says so.
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
        let kept = keep().map_err(|error| disk_error(disk, "cannot write beside", &name, error))?;
        let (file, line) = (disk.path().join(name), damage.line);
        if has_whole_lines {
            tracing::error!(file = %file.display(), line, kept, "the end of this file cannot be read and may have been acknowledged: it is cut off, and kept aside");
        } else {
            tracing::warn!(file = %file.display(), line, kept, "a write was cut off before it was acknowledged: it is kept aside");
        }
        Ok(())
    }
}

/// What is said of a journal with another queue than its folder.
pub(crate) fn elsewhere(folder: QueueId, journal: QueueId) -> String {
    format!(
        "it is of the folder with queue {journal}, and this one's is {folder}: it was put here from elsewhere"
    )
}

/// Damage in a line of journal `number` that can be read and makes no sense.
pub(crate) fn nonsense(disk: &dyn Disk, number: u64, line: u64, detail: String) -> Error {
    corrupt(disk, &name(number), Some(line), detail)
}
