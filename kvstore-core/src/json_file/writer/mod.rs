//! The thread that owns the journal of the store: it takes every change that waits, judges and numbers them in order,
//! writes once, syncs once, makes them visible, and answers all. While it syncs, the next group gathers; there is no other
//! delay.

pub(crate) mod accept;
pub(crate) mod queue;
pub(crate) mod quota;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result, source};
use crate::in_memory::state::{Record, Shared, Staging};
use crate::json_file::disk::Disk;
use crate::json_file::journal::chain::Kind;
use crate::json_file::journal::manifest::Calls;
use crate::json_file::journal::record;
use crate::json_file::journal::{AppendError, Journal};
use crate::json_file::recovery::{Recovered, header_line};
use crate::json_file::snapshot::{self, Fingerprint, Meta, SNAPSHOT_PIECE, Written};
use crate::json_file::writer::accept::{Acceptance, Answered, Call, JobRecord};
use crate::json_file::writer::quota::Room;
use crate::model::commit::{Commit, Committed};
use crate::model::entry::Timestamp;
use crate::model::id::{JobId, QueueId};
use crate::model::job::NewJob;

/// Most changes that wait for the thread; who comes then waits to be let in.
const WAITING_MAX: usize = 4096;

/// Most changes in one group.
const GROUP_MAX: usize = 1024;

/// A group takes no further change once it has this many bytes.
const GROUP_BYTES: u64 = 4 << 20;

/// A snapshot that failed is tried again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// How often the folder is checked for having been moved or removed.
pub(crate) const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// Whoever asked, and what for.
#[derive(Debug)]
pub(crate) enum Request {
    Commit(Commit, Answer<Committed>),
    /// Apply jobs that nothing is ahead of.
    Accept(Vec<NewJob>, oneshot::Sender<Call>),
    Expire(Answer<usize>),
    Adopt(QueueId, Answer<()>),
    Forget(JobId, Answer<bool>),
    /// Check that the folder is still there.
    Check(Answer<()>),
    /// Bring `data.json` up to date.
    Snapshot(Answer<()>),
    /// Look whether the snapshot in the background has ended.
    SnapshotEnded,
    /// Bring `data.json` up to date, remove the journals and stop.
    Close(Answer<()>),
}

impl Request {
    /// Answers one that came after the end.
    fn refuse(self) {
        let closed = || Error::unavailable("the store");
        match self {
            Self::Commit(_, answer) => _ = answer.send(Err(closed())),
            Self::Accept(jobs, answer) => {
                let refused = jobs.iter().map(|_| Answered::Done(Err(closed())));
                let answers = refused.collect();
                _ = answer.send(Call {
                    answers,
                    turn: None,
                });
            }
            Self::Expire(answer) => _ = answer.send(Err(closed())),
            Self::Adopt(_, answer) | Self::Snapshot(answer) | Self::Check(answer) => {
                _ = answer.send(Err(closed()))
            }
            Self::Forget(_, answer) => _ = answer.send(Err(closed())),
            Self::Close(answer) => _ = answer.send(Ok(())),
            Self::SnapshotEnded => {}
        }
    }
}

pub(crate) type Answer<T> = oneshot::Sender<Result<T>>;

/// Where requests go.
pub(crate) type Requests = mpsc::Sender<Request>;

/// What the thread starts with.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) room: Arc<Room>,
    pub(crate) recovered: Unstated,
    /// Journals may have this many bytes more than `data.json` before a snapshot is taken.
    pub(crate) snapshot_bytes_min: u64,
    pub(crate) roll: Arc<Calls>,
    /// The queue in front of it.
    pub(crate) queue: Option<Arc<queue::Shared>>,
}

/// What was recovered, without the state, which is shared by now.
#[derive(Debug)]
pub(crate) struct Unstated {
    pub(crate) meta: Meta,
    pub(crate) data: Fingerprint,
    pub(crate) journal: Journal,
    pub(crate) number: u64,
    pub(crate) journal_bytes: u64,
    pub(crate) meta_bytes: u64,
}

impl Unstated {
    pub(crate) fn split(recovered: Recovered) -> (crate::in_memory::state::State, Self) {
        let Recovered {
            state,
            meta,
            data,
            journal,
            number,
            journal_bytes,
            meta_bytes,
            roll: _,
        } = recovered;
        (
            state,
            Self {
                meta,
                data,
                journal,
                number,
                journal_bytes,
                meta_bytes,
            },
        )
    }
}

/// Starts the thread. It ends after [`Request::Close`], or when all senders are gone.
pub(crate) fn start(start: Start) -> io::Result<Requests> {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let Start {
        disk,
        shared,
        room,
        recovered,
        snapshot_bytes_min,
        roll,
        queue,
    } = start;
    let mut writer = Writer {
        disk,
        shared,
        room,
        meta: recovered.meta,
        data: recovered.data,
        journal: recovered.journal,
        number: recovered.number,
        older_bytes: recovered.journal_bytes,
        snapshot_bytes_min,
        retry_at: None,
        is_full: false,
        meta_bytes: recovered.meta_bytes,
        checked: None,
        unsettled: false,
        snapshot: None,
        snapshot_result: Arc::default(),
        snapshot_waiters: Vec::new(),
        snapshot_again: false,
        sender: sender.downgrade(),
        poisoned: None,
        roll,
        acceptance: queue.map(Acceptance::new),
    };
    std::thread::Builder::new()
        .name("kvstore-journal".into())
        .spawn(move || writer.run(receiver))?;
    Ok(sender)
}

struct Writer {
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
    room: Arc<Room>,
    meta: Meta,
    /// What `data.json` was when we last wrote it.
    data: Fingerprint,
    journal: Journal,
    number: u64,
    /// Bytes of the journals before this one that are not in `data.json` yet.
    older_bytes: u64,
    snapshot_bytes_min: u64,
    /// After a snapshot that failed: when the next one is tried, or with how many bytes of journals, whichever comes first.
    retry_at: Option<(Timestamp, u64)>,
    /// The last write found no room.
    is_full: bool,
    /// The length of `data.meta.json`.
    meta_bytes: u64,
    /// When the folder was last checked.
    checked: Option<Instant>,
    /// The last snapshot failed, and may have left the pair half exchanged.
    unsettled: bool,
    snapshot: Option<JoinHandle<()>>,
    /// Where the snapshot's thread leaves what came of it.
    snapshot_result: Arc<Mutex<Option<io::Result<Written>>>>,
    snapshot_waiters: Vec<Answer<()>>,
    /// Somebody asked for a snapshot of what came after the running one began.
    snapshot_again: bool,
    sender: mpsc::WeakSender<Request>,
    /// Why nothing is written any more.
    poisoned: Option<String>,
    roll: Arc<Calls>,
    acceptance: Option<Acceptance>,
}

/// A change that was judged and waits to be answered.
type Reply = Box<dyn FnOnce(Result<()>) + Send>;

impl Writer {
    fn run(&mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP_MAX
                && !matches!(group.last(), Some(Request::Close(_)))
                && let Ok(next) = requests.try_recv()
            {
                group.push(next);
            }
            if let Some(close) = self.take(group) {
                let result = self.close();
                requests.close();
                while let Ok(late) = requests.try_recv() {
                    late.refuse();
                }
                let _ = close.send(result);
                return;
            }
        }
    }

    /// Does all that `group` asks for; the answer to a request to close is left to the caller.
    fn take(&mut self, group: Vec<Request>) -> Option<Answer<()>> {
        self.check_folder(CHECK_PERIOD);
        let mut close = None;
        let mut changes = Vec::new();
        for request in group {
            match request {
                Request::Snapshot(answer) => {
                    self.snapshot_again |= self.snapshot.is_some();
                    self.snapshot_waiters.push(answer);
                }
                Request::SnapshotEnded => {}
                // The folder was just checked. Writes of the same group that find no room are not
                // what was asked about.
                Request::Check(answer) => _ = answer.send(self.check_poison()),
                Request::Close(answer) => close = Some(answer),
                change => changes.push(change),
            }
        }
        if !changes.is_empty() {
            self.change(changes);
        }
        self.look_after_snapshot();
        self.snapshot_if_due();
        close
    }

    /// Judges the changes, writes them as one group (or several, if they are large), and answers.
    fn change(&mut self, changes: Vec<Request>) {
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let shared = Arc::clone(&self.shared);
            let state = shared.read();
            let mut staging = Staging::new(&state, shared.now());
            let mut records = Vec::new();
            let mut lines = Vec::new();
            let mut replies: Vec<Reply> = Vec::new();
            let mut bytes = 0;
            while bytes < GROUP_BYTES
                && let Some(change) = changes.next_if(|change| match change {
                    Request::Accept(jobs, _) => !Acceptance::needs_next_group(&staging, jobs),
                    _ => true,
                })
            {
                let (judged, reply) = match change {
                    Request::Accept(jobs, answer) => self.accept(&mut staging, jobs, answer, bytes),
                    change => {
                        let (record, reply) = self.judge(&mut staging, change, bytes);
                        (
                            record.map(|record| (record, None)).into_iter().collect(),
                            reply,
                        )
                    }
                };
                for (record, remembered) in judged {
                    bytes += crate::in_memory::state::bytes_added(&record.writes);
                    lines.push(record::encode_job(&record, remembered.as_ref()));
                    records.push(record);
                }
                replies.push(reply);
            }
            drop(state);
            let begun = Instant::now();
            let result = self.write(records, &lines);
            if let Some(acceptance) = &mut self.acceptance {
                match &result {
                    Ok(()) => acceptance.publish(begun.elapsed()),
                    Err(error) => acceptance.withdraw(matches!(error, Error::StorageFull { .. })),
                }
            }
            for reply in replies {
                reply(result.clone());
            }
        }
    }

    fn judge(
        &self,
        staging: &mut Staging<'_>,
        change: Request,
        ahead: u64,
    ) -> (Option<Record>, Reply) {
        match change {
            Request::Commit(commit, answer) => {
                let judged = self
                    .check_room(&commit, ahead)
                    .and_then(|()| staging.commit(commit));
                reply(
                    answer,
                    judged.map(|(record, committed)| (Some(record), committed)),
                )
            }
            Request::Expire(answer) => {
                let record = staging.expire();
                let count = record.as_ref().map_or(0, |record| record.expired.len());
                reply(answer, Ok((record, count)))
            }
            Request::Adopt(queue, answer) => reply(answer, Ok((staging.adopt(queue), ()))),
            Request::Forget(job, answer) => {
                let record = staging.forget(job);
                let was_there = record.is_some();
                reply(answer, Ok((record, was_there)))
            }
            Request::Snapshot(answer) | Request::Close(answer) | Request::Check(answer) => {
                reply(answer, Ok((None, ())))
            }
            Request::SnapshotEnded | Request::Accept(..) => (None, Box::new(|_| ())),
        }
    }

    /// Applies the jobs of a call that nothing is ahead of.
    fn accept(
        &mut self,
        staging: &mut Staging<'_>,
        jobs: Vec<NewJob>,
        answer: oneshot::Sender<Call>,
        ahead: u64,
    ) -> (Vec<JobRecord>, Reply) {
        let (call, records) = match (&mut self.acceptance, &self.poisoned) {
            (Some(acceptance), None) => acceptance.accept(staging, &self.room, jobs, ahead),
            (_, reason) => {
                let refused = || match reason {
                    Some(reason) => Error::Poisoned {
                        reason: reason.clone(),
                    },
                    None => Error::unavailable("the queue"),
                };
                let answers = jobs.iter().map(|_| Answered::Done(Err(refused())));
                let answers = answers.collect();
                let call = Call {
                    answers,
                    turn: None,
                };
                (call, Vec::new())
            }
        };
        let reply = move |result: Result<()>| {
            let answers = call.answers.into_iter().map(|answer| match answer {
                Answered::Done(Ok(accepted)) => Answered::Done(result.clone().map(|()| accepted)),
                other => other,
            });
            let answers = answers.collect();
            let _ = answer.send(Call { answers, ..call });
        };
        (records, Box::new(reply))
    }

    /// Room for jobs was reserved when they were accepted; a direct commit asks for its own, behind the `ahead` bytes of
    /// its group.
    fn check_room(&self, commit: &Commit, ahead: u64) -> Result<()> {
        match commit.advance {
            Some(_) => Ok(()),
            None => match crate::in_memory::state::bytes_added(&commit.writes) {
                0 => Ok(()),
                bytes => self.room.check(ahead + bytes),
            },
        }
    }

    fn check_poison(&self) -> Result<()> {
        self.poisoned
            .clone()
            .map_or(Ok(()), |reason| Err(Error::Poisoned { reason }))
    }

    fn write(&mut self, records: Vec<Record>, lines: &[Vec<u8>]) -> Result<()> {
        self.check_poison()?;
        if records.is_empty() {
            return Ok(());
        }
        match self.journal.append(lines) {
            Ok(()) => {
                if std::mem::take(&mut self.is_full) {
                    self.retry_at = None;
                }
                self.shared.publish(records);
                self.room.set_data(self.shared.read().table.bytes());
                Ok(())
            }
            Err(AppendError::Full(error)) => {
                self.is_full = true;
                Err(Error::StorageFull {
                    detail: format!("{}: {error}", self.disk.path().display()),
                })
            }
            // It may be on the disk all the same.
            Err(AppendError::Broken(error)) => Err(Error::Unknown {
                what: "the write is on the disk".to_owned(),
                source: source(self.poison(&error)),
            }),
        }
    }

    /// Writes nothing more once the folder is not the one at its path, or its lock is gone. It looks if the last look is
    /// longer ago than `period`.
    fn check_folder(&mut self, period: Duration) {
        if self.poisoned.is_some() || self.checked.is_some_and(|at| at.elapsed() < period) {
            return;
        }
        self.checked = Some(Instant::now());
        if let Err(error) = self.disk.check() {
            self.poison(&error);
        }
    }

    fn poison(&mut self, error: &io::Error) -> String {
        let file = self.disk.path().join(Kind::Store.name(self.number));
        let reason = format!("writing {} failed: {error}", file.display());
        tracing::error!(file = %file.display(), %error, "a write or sync failed: nothing more is accepted until the folder is opened again");
        self.shared.poison(&reason);
        self.poisoned = Some(reason.clone());
        reason
    }

    fn snapshot_if_due(&mut self) {
        if self.poisoned.is_some() {
            for waiter in self.snapshot_waiters.drain(..) {
                let _ = waiter.send(Err(Error::Poisoned {
                    reason: self.poisoned.clone().unwrap_or_default(),
                }));
            }
            return;
        }
        let bytes = self.older_bytes + self.journal.len();
        let pair_bytes = self.data.length() + self.meta_bytes;
        let due = bytes > pair_bytes.max(self.snapshot_bytes_min)
            && self
                .retry_at
                .is_none_or(|(at, above)| bytes > above || at <= self.shared.now());
        let wanted = due || !self.snapshot_waiters.is_empty();
        if self.snapshot.is_some() || !wanted {
            return;
        }
        if let Err(error) = self.start_snapshot() {
            self.snapshot_failed(&error);
        }
    }

    /// Goes on in a new journal, and writes what was true at its start from another thread.
    fn start_snapshot(&mut self) -> io::Result<()> {
        self.check_folder(Duration::ZERO);
        if let Some(reason) = &self.poisoned {
            return Err(io::Error::other(reason.clone()));
        }
        let version = self.shared.read().version;
        let number = self.number + 1;
        let header = header_line(number, Some(self.journal.durable()), version);
        let journal = match Kind::Store.go_on(&*self.disk, number, &[header], &self.roll) {
            Ok(journal) => journal,
            Err(AppendError::Full(error)) => return Err(error),
            Err(AppendError::Broken(error)) => {
                self.poison(&error);
                return Err(error);
            }
        };
        self.older_bytes += self.journal.len();
        self.journal = journal;
        self.number = number;

        let meta = self.cut();
        let (disk, shared) = (Arc::clone(&self.disk), Arc::clone(&self.shared));
        let replaces = self.replaces();
        let (sender, ended) = (self.sender.clone(), Arc::clone(&self.snapshot_result));
        let thread = std::thread::Builder::new()
            .name("kvstore-snapshot".into())
            .spawn(move || {
                let next = || shared.write().table.next_of_cut(SNAPSHOT_PIECE);
                let result = replaces(&*disk)
                    .and_then(|data| snapshot::write(&*disk, &meta, Some(data), next));
                if result.is_ok() {
                    Kind::Store.remove_before(&*disk, meta.journal);
                }
                *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                // Where there is no room for this, other requests wake the thread as well.
                if let Some(sender) = sender.upgrade() {
                    let _ = sender.try_send(Request::SnapshotEnded);
                }
            })?;
        self.snapshot = Some(thread);
        self.snapshot_again = false;
        Ok(())
    }

    /// How to find out which `data.json` a snapshot is going to replace.
    fn replaces(&self) -> impl FnOnce(&dyn Disk) -> io::Result<Fingerprint> + Send + use<> {
        let (unsettled, data) = (self.unsettled, self.data);
        move |disk| match unsettled {
            true => snapshot::settle(disk),
            false => Ok(data),
        }
    }

    /// Starts the walk over the entries as they are, and says all else that was true then.
    fn cut(&mut self) -> Meta {
        let mut state = self.shared.write();
        state.table.start_cut();
        self.meta.set_progress(&state.progress);
        self.meta.version = state.version;
        self.meta.time = state.time;
        self.meta.journal = self.number;
        drop(state);
        if let Some(acceptance) = &self.acceptance {
            let log = acceptance.queue().log();
            self.meta.remembered = log.remembered(self.meta.time).copied().collect();
        }
        self.meta.clone()
    }

    fn look_after_snapshot(&mut self) {
        let ended = self
            .snapshot_result
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(result) = ended else { return };
        self.snapshot = None;
        match result {
            Ok(written) => {
                self.data = written.data;
                self.meta_bytes = written.meta_bytes;
                self.older_bytes = 0;
                self.retry_at = None;
                self.unsettled = false;
                if !std::mem::take(&mut self.snapshot_again) {
                    for waiter in self.snapshot_waiters.drain(..) {
                        let _ = waiter.send(Ok(()));
                    }
                }
            }
            Err(error) => self.snapshot_failed(&error),
        }
    }

    /// The journals have everything, so nothing is lost; the next try comes after [`RETRY_AFTER`], with twice as much in the
    /// journals, or when there is room again.
    fn snapshot_failed(&mut self, error: &io::Error) {
        tracing::error!(folder = %self.disk.path().display(), %error, "data.json could not be brought up to date: the journal grows on");
        self.shared.write().table.drop_cut();
        let bytes = self.older_bytes + self.journal.len();
        self.retry_at = Some((self.shared.now().after(RETRY_AFTER), bytes * 2));
        self.unsettled = true;
        for waiter in self.snapshot_waiters.drain(..) {
            let what = "can't bring data.json up to date".to_owned();
            let _ = waiter.send(Err(Error::Unavailable {
                what,
                source: source(error.to_string()),
            }));
        }
    }

    /// Leaves a plain `data.json` that holds everything, and no journal.
    fn close(&mut self) -> Result<()> {
        if let Some(thread) = self.snapshot.take() {
            let _ = thread.join();
            self.look_after_snapshot();
        }
        self.check_folder(Duration::ZERO);
        if let Some(reason) = &self.poisoned {
            return Err(Error::Poisoned {
                reason: reason.clone(),
            });
        }
        self.expire_all()?;
        let failed = |error: io::Error| Error::Unavailable {
            what: "can't bring data.json up to date; the journal has everything".to_owned(),
            source: source(error),
        };
        self.journal.finish().map_err(failed)?;
        self.number += 1;
        let meta = self.cut();
        let shared = Arc::clone(&self.shared);
        let next = || shared.write().table.next_of_cut(SNAPSHOT_PIECE);
        self.replaces()(&*self.disk)
            .and_then(|data| snapshot::write(&*self.disk, &meta, Some(data), next))
            .map_err(failed)?;
        Kind::Store.remove_before(&*self.disk, meta.journal);
        self.disk.sync_folder().map_err(failed)
    }

    /// Whoever opens the file must not find what has ended.
    fn expire_all(&mut self) -> Result<()> {
        loop {
            let record = {
                let state = self.shared.read();
                Staging::new(&state, self.shared.now()).expire()
            };
            match record {
                None => return Ok(()),
                Some(record) => {
                    let line = record::encode(&record);
                    self.write(vec![record], &[line])?;
                }
            }
        }
    }
}

/// The answer to one change, to be given when its group is on the disk or not. Refusals wait too: they may rest on what the
/// group writes.
fn reply<T: Send + 'static>(
    answer: Answer<T>,
    judged: Result<(Option<Record>, T)>,
) -> (Option<Record>, Reply) {
    let (record, judged) = match judged {
        Ok((record, value)) => (record, Ok(value)),
        Err(error) => (None, Err(error)),
    };
    let reply = move |result: Result<()>| {
        let _ = answer.send(result.and(judged));
    };
    (record, Box::new(reply))
}
