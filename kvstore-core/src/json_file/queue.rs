//! The queue of a folder: one partition, held in memory, behind a journal of its own.
//!
//! What has been applied is not written here: the store knows, in the same commit as the data. Files all of whose jobs are
//! applied are removed; each new one starts with the queue's id and numbering and the idempotency keys that are still
//! remembered.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::clock::StoreTime;
use crate::error::{Error, Result};
use crate::in_memory::log::{Claims, PartitionLog, Remembered, found_out, jobs_out};
use crate::json_file::disk::Disk;
use crate::json_file::error::disk_error;
use crate::json_file::journal::Journal;
use crate::json_file::journal::chain::{Files, Kind};
use crate::json_file::journal::jobs::{Restored, first_lines, member_line, restore};
use crate::json_file::journal::manifest::Calls;
use crate::json_file::writer::accept::Answered;
use crate::json_file::writer::queue::{Request, Shared, Turn, WAITING_MAX, Writer, rotate_above};
use crate::json_file::writer::quota::Room;
use crate::json_file::writer::{self, Requests};
use crate::json_file::{Holder, Options, PARTITION};
use crate::model::entry::Timestamp;
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{Job, NewJob};
use crate::queue::{
    Accepted, AppliedListener, Claim, Depth, Found, JobQueue, QueueOptions, WorkQueue, WorkerId,
};

/// The queue of a folder. Made by [`JsonFile::open`](crate::json_file::JsonFile::open).
#[derive(Debug)]
pub struct JsonQueue {
    id: QueueId,
    shared: Arc<Shared>,
    claims: Mutex<Claims>,
    requests: mpsc::Sender<Request>,
    /// The thread of the store's journal, which applies jobs that nothing is ahead of; `None` if that is left to workers.
    journal: Option<Requests>,
    holder: Holder,
}

/// Opens the queue's part of the folder, `files`, and starts its thread. `applied` is how far the store is.
#[expect(clippy::too_many_arguments, reason = "all that an opening has, once")]
pub(super) fn start(
    disk: Arc<dyn Disk>,
    options: &Options,
    files: Files,
    id: QueueId,
    applied: Position,
    room: Arc<Room>,
    holder: Holder,
    roll: Arc<Calls>,
    time: Arc<StoreTime>,
    remembered: &[Remembered],
) -> Result<JsonQueue> {
    let queue_options = QueueOptions {
        partitions: PartitionCount::ONE,
        ..options.queue.clone()
    };
    let mut log = PartitionLog::new(id, PARTITION, &queue_options);
    let Restored {
        previous,
        carried,
        older,
    } = restore(&*disk, &files, id, &mut log, &time)?;
    for remembered in remembered {
        log.restore_idempotency(*remembered);
    }
    if files.iter().next().is_none() && applied > Position::START {
        tracing::warn!(folder = %disk.path().display(), %applied, "the queue's files are gone: jobs that waited in them are lost, numbering goes on behind what the store has applied");
    }
    log.start_after(applied);
    // A store that is older than the queue is told so when the worker reads; nothing is dropped for it here.
    log.complete(applied);
    files.keep_torn_tail(&*disk)?;

    let number = files.next_number().unwrap_or(1);
    let mut lines = first_lines(number, previous, id, &log, time.now());
    lines.extend(carried);
    lines.push(member_line("opened", &log.open(time.wall())));
    let name = Kind::Queue.name(number);
    let journal = Journal::create(&*disk, &name, &lines)
        .map_err(|error| disk_error(&*disk, "can't write", &name, error))?;
    let first = files.iter().next().map_or(number, |file| file.number);
    roll.call_queue(&*disk, first, number)
        .map_err(|error| crate::json_file::roll_error(&*disk, error))?;

    room.set_queued(log.depth(Timestamp(0)).bytes);
    let shared = Arc::new(Shared {
        log: Mutex::new(log),
        changed: Notify::new(),
        time,
        poisoned: OnceLock::new(),
        turns: AtomicUsize::new(0),
        listener: Mutex::default(),
    });
    let mut writer = Writer {
        rotate_above: rotate_above(journal.len()),
        disk: Arc::clone(&disk),
        shared: Arc::clone(&shared),
        room,
        id,
        journal,
        number,
        older,
        roll,
        checked: None,
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
        journal: None,
        holder,
    })
}

impl JsonQueue {
    /// What the thread of the store's journal needs to accept jobs.
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Lets the thread of the store's journal apply jobs that nothing is ahead of.
    pub(super) fn apply_by(&mut self, journal: Requests) {
        self.journal = Some(journal);
    }

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

    /// Applies the jobs from the first on, as long as nothing is ahead of them, and a worker of this process would apply them
    /// anyway. Returns what became of those, the ones that have to wait, and their turn.
    async fn accept(
        &self,
        jobs: Vec<NewJob>,
    ) -> Result<(Vec<Result<Accepted>>, Vec<NewJob>, Option<Turn>)> {
        let journal = self.journal.as_ref().filter(|_| {
            let now = self.shared.time.now();
            self.shared.listener().is_some() && self.claims().are_all_held(now)
        });
        let turn = {
            let log = self.shared.log();
            let has_to_wait = journal.is_none() || !log.is_empty();
            has_to_wait.then(|| Shared::wait_turn(&self.shared, &log))
        };
        let (Some(journal), None) = (journal, &turn) else {
            return Ok((Vec::new(), jobs, turn));
        };
        let (sender, receiver) = oneshot::channel();
        let request = writer::Request::Accept(jobs, sender);
        journal.send(request).await.map_err(|_| closed())?;
        let call = receiver.await.map_err(|_| Error::Unknown {
            what: "the job is in the queue".into(),
            source: None,
        })?;
        let (mut done, mut waits) = (Vec::new(), Vec::new());
        for answer in call.answers {
            match answer {
                Answered::Done(result) => done.push(result),
                Answered::Waits(job) => waits.push(job),
            }
        }
        Ok((done, waits, call.turn))
    }

    /// Waits for as long as there is no job after `after`.
    async fn next(&self, after: Position, max: usize) -> Result<Vec<Job>> {
        loop {
            // Listen first and look then: what comes in between is heard.
            let changed = self.shared.changed.notified();
            self.check_open()?;
            let jobs = self.shared.log().read(after, max)?;
            if !jobs.is_empty() {
                return Ok(jobs_out(jobs, &self.shared.time));
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
        // The usual case, which workers ask for often.
        self.check_open()?;
        if position <= self.shared.log().last() {
            return Ok(());
        }
        self.ask(|answer| Request::StartAfter(position, answer))
            .await?
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>> {
        let count = jobs.len();
        if let Err(error) = self.check_open() {
            return vec![Err(error); count];
        }
        let (mut answers, waits, turn) = match self.accept(jobs).await {
            Ok(accepted) => accepted,
            Err(error) => return vec![Err(error); count],
        };
        if let Some(turn) = turn {
            let count = waits.len();
            let waited = self
                .ask(|answer| Request::Enqueue(waits, turn, answer))
                .await;
            answers.extend(waited.unwrap_or_else(|error| vec![Err(error); count]));
        }
        answers
    }

    async fn find(&self, job: &JobId) -> Result<Found> {
        self.check_open()?;
        if job.queue != self.id || job.partition != PARTITION {
            return Ok(Found::Unknown);
        }
        let found = self.shared.log().find(job.position);
        Ok(found_out(found, &self.shared.time))
    }

    async fn peek(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<Job>> {
        self.check_open()?;
        PartitionCount::ONE.check(partition)?;
        let jobs = self.shared.log().peek(after, max);
        Ok(jobs_out(jobs, &self.shared.time))
    }

    async fn depth(&self) -> Result<Depth> {
        self.check_open()?;
        Ok(self.shared.log().depth(self.shared.time.now()))
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

#[async_trait]
impl WorkQueue for JsonQueue {
    fn is_shared(&self) -> bool {
        false
    }

    async fn claim(&self, worker: &WorkerId) -> Result<Vec<Claim>> {
        self.check_open()?;
        Ok(self.claims().claim(worker, self.shared.time.now()))
    }

    async fn claims_changed(&self) {
        // Its workers are in one process, and learn of each other with each renewal.
        std::future::pending().await
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
            return Ok(jobs_out(jobs, &self.shared.time));
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

    fn apply_on_acceptance(&self, listener: AppliedListener) {
        *self.shared.listener() = Some(listener);
    }
}
