//! The state that a store holds in memory, for backends that hold everything there: entries, how
//! far queues are applied, how jobs ended, and the latest changes.
//!
//! A change takes two steps. A [`Staging`] judges commits, one after the other, against the state
//! and what was staged before, and makes a [`Record`] of each, which is what a file stores.
//! [`State::apply`] then applies the record, and cannot fail. So a record that is replayed from a
//! file takes the same path as it did the first time.

mod changes;
mod index;
mod order;
mod progress;
mod record;
mod row;
mod shared;
mod sorted;
mod staging;
mod table;
mod watchers;
mod watching;

pub(crate) use progress::{Lost, Progress, QueueProgress};
#[cfg(test)]
pub(crate) use record::Advanced;
pub(crate) use record::Record;
pub(crate) use row::Row;
pub(crate) use shared::Shared;
pub(crate) use sorted::Sorted;
pub(crate) use staging::{Staging, bytes_added};
pub(crate) use table::Table;

use self::changes::Changes;
use crate::model::entry::{Timestamp, Version};
use crate::store::{ChangeKind, Retention};

/// Everything that a store knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The entries.
    pub(crate) table: Table,
    /// How far queues are applied, and how their jobs ended.
    pub(crate) progress: Progress,
    /// The version of the latest write.
    pub(crate) version: Version,
    /// The time of the latest record.
    pub(crate) time: Timestamp,
    pub(crate) retention: Retention,
    changes: Changes,
}

impl State {
    /// Creates a state whose history starts here: nothing before it can be watched.
    pub(crate) fn new(table: Table, progress: Progress, version: Version, time: Timestamp) -> Self {
        Self {
            table,
            progress,
            version,
            time,
            retention: Retention::default(),
            changes: Changes::starting_after(version),
        }
    }

    /// Sets how much is kept besides the entries.
    pub(crate) fn keeping(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }

    /// Applies `record`. Infallible.
    pub(crate) fn apply(&mut self, record: Record) {
        let Retention {
            changes, outcomes, ..
        } = self.retention;
        let mut version = record.before;
        for write in record.writes {
            version = Version(version.0 + 1);
            let change = match write.change.value_at(record.at) {
                Some((value, expires_at))
                    if expires_at.is_none_or(|deadline| deadline > record.at) =>
                {
                    self.table
                        .set(&write.key, value.as_bytes(), version, expires_at);
                    Some(ChangeKind::Set)
                }
                // A deadline that has passed leaves the key absent. An entry that had expired and
                // was not removed yet is announced here, since nothing else will.
                Some(_) => self.table.remove(&write.key).map(|_| ChangeKind::Expire),
                None => self.table.remove(&write.key).map(|row| {
                    if row.is_live(record.at) {
                        ChangeKind::Delete
                    } else {
                        ChangeKind::Expire
                    }
                }),
            };
            if let Some(kind) = change {
                self.changes.push(version, write.key, kind, changes);
            }
        }
        for key in record.expired {
            version = Version(version.0 + 1);
            self.table.remove(&key);
            self.changes.push(version, key, ChangeKind::Expire, changes);
        }
        if let Some(queue) = record.adopt {
            self.progress.active = Some(queue);
        }
        if let Some(advanced) = record.advance {
            self.progress.advance(advanced, record.at, outcomes);
        }
        if let Some(job) = record.forget {
            self.progress.forget(&job, record.at);
        }
        if let Some(opened) = record.opened {
            self.changes.pass(version, opened);
            self.progress.skipped += opened.0 - version.0;
            version = opened;
        }
        self.version = version;
        self.time = self.time.max(record.at);
    }
}

#[cfg(test)]
mod tests {
    //! Is the data that is kept of jobs bounded in bytes?

    use super::*;
    use crate::error::Error;
    use crate::limits::{DEAD_LETTERS_BYTES_MAX, OUTCOMES_BYTES_MAX};
    use crate::model::command::{Command, Operation};
    use crate::model::commit::{Advance, Commit, Verdict};
    use crate::model::id::{JobId, Partition, Position, QueueId};
    use crate::model::job::{Dead, JobState, Summary};
    use crate::model::key::Key;
    use crate::model::value::Value;
    use crate::model::write::{Change, Write};

    /// Advances past job `number` with that verdict.
    fn step(
        state: &mut State,
        queue: QueueId,
        number: u64,
        writes: usize,
        verdict: Verdict,
    ) -> crate::error::Result<()> {
        let write = Write {
            key: Key::new("a").unwrap(),
            change: Change::Delete,
        };
        let commit = Commit {
            writes: vec![write; writes],
            advance: Some(Advance {
                queue,
                partition: Partition(0),
                from: Position::counted(number - 1),
                to: Position::counted(number),
                outcomes: vec![(Position::counted(number), verdict)],
                lost: false,
            }),
            ..Commit::default()
        };
        let (record, _) = Staging::new(state, Timestamp(1)).commit(commit)?;
        state.apply(record);
        Ok(())
    }

    #[test]
    fn outcomes_of_large_batches_are_bounded_in_bytes() {
        let mut state = State::default();
        let queue = QueueId::random();
        let jobs = 3000;
        for number in 1..=jobs {
            let verdict = Verdict::Succeeded {
                summary: Summary {
                    name: "batch".into(),
                    key: Key::new("a").unwrap(),
                    common: None,
                },
                first: 0,
                computed: vec![Default::default(); 1000],
            };
            step(&mut state, queue, number, 1000, verdict).unwrap();
        }
        let state_of = |number| {
            state.progress.state_of(&JobId {
                queue,
                partition: Partition(0),
                position: Position::counted(number),
            })
        };
        assert_eq!(state_of(1), JobState::Forgotten);
        assert!(matches!(state_of(jobs), JobState::Finished(_)));
        let kept = state.progress.queues.values().next().unwrap();
        let kept = kept.outcomes.after(Position::START).count();
        let bytes_each = 1000 * size_of::<crate::model::job::Applied>();
        let bound = OUTCOMES_BYTES_MAX;
        assert!((bound / 2..=bound).contains(&(kept * bytes_each)), "{kept}");
    }

    #[test]
    fn dead_letters_are_bounded_in_bytes() {
        let mut state = State::default();
        let queue = QueueId::random();
        let letter = || {
            let text = format!("\"{}\"", "x".repeat(1 << 20));
            let value = Value::parse(text).unwrap();
            Verdict::Dead(Dead {
                reason: String::new(),
                attempts: 1,
                command: Command::One(Operation::set(Key::new("a").unwrap(), value)),
            })
        };
        let most = (DEAD_LETTERS_BYTES_MAX >> 20) as u64;
        for number in 1..=most {
            step(&mut state, queue, number, 0, letter()).unwrap();
        }
        let refused = step(&mut state, queue, most + 1, 0, letter());
        assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
        state.progress.forget(
            &JobId {
                queue,
                partition: Partition(0),
                position: Position::counted(1),
            },
            Timestamp(1),
        );
        step(&mut state, queue, most + 1, 0, letter()).unwrap();
    }
}
