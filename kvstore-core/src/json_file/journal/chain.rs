//! Numbered journals that follow each other, `journal-<n>.jsonl`.
//!
//! Each header states where the file before it ends, so they are one chain, and a file that is missing, cut short or of another
//! folder is found. One that states nothing begins a chain: files before it are left over.

use std::io;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::json_file::disk::Disk;
use crate::json_file::error::{check_format, corrupt, disk_error};
use crate::json_file::journal::manifest::Roll;
use crate::json_file::journal::record::push_json;
use crate::json_file::journal::{self, AppendError, Contents, End, FORMAT, Journal, ReadLine};
use crate::json_file::snapshot::meta::Meta;
use crate::json_file::snapshot::pair::free_name;
use crate::model::entry::Version;
use crate::model::id::{Position, QueueId};

/// What is said of a line whose checksum is wrong although it had been written whole.
const DAMAGED: &str = "its checksum does not match, and it had been on the disk whole; nothing was changed, restore a backup of the folder";

const NO_HEADER: &str = "it has not the header of this journal; restore a backup of the folder";

const PREFIX: &str = "journal-";

/// The first line of a journal.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The number of the file.
    pub(crate) journal: u64,
    pub(crate) format: u32,
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
    pub(crate) fn new(
        journal: u64,
        queue: QueueId,
        previous: Option<End>,
        version: Version,
        jobs: Position,
    ) -> Self {
        Self {
            journal,
            format: FORMAT,
            queue,
            previous,
            version,
            jobs,
        }
    }

    /// The line, without its closing brace.
    pub(crate) fn line(&self) -> Vec<u8> {
        let mut line = Vec::new();
        push_json(&mut line, self);
        line.pop();
        line
    }

    /// Reads the first line of journal `number`, whose checksum has been checked.
    pub(crate) fn parse(disk: &dyn Disk, number: u64, line: Option<&[u8]>) -> Result<Self> {
        let name = name(number);
        let bad = || corrupt(disk, &name, Some(1), NO_HEADER);
        let line = line.ok_or_else(bad)?;
        // Of another format it may be something else altogether.
        let Format { format } = serde_json::from_slice(line).map_err(|_| bad())?;
        check_format(disk, &name, format)?;
        let header: Self = serde_json::from_slice(line).map_err(|_| bad())?;
        (header.journal == number).then_some(header).ok_or_else(bad)
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Returns true if a first line is of a journal that another version has written.
pub(crate) fn is_of_other_format(line: &[u8]) -> bool {
    serde_json::from_slice::<Format>(line).is_ok_and(|it| it.format != FORMAT)
}

/// The name of journal `number`.
pub(crate) fn name(number: u64) -> String {
    format!("{PREFIX}{number}.jsonl")
}

/// Returns true for the name that a journal has before it is complete.
pub(crate) fn is_begun(name: &str) -> bool {
    let number = name
        .strip_prefix('.')
        .and_then(|name| name.strip_prefix(PREFIX))
        .and_then(|name| name.strip_suffix(".jsonl.begun"));
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

/// The numbers of the journals that are there, in ascending order.
pub(crate) fn numbers(disk: &dyn Disk) -> Result<Vec<u64>> {
    find(disk).map_err(|error| disk_error(disk, "can't read", "", error))
}

fn find(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let number = |name: &String| {
        name.strip_prefix(PREFIX)?
            .strip_suffix(".jsonl")?
            .parse()
            .ok()
    };
    let mut numbers: Vec<u64> = disk.names()?.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Starts journal `number` with `lines` behind one that is still in use, with room for `reserve` bytes.
pub(crate) fn go_on(
    disk: &dyn Disk,
    number: u64,
    lines: &[Vec<u8>],
    reserve: u64,
    roll: &mut Roll,
) -> Result<Journal, AppendError> {
    let name = name(number);
    let mut begin = || {
        let journal = Journal::create(disk, &name, lines, reserve).map_err(AppendError::Full)?;
        roll.call(disk, number)?;
        Ok(journal)
    };
    begin().map_err(|error| match error {
        // If it is there after all, it would cut off what the file before it gets from here on.
        AppendError::Full(error) => match disk.remove(&name).and_then(|()| disk.sync_folder()) {
            Ok(()) => AppendError::Full(error),
            Err(error) => AppendError::Broken(error),
        },
        broken @ AppendError::Broken(_) => broken,
    })
}

/// Removes the journals before `number`. One that stays is removed when the folder is opened next.
pub(crate) fn remove_before(disk: &dyn Disk, number: u64) {
    let remove = || {
        let mut old = find(disk)?.into_iter().take_while(|old| *old < number);
        old.try_for_each(|old| disk.remove(&name(old)))
    };
    if let Err(error) = remove() {
        tracing::warn!(folder = %disk.path().display(), %error, "an old journal can't be removed");
    }
}

/// Journals that follow each other, read whole.
pub(crate) struct Files {
    files: Vec<File>,
}

/// One of them.
pub(crate) struct File {
    pub(crate) number: u64,
    pub(crate) contents: Contents,
}

impl Files {
    /// Reads the journals that `meta` does not have yet. `lenient`: damage ends a file instead of the reading.
    pub(crate) fn read(disk: &dyn Disk, meta: &Meta, lenient: bool) -> Result<Self> {
        let first = meta.journal;
        let mut numbers = numbers(disk)?;
        numbers.retain(|number| *number >= first);
        let missing = (first..)
            .zip(&numbers)
            .find(|(expected, number)| expected != *number);
        if let Some((missing, _)) = missing.filter(|_| !lenient) {
            let detail = "it is missing, and a later one is there; restore a backup of the folder";
            return Err(corrupt(disk, &name(missing), None, detail));
        }
        let mut files = Vec::new();
        let mut end = None;
        // From the last to the first, since each header states where the file before it ends.
        for number in numbers.into_iter().rev() {
            let name = name(number);
            let text = disk
                .read(&name)
                .map_err(|error| disk_error(disk, "can't read", &name, error))?;
            let contents = journal::read(text.unwrap_or_default(), end);
            end = match previous_end(disk, number, meta.queue, &contents) {
                Ok(end) => end,
                Err(_) if lenient => None,
                Err(error) => return Err(error),
            };
            let begins_anew = end.is_none() && !lenient;
            files.push(File { number, contents });
            // It has everything that counts, so what stands before it is left over.
            if begins_anew {
                break;
            }
        }
        files.reverse();
        Ok(Self { files })
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

    /// Whether anything in them can't be read.
    pub(crate) fn are_damaged(&self) -> bool {
        self.files.iter().any(|file| file.contents.damage.is_some())
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
        let Some(damage) = &file.contents.damage else {
            return Ok(());
        };
        let name = name(file.number);
        let keep = || {
            let kept = free_name(disk, &format!("{name}.torn"))?;
            let mut copy = disk.create(&kept)?;
            copy.write_at(0, file.contents.tail())?;
            copy.sync()?;
            disk.sync_folder()?;
            Ok(kept)
        };
        let kept = keep().map_err(|error| disk_error(disk, "can't write beside", &name, error))?;
        let (file, line) = (disk.path().join(name), damage.line);
        if damage.has_whole_lines {
            tracing::error!(file = %file.display(), line, kept, "the end of this file can't be read and may have been acknowledged: it is cut off, and kept aside");
        } else {
            tracing::warn!(file = %file.display(), line, kept, "a write was cut off before it was acknowledged: it is kept aside");
        }
        Ok(())
    }
}

/// Where the file before this one ends, if this one is sound.
fn previous_end(
    disk: &dyn Disk,
    number: u64,
    queue: QueueId,
    contents: &Contents,
) -> Result<Option<End>> {
    if let Some(damage) = contents.damage.as_ref().filter(|damage| damage.was_durable) {
        return Err(corrupt(disk, &name(number), Some(damage.line), DAMAGED));
    }
    let line = contents.lines().next().map(|line| line.text);
    let header = Header::parse(disk, number, line)?;
    match header.queue == queue {
        true => Ok(header.previous),
        false => Err(corrupt(
            disk,
            &name(number),
            Some(1),
            elsewhere(queue, header.queue),
        )),
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
