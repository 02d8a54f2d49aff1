//! Numbered journals that follow each other: `journal-<n>.jsonl` of the store, `queue-<n>.jsonl` of the queue.
//!
//! Each header states where the file before it ends, so the files of a kind are one chain, and a file that is missing, cut
//! short or of another folder is found. One that states nothing begins a chain: files before it are left over.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::json_file::disk::Disk;
use crate::json_file::error::{corrupt, disk_error};
use crate::json_file::journal::manifest::Calls;
use crate::json_file::journal::record::push_json;
use crate::json_file::journal::{self, AppendError, Contents, End, FORMAT, Journal, ReadLine};
use crate::json_file::snapshot::free_name;

/// What is said of a line whose checksum is wrong although it had been written whole.
const DAMAGED: &str = "its checksum does not match, and it had been on the disk whole; nothing was changed, restore a backup of the folder";

/// Whose journals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Store,
    Queue,
}

/// What the first line of a journal says; behind that follows what a kind has of its own.
#[derive(Serialize, Deserialize)]
pub(crate) struct Header<'a> {
    /// `store` or `queue`.
    pub(crate) journal: &'a str,
    pub(crate) format: u32,
    pub(crate) number: u64,
    /// Where the journal before it ends; `null` for the first.
    pub(crate) previous: Option<End>,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Store => "journal-",
            Self::Queue => "queue-",
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Queue => "queue",
        }
    }

    /// The name of the file of that number.
    pub(crate) fn name(self, number: u64) -> String {
        format!("{}{number}.jsonl", self.prefix())
    }

    /// Returns true for the name that a file has before it is complete.
    pub(crate) fn is_begun(self, name: &str) -> bool {
        let number = name
            .strip_prefix('.')
            .and_then(|name| name.strip_prefix(self.prefix()))
            .and_then(|name| name.strip_suffix(".jsonl.begun"));
        number.is_some_and(|number| number.parse::<u64>().is_ok())
    }

    /// The numbers of the files that are there, in ascending order.
    pub(crate) fn numbers(self, disk: &dyn Disk) -> Result<Vec<u64>> {
        self.find(disk)
            .map_err(|error| disk_error(disk, "can't read", "", error))
    }

    fn find(self, disk: &dyn Disk) -> io::Result<Vec<u64>> {
        let number = |name: &String| {
            name.strip_prefix(self.prefix())?
                .strip_suffix(".jsonl")?
                .parse()
                .ok()
        };
        let mut numbers: Vec<u64> = disk.names()?.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The first line of file `number`, without its closing brace. `own` is what the kind adds.
    pub(crate) fn header_line(
        self,
        number: u64,
        previous: Option<End>,
        own: &impl Serialize,
    ) -> Vec<u8> {
        let mut line = Vec::new();
        push_json(
            &mut line,
            &Header {
                journal: self.word(),
                format: FORMAT,
                number,
                previous,
            },
        );
        line.pop();
        let mut rest = Vec::new();
        push_json(&mut rest, own);
        rest.pop();
        rest[0] = b',';
        line.append(&mut rest);
        line
    }

    /// Starts file `number` behind one that is still in use.
    pub(crate) fn go_on(
        self,
        disk: &dyn Disk,
        number: u64,
        lines: &[Vec<u8>],
        roll: &Calls,
    ) -> Result<Journal, AppendError> {
        let name = self.name(number);
        let begin = || {
            let journal = Journal::create(disk, &name, lines).map_err(AppendError::Full)?;
            roll.call(disk, self, number)?;
            Ok(journal)
        };
        begin().map_err(|error| match error {
            // If it is there after all, it would cut off what the file before it gets from here on.
            AppendError::Full(error) => {
                match disk.remove(&name).and_then(|()| disk.sync_folder()) {
                    Ok(()) => AppendError::Full(error),
                    Err(error) => AppendError::Broken(error),
                }
            }
            broken @ AppendError::Broken(_) => broken,
        })
    }

    /// Removes the files before `number`. One that stays is removed when the folder is opened next.
    pub(crate) fn remove_before(self, disk: &dyn Disk, number: u64) {
        let remove = || {
            let mut old = self.find(disk)?.into_iter().take_while(|old| *old < number);
            old.try_for_each(|old| disk.remove(&self.name(old)))
        };
        if let Err(error) = remove() {
            tracing::warn!(folder = %disk.path().display(), %error, "an old journal can't be removed");
        }
    }
}

/// Journals that follow each other, read whole.
pub(crate) struct Files {
    kind: Kind,
    files: Vec<File>,
}

/// One of them.
pub(crate) struct File {
    pub(crate) number: u64,
    pub(crate) contents: Contents,
}

impl Files {
    /// Reads the files from `first` on, or all that are there. `lenient`: damage ends a file instead of the reading.
    pub(crate) fn read(
        disk: &dyn Disk,
        kind: Kind,
        first: Option<u64>,
        lenient: bool,
    ) -> Result<Self> {
        let mut numbers = kind.numbers(disk)?;
        numbers.retain(|number| first.is_none_or(|first| *number >= first));
        let first = first.or(numbers.first().copied()).unwrap_or_default();
        let missing = (first..)
            .zip(&numbers)
            .find(|(expected, number)| expected != *number);
        if let Some((missing, _)) = missing.filter(|_| !lenient) {
            let detail = "it is missing, and a later one is there; restore a backup of the folder";
            return Err(corrupt(disk, &kind.name(missing), None, detail));
        }
        let mut files = Vec::new();
        let mut end = None;
        // From the last to the first, since each header states where the file before it ends.
        for number in numbers.into_iter().rev() {
            let name = kind.name(number);
            let text = disk
                .read(&name)
                .map_err(|error| disk_error(disk, "can't read", &name, error))?;
            let contents = journal::read(text.unwrap_or_default(), end);
            end = match previous_end(disk, kind, number, &contents) {
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
        Ok(Self { kind, files })
    }

    /// Leaves out the lines that no mark covers, which may not have been acknowledged.
    pub(crate) fn leave_out_unmarked(&mut self) {
        for file in &mut self.files {
            file.contents.leave_out_unmarked();
        }
    }

    /// All their bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.contents.len()).sum()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &File> {
        self.files.iter()
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

    /// What the kind has of its own in a file's header.
    pub(crate) fn own_header<T: DeserializeOwned>(
        &self,
        disk: &dyn Disk,
        file: &File,
    ) -> Result<T> {
        let header = file.contents.lines().next();
        let header = header.and_then(|line| serde_json::from_slice(line.text).ok());
        header.ok_or_else(|| {
            corrupt(
                disk,
                &self.kind.name(file.number),
                Some(1),
                "it has not the header of this journal",
            )
        })
    }

    /// Damage in a line that can be read and makes no sense.
    pub(crate) fn nonsense(
        &self,
        disk: &dyn Disk,
        file: &File,
        line: u64,
        detail: impl Into<String>,
    ) -> crate::error::Error {
        corrupt(disk, &self.kind.name(file.number), Some(line), detail)
    }

    /// Puts what could not be read at the end of the last file into another one beside it, and says so.
    pub(crate) fn keep_torn_tail(&self, disk: &dyn Disk) -> Result<()> {
        let Some(file) = self.files.last() else {
            return Ok(());
        };
        let Some(damage) = &file.contents.damage else {
            return Ok(());
        };
        let name = self.kind.name(file.number);
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
    kind: Kind,
    number: u64,
    contents: &Contents,
) -> Result<Option<End>> {
    let name = kind.name(number);
    if let Some(damage) = contents.damage.as_ref().filter(|damage| damage.was_durable) {
        return Err(corrupt(disk, &name, Some(damage.line), DAMAGED));
    }
    match contents
        .lines()
        .next()
        .map(|line| serde_json::from_slice::<Header<'_>>(line.text))
    {
        Some(Ok(header)) if header.number == number && header.journal == kind.word() => {
            crate::json_file::error::check_format(disk, &name, header.format)?;
            Ok(header.previous)
        }
        _ => Err(corrupt(
            disk,
            &name,
            Some(1),
            "it has not the header of this journal; restore a backup of the folder",
        )),
    }
}
