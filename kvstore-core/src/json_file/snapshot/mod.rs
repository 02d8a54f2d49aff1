//! The pair: `data.json`, which anybody can read, and `data.meta.json`, which holds what a plain object can't: what belongs to
//! single entries, how far queues are applied, and the queue of the folder.
//!
//! # Writing
//! (1) `data.json.new` is written and synced. (2) `data.meta.json`, which names the new and the previous file by length and
//! CRC, replaces the old one. (3) `data.json.new` replaces `data.json`, which is never absent; what it replaced is looked
//! at, and kept if somebody has edited it. So whatever the moment of a crash, [`load`] knows where to go on.

pub(crate) mod import;
mod versions;

use std::borrow::Cow;
use std::io;
use std::iter;
use std::ops::Deref;
use std::sync::Arc;

use memchr::{memchr, memchr_iter};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::in_memory::log::{PartitionLog, Remembered};
use crate::in_memory::state::{Lost, Progress, QueueProgress, Row, Sorted, State, Table};
use crate::json_file::PARTITION;
use crate::json_file::disk::{Disk, DiskFile, is_irregular};
use crate::json_file::error::{corrupt, disk_error};
use crate::json_file::journal::record::JobText;
use crate::json_file::journal::{FORMAT, line};
use crate::model::entry::{Timestamp, Version};
use crate::model::id::{Partition, Position, QueueId};
use crate::model::job::{Dead, Job, Outcome};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::queue::QueueOptions;

pub(crate) const DATA: &str = "data.json";
pub(crate) const META: &str = "data.meta.json";

// Temporary names are private: files that a user may have made, such as `data.json.old`, are never touched.
pub(crate) const DATA_NEW: &str = ".data.json.new";
pub(crate) const META_NEW: &str = ".data.meta.json.new";
pub(crate) const DATA_OLD: &str = ".data.json.replaced";

/// Files are written, and synced, in pieces of about this size.
const PIECE_BYTES: usize = 1 << 20;

/// Outcomes, or remembered requests, that a snapshot takes at a time.
const META_PIECE: usize = 1024;

/// Entries that a snapshot takes at a time, under the lock that writes need.
pub(crate) const SNAPSHOT_PIECE: usize = 256;

/// A file's contents, for telling whether it is still the one that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    length: u64,
    crc: u32,
}

impl Fingerprint {
    pub(crate) fn of(text: &[u8]) -> Self {
        Self {
            length: text.len() as u64,
            crc: crc32c::crc32c(text),
        }
    }

    pub(crate) fn length(self) -> u64 {
        self.length
    }
}

/// What `data.meta.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) format: u32,
    /// The id of the queue in this folder.
    pub(crate) queue: QueueId,
    pub(crate) data: Fingerprint,
    /// The `data.json` that this one replaces.
    pub(crate) previous: Option<Fingerprint>,
    /// The first journal whose commits are not in `data.json`.
    pub(crate) journal: u64,
    pub(crate) version: Version,
    pub(crate) time: Timestamp,
    pub(crate) active: Option<QueueId>,
    /// How many versions were passed over by openings.
    pub(crate) skipped: u64,
    queues: Vec<QueueText>,
    /// The last position that a job has got, and the last that was dropped.
    last: Position,
    trimmed: Position,
    /// The jobs that wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    jobs: Vec<JobText<'static>>,
    /// The job that was tried last, and how often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tried: Option<(Position, u32)>,
    /// The requests that are remembered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    remembered: Vec<Remembered>,
    /// The jobs that wait, as the queue holds them.
    #[serde(skip)]
    waiting: Vec<Arc<Job>>,
    /// The versions of the entries, in the order of the file.
    #[serde(with = "versions")]
    versions: Vec<Version>,
    /// The number of an entry, from 0, and its deadline.
    deadlines: Vec<(usize, Timestamp)>,
    /// For each entry 16 hexadecimal digits, by which an edit tells what it has left as it was.
    fingerprints: String,
    /// The length of the file that it was read from.
    #[serde(skip)]
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct QueueText {
    queue: QueueId,
    partition: Partition,
    applied: Position,
    pruned: Position,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lost: Vec<(Position, Position)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    outcomes: Vec<(Position, Timestamp, Option<Outcome>)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dead: Vec<(Position, Timestamp, Dead)>,
}

impl Meta {
    /// Of a folder with nothing in it yet.
    pub(crate) fn of_new_folder(queue: QueueId) -> Self {
        Self {
            format: FORMAT,
            queue,
            data: Fingerprint::default(),
            previous: None,
            journal: 1,
            version: Version(0),
            time: Timestamp(0),
            active: None,
            skipped: 0,
            queues: Vec::new(),
            last: Position::START,
            trimmed: Position::START,
            jobs: Vec::new(),
            tried: None,
            remembered: Vec::new(),
            waiting: Vec::new(),
            versions: Vec::new(),
            deadlines: Vec::new(),
            fingerprints: String::new(),
            bytes: 0,
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        let queues = self.queues.iter().cloned().map(|text| {
            let progress = QueueProgress {
                applied: text.applied,
                pruned: text.pruned,
                lost: text
                    .lost
                    .into_iter()
                    .map(|(after, up_to)| Lost { after, up_to })
                    .collect(),
                outcomes: text
                    .outcomes
                    .into_iter()
                    .map(|(position, at, outcome)| (position, (at, outcome)))
                    .collect(),
                dead: text
                    .dead
                    .into_iter()
                    .map(|(position, at, dead)| (position, (at, dead)))
                    .collect(),
            };
            ((text.queue, text.partition), progress)
        });
        Progress {
            active: self.active,
            skipped: self.skipped,
            queues: queues.collect(),
        }
    }

    /// Takes down how far queues are applied, and the dead letters; [`add_outcomes`](Self::add_outcomes) and
    /// [`add_remembered`](Self::add_remembered) follow.
    pub(crate) fn set_progress(&mut self, progress: &Progress) {
        self.active = progress.active;
        self.skipped = progress.skipped;
        let queues = progress
            .queues
            .iter()
            .map(|((queue, partition), progress)| QueueText {
                queue: *queue,
                partition: *partition,
                applied: progress.applied,
                pruned: progress.pruned,
                lost: progress
                    .lost
                    .iter()
                    .map(|lost| (lost.after, lost.up_to))
                    .collect(),
                outcomes: Vec::new(),
                dead: progress
                    .dead
                    .iter()
                    .map(|(position, (at, dead))| (*position, *at, dead.clone()))
                    .collect(),
            });
        self.queues = queues.collect();
    }

    /// Adds the outcomes, some at a time, of a state that may go on meanwhile: what comes later stands in the journal, too. What
    /// was dropped meanwhile is below the mark, which is read last.
    pub(crate) fn add_outcomes<S: Deref<Target = State>>(&mut self, state: impl Fn() -> S) {
        for text in &mut self.queues {
            let mut last = Position::START;
            loop {
                let state = state();
                let Some(queue) = state.progress.queues.get(&(text.queue, text.partition)) else {
                    break;
                };
                let piece = queue.outcomes.after(last).take(META_PIECE);
                let before = text.outcomes.len();
                text.outcomes.extend(
                    piece.map(|(position, (at, outcome))| (*position, *at, outcome.clone())),
                );
                text.pruned = queue.pruned;
                match &text.outcomes[before..] {
                    [] => break,
                    [.., (position, ..)] => last = *position,
                }
            }
        }
    }

    /// Adds the requests that are remembered at `now`, likewise.
    pub(crate) fn add_remembered<L: Deref<Target = PartitionLog>>(
        &mut self,
        now: Timestamp,
        log: impl Fn() -> L,
    ) {
        self.remembered.clear();
        loop {
            let log = log();
            let before = self.remembered.len();
            let last = self.remembered.last().copied();
            let piece = log.remembered(now, last.as_ref()).take(META_PIECE);
            self.remembered.extend(piece.copied());
            if self.remembered.len() == before {
                return;
            }
        }
    }

    /// The queue of the folder.
    pub(crate) fn log(&self, disk: &dyn Disk, options: &QueueOptions) -> Result<PartitionLog> {
        let mut log = PartitionLog::new(self.queue, PARTITION, options);
        let restored = log
            .restore_numbering(self.last, self.trimmed)
            .and_then(|()| {
                let jobs = self.jobs.iter().cloned();
                let mut jobs = jobs.map(|text| text.into_job(self.queue));
                jobs.try_for_each(|job| log.restore_job(job, None))
            });
        restored.map_err(|error| corrupt(disk, META, Some(1), error.to_string()))?;
        for remembered in &self.remembered {
            log.restore_idempotency(*remembered);
        }
        if let Some((head, count)) = self.tried {
            log.restore_attempts(head, count);
        }
        Ok(log)
    }

    /// Takes down the jobs that wait.
    pub(crate) fn set_log(&mut self, log: &PartitionLog) {
        (self.last, self.trimmed) = (log.last(), log.trimmed());
        self.tried = log.attempts();
        self.waiting = log.jobs().cloned().collect();
    }

    /// The table of the `data.json` that this belongs to, whose text is `text`.
    pub(crate) fn table(&self, disk: &dyn Disk, text: &[u8]) -> Result<Table> {
        let bad = |index: usize| {
            // The first line is the opening brace.
            let line = Some(index as u64 + 2);
            corrupt(disk, DATA, line, "it is not a line that was written here")
        };
        let threads = match text.len() {
            ..PIECE_BYTES => 1,
            _ => std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(8),
        };
        let lines = text
            .strip_prefix(b"{")
            .and_then(|text| text.strip_suffix(b"\n}\n"));
        let parts = parts(lines.ok_or_else(|| bad(0))?, threads);
        let rows: Vec<_> = std::thread::scope(|scope| {
            let threads = parts.iter().zip(Sorted::parts(parts.len()));
            let threads: Vec<_> = threads
                .map(|(part, rows)| scope.spawn(move || self.rows(part, rows)))
                .collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        let rows = rows
            .into_iter()
            .map(|rows| rows.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let rows = rows.collect::<Result<Vec<_>, _>>().map_err(bad)?;
        let count = rows.iter().map(Sorted::len).sum();
        if count != self.versions.len() {
            return Err(bad(count));
        }
        Table::from_sorted(rows).ok_or_else(|| {
            corrupt(
                disk,
                DATA,
                None,
                "its keys are not in the order in which they were written",
            )
        })
    }

    /// Adds the rows of some lines to `rows`; the number of the first line that is none.
    fn rows(&self, part: &Part<'_>, mut rows: Sorted) -> Result<Sorted, usize> {
        rows.reserve(part.count);
        let deadlines = self
            .deadlines
            .partition_point(|(number, _)| *number < part.first);
        let mut deadlines = self.deadlines[deadlines..].iter().copied().peekable();
        let versions = self.versions.get(part.first..).unwrap_or_default();
        let mut versions = versions.iter().copied();
        for (number, line) in (part.first..).zip(part.lines()) {
            let line = line.strip_suffix(b",").unwrap_or(line);
            let (key, value) = split_entry(line).ok_or(number)?;
            let version = versions.next().ok_or(number)?;
            let deadline = deadlines.next_if(|(with_deadline, _)| *with_deadline == number);
            let expires_at = deadline.map(|(_, deadline)| deadline);
            rows.push(&key, value, version, expires_at);
        }
        Ok(rows)
    }

    /// How many entries the `data.json` has that this belongs to.
    pub(crate) fn entry_count(&self) -> usize {
        self.versions.len()
    }

    /// Without what belongs to single entries: they can't be recognised any more.
    pub(crate) fn without_entries(&self) -> Self {
        Self {
            queues: self.queues.clone(),
            jobs: self.jobs.clone(),
            remembered: self.remembered.clone(),
            waiting: self.waiting.clone(),
            versions: Vec::new(),
            deadlines: Vec::new(),
            fingerprints: String::new(),
            ..*self
        }
    }

    /// What each entry of the file was, by its fingerprint: version and deadline.
    pub(crate) fn known_entries(
        &self,
    ) -> std::collections::HashMap<u64, (Version, Option<Timestamp>)> {
        let deadlines: std::collections::HashMap<usize, Timestamp> =
            self.deadlines.iter().copied().collect();
        let digits = self.fingerprints.as_bytes().chunks_exact(16);
        let fingerprints = digits.map(|digits| {
            std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                .unwrap_or(0)
        });
        let known = fingerprints.zip(&self.versions).enumerate();
        known
            .map(|(index, (fingerprint, version))| {
                (fingerprint, (*version, deadlines.get(&index).copied()))
            })
            .collect()
    }
}

/// Some of the lines of entries, each with the newline before it.
struct Part<'a> {
    text: &'a [u8],
    /// The number of its first entry.
    first: usize,
    /// How many entries it has.
    count: usize,
}

impl<'a> Part<'a> {
    fn lines(&self) -> impl Iterator<Item = &'a [u8]> {
        let text = self.text;
        let ends = memchr_iter(b'\n', text)
            .skip(1)
            .chain(iter::once(text.len()));
        ends.scan(1, move |start, end| {
            let line = text.get(*start..end);
            *start = end + 1;
            line
        })
    }
}

/// Cuts `text` into about `count` parts of whole lines: compact JSON holds no newline of its own.
fn parts(text: &[u8], count: usize) -> Vec<Part<'_>> {
    let share = text.len() / count + 1;
    let (mut rest, mut first) = (text, 0);
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let newline = rest.get(share..).and_then(|rest| memchr(b'\n', rest));
        let (text, behind) = rest.split_at(newline.map_or(rest.len(), |at| share + at));
        let count = memchr_iter(b'\n', text).count();
        parts.push(Part { text, first, count });
        first += count;
        rest = behind;
    }
    parts
}

/// The key and the value of a line that [`push_entry`] wrote.
pub(crate) fn split_entry(line: &[u8]) -> Option<(Cow<'_, str>, &[u8])> {
    let mut end = 1;
    let mut is_plain = true;
    while *line.get(end)? != b'"' {
        is_plain &= line[end] != b'\\';
        end += if line[end] == b'\\' { 2 } else { 1 };
    }
    let key = if is_plain {
        Cow::Borrowed(std::str::from_utf8(&line[1..end]).ok()?)
    } else {
        Cow::Owned(serde_json::from_slice(&line[..=end]).ok()?)
    };
    Some((key, line[end + 1..].strip_prefix(b":")?))
}

/// The line of an entry, without comma and newline.
fn push_entry(text: &mut Vec<u8>, key: &Key, value: &[u8]) {
    crate::json_file::journal::record::push_json(text, key);
    text.push(b':');
    text.extend_from_slice(value);
}

/// By what an entry is recognised after the file was edited: two different CRCs of its line, so 64 bits.
pub(crate) fn entry_fingerprint(key: &Key, value: &Value) -> u64 {
    let mut line = Vec::with_capacity(key.as_str().len() + value.len() + 3);
    push_entry(&mut line, key, value.as_bytes());
    line_fingerprint(&line)
}

fn line_fingerprint(line: &[u8]) -> u64 {
    u64::from(crc32c::crc32c(line)) << 32 | u64::from(crc32fast::hash(line))
}

/// The pair as it was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) data: Fingerprint,
    /// The length of `data.meta.json`.
    pub(crate) meta_bytes: u64,
}

/// Writes the pair: `meta` (whose progress, version, time and journal are set) for the entries that `next` hands out, piece
/// by piece, none at the end.
pub(crate) fn write(
    disk: &dyn Disk,
    meta: &Meta,
    replaces: Option<Fingerprint>,
    next: impl FnMut() -> Vec<Row>,
) -> io::Result<Written> {
    let written = write_new(disk, meta, replaces, next).inspect_err(|_| {
        // On a full disk it would take the room that commits need.
        for name in [DATA_NEW, META_NEW] {
            let _ = disk.remove(name);
        }
    })?;
    disk.rename(META_NEW, META)?;
    disk.sync_folder()?;
    exchange(disk, replaces)?;
    Ok(written)
}

/// Step 1, and the file for step 2.
fn write_new(
    disk: &dyn Disk,
    meta: &Meta,
    replaces: Option<Fingerprint>,
    mut next: impl FnMut() -> Vec<Row>,
) -> io::Result<Written> {
    let mut file = disk.create(DATA_NEW)?;
    let mut text = b"{".to_vec();
    let mut written = Fingerprint::default();
    let mut flush = |text: &mut Vec<u8>, written: &mut Fingerprint| {
        write_synced(&mut *file, written.length, text)?;
        written.length += text.len() as u64;
        written.crc = crc32c::crc32c_append(written.crc, text);
        text.clear();
        io::Result::Ok(())
    };
    let mut meta = meta.without_entries();
    loop {
        let rows = next();
        if rows.is_empty() {
            break;
        }
        for row in rows {
            text.extend_from_slice(if meta.versions.is_empty() {
                b"\n"
            } else {
                b",\n"
            });
            let start = text.len();
            push_entry(&mut text, &row.key(), row.value_bytes());
            meta.fingerprints
                .push_str(&format!("{:016x}", line_fingerprint(&text[start..])));
            let deadline = row.expires_at();
            meta.deadlines
                .extend(deadline.map(|deadline| (meta.versions.len(), deadline)));
            meta.versions.push(row.version());
            if text.len() >= PIECE_BYTES {
                flush(&mut text, &mut written)?;
            }
        }
    }
    text.extend_from_slice(b"\n}\n");
    flush(&mut text, &mut written)?;
    drop(file);

    meta.data = written;
    meta.previous = replaces;
    let waiting = std::mem::take(&mut meta.waiting);
    let jobs = waiting
        .iter()
        .map(|job| JobText::of(job, None).into_owned());
    meta.jobs = jobs.collect();
    let mut text = serde_json::to_vec(&meta).map_err(io::Error::other)?;
    text.pop();
    line::seal(&mut text, 0, &mut 0);
    let mut file = disk.create(META_NEW)?;
    write_synced(&mut *file, 0, &text)?;
    Ok(Written {
        data: written,
        meta_bytes: text.len() as u64,
    })
}

/// Finishes what a failed [`write`] has left undone, as opening the folder would, and returns what `data.json` is then. Until then
/// `data.meta.json` may name a file that only `data.json.new` is, so another one must not be begun.
pub(crate) fn settle(disk: &dyn Disk) -> io::Result<Fingerprint> {
    let data = match load(disk, true).map_err(io::Error::other)? {
        Pair::Whole(meta, _) => meta.data,
        Pair::Edited { meta, newer, .. } => {
            if newer {
                exchange(disk, meta.previous)?;
            }
            meta.data
        }
        Pair::None | Pair::Foreign(_) => {
            return Err(io::Error::other(format!("{META} is gone")));
        }
    };
    disk.sync_folder()?;
    Ok(data)
}

/// Writes `text` there and syncs it, piece by piece: a commit that wants to sync its journal meanwhile waits for one piece,
/// and not for all that a snapshot writes.
fn write_synced(file: &mut dyn DiskFile, offset: u64, text: &[u8]) -> io::Result<()> {
    let mut end = offset;
    for piece in text.chunks(2 * PIECE_BYTES) {
        file.write_at(end, piece)?;
        file.sync()?;
        end += piece.len() as u64;
    }
    Ok(())
}

/// Step 3. What was in the way is kept if it is not the file that we wrote.
fn exchange(disk: &dyn Disk, replaces: Option<Fingerprint>) -> io::Result<()> {
    let was_there = disk.names()?.iter().any(|name| name == DATA);
    if was_there {
        disk.link(DATA, DATA_OLD)?;
    }
    disk.rename(DATA_NEW, DATA)?;
    disk.sync_folder()?;
    settle_old(disk, replaces)
}

/// Looks at what `data.json` was replaced in: drops it if it is the file that we wrote, keeps it if not.
fn settle_old(disk: &dyn Disk, replaces: Option<Fingerprint>) -> io::Result<()> {
    match disk.read(DATA_OLD) {
        Ok(None) => return Ok(()),
        Ok(Some(old)) if replaces == Some(Fingerprint::of(&old)) => return disk.remove(DATA_OLD),
        // A link that was put in its place, and may lead to the same text, is none that we wrote.
        Err(error) if !is_irregular(&error) => return Err(error),
        Ok(_) | Err(_) => {}
    }
    let kept = free_name(disk, "data.json.edited")?;
    disk.rename(DATA_OLD, &kept)?;
    disk.sync_folder()?;
    tracing::error!(
        file = %disk.path().join(&kept).display(),
        "data.json was edited while the store was running: the edit is kept in this file and has no effect"
    );
    Ok(())
}

/// `name` with a number behind it that no file has yet.
pub(crate) fn free_name(disk: &dyn Disk, name: &str) -> io::Result<String> {
    let names = disk.names()?;
    let mut number = 1;
    while names.contains(&format!("{name}-{number}")) {
        number += 1;
    }
    Ok(format!("{name}-{number}"))
}

/// What a folder holds, as far as the pair goes.
#[derive(Debug)]
pub(crate) enum Pair {
    /// Nothing.
    None,
    /// A `data.json` without anything of ours beside it.
    Foreign(Vec<u8>),
    /// The pair, as it was written.
    Whole(Box<Meta>, Vec<u8>),
    /// A `data.json` that was changed since. `newer` says that another one, which is not in it, was about to replace it.
    Edited {
        meta: Box<Meta>,
        text: Vec<u8>,
        newer: bool,
    },
}

/// Reads the pair, and finishes what a crash has left undone. `has_journals`: there are journals beside it.
pub(crate) fn load(disk: &dyn Disk, has_journals: bool) -> Result<Pair> {
    let read = |name: &str| {
        disk.read(name)
            .map_err(|error| disk_error(disk, "can't read", name, error))
    };
    // Read at the same time: for each the processor has about as much to do.
    let (meta, data) = std::thread::scope(|scope| {
        let meta = scope.spawn(|| {
            let text = read(META)?;
            text.map(|text| parse_meta(disk, &text)).transpose()
        });
        let data = read(DATA).map(|data| data.map(|text| (Fingerprint::of(&text), text)));
        let meta = meta.join();
        (
            meta.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            data,
        )
    });
    let (meta, data) = (meta?, data?);
    let Some(meta) = meta.map(Box::new) else {
        return match data {
            _ if has_journals => Err(corrupt(
                disk,
                META,
                None,
                "it is missing, and there are journals beside it; put it back, or start with an empty folder",
            )),
            Some((_, text)) => Ok(Pair::Foreign(text)),
            None => Ok(Pair::None),
        };
    };
    let is_new_whole = || Ok(read(DATA_NEW)?.filter(|text| Fingerprint::of(text) == meta.data));
    let finish = |text| {
        exchange(disk, meta.previous)
            .map_err(|error| disk_error(disk, "can't replace", DATA, error))?;
        Ok(text)
    };
    match data {
        Some((is, text)) if is == meta.data => {
            settle_old(disk, meta.previous)
                .map_err(|error| disk_error(disk, "can't replace", DATA, error))?;
            Ok(Pair::Whole(meta, text))
        }
        Some((is, _)) if Some(is) == meta.previous => match is_new_whole()? {
            Some(new) => finish(new).map(|text| Pair::Whole(meta, text)),
            None => Err(corrupt(
                disk,
                DATA_NEW,
                None,
                "it should hold the data of data.meta.json; restore a backup of the folder",
            )),
        },
        Some((_, text)) => is_new_whole().map(|new| Pair::Edited {
            meta,
            text,
            newer: new.is_some(),
        }),
        None => match is_new_whole()? {
            Some(new) if meta.previous.is_none() => finish(new).map(|text| Pair::Whole(meta, text)),
            _ => Err(corrupt(
                disk,
                DATA,
                None,
                "it is missing beside its data.meta.json; put it back, or start with an empty folder",
            )),
        },
    }
}

/// Whether it is a `data.meta.json` as it was written, by whatever version.
pub(crate) fn is_sealed(text: &[u8]) -> bool {
    line::check(text.strip_suffix(b"\n").unwrap_or(text), 0).is_some()
}

pub(crate) fn parse_meta(disk: &dyn Disk, text: &[u8]) -> Result<Meta> {
    if !is_sealed(text) {
        return Err(corrupt(
            disk,
            META,
            None,
            "its checksum does not match; restore a backup of the folder",
        ));
    }
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    // Of another format it may be something else altogether.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let meta = serde_json::from_slice::<Meta>(text);
    let format = meta
        .as_ref()
        .map(|meta| meta.format)
        .or_else(|_| serde_json::from_slice::<Format>(text).map(|head| head.format));
    if let Ok(format) = format {
        crate::json_file::error::check_format(disk, META, format)?;
    }
    let mut meta = meta.map_err(|error| corrupt(disk, META, None, error.to_string()))?;
    meta.bytes = text.len() as u64;
    Ok(meta)
}
