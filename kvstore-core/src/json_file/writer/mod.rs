//! The journal thread, which owns the folder. It takes all pending changes and jobs, judges and
//! numbers them in order, writes once, syncs once, publishes the result, and answers every caller.
//! While it syncs, the next group gathers; there is no other delay.

pub(crate) mod jobs;
pub(crate) mod quota;
pub(crate) mod requests;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::error::{Error, Result, source};
use crate::in_memory::state::{Record, Shared, Staging, bytes_added};
use crate::json_file::disk::Disk;
use crate::json_file::journal::AppendError;
use crate::json_file::journal::chain::{self, Header, Latest};
use crate::json_file::journal::record::{self, applied_of};
use crate::json_file::sealed::Format;
use crate::json_file::snapshot::meta::Meta;
use crate::json_file::snapshot::pair::settle;
use crate::json_file::snapshot::{self, SNAPSHOT_PIECE, Written};
use crate::json_file::writer::jobs::Queue;
use crate::json_file::writer::quota::Room;
use crate::json_file::writer::requests::{Judge, ReplySender, Requests, WriterRequest};
use crate::model::commit::Commit;
use crate::model::entry::Timestamp;
use crate::model::id::Position;
use crate::queue::AppliedJob;

/// The maximum number of requests that wait for the thread; later callers wait to enqueue theirs.
const WAITING_MAX: usize = 4096;

/// The maximum number of requests in one group.
const GROUP_MAX: usize = 1024;

/// A group takes no further change once it has this many bytes.
const GROUP_BYTES: u64 = 4 << 20;

/// A failed snapshot is retried after this time.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// How often the thread checks that the folder was not moved or removed.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// The state of the journal thread.
pub(crate) struct Writer {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) room: Room,
    pub(crate) meta: Meta,
    /// The snapshot pair as it was last written.
    pub(crate) written: Written,
    pub(crate) latest: Latest,
    /// A snapshot is taken once the journals are larger than this and than the pair.
    pub(crate) snapshot_bytes_min: u64,
    pub(crate) status: WriterStatus,
}

/// What has changed since the thread was started.
#[derive(Default)]
pub(crate) struct WriterStatus {
    /// Set after a failed snapshot: the next try comes at this time or above this many bytes of
    /// journals, whichever comes first.
    retry_at: Option<(Timestamp, u64)>,
    /// The last write failed for lack of space.
    is_full: bool,
    /// When the folder was last checked.
    checked: Option<Instant>,
    /// The last snapshot failed, and may have left the pair half exchanged.
    unsettled: bool,
    snapshot: Option<JoinHandle<io::Result<Written>>>,
    snapshot_waiters: Vec<ReplySender<()>>,
    /// A snapshot was requested after the running one began, so another must follow it.
    snapshot_again: bool,
    sender: Option<mpsc::WeakSender<WriterRequest>>,
    /// Why the thread refuses all further writes.
    poisoned: Option<String>,
}

/// Changes that are written and synced together.
#[derive(Default)]
pub(crate) struct Group {
    pub(super) lines: Vec<Vec<u8>>,
    records: Vec<Record>,
    /// Bytes of the keys and values that the group adds.
    pub(super) bytes: u64,
    /// The last position that was assigned to a job before this group.
    numbers_after: Position,
    /// Jobs with nothing ahead of them are applied on acceptance.
    applies_jobs: bool,
    /// The jobs that were applied on acceptance.
    applied: Vec<AppliedJob>,
    /// Some jobs were accepted without being applied and wait for a worker.
    has_waiting: bool,
    /// The group only completes or attempts jobs, whose space is already reserved.
    has_room: bool,
}

/// Answers a request with the result of writing its group.
pub(crate) type GroupReply = Box<dyn FnOnce(Result<()>) + Send>;

/// Starts the thread. It ends after [`WriterRequest::Close`], or once all senders are dropped.
pub(crate) fn start(mut writer: Writer) -> io::Result<Requests> {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    writer.status.sender = Some(sender.downgrade());
    let shared = Arc::clone(&writer.shared);
    std::thread::Builder::new()
        .name("kvstore-journal".into())
        .spawn(move || writer.run(receiver))?;
    Ok(Requests { sender, shared })
}

impl Writer {
    fn run(&mut self, mut requests: mpsc::Receiver<WriterRequest>) {
        while let Some(first) = requests.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP_MAX
                && !matches!(group.last(), Some(WriterRequest::Close(_)))
                && let Ok(next) = requests.try_recv()
            {
                group.push(next);
            }
            if let Some(close) = self.take(group) {
                let result = self.close();
                // Dropping the channel refuses all callers that still wait.
                self.shared.close();
                drop(requests);
                let _ = close.send(result);
                return;
            }
        }
    }

    /// Handles every request of `group`. A request to close is returned for the caller to answer.
    fn take(&mut self, group: Vec<WriterRequest>) -> Option<ReplySender<()>> {
        self.check_folder(CHECK_PERIOD);
        let mut close = None;
        let mut changes = Vec::new();
        let mut starts = Vec::new();
        for request in group {
            match request {
                WriterRequest::Snapshot(answer) => {
                    self.status.snapshot_again |= self.status.snapshot.is_some();
                    self.status.snapshot_waiters.push(answer);
                }
                WriterRequest::SnapshotEnded => self.look_after_snapshot(true),
                // The folder was checked just above. A write of the same group that runs out of
                // space is not a reason to fail the check.
                WriterRequest::Check(answer) => _ = answer.send(self.check_poison()),
                WriterRequest::StartAfter(position, answer) => starts.push((position, answer)),
                WriterRequest::Close(answer) => close = Some(answer),
                WriterRequest::Change { has_room, judge } => changes.push((has_room, judge)),
            }
        }
        if !changes.is_empty() {
            self.change(changes);
        }
        // After the changes, so that no job is half accepted.
        for (position, answer) in starts {
            let _ = answer.send(self.start_after(position));
        }
        self.look_after_snapshot(false);
        self.snapshot_if_due();
        close
    }

    /// Judges the changes, writes them as one group (or several, if they are large), and answers
    /// each.
    fn change(&mut self, mut changes: Vec<(bool, Judge)>) {
        if self.status.is_full {
            // Changes with reserved space come first, so that they do not fail with those that find
            // none.
            changes.sort_by_key(|(has_room, _)| !has_room);
        }
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let (group, replies) = self.judge_group(&mut changes);
            let result = self.write(group);
            for reply in replies {
                reply(result.clone());
            }
        }
    }

    fn judge_group(
        &mut self,
        changes: &mut std::iter::Peekable<std::vec::IntoIter<(bool, Judge)>>,
    ) -> (Group, Vec<GroupReply>) {
        let shared = Arc::clone(&self.shared);
        let state = shared.read();
        let now = shared.now();
        let mut staging = Staging::new(&state, now);
        let mut group = Group {
            numbers_after: self.queue.log().last(),
            applies_jobs: state.progress.active == Some(self.meta.queue)
                && self.queue.applies_on_acceptance(now),
            has_room: true,
            ..Group::default()
        };
        let mut replies = Vec::new();
        let splits = self.status.is_full;
        while group.bytes < GROUP_BYTES
            && let Some((has_room, judge)) = changes
                .next_if(|(next, _)| !splits || replies.is_empty() || group.has_room == *next)
        {
            group.has_room &= has_room;
            replies.push(judge(self, &mut group, &mut staging));
        }
        (group, replies)
    }

    /// Checks that the data may grow by `commit`, which follows `ahead` bytes of its group. Space
    /// for jobs was reserved when they were accepted, so only direct commits are counted.
    pub(super) fn check_room(&self, commit: &Commit, ahead: u64) -> Result<()> {
        match commit
            .advance
            .is_none()
            .then(|| bytes_added(&commit.writes))
        {
            None | Some(0) => Ok(()),
            Some(bytes) => self.room.check(ahead + bytes),
        }
    }

    /// Numbers further jobs after `position`, up to which another store has applied them.
    fn start_after(&mut self, position: Position) -> Result<()> {
        if position <= self.queue.log().last() {
            return Ok(());
        }
        let mut record = {
            let state = self.shared.read();
            Record::empty(state.version, state.time)
        };
        record.jobs = Some(position);
        self.queue.log().start_after(position);
        self.write_alone(record)
    }

    fn write_alone(&mut self, record: Record) -> Result<()> {
        let mut group = Group {
            numbers_after: self.queue.log().last(),
            ..Group::default()
        };
        group.push(record);
        self.write(group)
    }

    fn check_poison(&self) -> Result<()> {
        let reason = self.status.poisoned.clone();
        reason.map_or(Ok(()), |reason| Err(Error::Poisoned { reason }))
    }

    /// Writes a judged group, and publishes it if that succeeds.
    fn write(&mut self, group: Group) -> Result<()> {
        let begun = Instant::now();
        let result = self.append(&group);
        let mut log = self.queue.log();
        if let Err(error) = &result {
            log.withdraw();
            if matches!(error, Error::StorageFull { .. }) {
                log.reuse_after(group.numbers_after);
            }
            return result;
        }
        drop(log);
        let mut applied = (group.records.iter()).filter_map(|it| applied_of(it, self.meta.queue));
        let applied = applied.next_back();
        // The state is published before the log drops jobs. In the other order, a job would for a
        // moment be neither waiting nor applied, and look as if it had never been accepted.
        self.shared.publish(group.records);
        let mut log = self.queue.log();
        log.publish();
        if let Some(applied) = applied {
            log.apply(applied);
        }
        self.room.queued = quota::memory_bytes(&log);
        drop(log);
        self.room.data = self.shared.read().table.memory_bytes();
        if group.has_waiting {
            self.queue.changed.notify_waiters();
        }
        if !group.applied.is_empty()
            && let Some(listener) = &*self.queue.listener()
        {
            listener.report(&group.applied, begun.elapsed());
        }
        Ok(())
    }

    fn append(&mut self, group: &Group) -> Result<()> {
        self.check_poison()?;
        if group.lines.is_empty() {
            return Ok(());
        }
        let reserve = match group.has_room {
            true => 0,
            false => quota::reserve(&self.queue.log()),
        };
        // Attempts alone need no sync: a poison job does not cause a loss of power.
        let appended = match group.records.is_empty() && !group.has_waiting {
            true => self.latest.journal.write(&group.lines, reserve),
            false => self.latest.journal.append(&group.lines, reserve),
        };
        match appended {
            Ok(()) => {
                if !group.has_room && std::mem::take(&mut self.status.is_full) {
                    self.status.retry_at = None;
                }
                Ok(())
            }
            Err(AppendError::Full(error)) => {
                self.status.is_full = true;
                Err(Error::StorageFull {
                    detail: format!("{}: {error}", self.disk.path().display()),
                })
            }
            // The write may have reached the disk nevertheless.
            Err(AppendError::Broken(error)) => Err(Error::Unknown {
                what: "the write is on the disk".to_owned(),
                source: source(self.poison(&error)),
            }),
        }
    }

    /// Poisons the writer if the path leads to another folder by now, or the lock is gone. Does
    /// nothing if the last check was less than `period` ago.
    fn check_folder(&mut self, period: Duration) {
        if self.status.poisoned.is_some()
            || self.status.checked.is_some_and(|at| at.elapsed() < period)
        {
            return;
        }
        self.status.checked = Some(Instant::now());
        if let Err(error) = self.disk.check() {
            self.poison(&error);
        }
    }

    fn poison(&mut self, error: &io::Error) -> String {
        let file = self.disk.path().join(chain::name(self.latest.number));
        let reason = format!("writing {} failed: {error}", file.display());
        tracing::error!(file = %file.display(), %error, "a write or sync failed: all further writes are refused until the folder is reopened");
        self.shared.poison(&reason);
        self.status.poisoned = Some(reason.clone());
        reason
    }

    fn snapshot_if_due(&mut self) {
        if let Err(poisoned) = self.check_poison() {
            return self.answer_snapshot(&Err(poisoned));
        }
        let bytes = self.latest.bytes();
        let pair_bytes = self.written.data.length() + self.written.meta_bytes;
        let due = bytes > pair_bytes.max(self.snapshot_bytes_min)
            && self
                .status
                .retry_at
                .is_none_or(|(at, above)| bytes > above || at <= self.shared.now());
        let wanted = due || !self.status.snapshot_waiters.is_empty();
        if self.status.snapshot.is_some() || !wanted {
            return;
        }
        if let Err(error) = self.start_snapshot() {
            self.snapshot_failed(&error);
        }
    }

    /// Rotates to a new journal, and starts a thread that writes the state as of its start.
    fn start_snapshot(&mut self) -> io::Result<()> {
        self.check_folder(Duration::ZERO);
        self.check_poison().map_err(io::Error::other)?;
        let version = self.shared.read().version;
        let (header, tried, reserve) = {
            let log = self.queue.log();
            let header = Header {
                journal: self.latest.number + 1,
                format: Format,
                queue: self.meta.queue,
                previous: Some(self.latest.journal.durable()),
                version,
                jobs: log.last(),
            };
            let tried = log.attempts();
            let tried = tried.map(|(head, count)| record::encode_tried(head, count));
            (header, Vec::from_iter(tried), quota::reserve(&log))
        };
        let gone_on = self.latest.go_on(&*self.disk, &header, &tried, reserve);
        gone_on.map_err(|error| match error {
            AppendError::Full(error) => error,
            AppendError::Broken(error) => {
                self.poison(&error);
                error
            }
        })?;

        let meta = self.cut();
        let (disk, write) = (Arc::clone(&self.disk), self.write_pair(meta));
        let sender = self.status.sender.clone();
        let thread = std::thread::Builder::new()
            .name("kvstore-snapshot".into())
            .spawn(move || {
                let result = write(&*disk);
                // If the channel is full, the requests in it wake the thread instead.
                if let Some(sender) = sender.as_ref().and_then(mpsc::WeakSender::upgrade) {
                    let _ = sender.try_send(WriterRequest::SnapshotEnded);
                }
                result
            })?;
        self.status.snapshot = Some(thread);
        self.status.snapshot_again = false;
        Ok(())
    }

    /// Starts the walk over the entries as they are now, and returns the metadata of this moment,
    /// except for what the snapshot thread adds later.
    fn cut(&mut self) -> Meta {
        // Nothing changes between the two locks, since only this thread changes the state; readers
        // are not blocked.
        let state = self.shared.read();
        self.meta.set_progress(&state.progress);
        self.meta.version = state.version;
        self.meta.time = state.time;
        self.meta.journal = self.latest.number;
        drop(state);
        self.shared.write().table.start_cut();
        self.meta.set_log(&self.queue.log());
        self.meta.clone()
    }

    /// Returns a function that writes the pair as it was cut.
    fn write_pair(&self, mut meta: Meta) -> impl FnOnce(&dyn Disk) -> io::Result<Written> + use<> {
        let (shared, queue) = (Arc::clone(&self.shared), Arc::clone(&self.queue));
        let (unsettled, data) = (self.status.unsettled, self.written.data);
        move |disk| {
            let replaces = match unsettled {
                true => settle(disk)?,
                false => data,
            };
            meta.add_outcomes(|| shared.read());
            meta.add_remembered(meta.time, || queue.log());
            let next = || shared.write().table.next_of_cut(SNAPSHOT_PIECE);
            let written = snapshot::write(disk, &meta, Some(replaces), next)?;
            chain::remove_before(disk, meta.journal);
            Ok(written)
        }
    }

    /// Records the result of the background snapshot, if it has ended. `has_ended` says that this
    /// is known; otherwise the thread is asked.
    fn look_after_snapshot(&mut self, has_ended: bool) {
        let is_at_end = |thread: &mut JoinHandle<_>| has_ended || thread.is_finished();
        let Some(thread) = self.status.snapshot.take_if(is_at_end) else {
            return;
        };
        let panicked = |_| Err(io::Error::other("the snapshot thread panicked"));
        match thread.join().unwrap_or_else(panicked) {
            Ok(written) => {
                self.written = written;
                self.latest.older_bytes = 0;
                self.status.retry_at = None;
                self.status.unsettled = false;
                if !std::mem::take(&mut self.status.snapshot_again) {
                    self.answer_snapshot(&Ok(()));
                }
            }
            Err(error) => self.snapshot_failed(&error),
        }
    }

    /// Schedules the next try after a failed snapshot. Nothing is lost, since the journals hold
    /// everything. The next try comes after [`RETRY_AFTER`], once the journals have doubled, or
    /// when there is space again.
    fn snapshot_failed(&mut self, error: &io::Error) {
        tracing::error!(folder = %self.disk.path().display(), %error, "data.json could not be brought up to date: the journal keeps growing");
        self.shared.write().table.drop_cut();
        let retry_at = self.shared.now().after(RETRY_AFTER);
        self.status.retry_at = Some((retry_at, self.latest.bytes() * 2));
        self.status.unsettled = true;
        self.answer_snapshot(&Err(not_up_to_date(error.to_string())));
    }

    fn answer_snapshot(&mut self, result: &Result<()>) {
        for waiter in self.status.snapshot_waiters.drain(..) {
            let _ = waiter.send(result.clone());
        }
    }

    /// Writes a final snapshot: a plain `data.json` that holds everything, and no journal.
    fn close(&mut self) -> Result<()> {
        self.look_after_snapshot(true);
        self.check_folder(Duration::ZERO);
        self.check_poison()?;
        self.expire_all()?;
        let failed = |error: io::Error| not_up_to_date(error);
        self.latest.journal.finish().map_err(failed)?;
        self.latest.number += 1;
        let meta = self.cut();
        self.write_pair(meta)(&*self.disk).map_err(failed)?;
        self.disk.sync_folder().map_err(failed)
    }

    /// Removes all expired entries, so that they never reach the final `data.json`.
    fn expire_all(&mut self) -> Result<()> {
        let expire = |shared: &Shared| Staging::new(&shared.read(), shared.now()).expire();
        while let Some(record) = expire(&self.shared) {
            self.write_alone(record)?;
        }
        Ok(())
    }
}

fn not_up_to_date(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Unavailable {
        what: "cannot bring data.json up to date; the journal holds everything".to_owned(),
        source: source(error),
    }
}

impl Group {
    /// Adds a judged change to the group, and returns its reply. A refusal also waits for the
    /// group, since it may rest on what the group writes.
    pub(super) fn reply<T: Send + 'static>(
        &mut self,
        answer: ReplySender<T>,
        judged: Result<(Option<Record>, T)>,
    ) -> GroupReply {
        let judged = judged.map(|(record, value)| {
            if let Some(record) = record {
                self.bytes += bytes_added(&record.writes);
                self.push(record);
            }
            value
        });
        Box::new(move |group: Result<()>| {
            let _ = answer.send(group.and(judged));
        })
    }

    fn push(&mut self, record: Record) {
        self.lines.push(record::encode(&record));
        self.records.push(record);
    }
}
