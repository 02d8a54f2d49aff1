//! Reads everything in a folder that can still be read, and finds everything that is wrong with it:
//! `verify` reports the result, and `repair` writes it to new files. Nothing here changes the
//! folder.
//!
//! Opening stops at the first damage; salvage steps over it. A line of a journal counts if its
//! checksum follows from the line before it, an entry of a damaged `data.json` if it is the one
//! that `data.meta.json` knows. So the result never contains anything that was not written. What is
//! missing is reported, with its versions, positions and keys as far as they can be known.

mod journals;
pub(crate) mod pair;

use std::path::PathBuf;

use self::pair::InspectedPair;
use crate::error::{Error, Result};
use crate::in_memory::log::PartitionLog;
use crate::json_file::disk::Disk;
use crate::json_file::error::{disk_error, read};
use crate::json_file::journal::chain::{self, Files};
use crate::json_file::journal::contents::Damaged;
use crate::json_file::journal::manifest::{ROLL, Roll};
use crate::json_file::sealed::is_of_other_format;
use crate::json_file::snapshot::meta::{Meta, parse_meta};
use crate::json_file::snapshot::{DATA, META};
use crate::model::id::Position;
use crate::queue::QueueOptions;

/// A fault in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderProblem {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1, where one can be named.
    pub line: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// What a repair would lose; `None` if no repair can help and an operator has to look.
    pub loses: Option<String>,
}

impl std::fmt::Display for FolderProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}; ", self.what)?;
        match &self.loses {
            Some(loses) => write!(f, "a repair loses {loses}"),
            None => f.write_str("no repair can help"),
        }
    }
}

/// The maximum number of keys listed in one message.
const KEYS_MAX: usize = 20;

/// Everything that could be read of a folder.
#[derive(Debug)]
pub(crate) struct Salvage {
    pub(crate) pair: InspectedPair,
    /// The waiting jobs, and the remembered requests.
    pub(crate) log: PartitionLog,
    /// Intervals of jobs that are gone, each with the position before it.
    pub(crate) lost_jobs: Vec<(Position, Position)>,
    pub(crate) journal_bytes: u64,
    pub(crate) found: Findings,
}

/// The findings about a folder.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) problems: Vec<FolderProblem>,
    /// Remarks that do not report damage.
    pub(crate) notes: Vec<String>,
    roll: Roll,
}

/// Another process that writes to the folder while it is read, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    /// No process writes.
    Nobody,
    /// A process writes: lines that no mark covers yet may never be acknowledged.
    Writer,
}

impl Salvage {
    /// Reads the whole folder.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if a file cannot be read, [`Error::Corrupt`] for a format of another
    /// version.
    pub(crate) fn read(disk: &dyn Disk, beside: Beside) -> Result<Self> {
        let mut reading = Reading {
            disk,
            beside,
            found: Findings::default(),
        };
        // The manifest is read before the files are listed: beside a writer there may be later
        // journals by then, but never fewer than it names.
        let has_journals = reading.roll()? || !chain::numbers(disk)?.is_empty();
        let mut pair = reading.pair(has_journals)?;
        let files = Files::read(disk, pair.first_journal, reading.found.roll.journal)?;
        if pair.first_journal.is_none() {
            let mut headers = files.files.iter().flat_map(|file| &file.header);
            let queue = headers.next().map(|header| header.queue);
            pair.meta.queue = queue.unwrap_or(pair.meta.queue);
        }
        let mut log = pair.meta.log(disk, &QueueOptions::default())?;
        Ok(Self {
            journal_bytes: files.bytes(),
            lost_jobs: reading.journals(files, &mut pair, &mut log),
            pair,
            log,
            found: reading.found,
        })
    }

    /// Returns a number that no journal has had.
    pub(crate) fn next_number(&self, disk: &dyn Disk) -> Result<u64> {
        let latest = chain::numbers(disk)?.last().copied().unwrap_or_default();
        Ok(latest.max(self.found.roll.journal) + 1)
    }
}

/// A folder that is being read, and what was found so far.
struct Reading<'a> {
    disk: &'a dyn Disk,
    beside: Beside,
    found: Findings,
}

impl Reading<'_> {
    /// Records a problem, and what a repair loses by it.
    fn loss(
        &mut self,
        name: &str,
        line: Option<u64>,
        what: impl Into<String>,
        loses: impl Into<String>,
    ) {
        let number = self.problem(name, line, what);
        self.found.problems[number].loses = Some(loses.into());
    }

    /// Records a problem, and returns its index, so that its loss can be added once it is known.
    fn problem(&mut self, name: &str, line: Option<u64>, what: impl Into<String>) -> usize {
        self.found.problems.push(FolderProblem {
            path: self.disk.path().join(name),
            line,
            what: what.into(),
            loses: None,
        });
        self.found.problems.len() - 1
    }

    fn damaged(&mut self, name: &str, damaged: &Damaged<'_>) -> usize {
        let lines = damaged.text.split(|&byte| byte == b'\n').count();
        let what = match (damaged.text.is_empty(), lines) {
            (true, _) => "lines that had been on the disk are missing here".to_owned(),
            (false, 1) => "its checksum does not match".to_owned(),
            (false, lines) => format!("the checksums of {lines} lines do not match"),
        };
        self.problem(name, Some(damaged.line), what)
    }

    fn torn(&mut self, name: &str, damaged: &Damaged<'_>) {
        // Beside a writer, this is a write in progress.
        if self.beside == Beside::Nobody {
            let path = self.disk.path().join(name);
            self.found.notes.push(format!(
                "{}, line {}: the end of a write that was cut off and never acknowledged; opening keeps it in a separate file",
                path.display(),
                damaged.line
            ));
        }
    }

    /// Reads the manifest, and returns true if there is one.
    fn roll(&mut self) -> Result<bool> {
        match Roll::read(self.disk) {
            Ok(roll) => {
                self.found.roll = roll.unwrap_or_default();
                Ok(roll.is_some())
            }
            Err(Error::Corrupt { line, detail, .. }) if !self.is_of_other_format(ROLL)? => {
                let loses = "the knowledge of which journal is the latest";
                self.loss(ROLL, line, detail, loses);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    fn is_of_other_format(&self, name: &str) -> Result<bool> {
        let text = read(self.disk, name)?.unwrap_or_default();
        Ok(is_of_other_format(&text))
    }

    /// Parses the text of `data.meta.json`; `None` if it is not as it was written.
    fn meta(&self, text: &[u8]) -> Result<Option<Meta>> {
        match parse_meta(self.disk, text) {
            Err(Error::Corrupt { .. }) if !is_of_other_format(text) => Ok(None),
            parsed => parsed.map(Some),
        }
    }
}

/// Lists the first of `keys`, for a message.
fn list_keys(keys: &[impl std::fmt::Debug]) -> String {
    let shown = keys.iter().take(KEYS_MAX);
    let mut list: Vec<String> = shown.map(|key| format!("{key:?}")).collect();
    if keys.len() > KEYS_MAX {
        list.push(format!("and {} more", keys.len() - KEYS_MAX));
    }
    list.join(", ")
}

/// Returns true if the folder has a file that this program writes or would import.
pub(crate) fn has_anything(disk: &dyn Disk) -> Result<bool> {
    let names = disk
        .names()
        .map_err(|error| disk_error(disk, "cannot read", "", error))?;
    Ok(names.iter().any(|name| name == DATA || name == META) || !chain::numbers(disk)?.is_empty())
}
