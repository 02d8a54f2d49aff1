//! Recovers state and queue from the files of a folder, and begins a fresh journal. Nothing is
//! published before it is on the disk, and nothing is changed before everything was read.

use crate::clock::first_number;
use crate::error::{Error, Result};
use crate::in_memory::log::PartitionLog;
use crate::in_memory::state::{Record, Row, State, Table};
use crate::json_file::Options;
use crate::json_file::disk::Disk;
use crate::json_file::error::{corrupt, disk_error};
use crate::json_file::journal::chain::{self, Files, Header, Latest, nonsense};
use crate::json_file::journal::manifest::Roll;
use crate::json_file::journal::record;
use crate::json_file::sealed::Format;
use crate::json_file::snapshot::data::FileFingerprint;
use crate::json_file::snapshot::import::{Known, import};
use crate::json_file::snapshot::meta::Meta;
use crate::json_file::snapshot::pair::{Pair, load};
use crate::json_file::snapshot::{self, DATA, Written};
use crate::json_file::writer::quota;
use crate::model::entry::{Timestamp, Version};
use crate::model::id::QueueId;

/// A recovered folder, ready for use.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) state: State,
    pub(super) log: PartitionLog,
    /// The contents of `data.meta.json`, without the entries.
    pub(super) meta: Meta,
    /// The pair as it was last written.
    pub(super) written: Written,
    pub(super) latest: Latest,
}

/// The inputs of an opening.
struct Opening<'a> {
    disk: &'a dyn Disk,
    options: &'a Options,
    /// The time of the wall clock.
    now: Timestamp,
    roll: Roll,
}

/// Opens the folder. With `keep_edit`, an edited `data.json` is accepted, and later commits in the
/// journals are discarded.
pub(super) fn recover(disk: &dyn Disk, options: &Options) -> Result<Recovered> {
    let roll = Roll::read(disk)?;
    let has_journals = !chain::numbers(disk)?.is_empty() || roll.is_some();
    let roll = roll.unwrap_or_default();
    let opening = Opening {
        disk,
        options,
        now: options.clock.now(),
        roll,
    };
    let recovered = match load(disk, has_journals)? {
        Pair::Foreign(text) => {
            if text.is_some() {
                tracing::info!(file = %disk.path().join(DATA).display(), "taking this file as the data");
            }
            let meta = Meta::of_new_folder(QueueId::random());
            let replaces = text.as_deref().map(FileFingerprint::of);
            opening.take_over(
                meta,
                &Known::new(),
                replaces,
                text.as_deref().unwrap_or(b"{}"),
            )
        }
        Pair::Edited {
            meta,
            known,
            text,
            newer,
        } => {
            let is_missing = match roll.check(disk, meta.journal) {
                Err(error @ Error::Corrupt { .. }) if !options.keep_edit => return Err(error),
                checked => checked.is_err(),
            };
            opening.edited(*meta, known, &text, newer || is_missing)
        }
        Pair::Whole(meta, table) => {
            roll.check(disk, meta.journal)?;
            opening.whole(*meta, table)
        }
    }?;
    remove_begun(disk)?;
    Ok(recovered)
}

/// Removes journals that a crash left before they got their name.
fn remove_begun(disk: &dyn Disk) -> Result<()> {
    let names = disk
        .names()
        .map_err(|error| disk_error(disk, "cannot read", "", error))?;
    for begun in names.iter().filter(|name| chain::is_begun(name)) {
        disk.remove(begun)
            .map_err(|error| disk_error(disk, "cannot remove", begun, error))?;
    }
    Ok(())
}

impl Opening<'_> {
    /// Takes `text` as the data, and writes the pair before anything else can happen. Entries that
    /// are unchanged in the text keep their version and deadline, and the queue of `meta` remains.
    fn take_over(
        self,
        mut meta: Meta,
        known: &Known,
        replaces: Option<FileFingerprint>,
        text: &[u8],
    ) -> Result<Recovered> {
        let disk = self.disk;
        let mut log = meta.log(disk, &self.options.queue)?;
        let mut version = Version(first_number(meta.version.0, self.now));
        meta.skipped += version.0 - meta.version.0;
        let entries = import(disk, text, known, &mut version)?;
        meta.version = version;
        meta.time = meta.time.max(self.now);
        log.open(self.now);
        meta.set_log(&log);
        meta.add_remembered(meta.time, || &log);
        let mut table = Table::of(entries);
        let written = snapshot::write_table(disk, &meta, replaces, &mut table)
            .map_err(|error| disk_error(disk, "cannot write", DATA, error))?;
        let state =
            State::new(table, meta.progress(), version, meta.time).keeping(self.options.retention);
        let header = Header {
            journal: meta.journal,
            format: Format,
            queue: meta.queue,
            previous: None,
            version,
            jobs: log.last(),
        };
        self.start_journal((state, log), &meta, written, &header, &[], 0)
    }

    /// Opens a folder whose `data.json` was edited while no process had it open. `newer` says that
    /// there was data that the edited file lacks.
    fn edited(
        self,
        mut meta: Meta,
        mut known: Known,
        text: &[u8],
        newer: bool,
    ) -> Result<Recovered> {
        let (disk, keep_edit) = (self.disk, self.options.keep_edit);
        let journals = Files::read(disk, Some(meta.journal), self.roll.journal)?;
        if !keep_edit {
            journals.check(disk, meta.queue)?;
        }
        let mut log = meta.log(disk, &self.options.queue)?;
        let mut state = State::new(Table::default(), meta.progress(), meta.version, meta.time)
            .keeping(self.options.retention);
        let mut commits = 0;
        let mut unreadable = journals.are_damaged();
        for (_, line) in journals.lines() {
            let applied = record::decode(line.text, meta.queue).is_ok_and(|line| {
                let follows = line.record().is_none_or(|record| {
                    // Everything except the writes of the commit is kept in any case.
                    let is_empty = record.writes.is_empty() && record.expired.is_empty();
                    commits += u64::from(!is_empty);
                    let version = state.version;
                    state.version = version.max(record.before);
                    record.before == version
                });
                follows & line.apply(&mut state, &mut log).is_ok()
            });
            unreadable |= !applied;
        }
        // The versions that unreadable lines used are unknown.
        if newer || commits > 0 || unreadable {
            if !keep_edit {
                let ways_out = format!(
                    "it was edited, but the journals beside it hold {commits} later commits: put it back as it was, \
                     or keep the edit and discard those commits by opening the folder once with ?keep_edit=true"
                );
                return Err(corrupt(disk, DATA, None, ways_out));
            }
            tracing::error!(
                commits,
                "the edited data.json is kept and later commits are discarded, as keep_edit requests"
            );
            // Everything except their values is kept, and no version is used again.
            meta = meta.without_entries();
            known.clear();
        }
        meta.take_down(&state, &log);
        meta.journal = journals.next_number().unwrap_or(meta.journal);
        journals.keep_torn_tail(disk)?;
        let (version, entries) = (meta.version, meta.entry_count());
        let recovered = self.take_over(meta, &known, Some(FileFingerprint::of(text)), text)?;
        tell_edit(disk, &recovered.state, version, entries);
        chain::remove_before(disk, recovered.latest.number);
        Ok(recovered)
    }

    fn whole(self, meta: Meta, table: Table) -> Result<Recovered> {
        let disk = self.disk;
        let mut log = meta.log(disk, &self.options.queue)?;
        let mut state = State::new(table, meta.progress(), meta.version, meta.time)
            .keeping(self.options.retention);
        let journals = Files::read(disk, Some(meta.journal), self.roll.journal)?;
        journals.check(disk, meta.queue)?;
        let mut carried = Vec::new();
        let mut before = None;
        for (file, line) in journals.lines() {
            // Lines that no mark covers may be only in the page cache: they are copied to the new
            // file, and become durable with it.
            if line.offset >= file.contents.durable.length {
                before.get_or_insert((state.version, log.last()));
                carried.push(line.body());
            }
            let applied = match record::decode(line.text, meta.queue) {
                Ok(line) => line.apply(&mut state, &mut log),
                Err(error) => Err(error.to_string()),
            };
            applied.map_err(|detail| nonsense(disk, file.number, line.number, detail))?;
        }
        let (version, last) = before.unwrap_or((state.version, log.last()));
        // As after every opening, changes can be watched from this point on.
        let mut state = State::new(state.table, state.progress, state.version, state.time)
            .keeping(state.retention);
        let mut record = Record::opening(state.version, state.time.max(self.now), self.now);
        record.jobs = Some(log.open(self.now));
        carried.push(record::encode(&record));
        state.apply(record);
        journals.keep_torn_tail(disk)?;
        let header = Header {
            journal: journals.next_number().unwrap_or(meta.journal),
            format: Format,
            queue: meta.queue,
            previous: journals.durable_end(),
            version,
            jobs: last,
        };
        let written = Written {
            data: meta.data,
            meta_bytes: meta.bytes,
        };
        let bytes = journals.bytes();
        let recovered =
            self.start_journal((state, log), &meta, written, &header, &carried, bytes)?;
        chain::remove_before(disk, meta.journal);
        Ok(recovered)
    }

    fn start_journal(
        self,
        (state, log): (State, PartitionLog),
        meta: &Meta,
        written: Written,
        header: &Header,
        lines: &[Vec<u8>],
        older_bytes: u64,
    ) -> Result<Recovered> {
        let begin =
            |reserve| Latest::begin(self.disk, self.roll, header, lines, reserve, older_bytes);
        // If there is no space to reserve for waiting jobs, they keep waiting, and the rest can
        // still be read.
        let begun = begin(quota::reserve(&log)).or_else(|_| begin(0));
        let latest = begun.map_err(|error| {
            let name = chain::name(header.journal);
            disk_error(self.disk, "cannot write", &name, error.into_io())
        })?;
        Ok(Recovered {
            state,
            log,
            meta: meta.without_entries(),
            written,
            latest,
        })
    }
}

/// Logs what an edit changed among `entries` entries up to `version`: without an intended edit,
/// this means a damaged disk.
fn tell_edit(disk: &dyn Disk, state: &State, version: Version, entries: usize) {
    let rows = state.table.range_from(std::ops::Bound::Unbounded);
    let changed: Vec<&Row> = rows.filter(|row| row.version() > version).collect();
    let same = state.table.len() - changed.len();
    let keys: Vec<&str> = changed.iter().take(20).map(|row| row.key_str()).collect();
    tracing::warn!(
        file = %disk.path().join(DATA).display(),
        new_or_changed = changed.len(),
        gone_or_changed = entries.saturating_sub(same),
        first_keys = ?keys,
        "this file is not as it was written: taken as an edit"
    );
}
