//! From what lies in the folder to a state, and a fresh journal to go on with. Nothing is published before it is on the disk, and
//! nothing is changed before everything was read.

use serde::{Deserialize, Serialize};

use crate::clock::first_number;
use crate::error::{Error, Result};
use crate::in_memory::state::{Record, Row, State, Table};
use crate::json_file::disk::Disk;
use crate::json_file::error::{corrupt, disk_error};
use crate::json_file::journal::chain::{Files, Kind};
use crate::json_file::journal::manifest::Roll;
use crate::json_file::journal::{End, Journal};
use crate::json_file::journal::{ReadLine, record};
use crate::json_file::snapshot::import::import;
use crate::json_file::snapshot::{self, DATA, Fingerprint, Meta, Pair, SNAPSHOT_PIECE};
use crate::model::entry::{Timestamp, Version};
use crate::model::id::QueueId;

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
    /// The roll as it was found.
    pub(super) roll: Roll,
    /// Bytes of all journals whose commits are not in `data.json`.
    pub(super) journal_bytes: u64,
    /// The length of `data.meta.json`.
    pub(super) meta_bytes: u64,
}

/// What the header of a journal says besides.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoreHeader {
    /// The latest version before its first line.
    pub(super) version: Version,
}

/// The first line of journal `number`, without its closing brace.
pub(super) fn header_line(number: u64, previous: Option<End>, version: Version) -> Vec<u8> {
    Kind::Store.header_line(number, previous, &StoreHeader { version })
}

/// Opens the store's part of the folder when the wall clock shows `now`. `keep_edit`: an edited `data.json` is taken, and what journals hold beyond it is
/// given up.
pub(super) fn recover(disk: &dyn Disk, now: Timestamp, keep_edit: bool) -> Result<Recovered> {
    let numbers = Kind::Store
        .numbers(disk)?
        .into_iter()
        .chain(Kind::Queue.numbers(disk)?);
    let roll = Roll::read(disk)?;
    let has_logs = numbers.count() > 0 || roll.is_some();
    let roll = roll.unwrap_or_default();
    let mut recovered = match snapshot::load(disk, has_logs)? {
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
            roll.check_queue(disk)?;
            let is_missing = match roll.check_journals(disk, meta.journal) {
                Err(error @ Error::Corrupt { .. }) if !keep_edit => return Err(error),
                checked => checked.is_err(),
            };
            let newer = newer || is_missing;
            recover_edited(disk, *meta, &text, newer, now, keep_edit)
        }
        Pair::Whole(meta, text) => {
            roll.check_queue(disk)?;
            roll.check_journals(disk, meta.journal)?;
            recover_whole(disk, *meta, &text, now)
        }
    }?;
    recovered.roll = roll;
    remove_begun(disk)?;
    Ok(recovered)
}

/// Removes files that a crash has left before they got their name.
fn remove_begun(disk: &dyn Disk) -> Result<()> {
    let names = disk
        .names()
        .map_err(|error| disk_error(disk, "cannot read", "", error))?;
    let is_begun = |name: &&String| {
        let kinds = [Kind::Store, Kind::Queue];
        kinds.iter().any(|kind| kind.is_begun(name))
    };
    for begun in names.iter().filter(is_begun) {
        disk.remove(begun)
            .map_err(|error| disk_error(disk, "cannot remove", begun, error))?;
    }
    Ok(())
}

/// Takes `text` as the data, and writes the pair before anything else can happen. What `meta` knows of entries that are in
/// the text unchanged stays with them.
fn take_over(
    disk: &dyn Disk,
    mut meta: Meta,
    replaces: Option<Fingerprint>,
    text: &[u8],
    now: Timestamp,
) -> Result<Recovered> {
    let mut version = Version(first_number(meta.version.0, now));
    meta.skipped += version.0 - meta.version.0;
    let entries = import(disk, text, &meta.known_entries(), &mut version)?;
    meta.version = version;
    meta.time = meta.time.max(now);
    let mut table = Table::of(entries);
    table.start_cut();
    let written = snapshot::write(disk, &meta, replaces, || table.next_of_cut(SNAPSHOT_PIECE))
        .map_err(|error| disk_error(disk, "can't write", DATA, error))?;
    let state = State::new(table, meta.progress(), version, meta.time);
    start_journal(
        disk,
        Start {
            state,
            meta: &meta,
            data: written.data,
            meta_bytes: written.meta_bytes,
            number: meta.journal,
            previous: None,
            carried: Carried::default(),
            bytes: 0,
        },
    )
}

/// A `data.json` that somebody edited while nothing ran. `newer`: there was something that is not in it.
fn recover_edited(
    disk: &dyn Disk,
    mut meta: Meta,
    text: &[u8],
    newer: bool,
    now: Timestamp,
    keep_edit: bool,
) -> Result<Recovered> {
    let journals = Files::read(disk, Kind::Store, Some(meta.journal), keep_edit)?;
    let is_commit = |line: &ReadLine<'_>| match record::decode(line.text) {
        Ok(record) => !record.is_of_an_opening(),
        Err(_) => true,
    };
    let commits = journals.lines().filter(|(_, it)| is_commit(it)).count();
    // A version that an opening has begun with may have been seen by a watcher.
    let openings = journals
        .lines()
        .filter_map(|(_, line)| record::decode(line.text).ok()?.opened);
    let latest = openings.fold(meta.version, Version::max);
    meta.skipped += latest.0 - meta.version.0;
    meta.version = latest;
    // Where lines can't be read, nobody knows which versions they used.
    if newer || commits > 0 || keep_edit && journals.are_damaged() {
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
    }
    meta.journal = journals.next_number().unwrap_or(meta.journal);
    journals.keep_torn_tail(disk)?;
    let (version, entries) = (meta.version, meta.entry_count());
    let recovered = take_over(disk, meta, Some(Fingerprint::of(text)), text, now)?;
    tell_edit(disk, &recovered.state, version, entries);
    Kind::Store.remove_before(disk, recovered.number);
    Ok(recovered)
}

/// Says what an edit has changed of `entries` entries up to `version`: whoever has edited nothing has a damaged disk.
fn tell_edit(disk: &dyn Disk, state: &State, version: Version, entries: usize) {
    let mut same = 0;
    let mut changed: Vec<&Row> = Vec::new();
    for row in state.table.range_from(std::ops::Bound::Unbounded) {
        if row.version() > version {
            changed.push(row);
        } else {
            same += 1;
        }
    }
    let keys: Vec<&str> = changed.iter().take(20).map(|row| row.key_str()).collect();
    tracing::warn!(
        file = %disk.path().join(DATA).display(),
        new_or_changed = changed.len(),
        gone_or_changed = entries.saturating_sub(same),
        first_keys = ?keys,
        "it is not as it was written: taken as an edit"
    );
}

/// What is left of `meta` when the commits after it are given up: everything is taken on but their values, and no version
/// is used again.
fn without_values(mut meta: Meta, journals: &Files) -> Meta {
    let mut state = State::new(Table::default(), meta.progress(), meta.version, meta.time);
    for (_, line) in journals.lines() {
        if let Ok((record, remembered)) = record::decode_job(line.text) {
            state.apply(record);
            meta.remembered.extend(remembered);
        }
    }
    meta.set_progress(&state.progress);
    let mut meta = meta.without_entries();
    meta.version = state.version;
    meta.time = state.time;
    meta
}

fn recover_whole(
    disk: &dyn Disk,
    mut meta: Meta,
    text: &[u8],
    now: Timestamp,
) -> Result<Recovered> {
    let table = meta.table(disk, text)?;
    let mut state = State::new(table, meta.progress(), meta.version, meta.time);
    let journals = Files::read(disk, Kind::Store, Some(meta.journal), false)?;
    let mut carried = Carried::default();
    for (file, line) in journals.lines() {
        let bad = |detail: String| journals.nonsense(disk, file, line.number, detail);
        let (record, remembered) =
            record::decode_job(line.text).map_err(|error| bad(error.to_string()))?;
        meta.remembered.extend(remembered);
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
    let mut state = State::new(state.table, state.progress, state.version, state.time);
    carried.version.get_or_insert(state.version);
    let opening = Record::opening(state.version, state.time.max(now), now);
    carried.lines.push(record::encode(&opening));
    state.apply(opening);
    let number = journals.next_number().unwrap_or(meta.journal);
    let previous = journals.durable_end();
    journals.keep_torn_tail(disk)?;
    let start = Start {
        state,
        meta: &meta,
        data: meta.data,
        meta_bytes: meta.bytes,
        number,
        previous,
        carried,
        bytes: journals.bytes(),
    };
    let recovered = start_journal(disk, start)?;
    Kind::Store.remove_before(disk, meta.journal);
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
    meta_bytes: u64,
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
        meta_bytes,
        number,
        previous,
        carried,
        bytes,
    } = start;
    let name = Kind::Store.name(number);
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
        meta: meta.without_entries(),
        data,
        journal,
        number,
        roll: Roll::default(),
        journal_bytes: bytes,
        meta_bytes,
    })
}
