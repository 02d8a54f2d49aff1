//! The thread that owns the journal of the queue: it gives every job that waits its place, writes once, syncs once, makes
//! them readable, and answers all.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, mpsc, oneshot};

use crate::clock::StoreTime;
use crate::error::{Error, Result, source};
use crate::in_memory::log::{Admission, PartitionLog};
use crate::json_file::disk::Disk;
use crate::json_file::error::disk_error;
use crate::json_file::journal::chain::Kind;
use crate::json_file::journal::jobs::{first_lines, job_line, member_line};
use crate::json_file::journal::manifest::Calls;
use crate::json_file::journal::{AppendError, Journal};
use crate::json_file::writer::CHECK_PERIOD;
use crate::json_file::writer::quota::Room;
use crate::model::entry::Timestamp;
use crate::model::id::{PartitionCount, Position, QueueId};
use crate::model::job::NewJob;
use crate::queue::{Accepted, AppliedListener};

/// A new file is begun once one is larger than this, and than four times what it started with.
const FILE_BYTES: u64 = 8 << 20;

/// Where a new file could not be begun, the next try comes after so much more.
const RETRY_BYTES: u64 = 1 << 20;

/// How large a file gets that started with `first_bytes`.
pub(crate) fn rotate_above(first_bytes: u64) -> u64 {
    FILE_BYTES.max(first_bytes * 4)
}

/// Most requests that wait for the thread; who comes then waits to be let in.
pub(crate) const WAITING_MAX: usize = 4096;

/// Most requests in one group.
const GROUP_MAX: usize = 1024;

/// A group takes no further request once it has this many bytes.
const GROUP_BYTES: usize = 4 << 20;

/// What the thread and the callers share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// A std lock: it is held for some memory operations and never across a wait or a write.
    pub(crate) log: Mutex<PartitionLog>,
    /// Told when jobs are published, and when the queue is closed.
    pub(crate) changed: Notify,
    pub(crate) time: Arc<StoreTime>,
    /// Why nothing is accepted any more, if so.
    pub(crate) poisoned: OnceLock<String>,
    /// Calls on their way to this thread; changed while the log is locked.
    pub(crate) turns: AtomicUsize,
    /// Set by a worker of this process: jobs that nothing is ahead of are applied on acceptance,
    /// and reported here.
    pub(crate) listener: Mutex<Option<AppliedListener>>,
}

/// A call on its way to the thread of the queue. As long as there is one, no job is applied on acceptance.
#[derive(Debug)]
pub(crate) struct Turn(Arc<Shared>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.turns.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    /// Counts a call that is about to be sent to the thread of the queue, while the caller has the log locked.
    pub(crate) fn wait_turn(shared: &Arc<Self>, _: &PartitionLog) -> Turn {
        shared.turns.fetch_add(1, Ordering::SeqCst);
        Turn(Arc::clone(shared))
    }

    /// Returns true if no call is on its way to the thread of the queue.
    pub(crate) fn is_turn_free(&self) -> bool {
        self.turns.load(Ordering::SeqCst) == 0
    }

    pub(crate) fn listener(&self) -> MutexGuard<'_, Option<AppliedListener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, PartitionLog> {
        // Its methods leave it whole, also when they panic.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) enum Request {
    Enqueue(Vec<NewJob>, Turn, oneshot::Sender<Vec<Result<Accepted>>>),
    BeginAttempt(Position, oneshot::Sender<u32>),
    WithdrawAttempt(Position, oneshot::Sender<()>),
    StartAfter(Position, oneshot::Sender<Result<()>>),
    /// Jobs were completed: files may be done with.
    Completed,
    Close(oneshot::Sender<Result<()>>),
}

impl Request {
    /// Answers one that came after the end. Those about attempts are not answered, which says the same.
    fn refuse(self) {
        match self {
            Self::Enqueue(jobs, _, answer) => {
                _ = answer.send(
                    jobs.iter()
                        .map(|_| Err(Error::unavailable("the queue")))
                        .collect(),
                )
            }
            Self::StartAfter(_, answer) => _ = answer.send(Err(Error::unavailable("the queue"))),
            Self::Close(answer) => _ = answer.send(Ok(())),
            Self::BeginAttempt(..) | Self::WithdrawAttempt(..) | Self::Completed => {}
        }
    }
}

/// The thread that owns the journal.
pub(crate) struct Writer {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) room: Arc<Room>,
    pub(crate) id: QueueId,
    pub(crate) journal: Journal,
    pub(crate) number: u64,
    /// Once the journal has so many bytes, a new one is begun.
    pub(crate) rotate_above: u64,
    /// The files before it, and the last job in each.
    pub(crate) older: Vec<(u64, Position)>,
    pub(crate) roll: Arc<Calls>,
    /// When the folder was last checked.
    pub(crate) checked: Option<Instant>,
}

/// One job of a call, judged.
enum Judged {
    Refused(Error),
    /// It, or the job that it repeats, is answered once the group is on the disk.
    Pending(Accepted),
    /// It repeats a job that is there.
    Known(Accepted),
}

impl Writer {
    pub(crate) fn run(&mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut group = vec![first];
            let mut bytes = 0;
            while group.len() < GROUP_MAX
                && bytes < GROUP_BYTES
                && !matches!(group.last(), Some(Request::Close(_)))
                && let Ok(next) = requests.try_recv()
            {
                if let Request::Enqueue(jobs, ..) = &next {
                    bytes += jobs.iter().map(NewJob::size_bytes).sum::<usize>();
                }
                group.push(next);
            }
            if let Some(answer) = self.take(group) {
                requests.close();
                while let Ok(late) = requests.try_recv() {
                    late.refuse();
                }
                let _ = answer.send(self.close());
                return;
            }
        }
    }

    fn close(&mut self) -> Result<()> {
        if let Some(reason) = self.shared.poisoned.get() {
            return Err(Error::Poisoned {
                reason: reason.clone(),
            });
        }
        let trimmed = self.shared.log().trimmed();
        let noted = self
            .journal
            .write(&[member_line("done", &trimmed)])
            .map_err(AppendError::into_io);
        noted.and_then(|()| self.journal.finish()).map_err(|error| {
            disk_error(
                &*self.disk,
                "can't finish",
                &Kind::Queue.name(self.number),
                error,
            )
        })
    }

    fn take(&mut self, group: Vec<Request>) -> Option<oneshot::Sender<Result<()>>> {
        self.check_folder();
        let mut close = None;
        let mut lines = Vec::new();
        let mut has_jobs = false;
        let mut calls = Vec::new();
        let mut attempts: Vec<Box<dyn FnOnce()>> = Vec::new();
        let mut starts = Vec::new();
        for request in group {
            match request {
                Request::Enqueue(jobs, turn, answer) => {
                    let judged: Vec<Judged> = jobs
                        .into_iter()
                        .map(|job| self.judge(job, &mut lines))
                        .collect();
                    has_jobs |= judged
                        .iter()
                        .any(|judged| matches!(judged, Judged::Pending(_)));
                    calls.push((judged, turn, answer));
                }
                Request::BeginAttempt(head, answer) => {
                    let count = self.shared.log().begin_attempt(head);
                    lines.push(member_line("tried", &(head, count)));
                    attempts.push(Box::new(move || _ = answer.send(count)));
                }
                Request::WithdrawAttempt(head, answer) => {
                    let mut log = self.shared.log();
                    log.withdraw_attempt(head);
                    let count = log.attempts().map_or(0, |(_, count)| count);
                    drop(log);
                    lines.push(member_line("tried", &(head, count)));
                    attempts.push(Box::new(move || _ = answer.send(())));
                }
                Request::StartAfter(position, answer) => starts.push((position, answer)),
                Request::Completed => {}
                Request::Close(answer) => close = Some(answer),
            }
        }
        let result = self.write(&lines, has_jobs);
        for (judged, turn, answer) in calls {
            // The jobs stand in the log now, or nowhere.
            drop(turn);
            let _ = answer.send(
                judged
                    .into_iter()
                    .map(|judged| judged.answer(&result))
                    .collect(),
            );
        }
        for answer in attempts {
            answer();
        }
        // Now that no job is half accepted.
        for (position, answer) in starts {
            let _ = answer.send(self.start_after(position));
        }
        self.remove_finished();
        self.rotate_if_due();
        close
    }

    fn start_after(&mut self, position: Position) -> Result<()> {
        if position <= self.shared.log().last() {
            return Ok(());
        }
        self.shared.log().start_after(position);
        self.write(&[member_line("last", &position)], true)
    }

    /// Gives a job its place, and its line.
    fn judge(&self, new: NewJob, lines: &mut Vec<Vec<u8>>) -> Judged {
        if let Some(reason) = self.shared.poisoned.get() {
            return Judged::Refused(Error::Poisoned {
                reason: reason.clone(),
            });
        }
        let size = new.bytes_taken();
        let mut log = self.shared.log();
        let admission = new
            .command
            .check(PartitionCount::ONE)
            .and_then(|()| self.room.check(size))
            .and_then(|()| log.admit(new, self.shared.time.now()));
        match admission {
            Err(error) => Judged::Refused(error),
            Ok(Admission::Replayed {
                id,
                published: true,
            }) => Judged::Known(Accepted::replayed(id)),
            Ok(Admission::Replayed {
                id,
                published: false,
            }) => Judged::Pending(Accepted::replayed(id)),
            Ok(Admission::New { job, remembered }) => {
                self.room.set_queued(log.depth(Timestamp(0)).bytes);
                lines.push(job_line(&job, remembered.as_ref()));
                Judged::Pending(Accepted::waiting(job.id))
            }
        }
    }

    fn write(&mut self, lines: &[Vec<u8>], has_jobs: bool) -> Result<()> {
        if lines.is_empty() || self.shared.poisoned.get().is_some() {
            return Ok(());
        }
        // Attempts alone need not be on the disk: a loss of power is not what a poison job does.
        let written = if has_jobs {
            self.journal.append(lines)
        } else {
            self.journal.write(lines)
        };
        let result = written.map_err(|error| match error {
            AppendError::Full(error) => Error::StorageFull {
                detail: format!("{}: {error}", self.disk.path().display()),
            },
            AppendError::Broken(error) => Error::Unknown {
                what: "the job is in the queue".to_owned(),
                source: source(self.poison(&error)),
            },
        });
        let mut log = self.shared.log();
        if result.is_ok() {
            log.publish();
        } else {
            log.withdraw();
        }
        self.room.set_queued(log.depth(Timestamp(0)).bytes);
        drop(log);
        if has_jobs && result.is_ok() {
            self.shared.changed.notify_waiters();
        }
        result
    }

    /// Accepts nothing more once the folder is not the one at its path, or its lock is gone.
    fn check_folder(&mut self) {
        if self.checked.is_some_and(|at| at.elapsed() < CHECK_PERIOD) {
            return;
        }
        self.checked = Some(Instant::now());
        if let Err(error) = self.disk.check() {
            self.poison(&error);
        }
    }

    fn poison(&self, error: &io::Error) -> String {
        let file = self.disk.path().join(Kind::Queue.name(self.number));
        let reason = format!("writing {} failed: {error}", file.display());
        tracing::error!(file = %file.display(), %error, "a write or sync failed: no job is accepted until the folder is opened again");
        let _ = self.shared.poisoned.set(reason.clone());
        reason
    }

    /// Removes the files all of whose jobs are gone, from the oldest on.
    pub(crate) fn remove_finished(&mut self) {
        let trimmed = self.shared.log().trimmed();
        let finished = self
            .older
            .iter()
            .take_while(|(_, last)| *last <= trimmed)
            .count();
        if finished > 0 {
            let next = self
                .older
                .get(finished)
                .map_or(self.number, |(number, _)| *number);
            match self.roll.dismiss(&*self.disk, next) {
                Ok(()) => {
                    Kind::Queue.remove_before(&*self.disk, next);
                    self.older.drain(..finished);
                }
                // They stay until there is room.
                Err(AppendError::Full(_)) => {}
                Err(AppendError::Broken(error)) => drop(self.poison(&error)),
            }
        }
    }

    fn rotate_if_due(&mut self) {
        if self.journal.len() < self.rotate_above || self.shared.poisoned.get().is_some() {
            return;
        }
        let number = self.number + 1;
        let log = self.shared.log();
        let last = log.last();
        let now = self.shared.time.now();
        let lines = first_lines(number, Some(self.journal.durable()), self.id, &log, now);
        drop(log);
        match Kind::Queue.go_on(&*self.disk, number, &lines, &self.roll) {
            Ok(journal) => {
                self.older.push((self.number, last));
                self.rotate_above = rotate_above(journal.len());
                self.journal = journal;
                self.number = number;
                self.remove_finished();
            }
            // This file goes on.
            Err(AppendError::Full(error)) => {
                tracing::error!(folder = %self.disk.path().display(), %error, "no new queue file can be begun");
                self.rotate_above = self.journal.len() + RETRY_BYTES;
            }
            Err(AppendError::Broken(error)) => drop(self.poison(&error)),
        }
    }
}

impl Judged {
    fn answer(self, group: &Result<()>) -> Result<Accepted> {
        match self {
            Self::Refused(error) => Err(error),
            Self::Known(accepted) => Ok(accepted),
            Self::Pending(accepted) => group.clone().map(|()| accepted),
        }
    }
}
