//! A state shared by several tasks: everything that a store answers from memory, and wake-ups for
//! waiters.

use std::collections::BTreeMap;
use std::iter;
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard, ShardedLockWriteGuard};
use tokio::sync::oneshot;

use super::row::Row;
use super::table::PASS;
use super::watchers::{Ended, Watchers, change_id};
use super::{Record, Staging, State};
use crate::clock::StoreTime;
use crate::error::Result;
use crate::model::commit::Commit;
use crate::model::entry::{Entry, EntryRef, Timestamp};
use crate::model::id::{JobId, Position};
use crate::model::job::JobState;
use crate::model::key::Key;
use crate::model::write::Change;
use crate::store::{DeadPage, DeadRequest, ListRequest, Listed, Page, behind_prefix};

/// A state, its clock, and the callers that wait for it to change.
#[derive(Debug)]
pub(crate) struct Shared {
    /// A lock of which each reader takes a shard of its own: a single lock would be a cache line
    /// that all cores write to.
    state: ShardedLock<State>,
    time: Arc<StoreTime>,
    waiting: Mutex<Waiters>,
    /// Set once nothing can be changed any more, with the reason.
    poisoned: OnceLock<String>,
    pub(super) watchers: Watchers,
    pub(super) is_closed: AtomicBool,
}

/// The waiters of each job.
#[derive(Debug, Default)]
struct Waiters {
    tickets: u64,
    jobs: BTreeMap<(JobId, u64), oneshot::Sender<()>>,
}

impl Shared {
    pub(crate) fn new(state: State, time: Arc<StoreTime>) -> Self {
        Self {
            state: ShardedLock::new(state),
            time,
            waiting: Mutex::default(),
            poisoned: OnceLock::new(),
            watchers: Watchers::default(),
            is_closed: AtomicBool::new(false),
        }
    }

    /// Replaces the state. The changes between the two are unknown, so watches end with
    /// [`Error::Compacted`], and all callers that wait for a job are woken.
    pub(crate) fn replace(&self, state: State) {
        self.time.observe(state.time);
        let applied = state.progress.queues.iter();
        let applied: Vec<JobId> = applied
            .map(|((queue, partition), progress)| JobId {
                queue: *queue,
                partition: *partition,
                position: progress.applied,
            })
            .collect();
        let mut now = self.write();
        let old = std::mem::replace(&mut *now, state);
        self.watchers.end(Ended::Replaced);
        drop(now);
        // Dropped after the lock is released, since it may be large.
        drop(old);
        self.wake(applied);
    }

    /// Wakes the waiters for jobs whose positions are passed by now.
    fn wake(&self, passed: Vec<JobId>) {
        if !passed.is_empty() {
            let mut waiting = self.waiting();
            passed.into_iter().for_each(|up_to| waiting.wake(up_to));
        }
    }

    /// Returns the clock of this state.
    pub(crate) fn time(&self) -> Arc<StoreTime> {
        Arc::clone(&self.time)
    }

    /// Returns the store's time, which never goes back.
    pub(crate) fn now(&self) -> Timestamp {
        self.time.now()
    }

    /// Converts the deadlines of an incoming commit to store time.
    pub(crate) fn take_in(&self, mut commit: Commit) -> Commit {
        for write in &mut commit.writes {
            if let Change::Set {
                expires_at: Some(deadline),
                ..
            } = &mut write.change
            {
                *deadline = self.time.of_wall(*deadline);
            }
        }
        commit
    }

    /// Converts a row to an outgoing entry, with its deadline in wall-clock time.
    fn entry(&self, row: &Row) -> Entry {
        Entry {
            expires_at: self.deadline(row),
            ..row.entry()
        }
    }

    fn deadline(&self, row: &Row) -> Option<Timestamp> {
        row.expires_at().map(|deadline| self.time.to_wall(deadline))
    }

    fn entry_ref<'a>(&self, row: &'a Row) -> EntryRef<'a> {
        EntryRef {
            value: row.value_bytes(),
            version: row.version(),
            expires_at: self.deadline(row),
        }
    }

    // A panic under the lock leaves the state as it was: records are checked before they are
    // applied.
    pub(crate) fn read(&self) -> ShardedLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> ShardedLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiters> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes records visible, all at once, and wakes their waiters.
    pub(crate) fn publish(&self, records: Vec<Record>) {
        self.apply(self.write(), records);
    }

    /// Evaluates a change and makes it visible before the next one is evaluated.
    pub(crate) fn change<T>(
        &self,
        stage: impl FnOnce(&mut Staging<'_>) -> Result<(Option<Record>, T)>,
    ) -> Result<T> {
        let state = self.write();
        // Read under the lock, so that no change is evaluated at an earlier time than the one
        // before it.
        let now = self.now();
        let (record, answer) = stage(&mut Staging::new(&state, now))?;
        self.apply(state, record.into_iter().collect());
        Ok(answer)
    }

    fn apply(&self, mut state: ShardedLockWriteGuard<'_, State>, records: Vec<Record>) {
        let advanced: Vec<JobId> = records
            .iter()
            .filter_map(|record| record.advance.as_ref())
            .map(|advanced| JobId {
                queue: advanced.queue,
                partition: advanced.partition,
                position: advanced.to,
            })
            .collect();
        let before = state.version;
        for record in records {
            state.apply(record);
        }
        let woken = match self.watchers.are_there() {
            true => self.watchers.hand_out(&state, before),
            false => Vec::new(),
        };
        drop(state);
        for watcher in woken {
            watcher.changed.notify_one();
        }
        self.wake(advanced);
    }

    /// Rejects all further changes, after a failed write; reads continue.
    pub(crate) fn poison(&self, reason: &str) {
        // Only the first reason is kept.
        let _ = self.poisoned.set(reason.to_owned());
    }

    pub(crate) fn poisoned(&self) -> Option<String> {
        self.poisoned.get().cloned()
    }

    /// Returns true if [`Staging::expire`] would find something.
    pub(crate) fn has_expired(&self) -> bool {
        let now = self.now();
        !self.read().table.expired(now, 1).is_empty()
    }

    /// Ends all watches and waits.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.watchers.end(Ended::Closed);
        self.waiting().jobs.clear();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Calls `read` with the entry under `key` in place, without a copy, while the lock is held.
    pub(crate) fn with_entry<T>(
        &self,
        key: &Key,
        read: impl FnOnce(EntryRef<'_>) -> T,
    ) -> Option<T> {
        self.with_row(key, |row| read(self.entry_ref(row)))
    }

    fn with_row<T>(&self, key: &Key, read: impl FnOnce(&Row) -> T) -> Option<T> {
        let state = self.read();
        let row = state.table.get(key)?;
        // The time is read only if it matters.
        (row.expires_at().is_none() || row.is_live(self.now())).then(|| read(row))
    }

    /// Calls a function with each entry whose key starts with `prefix`, in order, in place, while
    /// the lock is held.
    pub(crate) fn with_entries(
        &self,
        prefix: &str,
        mut visit: impl FnMut(&str, EntryRef<'_>) -> ControlFlow<()>,
    ) {
        let now = self.now();
        let state = self.read();
        let rows = state.table.range_from(Bound::Included(prefix));
        let _ = rows
            .take_while(|row| row.starts_with(prefix))
            .filter(|row| row.is_live(now))
            .try_for_each(|row| visit(row.key_str(), self.entry_ref(row)));
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Entry> {
        self.with_row(key, |row| self.entry(row))
    }

    pub(crate) fn get_many(&self, keys: &[Key]) -> Vec<Option<Entry>> {
        let now = self.now();
        let state = self.read();
        let rows = state.table.get_many(keys).into_iter();
        let live = rows.map(|row| row.filter(|row| row.is_live(now)));
        live.map(|row| row.map(|row| self.entry(row))).collect()
    }

    pub(crate) fn list(&self, request: &ListRequest) -> Result<Page> {
        request.check()?;
        let now = self.now();
        let state = self.read();
        let mut page = list(&state, now, request);
        for listed in &mut page.entries {
            let deadline = listed.expires_at;
            listed.expires_at = deadline.map(|deadline| self.time.to_wall(deadline));
        }
        Ok(page)
    }

    pub(crate) async fn outcome(&self, job: &JobId, wait: Duration) -> Result<JobState> {
        let state = self.read().progress.state_of(job);
        if state != JobState::Queued || wait.is_zero() {
            return Ok(state);
        }
        // Registers first and checks again afterwards, so that no change is missed in between.
        let mut ticket = Ticket::new(self, *job);
        let state = self.read().progress.state_of(job);
        if state != JobState::Queued {
            return Ok(state);
        }
        // Woken, or closed, or too late: what is known by now is the answer.
        let _ = tokio::time::timeout(wait, &mut ticket.receiver).await;
        Ok(self.read().progress.state_of(job))
    }

    pub(crate) fn dead(&self, request: &DeadRequest) -> DeadPage {
        let state = self.read();
        let mut letters: Vec<_> = state
            .progress
            .dead_after(request.after)
            .take(request.limit.saturating_add(1))
            .collect();
        let more = letters.len() > request.limit;
        letters.truncate(request.limit);
        for letter in &mut letters {
            letter.at = self.time.to_wall(letter.at);
        }
        DeadPage { letters, more }
    }
}

impl Waiters {
    fn wake(&mut self, up_to: JobId) {
        let first = JobId {
            position: Position::START,
            ..up_to
        };
        let range = self.jobs.range((first, 0)..=(up_to, u64::MAX));
        let woken: Vec<(JobId, u64)> = range.map(|(ticket, _)| *ticket).collect();
        for ticket in woken {
            if let Some(sender) = self.jobs.remove(&ticket) {
                // Fails if the waiter has given up.
                let _ = sender.send(());
            }
        }
    }
}

/// A registration as a waiter, removed when it is dropped.
struct Ticket<'a> {
    shared: &'a Shared,
    id: (JobId, u64),
    receiver: oneshot::Receiver<()>,
}

impl<'a> Ticket<'a> {
    fn new(shared: &'a Shared, job: JobId) -> Self {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = shared.waiting();
        waiting.tickets += 1;
        let id = (job, waiting.tickets);
        waiting.jobs.insert(id, sender);
        drop(waiting);
        Self {
            shared,
            id,
            receiver,
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.shared.waiting().jobs.remove(&self.id);
    }
}

fn list(state: &State, now: Timestamp, request: &ListRequest) -> Page {
    let prefix = request.prefix.as_str();
    let mut page = Page {
        entries: Vec::with_capacity(request.limit),
        ..Page::empty(change_id(state.version))
    };
    let mut start = request.start();
    // The last folded prefix, if it came after the last key.
    let mut last = None;

    // Each round moves from one folded prefix to the next, so its cost does not grow with the keys
    // folded.
    'folds: while let Some(bound) = start.take() {
        let rows = state.table.range_from(bound.as_ref().map(String::as_str));
        // After a row that begins a folded prefix, none of its followers is needed.
        let pass = if request.delimiter.is_some() { 1 } else { PASS };
        for (row, is_live) in in_passes(rows, pass, |row| row.is_live(now)) {
            if !row.starts_with(prefix) {
                break 'folds;
            }
            if !is_live {
                continue;
            }
            if page.entries.len() + page.prefixes.len() == request.limit {
                page.next = last.or_else(|| Some(page.entries.last()?.key.to_string()));
                break 'folds;
            }
            let key = row.key();
            if let Some(fold) = request.folded(key.as_str()) {
                start = behind_prefix(&fold).map(Bound::Included);
                last = Some(fold.clone());
                page.prefixes.push(fold);
                continue 'folds;
            }
            last = None;
            page.entries.push(Listed {
                key,
                version: row.version(),
                size: row.value_bytes().len(),
                expires_at: row.expires_at(),
                value: request.include_values.then(|| row.value()),
            });
        }
    }
    page.count = request.count.then(|| {
        let behind = behind_prefix(prefix);
        state.table.count(prefix, behind.as_deref(), now) as u64
    });
    page
}

/// Reads ahead `pass` rows at a time before any of them is handed out, so that their cache misses
/// overlap.
fn in_passes<'a, T>(
    mut rows: impl Iterator<Item = &'a Row>,
    pass: usize,
    look: impl Fn(&Row) -> T,
) -> impl Iterator<Item = (&'a Row, T)> {
    let next = move || {
        let rows = rows.by_ref().take(pass);
        let rows: Vec<_> = rows.map(|row| (row, look(row))).collect();
        (!rows.is_empty()).then_some(rows)
    };
    iter::from_fn(next).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::model::entry::Version;

    #[test]
    fn scan_visits_the_live_entries_below_the_prefix_until_it_is_stopped() {
        let mut state = State::default();
        let past = Some(Timestamp(1));
        for (key, deadline) in [
            ("a", None),
            ("b:1", None),
            ("b:2", past),
            ("b:3", None),
            ("c", None),
        ] {
            let key = Key::new(key).unwrap();
            state.table.set(&key, b"1", Version(1), deadline);
        }
        let shared = Shared::new(
            state,
            Arc::new(StoreTime::new(Arc::new(SystemClock), Timestamp(0))),
        );
        let scan = |most: usize| {
            let mut seen = Vec::new();
            shared.with_entries("b", |key, entry| {
                assert_eq!(entry.value, b"1");
                seen.push(key.to_owned());
                if seen.len() == most {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            seen
        };
        assert_eq!(scan(usize::MAX), ["b:1", "b:3"]);
        assert_eq!(scan(1), ["b:1"]);
    }

    #[test]
    fn count_covers_the_live_entries_below_the_prefix() {
        let mut state = State::default();
        let names: Vec<String> = (0..5000)
            .map(|number| match number % 3 {
                0 => format!("a/{number}"),
                1 => format!("b\u{10ffff}{number}"),
                _ => format!("\u{10ffff}{number}"),
            })
            .collect();
        for (name, number) in names.iter().zip(0..) {
            let deadline = (number % 7 == 0).then_some(Timestamp(1 + number % 2 * 100));
            let key = Key::new(name).unwrap();
            state.table.set(&key, b"1", Version(1), deadline);
        }
        for name in names.iter().step_by(11) {
            state.table.remove(&Key::new(name).unwrap());
        }
        let now = Timestamp(50);
        let all = [
            "",
            "a",
            "a/",
            "a/1",
            "a/4998",
            "b",
            "b\u{10ffff}",
            "\u{10ffff}",
            "\u{10ffff}1",
            "x",
        ];
        for prefix in all {
            let rows = state.table.range_from(Bound::Unbounded);
            let live = rows.filter(|row| row.starts_with(prefix) && row.is_live(now));
            let request = ListRequest {
                prefix: prefix.to_owned(),
                limit: 1,
                count: true,
                ..ListRequest::default()
            };
            let page = list(&state, now, &request);
            assert_eq!(page.count, Some(live.count() as u64), "{prefix:?}");
        }
    }
}
