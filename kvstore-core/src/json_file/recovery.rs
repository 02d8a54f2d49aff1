//! From what lies in the folder to a state, and a fresh journal to go on with. Nothing is published before it is on the disk, and
//! nothing is changed before everything was read.

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::import::import;
use super::journal::{self, Contents, End, FORMAT, Journal, ReadLine};
use super::record::push_json;
use super::snapshot::{self, DATA, Fingerprint, Meta, Pair};
use super::{DAMAGED, JOURNAL, QUEUE, corrupt, disk_error, numbered, record};
use crate::entry::{Timestamp, Version};
use crate::error::Result;
use crate::job::QueueId;
use crate::limits::RENUMBER_GAP;
use crate::state::{State, Table};

/// A store that is ready to go on.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) state: State,
    /// What `data.meta.json` holds, but for the entries.
    pub(super) meta: Meta,
    /// What `data.json` is.
    pub(super) data: Fingerprint,
    pub(super) journal: Journal,
    /// The number of that journal.
    pub(super) number: u64,
    /// Bytes of all journals whose commits are not in `data.json`.
    pub(super) journal_bytes: u64,
}

/// The first line of a journal.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    /// What it is: `store`.
    pub(super) journal: String,
    pub(super) format: u32,
    pub(super) number: u64,
    /// Where the journal before it ends; none for the first after a clean stop.
    pub(super) previous: Option<End>,
    /// The latest version before its first line.
    pub(super) version: Version,
}

/// What [`Header::journal`] says.
const KIND: &str = "store";

/// The first line of journal `number`.
pub(super) fn header_line(number: u64, previous: Option<End>, version: Version) -> Vec<u8> {
    let header = Header {
        journal: KIND.into(),
        format: FORMAT,
        number,
        previous,
        version,
    };
    let mut line = Vec::new();
    push_json(&mut line, &header);
    line.pop();
    line
}

pub(super) fn journal_name(number: u64) -> String {
    format!("{JOURNAL}{number}.jsonl")
}

/// Opens the store's part of the folder. `keep_edit`: an edited `data.json` is taken, and what journals hold beyond it is given up.
pub(super) fn recover(disk: &dyn Disk, now: Timestamp, keep_edit: bool) -> Result<Recovered> {
    let names = disk
        .names()
        .map_err(|error| disk_error(disk, "can't read", "", error))?;
    let has_logs = !numbered(&names, JOURNAL).is_empty() || !numbered(&names, QUEUE).is_empty();
    match snapshot::load(disk, has_logs)? {
        Pair::None => take_over(
            disk,
            Meta::of_new_folder(QueueId::random()),
            None,
            b"{}",
            now,
        ),
        Pair::Foreign(text) => {
            tracing::info!(file = %disk.path().join(DATA).display(), "taking this file as the data");
            take_over(
                disk,
                Meta::of_new_folder(QueueId::random()),
                Some(Fingerprint::of(&text)),
                &text,
                now,
            )
        }
        Pair::Edited { meta, text, newer } => {
            recover_edited(disk, *meta, &text, newer, now, keep_edit)
        }
        Pair::Whole(meta, text) => recover_whole(disk, &meta, &text),
    }
}

/// Takes `text` as the data, and writes the pair before anything else can happen. What `meta` knows of entries that are in the text
/// unchanged stays with them.
fn take_over(
    disk: &dyn Disk,
    mut meta: Meta,
    replaces: Option<Fingerprint>,
    text: &[u8],
    now: Timestamp,
) -> Result<Recovered> {
    let mut version = meta.version;
    let entries = import(disk, text, &meta.known_entries(), &mut version)?;
    meta.version = version;
    meta.time = meta.time.max(now);
    let table = Table::from_sorted(entries.into_iter().collect());
    let mut pieces = std::iter::once(table.to_vec());
    let data = snapshot::write(disk, &meta, replaces, || pieces.next().unwrap_or_default())
        .map_err(|error| disk_error(disk, "can't write", DATA, error))?;
    let state = State::new(table, meta.progress(), version, meta.time);
    start_journal(
        disk,
        Start {
            state,
            meta: &meta,
            data,
            number: meta.journal,
            previous: None,
            carried: Carried::default(),
            bytes: 0,
        },
    )
}

/// A `data.json` that somebody edited while nothing ran.
fn recover_edited(
    disk: &dyn Disk,
    mut meta: Meta,
    text: &[u8],
    newer: bool,
    now: Timestamp,
    keep_edit: bool,
) -> Result<Recovered> {
    let journals = Journals::read(disk, &meta, keep_edit)?;
    let commits = journals.records().count();
    if newer || commits > 0 {
        if !keep_edit {
            let ways_out = format!(
                "it was edited while {commits} later commits stand in journals beside it: put it back as it was, \
                 or keep the edit and give those commits up by opening the folder once with ?keep_edit=true"
            );
            return Err(corrupt(disk, DATA, None, ways_out));
        }
        tracing::error!(
            commits,
            "the edited data.json is kept and later commits are given up, as told"
        );
        meta = without_values(meta, &journals);
    } else {
        tracing::info!(file = %disk.path().join(DATA).display(), "it was edited: taking the edit as the data");
    }
    meta.journal = journals.next_number(&meta);
    let recovered = take_over(disk, meta, Some(Fingerprint::of(text)), text, now)?;
    journals.remove_before(disk, recovered.number)?;
    Ok(recovered)
}

/// What is left of `meta` when the commits after it are given up: everything is taken on but their values, and no version is used again.
fn without_values(mut meta: Meta, journals: &Journals) -> Meta {
    let mut state = State::new(Table::default(), meta.progress(), meta.version, meta.time);
    for (_, line) in journals.records() {
        if let Ok(record) = record::decode(line.text) {
            state.apply(record);
        }
    }
    meta.set_progress(&state.progress);
    meta.forget_entries();
    meta.version = Version(state.version.0 + RENUMBER_GAP);
    meta.time = state.time;
    meta
}

fn recover_whole(disk: &dyn Disk, meta: &Meta, text: &[u8]) -> Result<Recovered> {
    let table = Table::from_sorted(meta.entries(disk, text)?);
    let mut state = State::new(table, meta.progress(), meta.version, meta.time);
    let journals = Journals::read(disk, meta, false)?;
    let mut carried = Carried::default();
    for (file, line) in journals.records() {
        let bad = |detail: String| corrupt(disk, &file.name(), Some(line.number), detail);
        let record = record::decode(line.text).map_err(|error| bad(error.to_string()))?;
        if record.before != state.version {
            return Err(bad(format!(
                "it follows version {}, and should follow {}",
                record.before, state.version
            )));
        }
        // What no mark covers may be in the page cache only: it goes into the new file, and with that to the disk.
        if line.offset >= file.contents.durable.length {
            carried.version.get_or_insert(record.before);
            carried.lines.push(line.body());
        }
        state.apply(record);
    }
    // Changes can be watched from here on, as after every opening.
    let state = State::new(state.table, state.progress, state.version, state.time);
    let number = journals.next_number(meta);
    let previous = journals.files.last().map(|file| file.contents.durable);
    if let Some(last) = journals.files.last() {
        last.keep_torn_tail(disk)?;
    }
    let start = Start {
        state,
        meta,
        data: meta.data,
        number,
        previous,
        carried,
        bytes: journals.bytes,
    };
    let recovered = start_journal(disk, start)?;
    journals.remove_before(disk, meta.journal)?;
    Ok(recovered)
}

/// Lines that go over into the new journal.
#[derive(Default)]
struct Carried {
    /// The latest version before them.
    version: Option<Version>,
    lines: Vec<Vec<u8>>,
}

struct Start<'a> {
    state: State,
    meta: &'a Meta,
    data: Fingerprint,
    number: u64,
    previous: Option<End>,
    carried: Carried,
    bytes: u64,
}

fn start_journal(disk: &dyn Disk, start: Start<'_>) -> Result<Recovered> {
    let Start {
        state,
        meta,
        data,
        number,
        previous,
        carried,
        bytes,
    } = start;
    let name = journal_name(number);
    let mut lines = vec![header_line(
        number,
        previous,
        carried.version.unwrap_or(state.version),
    )];
    lines.extend(carried.lines);
    let journal = Journal::create(disk, &name, &lines)
        .map_err(|error| disk_error(disk, "can't write", &name, error))?;
    Ok(Recovered {
        state,
        meta: meta.clone().without_entries(),
        data,
        journal,
        number,
        journal_bytes: bytes,
    })
}

/// The journals whose commits are not in `data.json`, read whole and in order.
struct Journals {
    files: Vec<JournalFile>,
    /// All their bytes.
    bytes: u64,
    /// The numbers of all journals that are there, older ones that a crash has left included.
    numbers: Vec<u64>,
}

struct JournalFile {
    number: u64,
    contents: Contents,
}

impl Journals {
    /// `lenient`: damage ends a file instead of the reading.
    fn read(disk: &dyn Disk, meta: &Meta, lenient: bool) -> Result<Self> {
        let names = disk
            .names()
            .map_err(|error| disk_error(disk, "can't read", "", error))?;
        let numbers = numbered(&names, JOURNAL);
        let wanted: Vec<u64> = numbers
            .iter()
            .copied()
            .filter(|number| *number >= meta.journal)
            .collect();
        if let Some((missing, _)) = (meta.journal..)
            .zip(&wanted)
            .find(|(expected, number)| expected != *number)
            && !lenient
        {
            let detail = "it is missing, and a later one is there; restore a backup of the folder";
            return Err(corrupt(disk, &journal_name(missing), None, detail));
        }
        let mut files = Vec::new();
        let mut end = None;
        // From the last to the first, since each header states where the file before it ends.
        for number in wanted.into_iter().rev() {
            let name = journal_name(number);
            let text = disk
                .read(&name)
                .map_err(|error| disk_error(disk, "can't read", &name, error))?;
            let file = JournalFile {
                number,
                contents: journal::read(text.unwrap_or_default(), end),
            };
            end = match file.header(disk) {
                Ok(header) => header.previous,
                Err(_) if lenient => None,
                Err(error) => return Err(error),
            };
            files.push(file);
        }
        files.reverse();
        let bytes = files.iter().map(|file| file.contents.len()).sum();
        Ok(Self {
            files,
            bytes,
            numbers,
        })
    }

    /// All lines but the headers.
    fn records(&self) -> impl Iterator<Item = (&JournalFile, ReadLine<'_>)> {
        self.files
            .iter()
            .flat_map(|file| file.contents.lines().skip(1).map(move |line| (file, line)))
    }

    /// The number of the journal to go on with.
    fn next_number(&self, meta: &Meta) -> u64 {
        self.files
            .last()
            .map_or(meta.journal, |last| last.number + 1)
    }

    /// Removes the files before `number`.
    fn remove_before(&self, disk: &dyn Disk, number: u64) -> Result<()> {
        for old in self.numbers.iter().filter(|old| **old < number) {
            let name = journal_name(*old);
            disk.remove(&name)
                .map_err(|error| disk_error(disk, "can't remove", &name, error))?;
        }
        Ok(())
    }
}

impl JournalFile {
    fn name(&self) -> String {
        journal_name(self.number)
    }

    /// Its header, if the file is sound.
    fn header(&self, disk: &dyn Disk) -> Result<Header> {
        let name = self.name();
        if let Some(damage) = self
            .contents
            .damage
            .as_ref()
            .filter(|damage| damage.was_durable)
        {
            return Err(corrupt(disk, &name, Some(damage.line), DAMAGED));
        }
        let header = self
            .contents
            .lines()
            .next()
            .map(|line| serde_json::from_slice::<Header>(line.text));
        match header {
            Some(Ok(header)) if header.number == self.number && header.journal == KIND => {
                super::check_format(disk, &name, header.format)?;
                Ok(header)
            }
            _ => Err(corrupt(
                disk,
                &name,
                Some(1),
                "it has not the header of this journal; restore a backup of the folder",
            )),
        }
    }

    /// Puts what could not be read into a file beside it.
    fn keep_torn_tail(&self, disk: &dyn Disk) -> Result<()> {
        super::keep_torn_tail(disk, &self.name(), &self.contents)
    }
}
