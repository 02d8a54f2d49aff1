//! Everything in a folder that can still be read, and everything that is wrong with it: what `verify` reports, and what
//! `repair` writes down anew. It changes nothing.
//!
//! Where opening stops at the first damage, this steps over it: a line of a journal counts if its checksum holds from the line
//! before it, an entry of a damaged `data.json` if it is the one that `data.meta.json` knows. So what comes out is never
//! something that nobody wrote; what is missing is said, with its versions, positions and keys as far as they can be known.

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

/// Something wrong in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderProblem {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1, where one can be named.
    pub line: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// What a repair would lose; `None` if no repair can help and somebody has to look.
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

/// Most keys that are listed in one message.
const KEYS_MAX: usize = 20;

/// What could be read of a folder.
#[derive(Debug)]
pub(crate) struct Salvage {
    pub(crate) pair: InspectedPair,
    /// The jobs that wait, and what is remembered of requests.
    pub(crate) log: PartitionLog,
    /// Jobs that are gone, each interval with the position before it.
    pub(crate) lost_jobs: Vec<(Position, Position)>,
    pub(crate) journal_bytes: u64,
    pub(crate) found: Findings,
}

/// What was noticed while a folder was read.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) problems: Vec<FolderProblem>,
    /// What is no damage and good to know.
    pub(crate) notes: Vec<String>,
    roll: Roll,
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    /// Nobody writes.
    Nobody,
    /// Somebody does: what no mark covers yet may never come to be.
    Writer,
}

impl Salvage {
    /// Reads everything.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if a file cannot be read, [`Error::Corrupt`] for a format of another version.
    pub(crate) fn read(disk: &dyn Disk, beside: Beside) -> Result<Self> {
        let mut reading = Reading {
            disk,
            beside,
            found: Findings::default(),
        };
        // Before the files are listed: beside a writer there may be later ones, and none less.
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

    /// A number that no journal has had.
    pub(crate) fn next_number(&self, disk: &dyn Disk) -> Result<u64> {
        let latest = chain::numbers(disk)?.last().copied().unwrap_or_default();
        Ok(latest.max(self.found.roll.journal) + 1)
    }
}

/// The reading of a folder, and what it has noticed so far.
struct Reading<'a> {
    disk: &'a dyn Disk,
    beside: Beside,
    found: Findings,
}

impl Reading<'_> {
    /// Notes a problem, and what a repair loses by it.
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

    /// Notes a problem; its number, so that what it loses can be said when that is known.
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
            (true, _) => "something is missing here that had been on the disk".to_owned(),
            (false, 1) => "its checksum does not match".to_owned(),
            (false, lines) => format!("the checksums of {lines} lines do not match"),
        };
        self.problem(name, Some(damaged.line), what)
    }

    fn torn(&mut self, name: &str, damaged: &Damaged<'_>) {
        // Beside somebody who writes it is what is being written.
        if self.beside == Beside::Nobody {
            let path = self.disk.path().join(name);
            self.found.notes.push(format!(
                "{}, line {}: the end of a write that was cut off and never acknowledged; opening keeps it aside",
                path.display(),
                damaged.line
            ));
        }
    }

    /// Reads the roll; whether there is one.
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

    /// Returns what the text of `data.meta.json` says; `None` if it is not as it was written.
    fn meta(&self, text: &[u8]) -> Result<Option<Meta>> {
        match parse_meta(self.disk, text) {
            Err(Error::Corrupt { .. }) if !is_of_other_format(text) => Ok(None),
            parsed => parsed.map(Some),
        }
    }
}

/// Some of `keys`, for a message.
fn list_keys(keys: &[impl std::fmt::Debug]) -> String {
    let shown = keys.iter().take(KEYS_MAX);
    let mut list: Vec<String> = shown.map(|key| format!("{key:?}")).collect();
    if keys.len() > KEYS_MAX {
        list.push(format!("and {} more", keys.len() - KEYS_MAX));
    }
    list.join(", ")
}

/// Whether a file is one that this program has written or takes as its own.
pub(crate) fn has_anything(disk: &dyn Disk) -> Result<bool> {
    let names = disk
        .names()
        .map_err(|error| disk_error(disk, "cannot read", "", error))?;
    Ok(names.iter().any(|name| name == DATA || name == META) || !chain::numbers(disk)?.is_empty())
}
