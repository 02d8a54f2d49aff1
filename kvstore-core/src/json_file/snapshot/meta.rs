//! `data.meta.json`: versions and deadlines of entries, how far queues are applied, and the
//! folder's queue.

use std::collections::HashMap;
use std::io;
use std::ops::Deref;
use std::panic::resume_unwind;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::error::Result;
use crate::in_memory::log::{PartitionLog, Remembered};
use crate::in_memory::state::{Progress, QueueProgress, Sorted, State, Table};
use crate::json_file::PARTITION;
use crate::json_file::disk::{Disk, DiskReader};
use crate::json_file::error::{corrupt, disk_error};
use crate::json_file::journal::record::JobText;
use crate::json_file::sealed::{self, Format};
use crate::json_file::snapshot::data::{FileFingerprint, fingerprint, lines, split_entry};
use crate::json_file::snapshot::import::Known;
use crate::json_file::snapshot::pair::Read;
use crate::json_file::snapshot::{META, versions};
use crate::model::entry::{Timestamp, Version};
use crate::model::id::{Partition, Position, QueueId};
use crate::model::job::Job;
use crate::queue::QueueOptions;

/// The number of outcomes, or remembered requests, that a snapshot takes at a time.
const META_PIECE: usize = 1024;

/// The contents of `data.meta.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    format: Format,
    /// The id of the queue in this folder.
    pub(crate) queue: QueueId,
    pub(crate) data: FileFingerprint,
    /// The pieces in which `data.json` was written, each with its bytes and entries: they can be
    /// read independently.
    pub(crate) pieces: Vec<(u64, usize)>,
    /// The `data.json` that this one replaces.
    pub(crate) previous: Option<FileFingerprint>,
    /// The first journal whose commits are not in `data.json`.
    pub(crate) journal: u64,
    pub(crate) version: Version,
    pub(crate) time: Timestamp,
    pub(crate) active: Option<QueueId>,
    /// How many versions openings have skipped.
    pub(crate) skipped: u64,
    queues: Vec<((QueueId, Partition), QueueProgress)>,
    /// The last position that was assigned to a job, and the last that was dropped.
    last: Position,
    trimmed: Position,
    /// The waiting jobs, as they were read.
    #[serde(default, skip_serializing)]
    jobs: Vec<JobText<'static>>,
    /// The waiting jobs, as the queue holds them.
    #[serde(
        rename = "jobs",
        skip_deserializing,
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "job_texts"
    )]
    waiting: Vec<Arc<Job>>,
    /// The job that was attempted last, and how often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tried: Option<(Position, u32)>,
    /// The remembered requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    remembered: Vec<Remembered>,
    /// The versions of the entries, in the order of the file.
    #[serde(with = "versions")]
    pub(super) versions: Vec<Version>,
    /// Pairs of an entry's number, from 0, and its deadline.
    pub(super) deadlines: Vec<(usize, Timestamp)>,
    /// For each entry 16 hexadecimal digits, which identify the entries that an edit left
    /// unchanged; see [`known_entries`].
    #[serde(skip_deserializing)]
    pub(super) fingerprints: String,
    /// The length of the file from which this was read.
    #[serde(skip)]
    pub(crate) bytes: u64,
}

impl Meta {
    /// Creates the metadata of an empty folder.
    pub(crate) fn of_new_folder(queue: QueueId) -> Self {
        Self {
            format: Format,
            queue,
            data: FileFingerprint::default(),
            pieces: Vec::new(),
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
        Progress {
            active: self.active,
            skipped: self.skipped,
            queues: self.queues.iter().cloned().collect(),
        }
    }

    /// Copies everything from `state` and `log` except the entries.
    pub(crate) fn take_down(&mut self, state: &State, log: &PartitionLog) {
        (self.version, self.time) = (state.version, state.time);
        self.set_progress(&state.progress);
        self.add_outcomes(|| state);
        self.set_log(log);
        self.add_remembered(state.time, || log);
    }

    /// Copies how far queues are applied, and the dead letters;
    /// [`add_outcomes`](Self::add_outcomes) and [`add_remembered`](Self::add_remembered) add the
    /// rest.
    pub(crate) fn set_progress(&mut self, progress: &Progress) {
        self.active = progress.active;
        self.skipped = progress.skipped;
        let queues = progress.queues.iter();
        let queues = queues.map(|(id, queue)| (*id, queue.without_outcomes()));
        self.queues = queues.collect();
    }

    /// Adds the outcomes, piece by piece, while the state may keep changing: later outcomes are
    /// also in the journal. Outcomes dropped meanwhile are below the mark, which is read last.
    pub(crate) fn add_outcomes<S: Deref<Target = State>>(&mut self, state: impl Fn() -> S) {
        for (id, kept) in &mut self.queues {
            let mut last = Position::START;
            loop {
                let state = state();
                let Some(queue) = state.progress.queues.get(id) else {
                    break;
                };
                let before = last;
                for (position, (at, outcome)) in queue.outcomes.after(before).take(META_PIECE) {
                    kept.outcomes.insert(*position, *at, outcome.clone());
                    last = *position;
                }
                kept.pruned = queue.pruned;
                if last == before {
                    break;
                }
            }
        }
    }

    /// Adds the requests that are remembered at `now`, likewise piece by piece. Those of jobs
    /// numbered since the cut are left out, since they may yet be withdrawn.
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
            let remembered = log.remembered(now, last.as_ref());
            let piece = remembered.filter(|it| it.job <= self.last).take(META_PIECE);
            self.remembered.extend(piece.copied());
            if self.remembered.len() == before {
                return;
            }
        }
    }

    /// Restores the folder's queue.
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

    /// Copies the waiting jobs.
    pub(crate) fn set_log(&mut self, log: &PartitionLog) {
        (self.last, self.trimmed) = (log.last(), log.trimmed());
        self.tried = log.attempts();
        self.waiting = log.jobs().cloned().collect();
    }

    /// Reads the entries of the file `name` if it is the `data.json` that this belongs to;
    /// otherwise returns the file's actual fingerprint. Several threads read it, a piece at a time,
    /// so that it is never in memory as a whole.
    pub(crate) fn table(&self, disk: &dyn Disk, name: &str) -> Result<Read<Table>> {
        let failed = |error| disk_error(disk, "cannot read", name, error);
        let Some(file) = disk.open(name).map_err(failed)? else {
            return Ok(Err(None));
        };
        let sizes = self.pieces.iter().copied().map(|(bytes, _)| bytes);
        let counts = self.pieces.iter().map(|(_, count)| count);
        if sizes.sum::<u64>() != self.data.length() || counts.sum::<usize>() != self.versions.len()
        {
            return Err(corrupt(
                disk,
                META,
                Some(1),
                "its pieces do not add up to the length and entries that it states",
            ));
        }
        if file.length().map_err(failed)? != self.data.length() {
            return fingerprint(disk, name).map(Err).map_err(failed);
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let share = self.pieces.len().div_ceil(cores.min(8)).max(1);
        let shares = self.pieces.chunks(share);
        let count = |pieces: &[(u64, usize)]| pieces.iter().map(|(_, count)| count).sum();
        let counts: Vec<usize> = shares.clone().map(count).collect();
        let mut next = (0, 0);
        let shares = shares.zip(Sorted::parts(&counts)).map(|(pieces, rows)| {
            let (start, first) = next;
            for (bytes, count) in pieces {
                next = (next.0 + bytes, next.1 + count);
            }
            (pieces, start, first, rows)
        });
        let shares: Vec<_> = std::thread::scope(|scope| {
            let threads = shares.map(|(pieces, start, first, rows)| {
                let file = &*file;
                scope.spawn(move || self.rows(file, pieces, (start, first), rows))
            });
            let threads: Vec<_> = threads.collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|share| share.unwrap_or_else(|panic| resume_unwind(panic)))
                .collect()
        });
        let mut is = FileFingerprint::default();
        let mut rows = Vec::new();
        let mut bad = None;
        for share in shares {
            let share = share.map_err(failed)?;
            is = is.and(share.is);
            rows.push(share.rows);
            bad = bad.or(share.bad);
        }
        if is != self.data {
            return Ok(Err(Some(is)));
        }
        if let Some(number) = bad {
            // The first line is the opening brace.
            let line = Some(number as u64 + 2);
            return Err(corrupt(
                disk,
                name,
                line,
                "it is not a line that this program wrote",
            ));
        }
        let table = Table::from_sorted(rows);
        let unsorted = || {
            corrupt(
                disk,
                name,
                None,
                "its keys are not in the order in which they were written",
            )
        };
        Ok(Ok(table.ok_or_else(unsorted)?))
    }

    /// Reads `pieces` of the file, which start at the given offset and entry number, and adds their
    /// rows to `rows`.
    fn rows(
        &self,
        file: &dyn DiskReader,
        pieces: &[(u64, usize)],
        (mut start, mut first): (u64, usize),
        mut rows: Sorted,
    ) -> io::Result<Share> {
        let before = |(number, _): &(usize, _)| *number < first;
        let deadlines = self.deadlines.partition_point(before);
        let mut deadlines = self.deadlines[deadlines..].iter().copied().peekable();
        let mut is = FileFingerprint::default();
        let mut bad = None;
        for (bytes, count) in pieces {
            let text = file.read_at(start, usize::try_from(*bytes).unwrap_or(usize::MAX))?;
            is = is.and(FileFingerprint::of(&text));
            let is_last = start + bytes == self.data.length();
            let mut versions = self.versions[first..first + count].iter().copied();
            let mut take = |number, line| {
                let (key, value) = split_entry(line)?;
                let deadline = deadlines.next_if(|(with_deadline, _)| *with_deadline == number);
                let expires_at = deadline.map(|(_, deadline)| deadline);
                rows.push(&key, value, versions.next()?, expires_at);
                Some(())
            };
            let lines = lines(&text, start == 0, is_last).into_iter().flatten();
            for (number, line) in (first..).zip(lines) {
                bad = bad.or(take(number, line).is_none().then_some(number));
            }
            (start, first) = (start + bytes, first + count);
            bad = bad.or(versions.next().map(|_| first));
        }
        Ok(Share { is, rows, bad })
    }

    /// Returns the number of entries in the `data.json` that this belongs to.
    pub(crate) fn entry_count(&self) -> usize {
        self.versions.len()
    }

    /// Returns a copy without the data of single entries, which can no longer be identified.
    pub(crate) fn without_entries(&self) -> Self {
        Self {
            queues: self.queues.clone(),
            jobs: self.jobs.clone(),
            remembered: self.remembered.clone(),
            waiting: self.waiting.clone(),
            pieces: Vec::new(),
            versions: Vec::new(),
            deadlines: Vec::new(),
            fingerprints: String::new(),
            ..*self
        }
    }
}

fn job_texts<S: Serializer>(jobs: &[Arc<Job>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(jobs.iter().map(|job| JobText::of(job, None)))
}

/// The result of reading several pieces of a `data.json`.
struct Share {
    is: FileFingerprint,
    rows: Sorted,
    /// The number of the first entry that is not as it was written.
    bad: Option<usize>,
}

/// Parses the text of a `data.meta.json`.
pub(crate) fn parse_meta(disk: &dyn Disk, text: &[u8]) -> Result<Meta> {
    let mut meta: Meta = sealed::parse(disk, META, text)?;
    meta.bytes = text.len() as u64;
    Ok(meta)
}

/// Reads version and deadline of each entry, by its fingerprint. They are read separately, since
/// only an edit needs them.
pub(crate) fn known_entries(disk: &dyn Disk, text: &[u8]) -> Result<Known> {
    #[derive(Deserialize)]
    struct MetaEntries {
        #[serde(with = "versions")]
        versions: Vec<Version>,
        deadlines: Vec<(usize, Timestamp)>,
        fingerprints: String,
    }
    let entries: MetaEntries = sealed::parse(disk, META, text)?;
    let deadlines: HashMap<usize, Timestamp> = entries.deadlines.into_iter().collect();
    let digits = entries.fingerprints.as_bytes().chunks_exact(16);
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let fingerprints = digits.map(|digits| {
        std::str::from_utf8(digits)
            .ok()
            .and_then(number)
            .unwrap_or(0)
    });
    let known = fingerprints.zip(entries.versions).enumerate();
    let known = known.map(|(number, (fingerprint, version))| {
        (fingerprint, (version, deadlines.get(&number).copied()))
    });
    Ok(known.collect())
}
