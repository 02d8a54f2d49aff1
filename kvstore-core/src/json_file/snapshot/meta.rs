//! `data.meta.json`: what belongs to single entries, how far queues are applied, and the queue of the folder.

use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::in_memory::log::{PartitionLog, Remembered};
use crate::in_memory::state::{Lost, Progress, QueueProgress, Sorted, State, Table};
use crate::json_file::PARTITION;
use crate::json_file::disk::Disk;
use crate::json_file::error::corrupt;
use crate::json_file::journal::record::JobText;
use crate::json_file::journal::{FORMAT, line};
use crate::json_file::snapshot::data::{Fingerprint, PIECE_BYTES, Part, parts, split_entry};
use crate::json_file::snapshot::{DATA, META, versions};
use crate::model::entry::{Timestamp, Version};
use crate::model::id::{Partition, Position, QueueId};
use crate::model::job::{Dead, Job, Outcome};
use crate::queue::QueueOptions;

/// Outcomes, or remembered requests, that a snapshot takes at a time.
const META_PIECE: usize = 1024;

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
    pub(super) jobs: Vec<JobText<'static>>,
    /// The job that was tried last, and how often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tried: Option<(Position, u32)>,
    /// The requests that are remembered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    remembered: Vec<Remembered>,
    /// The jobs that wait, as the queue holds them.
    #[serde(skip)]
    pub(super) waiting: Vec<Arc<Job>>,
    /// The versions of the entries, in the order of the file.
    #[serde(with = "versions")]
    pub(super) versions: Vec<Version>,
    /// The number of an entry, from 0, and its deadline.
    pub(super) deadlines: Vec<(usize, Timestamp)>,
    /// For each entry 16 hexadecimal digits, by which an edit tells what it has left as it was.
    pub(super) fingerprints: String,
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
