//! Commits being evaluated, in order: each against the state and what was staged before it. Nothing
//! is visible yet.

use hashbrown::HashMap;

use super::State;
use super::record::{Advanced, Record};
use super::row::Row;
use crate::error::{Error, Result};
use crate::limits::{DEAD_LETTERS_BYTES_MAX, ENTRY_BYTES, EXPIRE_BATCH};
use crate::model::commit::{
    Advance, Commit, Committed, Verdict, dead_letters_full, dead_letters_full_by_bytes,
};
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::id::{JobId, Partition, Position, QueueId};
use crate::model::job::Applied;
use crate::model::key::Key;
use crate::model::write::{Change, Condition, Write};

/// Evaluates commits against a state that does not change meanwhile. Its records must be applied in
/// order, all of them or a prefix.
#[derive(Debug)]
pub(crate) struct Staging<'a> {
    state: &'a State,
    pub(crate) now: Timestamp,
    version: Version,
    /// The entries that staged writes leave under their keys.
    entries: HashMap<Key, Option<Entry>>,
    active: Option<QueueId>,
    /// Few partitions are advanced together: the last entry of each counts.
    positions: Vec<((QueueId, Partition), Position)>,
    dead: HashMap<(QueueId, Partition), DeadSize>,
}

/// The number of dead letters, and their bytes.
type DeadSize = (usize, usize);

impl<'a> Staging<'a> {
    /// Creates an empty staging at time `now`.
    pub(crate) fn new(state: &'a State, now: Timestamp) -> Self {
        Self {
            state,
            now,
            version: state.version,
            entries: HashMap::new(),
            active: state.progress.active,
            positions: Vec::new(),
            dead: HashMap::new(),
        }
    }

    fn record(&self) -> Record {
        Record::empty(self.version, self.now)
    }

    /// Returns the version of a live entry, including staged writes.
    fn current(&self, key: &Key) -> Option<Version> {
        match self.entries.get(key) {
            Some(staged) => staged.as_ref().map(|entry| entry.version),
            None => self.live(key).map(Row::version),
        }
    }

    /// Evaluates one commit.
    pub(crate) fn commit(&mut self, commit: Commit) -> Result<(Record, Committed)> {
        self.check(&commit.checks)?;
        let dead = match &commit.advance {
            Some(advance) => self.check_advance(advance, commit.writes.len())?,
            None => None,
        };
        let mut record = self.record();
        let writes = commit.writes.iter();
        let existed: Vec<bool> = writes.map(|write| self.stage(write)).collect();
        let first_version = match existed.len() {
            0 => record.before,
            _ => Version(record.before.0 + 1),
        };
        record.writes = commit.writes;
        record.advance = commit
            .advance
            .map(|advance| self.stage_advance(advance, dead, first_version, &existed));
        let committed = Committed {
            first_version,
            existed,
        };
        Ok((record, committed))
    }

    fn check(&self, checks: &[(Key, Condition)]) -> Result<()> {
        for (index, (key, condition)) in checks.iter().enumerate() {
            let current = self.current(key);
            if !condition.holds(current) {
                return Err(Error::Conflict {
                    key: key.clone(),
                    check: index,
                    current,
                });
            }
        }
        Ok(())
    }

    /// Returns what the partition has of dead letters with those that come, if any do.
    fn check_advance(&self, advance: &Advance, writes: usize) -> Result<Option<DeadSize>> {
        if let Some(active) = self.active.filter(|active| *active != advance.queue) {
            return Err(Error::WrongQueue {
                active,
                queue: advance.queue,
            });
        }
        let id = (advance.queue, advance.partition);
        let applied = self.applied(id);
        if advance.from != applied {
            return Err(Error::Stale {
                partition: advance.partition,
                applied,
            });
        }
        advance.check(writes)?;
        let mut dead = None;
        for (_, verdict) in &advance.outcomes {
            let Verdict::Dead(letter) = verdict else {
                continue;
            };
            let (count, bytes) = dead.unwrap_or_else(|| self.dead_size(id));
            let most = self.state.retention.dead_letters;
            if count >= most {
                return Err(dead_letters_full(most));
            }
            // The last one may exceed the bound, so that no letter is too large for an empty table.
            if bytes >= DEAD_LETTERS_BYTES_MAX {
                return Err(dead_letters_full_by_bytes());
            }
            dead = Some((count + 1, bytes + letter.size_bytes()));
        }
        Ok(dead)
    }

    /// Returns the live entry under `key`, including staged writes.
    pub(crate) fn entry(&self, key: &Key) -> Option<Entry> {
        if let Some(staged) = self.entries.get(key) {
            return staged.clone();
        }
        self.live(key).map(Row::entry)
    }

    fn live(&self, key: &Key) -> Option<&'a Row> {
        let row = self.state.table.get(key);
        row.filter(|row| row.is_live(self.now))
    }

    /// Returns how far a partition is applied, including staged commits.
    pub(crate) fn applied(&self, id: (QueueId, Partition)) -> Position {
        let mut latest = self.positions.iter().rev();
        let staged = latest.find(|(partition, _)| *partition == id);
        staged.map_or_else(
            || self.state.progress.applied(id.0, id.1),
            |(_, position)| *position,
        )
    }

    fn dead_size(&self, id: (QueueId, Partition)) -> DeadSize {
        let staged = self.dead.get(&id).copied();
        staged.unwrap_or_else(|| self.state.progress.dead_size(id.0, id.1))
    }

    /// Assigns a version to a write, and returns true if its key existed before.
    fn stage(&mut self, write: &Write) -> bool {
        let existed = self.current(&write.key).is_some();
        self.version = Version(self.version.0 + 1);
        let set = write.change.value_at(self.now);
        let live =
            set.filter(|(_, expires_at)| expires_at.is_none_or(|deadline| deadline > self.now));
        let entry = live.map(|(value, expires_at)| Entry {
            value: value.clone(),
            version: self.version,
            expires_at,
        });
        self.entries.insert(write.key.clone(), entry);
        existed
    }

    fn stage_advance(
        &mut self,
        advance: Advance,
        dead: Option<DeadSize>,
        first_version: Version,
        existed: &[bool],
    ) -> Advanced {
        let id = (advance.queue, advance.partition);
        let applied = |index, computed| Applied {
            version: Version(first_version.0 + index as u64),
            existed: existed[index],
            computed,
        };
        self.dead.extend(dead.map(|dead| (id, dead)));
        self.positions.push((id, advance.to));
        self.active = Some(advance.queue);
        let outcomes = advance.outcomes.into_iter();
        Advanced {
            queue: advance.queue,
            partition: advance.partition,
            from: advance.from,
            to: advance.to,
            outcomes: outcomes
                .map(|(at, verdict)| (at, verdict.into_outcome(applied)))
                .collect(),
            lost: advance.lost,
        }
    }

    /// Removes expired entries, up to [`EXPIRE_BATCH`]; `None` if there are none.
    pub(crate) fn expire(&mut self) -> Option<Record> {
        let mut record = self.record();
        // An entry that was written since is no longer the one that expired.
        let mut expired = self.state.table.expired(self.now, EXPIRE_BATCH);
        expired.retain(|key| !self.entries.contains_key(key));
        record.expired = expired;
        for key in &record.expired {
            self.version = Version(self.version.0 + 1);
            self.entries.insert(key.clone(), None);
        }
        (!record.expired.is_empty()).then_some(record)
    }

    /// Makes `queue` the active one; `None` if it already is.
    pub(crate) fn adopt(&mut self, queue: QueueId) -> Option<Record> {
        if self.active == Some(queue) {
            return None;
        }
        self.active = Some(queue);
        Some(Record {
            adopt: Some(queue),
            ..self.record()
        })
    }

    /// Drops a dead letter; `None` if it does not exist.
    pub(crate) fn forget(&mut self, job: JobId) -> Option<Record> {
        self.state.progress.has_dead(&job).then(|| Record {
            forget: Some(job),
            ..self.record()
        })
    }
}

/// Returns the memory that the written entries take, in bytes.
pub(crate) fn bytes_added(writes: &[Write]) -> u64 {
    let added = writes.iter().map(|write| match &write.change {
        Change::Set { value, .. } | Change::SetFor { value, .. } => {
            (write.key.as_str().len() + value.len()) as u64 + ENTRY_BYTES
        }
        Change::Delete => 0,
    });
    added.sum()
}
