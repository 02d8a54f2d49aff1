//! The tables of the database, and how a change modifies them.
//!
//! Every change is evaluated before its first write, so a rejected one has changed nothing and the
//! transaction that it shares with others continues. A failure of redb itself ends the whole
//! transaction.

use std::sync::Arc;

use kvstore_core::Error;
use kvstore_core::limits::{
    CHANGES_MAX, DEAD_LETTERS_BYTES_MAX, DEAD_LETTERS_MAX, EXPIRE_BATCH, OUTCOME_RETENTION,
    OUTCOMES_BYTES_MAX, OUTCOMES_MAX, RENUMBER_GAP,
};
use kvstore_core::model::commit::{Advance, Commit, Committed, Verdict};
use kvstore_core::model::entry::{Timestamp, Version};
use kvstore_core::model::id::{JobId, Partition, Position, QueueId};
use kvstore_core::model::job::{
    Applied, Dead, Failed, Failure, JobState, Outcome, Succeeded, Summary,
};
use kvstore_core::store::ChangeKind;
use kvstore_core::{Key, Value};
use redb::{ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

/// A job: queue, partition, and both parts of its position. Sorts like its `JobId`.
pub(crate) type JobKey<'a> = (&'a str, u16, u64, u64);

/// Key → version, deadline, value.
pub(crate) const ENTRIES: TableDefinition<&str, (u64, u64, &str)> = TableDefinition::new("entries");
/// Expiring entries, by deadline.
pub(crate) const DEADLINES: TableDefinition<(u64, &str), ()> = TableDefinition::new("deadlines");
/// The history for watchers: version → kind, key.
pub(crate) const CHANGES: TableDefinition<u64, (u8, &str)> = TableDefinition::new("changes");
/// Queue, partition → [`Progress`].
pub(crate) const PROGRESS: TableDefinition<(&str, u16), [u64; 6]> =
    TableDefinition::new("progress");
/// Outcomes that the position does not imply: since when, and a [`Kept`] as JSON.
pub(crate) const OUTCOMES: TableDefinition<JobKey, (u64, &str)> = TableDefinition::new("outcomes");
/// Dead letters: since when, and a [`Dead`] as JSON.
pub(crate) const LETTERS: TableDefinition<JobKey, (u64, &str)> = TableDefinition::new("letters");
/// Lost jobs: the position before the first → that of the last.
pub(crate) const LOST: TableDefinition<JobKey, (u64, u64)> = TableDefinition::new("lost");
/// The versions of each opening: first → last; versions between two openings belong to a lost
/// history.
pub(crate) const STRETCHES: TableDefinition<u64, u64> = TableDefinition::new("stretches");
/// The latest version and time, the last change dropped, and the bytes of dead letters.
pub(crate) const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
/// The active queue.
pub(crate) const ACTIVE: TableDefinition<(), &str> = TableDefinition::new("active");

/// The deadline of an entry without one.
pub(crate) const NEVER: u64 = u64::MAX;

/// Why a change was not made.
pub(crate) enum Fault {
    /// It broke a rule, and nothing has happened.
    Refused(Error),
    /// The database failed.
    Broken(Error),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Broken(Error::Unavailable {
            what: "the redb file cannot be used".to_owned(),
            source: Some(Arc::new(error.into())),
        })
    }
}

pub(crate) type Done<T> = Result<T, Fault>;

pub(crate) fn refuse<T>(error: Error) -> Done<T> {
    Err(Fault::Refused(error))
}

/// An outcome in its stored form.
#[derive(Serialize, Deserialize)]
pub(crate) enum Kept {
    Succeeded(Summary, Vec<Applied>),
    Failed(Summary, usize, Failure, Option<Version>),
    /// A dead letter that was dropped: without a trace it would look like a success.
    Forgotten,
}

impl Kept {
    pub(crate) fn state(self) -> JobState {
        JobState::Finished(match self {
            Self::Forgotten => return JobState::Forgotten,
            Self::Succeeded(summary, writes) => {
                Outcome::Succeeded(Some(Succeeded { summary, writes }))
            }
            Self::Failed(summary, operation, reason, current) => Outcome::Failed(Failed {
                summary,
                operation,
                reason,
                current,
            }),
        })
    }
}

/// One partition of one queue.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) applied: Position,
    /// Outcomes up to this position may have been dropped.
    pub(crate) pruned: Position,
    kept: u64,
    kept_bytes: u64,
}

impl Progress {
    pub(crate) fn of(numbers: [u64; 6]) -> Self {
        let [major, minor, pruned_major, pruned_minor, kept, kept_bytes] = numbers;
        Self {
            applied: position(major, minor),
            pruned: position(pruned_major, pruned_minor),
            kept,
            kept_bytes,
        }
    }

    fn numbers(&self) -> [u64; 6] {
        let (applied, pruned) = (self.applied, self.pruned);
        let [kept, bytes] = [self.kept, self.kept_bytes];
        [
            applied.major,
            applied.minor,
            pruned.major,
            pruned.minor,
            kept,
            bytes,
        ]
    }
}

pub(crate) fn position(major: u64, minor: u64) -> Position {
    Position { major, minor }
}

/// Parses JSON that this program wrote itself.
pub(crate) fn read<'a, T: Deserialize<'a>>(text: &'a str) -> T {
    serde_json::from_str(text).expect("the database holds what was written to it")
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("it has an encoding")
}

/// All tables, within one transaction.
pub(crate) struct Tables<'t> {
    pub(crate) now: Timestamp,
    pub(crate) version: u64,
    entries: Table<'t, &'static str, (u64, u64, &'static str)>,
    deadlines: Table<'t, (u64, &'static str), ()>,
    changes: Table<'t, u64, (u8, &'static str)>,
    progress: Table<'t, (&'static str, u16), [u64; 6]>,
    outcomes: Table<'t, JobKey<'static>, (u64, &'static str)>,
    letters: Table<'t, JobKey<'static>, (u64, &'static str)>,
    lost: Table<'t, JobKey<'static>, (u64, u64)>,
    stretches: Table<'t, u64, u64>,
    numbers: Table<'t, &'static str, u64>,
    active: Table<'t, (), &'static str>,
}

impl<'t> Tables<'t> {
    pub(crate) fn open(transaction: &'t WriteTransaction, now: Timestamp) -> Done<Self> {
        let mut tables = Self {
            now,
            version: 0,
            entries: transaction.open_table(ENTRIES)?,
            deadlines: transaction.open_table(DEADLINES)?,
            changes: transaction.open_table(CHANGES)?,
            progress: transaction.open_table(PROGRESS)?,
            outcomes: transaction.open_table(OUTCOMES)?,
            letters: transaction.open_table(LETTERS)?,
            lost: transaction.open_table(LOST)?,
            stretches: transaction.open_table(STRETCHES)?,
            numbers: transaction.open_table(NUMBERS)?,
            active: transaction.open_table(ACTIVE)?,
        };
        tables.version = tables.number("version")?;
        Ok(tables)
    }

    pub(crate) fn number(&self, name: &str) -> Done<u64> {
        Ok(self.numbers.get(name)?.map_or(0, |number| number.value()))
    }

    /// Starts the numbers of an opening at the clock's time, so that nothing given out by a
    /// database that was replaced by an older copy is given out again.
    pub(crate) fn begin(&mut self, clock_us: u64) -> Done<()> {
        let last = self.version;
        let trimmed = self.number("trimmed")?;
        let before = self.stretches.pop_last()?.map(|(first, _)| first.value());
        if let Some(first) = before {
            self.stretches.insert(first, last)?;
        }
        self.stretches.retain(|_, last| last >= trimmed)?;
        self.version = match clock_us > last {
            true => clock_us,
            // The clock was ahead before.
            false => last + RENUMBER_GAP,
        };
        self.stretches.insert(self.version, u64::MAX)?;
        if before.is_none() {
            self.numbers.insert("trimmed", self.version)?;
        }
        Ok(())
    }

    /// Ends the transaction's changes.
    pub(crate) fn finish(mut self) -> Done<u64> {
        while self.changes.len()? > CHANGES_MAX as u64 {
            if let Some((version, _)) = self.changes.pop_first()? {
                self.numbers.insert("trimmed", version.value())?;
            }
        }
        self.numbers.insert("version", self.version)?;
        self.numbers.insert("time", self.now.0)?;
        Ok(self.version)
    }

    /// Returns the version of a live entry.
    fn current(&self, key: &str) -> Done<Option<u64>> {
        let row = self.entries.get(key)?;
        Ok(row.and_then(|row| {
            let (version, deadline, _) = row.value();
            (deadline > self.now.0).then_some(version)
        }))
    }

    pub(crate) fn commit(&mut self, commit: Commit) -> Done<Committed> {
        for (check, (key, condition)) in commit.checks.iter().enumerate() {
            let current = self.current(key.as_str())?.map(Version);
            if !condition.holds(current) {
                return refuse(Error::Conflict {
                    key: key.clone(),
                    check,
                    current,
                });
            }
        }
        if let Some(advance) = &commit.advance {
            self.check(advance, commit.writes.len())?;
        }
        let before = self.version;
        let mut existed = Vec::with_capacity(commit.writes.len());
        for write in &commit.writes {
            let value = write.change.value_at(self.now);
            existed.push(self.write(&write.key, value)?);
        }
        let first_version = Version(before + u64::from(!existed.is_empty()));
        if let Some(advance) = commit.advance {
            self.advance(advance, first_version, &existed)?;
        }
        Ok(Committed {
            first_version,
            existed,
        })
    }

    /// Makes one write, and returns true if its key existed before it.
    fn write(&mut self, key: &Key, value: Option<(&Value, Option<Timestamp>)>) -> Done<bool> {
        self.version += 1;
        let key = key.as_str();
        // Its deadline.
        let before = self.entries.remove(key)?.map(|row| row.value().1);
        if let Some(deadline) = before.filter(|deadline| *deadline != NEVER) {
            self.deadlines.remove((deadline, key))?;
        }
        let deadline = |at: Option<Timestamp>| at.map_or(NEVER, |at| at.0);
        let live = value.filter(|(_, at)| deadline(*at) > self.now.0);
        if let Some((value, at)) = live {
            let row = (self.version, deadline(at), value.as_str());
            self.entries.insert(key, row)?;
            if row.1 != NEVER {
                self.deadlines.insert((row.1, key), ())?;
            }
        }
        let existed = before.is_some_and(|deadline| deadline > self.now.0);
        match (live.is_some(), before) {
            (true, _) => self.announce(ChangeKind::Set, key)?,
            (false, Some(_)) if existed => self.announce(ChangeKind::Delete, key)?,
            // Its deadline had passed without an announcement.
            (false, Some(_)) => self.announce(ChangeKind::Expire, key)?,
            (false, None) => {}
        }
        Ok(existed)
    }

    fn announce(&mut self, kind: ChangeKind, key: &str) -> Done<()> {
        self.changes.insert(self.version, (kind as u8, key))?;
        Ok(())
    }

    fn progress(&self, queue: &str, partition: Partition) -> Done<Progress> {
        let numbers = self.progress.get((queue, partition.0))?;
        Ok(numbers.map_or_else(Progress::default, |numbers| Progress::of(numbers.value())))
    }

    fn check(&self, advance: &Advance, writes: usize) -> Done<()> {
        let queue = advance.queue.to_string();
        let active = self.active.get(())?.map(|active| active.value().to_owned());
        if let Some(active) = active.filter(|active| *active != queue) {
            return refuse(Error::WrongQueue {
                active: active.parse().map_err(Fault::Refused)?,
                queue: advance.queue,
            });
        }
        let applied = self.progress(&queue, advance.partition)?.applied;
        if advance.from != applied {
            return refuse(Error::Stale {
                partition: advance.partition,
                applied,
            });
        }
        advance.check(writes).map_err(Fault::Refused)?;
        let (mut letters, mut bytes) = (self.letters.len()?, self.number("letter bytes")?);
        for (_, verdict) in &advance.outcomes {
            if let Verdict::Dead(dead) = verdict {
                if letters >= DEAD_LETTERS_MAX as u64 || bytes >= DEAD_LETTERS_BYTES_MAX as u64 {
                    return refuse(Error::Full {
                        what: "the table of dead letters",
                        limit: DEAD_LETTERS_MAX as u64,
                        room_in: None,
                    });
                }
                letters += 1;
                bytes += dead.size_bytes() as u64;
            }
        }
        Ok(())
    }

    fn advance(&mut self, advance: Advance, first: Version, existed: &[bool]) -> Done<()> {
        let (queue, partition) = (advance.queue.to_string(), advance.partition);
        let job = |at: Position| (queue.as_str(), partition.0, at.major, at.minor);
        let mut progress = self.progress(&queue, partition)?;
        self.active.insert((), queue.as_str())?;
        if advance.lost {
            let to = (advance.to.major, advance.to.minor);
            self.lost.insert(job(advance.from), to)?;
        } else if advance.to.major > advance.from.major {
            // The queue was opened in between: other numbers that it gave out belong to a lost
            // history.
            self.lost.insert(job(advance.from), (advance.to.major, 0))?;
        }
        progress.applied = advance.to;
        for (at, verdict) in advance.outcomes {
            let kept = match verdict {
                Verdict::Dead(dead) => {
                    let bytes = self.number("letter bytes")? + dead.size_bytes() as u64;
                    self.numbers.insert("letter bytes", bytes)?;
                    let text = json(&dead);
                    self.letters.insert(job(at), (self.now.0, text.as_str()))?;
                    continue;
                }
                Verdict::Succeeded {
                    summary,
                    first: index,
                    computed,
                } => {
                    let applied = |(index, computed)| Applied {
                        version: Version(first.0 + index as u64),
                        existed: existed[index],
                        computed,
                    };
                    Kept::Succeeded(summary, (index..).zip(computed).map(applied).collect())
                }
                Verdict::Failed {
                    summary,
                    operation,
                    reason,
                    current,
                } => Kept::Failed(summary, operation, reason, current),
            };
            self.keep(&mut progress, job(at), &kept)?;
        }
        self.prune(&mut progress, &queue, partition)?;
        self.progress
            .insert((queue.as_str(), partition.0), progress.numbers())?;
        Ok(())
    }

    fn keep(&mut self, progress: &mut Progress, job: JobKey<'_>, kept: &Kept) -> Done<()> {
        let text = json(kept);
        self.outcomes.insert(job, (self.now.0, text.as_str()))?;
        progress.kept += 1;
        progress.kept_bytes += text.len() as u64;
        Ok(())
    }

    /// Drops outcomes that are too old or too many.
    fn prune(&mut self, progress: &mut Progress, queue: &str, partition: Partition) -> Done<()> {
        let oldest = self.now.before(OUTCOME_RETENTION).0;
        loop {
            let all = (queue, partition.0, 0, 0)..=(queue, partition.0, u64::MAX, u64::MAX);
            let Some(first) = self.outcomes.range(all)?.next().transpose()? else {
                return Ok(());
            };
            let (_, _, major, minor) = first.0.value();
            let (at, text) = first.1.value();
            let is_too_much = progress.kept > OUTCOMES_MAX as u64
                || progress.kept_bytes > OUTCOMES_BYTES_MAX as u64 && progress.kept > 1;
            if at >= oldest && !is_too_much {
                return Ok(());
            }
            progress.kept -= 1;
            progress.kept_bytes -= text.len() as u64;
            progress.pruned = position(major, minor);
            drop(first);
            self.outcomes.remove((queue, partition.0, major, minor))?;
        }
    }

    pub(crate) fn adopt(&mut self, queue: QueueId) -> Done<()> {
        self.active.insert((), queue.to_string().as_str())?;
        Ok(())
    }

    /// Removes expired entries, and returns their number.
    pub(crate) fn expire(&mut self) -> Done<usize> {
        let expired = self.deadlines.range(..=(self.now.0, "\u{10FFFF}"))?;
        let rows = expired.take(EXPIRE_BATCH).map(|row| {
            let (row, _) = row?;
            let (deadline, key) = row.value();
            Ok((deadline, key.to_owned()))
        });
        let rows = rows.collect::<Result<Vec<(u64, String)>, redb::StorageError>>()?;
        for (deadline, key) in &rows {
            self.version += 1;
            self.entries.remove(key.as_str())?;
            self.deadlines.remove((*deadline, key.as_str()))?;
            self.announce(ChangeKind::Expire, key)?;
        }
        Ok(rows.len())
    }

    /// Drops a dead letter, and returns true if it existed.
    pub(crate) fn forget(&mut self, job: &JobId) -> Done<bool> {
        let queue = job.queue.to_string();
        let key = (
            queue.as_str(),
            job.partition.0,
            job.position.major,
            job.position.minor,
        );
        let dead = self
            .letters
            .remove(key)?
            .map(|row| read::<Dead>(row.value().1));
        let Some(dead) = dead else {
            return Ok(false);
        };
        let bytes = self.number("letter bytes")? - dead.size_bytes() as u64;
        self.numbers.insert("letter bytes", bytes)?;
        let mut progress = self.progress(&queue, job.partition)?;
        if job.position > progress.pruned {
            self.keep(&mut progress, key, &Kept::Forgotten)?;
            self.progress
                .insert((queue.as_str(), job.partition.0), progress.numbers())?;
        }
        Ok(true)
    }
}
