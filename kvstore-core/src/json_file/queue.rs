//! The queue of a folder: one partition, held in memory, behind a journal of its own.
//!
//! A job is a line: `{"n":42,"t":1767225600000,"job":{"set":"user:1","value":{"name":"Ada"}}}`. What has been applied is not written
//! here: the store knows, in the same commit as the data. Files all of whose jobs are applied are removed; each new one starts with the
//! queue's id and numbering and the idempotency keys that are still remembered.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot};

use super::disk::Disk;
use super::files::{Files, Kind};
use super::journal::{AppendError, End, Journal};
use super::record::push_json;
use super::room::Room;
use super::{Holder, Options, corrupt, disk_error};
use crate::clock::Clock;
use crate::command::{Action, Command};
use crate::entry::Timestamp;
use crate::error::{Error, Result};
use crate::job::{Job, JobId, NewJob, Partition, PartitionCount, Position, QueueId};
use crate::log::{Admission, Claims, PartitionLog, QueueOptions, Remembered};
use crate::queue::{Accepted, Claim, Depth, Found, JobQueue, WorkerId};

/// The only partition.
const PARTITION: Partition = Partition(0);

/// A new file is begun once one is larger than this, and than four times what it started with.
const FILE_BYTES: u64 = 8 << 20;

/// Most requests that wait for the thread; who comes then waits to be let in.
const WAITING_MAX: usize = 4096;

/// Most requests in one group.
const GROUP_MAX: usize = 1024;

/// A group takes no further request once it has this many bytes.
const GROUP_BYTES: usize = 4 << 20;

/// The queue of a folder. Made by [`JsonFile::open`](super::JsonFile::open).
#[derive(Debug)]
pub struct JsonQueue {
    id: QueueId,
    shared: Arc<Shared>,
    claims: Mutex<Claims>,
    requests: mpsc::Sender<Request>,
    holder: Holder,
}

/// What the thread and the callers share.
#[derive(Debug)]
struct Shared {
    /// A std lock: it is held for some memory operations and never across a wait or a write.
    log: Mutex<PartitionLog>,
    /// Told when jobs are published, and when the queue is closed.
    changed: Notify,
    clock: Arc<dyn Clock>,
    /// Why nothing is accepted any more, if so.
    poisoned: OnceLock<String>,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, PartitionLog> {
        // Its methods leave it whole, also when they panic.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Request {
    Enqueue(Vec<NewJob>, oneshot::Sender<Vec<Result<Accepted>>>),
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
            Self::Enqueue(jobs, answer) => {
                _ = answer.send(jobs.iter().map(|_| Err(closed())).collect())
            }
            Self::StartAfter(_, answer) => _ = answer.send(Err(closed())),
            Self::Close(answer) => _ = answer.send(Ok(())),
            Self::BeginAttempt(..) | Self::WithdrawAttempt(..) | Self::Completed => {}
        }
    }
}

/// What the header of a file says besides.
#[derive(Debug, Serialize, Deserialize)]
struct QueueHeader {
    queue: QueueId,
    /// The last position given out.
    last: Position,
    /// Jobs up to here are gone.
    trimmed: Position,
    time: Timestamp,
}

/// Any line but a header.
#[derive(Deserialize)]
struct LineText {
    /// The number of the job.
    n: Option<u64>,
    #[serde(default)]
    t: Timestamp,
    job: Option<Command>,
    #[serde(default)]
    keep: bool,
    trace: Option<String>,
    /// What is remembered of a request: that of `job`, or of one that is gone.
    idem: Option<Remembered>,
    /// Which job was tried, and how often.
    tried: Option<(Position, u32)>,
    /// Numbering goes on behind this.
    last: Option<Position>,
    /// Jobs up to here are applied, as far as was known at a clean stop. The store knows better.
    done: Option<Position>,
}

/// The line of a job.
#[derive(Serialize)]
struct JobText<'a> {
    n: u64,
    t: Timestamp,
    job: &'a Command,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    keep: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idem: Option<&'a Remembered>,
}

fn job_line(job: &Job, remembered: Option<&Remembered>) -> Vec<u8> {
    line(&JobText {
        n: job.id.position.minor,
        t: job.accepted_at,
        job: &job.command,
        keep: job.keep_outcome,
        trace: job.traceparent.as_deref(),
        idem: remembered,
    })
}

fn member_line(name: &str, value: &impl Serialize) -> Vec<u8> {
    let mut line = format!("{{\"{name}\":").into_bytes();
    push_json(&mut line, value);
    line
}

/// An object without its closing brace.
fn line(object: &impl Serialize) -> Vec<u8> {
    let mut line = Vec::new();
    push_json(&mut line, object);
    line.pop();
    line
}

/// The lines that a file starts with.
fn first_lines(
    number: u64,
    previous: Option<End>,
    queue: QueueId,
    log: &PartitionLog,
) -> Vec<Vec<u8>> {
    let own = QueueHeader {
        queue,
        last: log.last(),
        trimmed: log.trimmed(),
        time: log.latest(),
    };
    let remembered = log
        .remembered(log.latest())
        .map(|remembered| member_line("idem", remembered));
    let tried = log.attempts().map(|tried| member_line("tried", &tried));
    std::iter::once(Kind::Queue.header_line(number, previous, &own))
        .chain(remembered)
        .chain(tried)
        .collect()
}

/// Opens the queue's part of the folder and starts its thread. `applied` is how far the store is.
pub(super) fn start(
    disk: Arc<dyn Disk>,
    options: &Options,
    id: QueueId,
    applied: Position,
    room: Arc<Room>,
    holder: Holder,
) -> Result<JsonQueue> {
    let queue_options = QueueOptions {
        partitions: PartitionCount::ONE,
        ..options.queue.clone()
    };
    let mut log = PartitionLog::new(id, PARTITION, &queue_options);
    let files = Files::read(&*disk, Kind::Queue, None, false)?;
    let Restored { previous, carried } = restore(&*disk, &files, id, &mut log)?;
    if files.iter().next().is_none() && applied > Position::START {
        tracing::warn!(folder = %disk.path().display(), %applied, "the queue's files are gone: jobs that waited in them are lost, numbering goes on behind what the store has applied");
    }
    log.start_after(applied)?;
    // A store that is older than the queue is told so when the worker reads; nothing is dropped for it here.
    log.complete(applied);
    files.keep_torn_tail(&*disk)?;

    let number = files.next_number().unwrap_or(1);
    let mut lines = first_lines(number, previous, id, &log);
    lines.extend(carried);
    let name = Kind::Queue.name(number);
    let journal = Journal::create(&*disk, &name, &lines)
        .map_err(|error| disk_error(&*disk, "can't write", &name, error))?;

    room.set_queued(log.depth(Timestamp(0)).bytes);
    let shared = Arc::new(Shared {
        log: Mutex::new(log),
        changed: Notify::new(),
        clock: Arc::clone(&options.clock),
        poisoned: OnceLock::new(),
    });
    let older = files
        .iter()
        .map(|file| (file.number, last_job(&file.contents)))
        .collect();
    let mut writer = Writer {
        first_bytes: journal.len(),
        disk: Arc::clone(&disk),
        shared: Arc::clone(&shared),
        room,
        id,
        journal,
        number,
        older,
    };
    writer.remove_finished();
    let (requests, receiver) = mpsc::channel(WAITING_MAX);
    std::thread::Builder::new()
        .name("kvstore-queue".into())
        .spawn(move || writer.run(receiver))
        .map_err(|error| disk_error(&*disk, "can't start a thread for", "", error))?;
    let claims = Mutex::new(Claims::new(PartitionCount::ONE, queue_options.claim_period));
    Ok(JsonQueue {
        id,
        shared,
        claims,
        requests,
        holder,
    })
}

/// What goes over from the files that are there into the next one.
struct Restored {
    previous: Option<End>,
    /// Lines that may be in the page cache only.
    carried: Vec<Vec<u8>>,
}

fn restore(
    disk: &dyn Disk,
    files: &Files,
    id: QueueId,
    log: &mut PartitionLog,
) -> Result<Restored> {
    let mut tried = None;
    let mut carried = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let header: QueueHeader = files.own_header(disk, file)?;
        if header.queue != id {
            let detail = format!(
                "it is of queue {}, and this folder's is {id}: it was put here from elsewhere",
                header.queue
            );
            return Err(corrupt(
                disk,
                &Kind::Queue.name(file.number),
                Some(1),
                detail,
            ));
        }
        log.restore_time(header.time);
        if index == 0 {
            log.restore_numbering(header.last, header.trimmed)?;
        }
    }
    for (file, line) in files.lines() {
        let bad = |detail: String| files.nonsense(disk, file, line.number, detail);
        let text: LineText =
            serde_json::from_slice(line.text).map_err(|error| bad(error.to_string()))?;
        if line.offset >= file.contents.durable.length {
            carried.push(line.body());
        }
        tried = text.tried.or(tried);
        if let Some(last) = text.last {
            log.start_after(last)
                .map_err(|error| bad(error.to_string()))?;
        }
        if let Some(done) = text.done {
            log.complete(done);
        }
        match (text.n, text.job) {
            (Some(number), Some(command)) => {
                let job = Job {
                    id: JobId {
                        queue: id,
                        partition: PARTITION,
                        position: Position::counted(number),
                    },
                    command,
                    keep_outcome: text.keep,
                    accepted_at: text.t,
                    traceparent: text.trace,
                };
                log.restore_job(job, text.idem)
                    .map_err(|error| bad(error.to_string()))?;
            }
            _ => text
                .idem
                .into_iter()
                .for_each(|remembered| log.restore_idempotency(remembered)),
        }
    }
    if let Some((head, count)) = tried {
        log.restore_attempts(head, count);
    }
    Ok(Restored {
        previous: files.durable_end(),
        carried,
    })
}

/// The last job in a file.
fn last_job(contents: &super::journal::Contents) -> Position {
    #[derive(Deserialize)]
    struct Number {
        n: Option<u64>,
    }
    let number =
        |line: super::journal::ReadLine<'_>| serde_json::from_slice::<Number>(line.text).ok()?.n;
    contents
        .lines()
        .filter_map(number)
        .max()
        .map_or(Position::START, Position::counted)
}

/// The thread that owns the journal.
struct Writer {
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
    room: Arc<Room>,
    id: QueueId,
    journal: Journal,
    number: u64,
    /// What the journal started with.
    first_bytes: u64,
    /// The files before it, and the last job in each.
    older: Vec<(u64, Position)>,
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
    fn run(&mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut group = vec![first];
            let mut bytes = 0;
            while group.len() < GROUP_MAX
                && bytes < GROUP_BYTES
                && !matches!(group.last(), Some(Request::Close(_)))
                && let Ok(next) = requests.try_recv()
            {
                if let Request::Enqueue(jobs, _) = &next {
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
            .map_err(|error| match error {
                AppendError::Full(error) | AppendError::Broken(error) => error,
            });
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
        let mut close = None;
        let mut lines = Vec::new();
        let mut has_jobs = false;
        let mut calls = Vec::new();
        let mut attempts: Vec<Box<dyn FnOnce()>> = Vec::new();
        let mut starts = Vec::new();
        for request in group {
            match request {
                Request::Enqueue(jobs, answer) => {
                    let judged: Vec<Judged> = jobs
                        .into_iter()
                        .map(|job| self.judge(job, &mut lines))
                        .collect();
                    has_jobs |= judged
                        .iter()
                        .any(|judged| matches!(judged, Judged::Pending(_)));
                    calls.push((judged, answer));
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
        for (judged, answer) in calls {
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
        self.shared.log().start_after(position)?;
        self.write(&[member_line("last", &position)], true)
            .map_err(|error| match error {
                GroupError::Full(detail) => Error::StorageFull { detail },
                GroupError::Broken(reason) => Error::Poisoned { reason },
            })
    }

    /// Gives a job its place, and its line.
    fn judge(&self, new: NewJob, lines: &mut Vec<Vec<u8>>) -> Judged {
        if let Some(reason) = self.shared.poisoned.get() {
            return Judged::Refused(Error::Poisoned {
                reason: reason.clone(),
            });
        }
        // A delete makes room, so it is let in where nothing else is.
        let takes_room = new
            .command
            .operations()
            .iter()
            .any(|it| matches!(it.action, Action::Set { .. }));
        let size = if takes_room {
            new.size_bytes() as u64
        } else {
            0
        };
        let mut log = self.shared.log();
        let admission = new
            .command
            .check(PartitionCount::ONE)
            .and_then(|()| self.room.check(size))
            .and_then(|()| log.admit(new, self.shared.clock.now()));
        match admission {
            Err(error) => Judged::Refused(error),
            Ok(Admission::Replayed {
                id,
                published: true,
            }) => Judged::Known(Accepted { id, replayed: true }),
            Ok(Admission::Replayed {
                id,
                published: false,
            }) => Judged::Pending(Accepted { id, replayed: true }),
            Ok(Admission::New { job, remembered }) => {
                self.room.set_queued(log.depth(Timestamp(0)).bytes);
                lines.push(job_line(&job, remembered.as_ref()));
                Judged::Pending(Accepted {
                    id: job.id,
                    replayed: false,
                })
            }
        }
    }

    fn write(&mut self, lines: &[Vec<u8>], has_jobs: bool) -> Result<(), GroupError> {
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
            AppendError::Full(error) => {
                GroupError::Full(format!("{}: {error}", self.disk.path().display()))
            }
            AppendError::Broken(error) => GroupError::Broken(self.poison(&error)),
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

    fn poison(&self, error: &io::Error) -> String {
        let file = self.disk.path().join(Kind::Queue.name(self.number));
        let reason = format!("writing {} failed: {error}", file.display());
        tracing::error!(file = %file.display(), %error, "a write or sync failed: no job is accepted until the folder is opened again");
        let _ = self.shared.poisoned.set(reason.clone());
        reason
    }

    /// Removes the files all of whose jobs are gone, from the oldest on.
    fn remove_finished(&mut self) {
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
            Kind::Queue.remove_before(&*self.disk, next);
            self.older.drain(..finished);
        }
    }

    fn rotate_if_due(&mut self) {
        if self.journal.len() < FILE_BYTES.max(self.first_bytes * 4)
            || self.shared.poisoned.get().is_some()
        {
            return;
        }
        let number = self.number + 1;
        let log = self.shared.log();
        let last = log.last();
        let lines = first_lines(number, Some(self.journal.durable()), self.id, &log);
        drop(log);
        match Kind::Queue.go_on(&*self.disk, number, &lines) {
            Ok(journal) => {
                self.older.push((self.number, last));
                self.first_bytes = journal.len();
                self.journal = journal;
                self.number = number;
                self.remove_finished();
            }
            // This file goes on; the next try comes when it is four times as large.
            Err(AppendError::Full(error)) => {
                tracing::error!(folder = %self.disk.path().display(), %error, "no new queue file can be begun");
                self.first_bytes = self.journal.len();
            }
            Err(AppendError::Broken(error)) => drop(self.poison(&error)),
        }
    }
}

/// What became of a group.
enum GroupError {
    Full(String),
    Broken(String),
}

impl Judged {
    fn answer(self, group: &Result<(), GroupError>) -> Result<Accepted> {
        match (self, group) {
            (Self::Refused(error), _) => Err(error),
            (Self::Known(accepted), _) | (Self::Pending(accepted), Ok(())) => Ok(accepted),
            (Self::Pending(_), Err(GroupError::Full(detail))) => Err(Error::StorageFull {
                detail: detail.clone(),
            }),
            (Self::Pending(_), Err(GroupError::Broken(reason))) => Err(Error::Unknown {
                what: "the job is in the queue".into(),
                source: Some(reason.clone().into()),
            }),
        }
    }
}

impl JsonQueue {
    fn check_open(&self) -> Result<()> {
        if self.requests.is_closed() {
            Err(closed())
        } else {
            Ok(())
        }
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.requests
            .send(request(sender))
            .await
            .map_err(|_| closed())?;
        // The thread answers everything that it takes, unless it panics.
        receiver.await.map_err(|_| Error::Unknown {
            what: "the job is in the queue".into(),
            source: None,
        })
    }

    /// Waits for as long as there is no job after `after`.
    async fn next(&self, after: Position, max: usize) -> Result<Vec<Job>> {
        loop {
            // Listen first and look then: what comes in between is heard.
            let changed = self.shared.changed.notified();
            self.check_open()?;
            let jobs = self.shared.log().read(after, max)?;
            if !jobs.is_empty() {
                return Ok(jobs);
            }
            changed.await;
        }
    }
}

fn closed() -> Error {
    Error::unavailable("the queue")
}

#[async_trait]
impl JobQueue for JsonQueue {
    fn id(&self) -> QueueId {
        self.id
    }

    fn partitions(&self) -> PartitionCount {
        PartitionCount::ONE
    }

    async fn start_after(&self, _: Partition, position: Position) -> Result<()> {
        self.ask(|answer| Request::StartAfter(position, answer))
            .await?
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>> {
        let count = jobs.len();
        match self.ask(|answer| Request::Enqueue(jobs, answer)).await {
            Ok(answers) => answers,
            Err(Error::Unknown { what, .. }) => (0..count)
                .map(|_| {
                    Err(Error::Unknown {
                        what: what.clone(),
                        source: None,
                    })
                })
                .collect(),
            Err(_) => (0..count).map(|_| Err(closed())).collect(),
        }
    }

    async fn claim(&self, worker: &WorkerId) -> Result<Vec<Claim>> {
        self.check_open()?;
        Ok(self.claims().claim(worker, self.shared.clock.now()))
    }

    async fn release(&self, claim: Claim) -> Result<()> {
        self.check_open()?;
        self.claims().release(&claim);
        Ok(())
    }

    async fn read(
        &self,
        _: &Claim,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Job>> {
        self.check_open()?;
        let jobs = self.shared.log().read(after, max)?;
        if !jobs.is_empty() || max == 0 || wait.is_zero() {
            return Ok(jobs);
        }
        tokio::time::timeout(wait, self.next(after, max))
            .await
            .unwrap_or_else(|_| Ok(Vec::new()))
    }

    async fn begin_attempt(&self, _: &Claim, head: Position) -> Result<u32> {
        self.ask(|answer| Request::BeginAttempt(head, answer)).await
    }

    async fn withdraw_attempt(&self, _: &Claim, head: Position) -> Result<()> {
        self.ask(|answer| Request::WithdrawAttempt(head, answer))
            .await
    }

    async fn complete(&self, _: &Claim, up_to: Position) -> Result<()> {
        self.check_open()?;
        self.shared.log().complete(up_to);
        // Where there is no room for this, other requests wake the thread as well.
        let _ = self.requests.try_send(Request::Completed);
        Ok(())
    }

    async fn find(&self, job: &JobId) -> Result<Found> {
        self.check_open()?;
        if job.queue != self.id || job.partition != PARTITION {
            return Ok(Found::Unknown);
        }
        Ok(self.shared.log().find(job.position))
    }

    async fn depth(&self) -> Result<Depth> {
        self.check_open()?;
        Ok(self.shared.log().depth(self.shared.clock.now()))
    }

    async fn ping(&self) -> Result<()> {
        self.check_open()?;
        let poisoned = self.shared.poisoned.get();
        poisoned.map_or(Ok(()), |reason| {
            Err(Error::Poisoned {
                reason: reason.clone(),
            })
        })
    }

    async fn close(&self) -> Result<()> {
        let (sender, receiver) = oneshot::channel();
        let result = match self.requests.send(Request::Close(sender)).await {
            // Closed already.
            Err(_) => return Ok(()),
            Ok(()) => match receiver.await {
                Ok(result) => result,
                // Another call was first.
                Err(_) => return Ok(()),
            },
        };
        self.shared.changed.notify_waiters();
        self.holder.let_go();
        result
    }
}
