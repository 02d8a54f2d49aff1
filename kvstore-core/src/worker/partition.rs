//! One claimed partition: reads after the store's position, evaluates, commits, and handles
//! failures.
//!
//! There is one rule for failures: *read the position again and start over from there*. It makes an
//! unknown commit, a second worker and a restored store the same case. What differs is the cause,
//! and so whether the attempt counts:
//!
//! * `Conflict`, a direct commit came first: evaluates again at once, without limit; no attempt.
//! * `Stale`, another worker was faster: continues from its position; no attempt.
//! * `Unavailable`, `Unknown`, …, the store is down: the whole partition waits, so that no job
//!   overtakes another; no attempt.
//! * Anything else, or a panic, rejects the job: an attempt. In a batch of several, tries each job
//!   alone. A job that fails alone becomes a dead letter if the failure is permanent or after too
//!   many attempts; otherwise the partition waits.
//! * `WrongQueue`, `Config`, the store applies another queue or a setting is wrong: the worker
//!   ends.

use std::any::Any;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::error::in_one_line;
use crate::limits::{EXPIRE_BATCH, WORK_BATCH_JOBS};
use crate::model::commit::{Advance, Commit, Verdict};
use crate::model::evaluate::{Evaluation, evaluate, keys_needed};
use crate::model::id::{Partition, Position};
use crate::model::job::{Dead, Job};
use crate::queue::{Claim, WorkQueue};
use crate::{Entry, Error, JobQueue, Key, Result, Store};

use crate::worker::backoff::Backoff;
use crate::worker::{Options, PartitionState, WorkerEvent};

/// When to stop. Set once; the current batch always completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Not yet: a later value says when.
    Running,
    /// When no job waits, a try fails, or this moment has come.
    Idle(Instant),
    /// Now: another worker takes over.
    Now,
}

/// How often expired entries are removed. They count as absent anyway; removal frees their memory
/// and notifies watchers.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// How often a partition that stopped at a gap checks again: the queue may have been restored as
/// well.
const GAP_RECHECK: Duration = Duration::from_secs(10);

/// Processes one partition until it is stopped.
#[derive(Debug)]
pub(crate) struct PartitionTask {
    store: Arc<dyn Store>,
    queue: Arc<dyn WorkQueue>,
    options: Arc<Options>,
    claim: Claim,
    until: watch::Receiver<Until>,
    /// The store's position; `None` if it has to be read again.
    position: Option<Position>,
    /// The position up to which the queue knows that jobs are complete.
    completed: Position,
    /// Jobs that were read but have to wait for those before them.
    ahead: Vec<Job>,
    /// Jobs up to this position are tried alone, since a batch that included them was rejected.
    alone_up_to: Position,
    /// The current try.
    attempt: Option<Attempt>,
    /// The head whose last attempt does not count, until the queue knows that.
    to_withdraw: Option<Position>,
    /// The head that becomes a dead letter next.
    pending_dead_letter: Option<PendingDeadLetter>,
    expire_at: Instant,
    backoff: Backoff,
    state: Option<PartitionState>,
}

impl Drop for PartitionTask {
    fn drop(&mut self) {
        self.turn_to(None);
    }
}

#[derive(Debug)]
struct Attempt {
    head: Position,
    number: u32,
    /// The last job of the batch: the head, if it is tried alone.
    last: Position,
}

#[derive(Debug)]
struct PendingDeadLetter {
    head: Position,
    attempts: u32,
    reason: String,
}

/// The cause of a failure.
enum FailureClass {
    /// None to act on: another worker was faster.
    FasterWorker,
    /// The store or the queue is down, full or damaged.
    Backend,
    /// The store rejects what the job asks for; `for_good` if trying again cannot help.
    Job { for_good: bool },
    /// The settings: store and queue no longer belong together.
    Settings,
}

impl FailureClass {
    fn of(error: &Error) -> Self {
        match error {
            Error::Stale { .. } => Self::FasterWorker,
            Error::Unavailable { .. }
            | Error::Unknown { .. }
            | Error::Poisoned { .. }
            | Error::StorageFull { .. }
            | Error::Full { .. }
            | Error::Locked { .. }
            | Error::Corrupt { .. } => Self::Backend,
            Error::WrongQueue { .. } | Error::Config(_) => Self::Settings,
            Error::Invalid { .. } | Error::TooLarge { .. } => Self::Job { for_good: true },
            _ => Self::Job { for_good: false },
        }
    }
}

impl PartitionTask {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        queue: Arc<dyn WorkQueue>,
        options: Arc<Options>,
        claim: Claim,
        until: watch::Receiver<Until>,
    ) -> Self {
        Self {
            store,
            queue,
            options,
            claim,
            until,
            position: None,
            completed: Position::START,
            ahead: Vec::new(),
            alone_up_to: Position::START,
            attempt: None,
            to_withdraw: None,
            pending_dead_letter: None,
            expire_at: Instant::now(),
            backoff: Backoff::default(),
            state: None,
        }
    }

    /// Processes the partition until it is stopped.
    ///
    /// # Errors
    /// [`Error::WrongQueue`] if the store has switched to another queue; [`Error::Config`] if a
    /// setting has become wrong.
    pub(crate) async fn run(mut self) -> Result<()> {
        self.turn_to(Some(PartitionState::Working));
        loop {
            let ending = match self.until() {
                Until::Running => false,
                Until::Idle(until) if Instant::now() < until => true,
                Until::Idle(_) | Until::Now => break,
            };
            // After a panic all state is read again, so no half-changed state is used.
            let wait = match AssertUnwindSafe(self.turn()).catch_unwind().await {
                Ok(Ok(worked)) => {
                    if ending && !worked {
                        break;
                    }
                    self.backoff.reset();
                    if self.state != Some(PartitionState::Stopped) {
                        self.turn_to(Some(PartitionState::Working));
                    }
                    // With a store that answers at once, this task would never give up its thread.
                    tokio::task::yield_now().await;
                    continue;
                }
                Ok(Err(error)) => self.after_failure(error)?,
                Err(panic) => self.after_refusal(
                    false,
                    format!("the worker panicked: {}", panic_message(&*panic)),
                ),
            };
            if ending && !wait.is_zero() {
                break;
            }
            if !wait.is_zero() {
                self.turn_to(Some(PartitionState::Waiting));
                self.options.report(WorkerEvent::Retried);
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = stopped(&mut self.until), if !ending => {}
            }
        }
        if let Err(error) = self.settle().await {
            // The next worker settles the rest; one extra attempt only means the job is retried on
            // its own.
            tracing::debug!(partition = %self.claim.partition, error = %in_one_line(&error), "left for the next worker");
        }
        Ok(())
    }

    fn until(&self) -> Until {
        *self.until.borrow()
    }

    /// Reports that it is in another state, unless it is in that state already.
    fn turn_to(&mut self, is: Option<PartitionState>) {
        let was = std::mem::replace(&mut self.state, is);
        if was != is {
            self.options.report(WorkerEvent::Partition { was, is });
        }
    }

    /// Processes one batch, from reading the position to the commit, or waits in vain for jobs.
    /// Returns true if it made progress.
    async fn turn(&mut self) -> Result<bool> {
        self.expire().await;
        let position = self.position().await?;
        self.settle().await?;
        if self.ahead.is_empty() {
            self.ahead = match self.read(position).await {
                Err(Error::Gap { trimmed, .. }) => return self.at_gap(position, trimmed).await,
                read => read?,
            };
            if self.state == Some(PartitionState::Stopped) {
                self.turn_to(Some(PartitionState::Working));
            }
        }
        let jobs = std::mem::take(&mut self.ahead);
        match jobs.first() {
            None => return Ok(false),
            Some(head)
                if self
                    .pending_dead_letter
                    .as_ref()
                    .is_some_and(|pending_dead_letter| {
                        pending_dead_letter.head == head.id.position
                    }) =>
            {
                self.commit_dead_letter(position, &jobs).await?;
            }
            Some(head) if head.id.position.major > position.major => {
                let behind = Position {
                    minor: 0,
                    ..head.id.position
                };
                self.ahead = jobs;
                self.pass_over(position, behind).await?;
            }
            Some(_) => self.apply(position, jobs).await?,
        }
        Ok(true)
    }

    /// Returns the store's position. Whenever the position is read from the store, that is after
    /// every failure, the queue's numbering is moved past it: the queue may be the one that lost
    /// its tail.
    async fn position(&mut self) -> Result<Position> {
        if let Some(position) = self.position {
            return Ok(position);
        }
        let partition = self.claim.partition;
        let position = self.store.applied(self.queue.id(), partition).await?;
        self.queue.start_after(partition, position).await?;
        self.position = Some(position);
        Ok(position)
    }

    /// Tells the queue what it must know before the next try: an attempt that does not count, and
    /// the applied position, which a worker that crashed may not have reported.
    async fn settle(&mut self) -> Result<()> {
        if let Some(head) = self.to_withdraw {
            self.queue.withdraw_attempt(&self.claim, head).await?;
            self.to_withdraw = None;
        }
        if let Some(position) = self.position.filter(|position| *position > self.completed) {
            self.queue.complete(&self.claim, position).await?;
            self.completed = position;
        }
        Ok(())
    }

    /// Reads the jobs after `position`, and waits for them until the next expiry is due or the task
    /// is stopped. Cancellation loses nothing.
    async fn read(&mut self, position: Position) -> Result<Vec<Job>> {
        let read = async |wait| {
            let (queue, claim) = (&self.queue, &self.claim);
            queue.read(claim, position, WORK_BATCH_JOBS, wait).await
        };
        let wait = self.expire_at.saturating_duration_since(Instant::now());
        match self.until() {
            Until::Running => tokio::select! {
                jobs = read(wait) => jobs,
                () = stopped(&mut self.until) => Ok(Vec::new()),
            },
            Until::Idle(_) => read(Duration::ZERO).await,
            Until::Now => Ok(Vec::new()),
        }
    }

    /// Tries a batch of `jobs`, which directly follow `position`.
    async fn apply(&mut self, position: Position, mut jobs: Vec<Job>) -> Result<()> {
        let head = jobs[0].id.position;
        let number = self.queue.begin_attempt(&self.claim, head).await?;
        if number > self.attempts_max() {
            // Every earlier try ended its worker, or that worker would have decided. The attempt
            // just begun does not count.
            self.to_withdraw = Some(head);
            self.pending_dead_letter = Some(PendingDeadLetter {
                head,
                attempts: number - 1,
                reason: "each attempt ended before the store had answered".to_owned(),
            });
            self.ahead = jobs;
            return Ok(());
        }
        if number > 1 {
            // Another worker may have ended in any of those that it had read with it.
            let last = jobs[jobs.len() - 1].id.position;
            self.alone_up_to = self.alone_up_to.max(last);
        }
        let alone = position < self.alone_up_to;
        let batch = if alone { &jobs[..1] } else { &jobs[..] };
        self.attempt = Some(Attempt {
            head,
            number,
            last: batch[batch.len() - 1].id.position,
        });
        let taken = loop {
            let entries = self.entries(batch).await?;
            let Evaluation { commit, taken } = evaluate(position, batch, &entries);
            let failed = failed_positions(&commit);
            let begun = Instant::now();
            match self.store.commit(commit).await {
                Ok(_) => {
                    let jobs = batch[..taken].iter().map(|job| {
                        let is_failed = failed.contains(&job.id.position);
                        (job.id, job.traceparent.as_deref(), is_failed)
                    });
                    self.options.committed(jobs, begun.elapsed());
                    break taken;
                }
                // Each conflict means that another commit made progress, so this ends; but that
                // writer may need this thread.
                Err(Error::Conflict { .. }) => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        };
        self.attempt = None;
        self.position = Some(jobs[taken - 1].id.position);
        self.ahead = jobs.split_off(taken);
        Ok(())
    }

    /// Reads the entries that the verdicts on `jobs` depend on.
    async fn entries(&self, jobs: &[Job]) -> Result<HashMap<Key, Entry>> {
        let keys = keys_needed(jobs);
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let found = self.store.get_many(&keys).await?;
        Ok(keys
            .into_iter()
            .zip(found)
            .filter_map(|(key, entry)| Some((key, entry?)))
            .collect())
    }

    /// Commits the head of `jobs` as a dead letter. The partition waits while there is no space for
    /// one.
    async fn commit_dead_letter(&mut self, position: Position, jobs: &[Job]) -> Result<()> {
        let (Some(head), Some(pending_dead_letter)) = (jobs.first(), &self.pending_dead_letter)
        else {
            return Ok(());
        };
        let verdict = Verdict::Dead(Dead {
            reason: pending_dead_letter.reason.clone(),
            attempts: pending_dead_letter.attempts,
            command: head.command.clone(),
        });
        let advance = self.advance(
            position,
            pending_dead_letter.head,
            vec![(pending_dead_letter.head, verdict)],
            false,
        );
        self.store
            .commit(Commit {
                advance: Some(advance),
                ..Commit::default()
            })
            .await?;
        self.options.report(WorkerEvent::DeadLettered);
        tracing::error!(
            job = %head.id,
            traceparent = head.traceparent,
            attempts = pending_dead_letter.attempts,
            reason = pending_dead_letter.reason,
            "the job is a dead letter"
        );
        self.position = Some(pending_dead_letter.head);
        self.pending_dead_letter = None;
        Ok(())
    }

    /// Moves past a jump in the queue's numbering, to a higher major number after its server
    /// restarted or was replaced. What it still holds under the lower number is applied, so a job
    /// under that number whose id a client holds is lost.
    async fn pass_over(&mut self, position: Position, behind: Position) -> Result<()> {
        let advance = self.advance(position, behind, Vec::new(), true);
        self.store
            .commit(Commit {
                advance: Some(advance),
                ..Commit::default()
            })
            .await?;
        tracing::debug!(
            partition = %self.claim.partition, after = %position, %behind,
            "the numbering of the queue continues after a gap"
        );
        self.position = Some(behind);
        Ok(())
    }

    /// Handles missing jobs: those between `position` and `trimmed` are gone, and the store has not
    /// applied them, unless another worker has while this one was paused. Returns true if work can
    /// continue.
    async fn at_gap(&mut self, position: Position, trimmed: Position) -> Result<bool> {
        let partition = self.claim.partition;
        if self.store.applied(self.queue.id(), partition).await? != position {
            self.start_over();
            return Ok(true);
        }
        if self.options.accept_gap {
            let advance = self.advance(position, trimmed, Vec::new(), true);
            self.store
                .commit(Commit {
                    advance: Some(advance),
                    ..Commit::default()
                })
                .await?;
            tracing::error!(
                %partition, after = %position, %trimmed,
                "the loss of the jobs between these positions is accepted; work continues after them"
            );
            self.position = Some(trimmed);
            return Ok(true);
        }
        tracing::error!(
            %partition, after = %position, %trimmed,
            "stopped: the jobs after the store's position and up to the queue's are gone, so the store is older than the queue; \
             restore a newer copy of the store, or start a worker with --accept-gap to continue without them"
        );
        self.turn_to(Some(PartitionState::Stopped));
        tokio::select! {
            () = sleep(GAP_RECHECK) => {}
            () = stopped(&mut self.until) => {}
        }
        self.position = None;
        Ok(false)
    }

    fn advance(
        &self,
        from: Position,
        to: Position,
        outcomes: Vec<(Position, Verdict)>,
        lost: bool,
    ) -> Advance {
        Advance {
            queue: self.queue.id(),
            partition: self.claim.partition,
            from,
            to,
            outcomes,
            lost,
        }
    }

    /// Removes expired entries if that is due. A full round is followed by another one after the
    /// next batch of jobs.
    async fn expire(&mut self) {
        let now = Instant::now();
        if now < self.expire_at {
            return;
        }
        self.expire_at = now + EXPIRE_EVERY;
        // A store without partitions expires everything at once, so one of the tasks suffices.
        let partition = self.claim.partition;
        if self.store.partitions().is_none() && partition != Partition(0) {
            return;
        }
        match self.store.expire(partition).await {
            Ok(removed) if removed >= EXPIRE_BATCH => self.expire_at = now,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%partition, error = %in_one_line(&error), "cannot remove expired entries");
            }
        }
    }

    /// Resets to the store's position, and returns how long to wait first.
    fn after_failure(&mut self, error: Error) -> Result<Duration> {
        let partition = self.claim.partition;
        match FailureClass::of(&error) {
            FailureClass::Settings => Err(error),
            FailureClass::Job { for_good } => Ok(self.after_refusal(for_good, in_one_line(&error))),
            FailureClass::FasterWorker => {
                tracing::debug!(%partition, %error, "another worker was faster");
                self.start_over();
                self.pending_dead_letter = None;
                Ok(Duration::ZERO)
            }
            FailureClass::Backend => {
                self.start_over();
                let wait = self.backoff.next();
                if self.pending_dead_letter.is_some() && matches!(error, Error::Full { .. }) {
                    tracing::error!(%partition, %error, "the partition waits until dead letters are retried or dropped");
                } else {
                    tracing::warn!(%partition, error = %in_one_line(&error), ?wait, "the partition waits");
                }
                Ok(wait)
            }
        }
    }

    /// Discards what was read; the current try does not count.
    fn start_over(&mut self) {
        self.position = None;
        // Another queue may have replaced the one that was informed.
        self.completed = Position::START;
        self.ahead.clear();
        if let Some(attempt) = self.attempt.take() {
            self.to_withdraw = Some(attempt.head);
        }
    }

    /// Counts the current try, and returns how long to wait before the next.
    fn after_refusal(&mut self, for_good: bool, reason: String) -> Duration {
        let partition = self.claim.partition;
        let attempt = self.attempt.take();
        self.start_over();
        match attempt {
            None => {
                tracing::error!(%partition, reason, "the partition waits");
                self.backoff.next()
            }
            Some(attempt) if attempt.last != attempt.head => {
                tracing::warn!(%partition, reason, "a batch was rejected: its jobs are tried one by one");
                self.alone_up_to = attempt.last;
                Duration::ZERO
            }
            Some(attempt) if for_good || attempt.number >= self.attempts_max() => {
                self.pending_dead_letter = Some(PendingDeadLetter {
                    head: attempt.head,
                    attempts: attempt.number,
                    reason,
                });
                Duration::ZERO
            }
            Some(attempt) => {
                let wait = self.backoff.next();
                tracing::warn!(
                    %partition, position = %attempt.head, attempt = attempt.number, reason, ?wait,
                    "the job was rejected"
                );
                wait
            }
        }
    }

    fn attempts_max(&self) -> u32 {
        self.options.attempts_max.max(2)
    }
}

/// Waits until the task has to stop.
async fn stopped(until: &mut watch::Receiver<Until>) {
    // The sender outlives this task, so `Err` is unreachable.
    let _ = until.wait_for(|until| *until != Until::Running).await;
}

fn failed_positions(commit: &Commit) -> Vec<Position> {
    commit
        .advance
        .iter()
        .flat_map(|advance| &advance.outcomes)
        .filter(|(_, verdict)| matches!(verdict, Verdict::Failed { .. }))
        .map(|(position, _)| *position)
        .collect()
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it gave no reason")
}

#[cfg(test)]
mod tests {
    use crate::Value;
    use crate::clock::SystemClock;
    use crate::memory::{MemoryQueue, MemoryStore};
    use crate::model::command::{Command, Operation};
    use crate::model::job::NewJob;
    use crate::queue::{QueueOptions, WorkerId};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_paused_worker_does_not_mistake_the_position_of_a_faster_one_for_a_gap() {
        let store = Arc::new(MemoryStore::default());
        let queue = Arc::new(MemoryQueue::new(
            QueueOptions::default(),
            Arc::new(SystemClock),
        ));
        let claim = queue
            .claim(&WorkerId::new("paused"))
            .await
            .unwrap()
            .remove(0);
        let (_go_on, until) = watch::channel(Until::Running);
        let mut task = PartitionTask::new(
            store.clone(),
            queue.clone(),
            Arc::default(),
            claim.clone(),
            until,
        );
        assert_eq!(task.position().await.unwrap(), Position::START);

        // Another worker applies a job meanwhile, and the queue drops it.
        let set = Operation::set(Key::new("a").unwrap(), Value::parse("1").unwrap());
        let job = NewJob::new(Command::One(set));
        let id = queue.enqueue(vec![job]).await.remove(0).unwrap().id;
        let jobs = queue
            .read(&claim, Position::START, 1, Duration::ZERO)
            .await
            .unwrap();
        let commit = evaluate(Position::START, &jobs, &HashMap::new()).commit;
        store.commit(commit).await.unwrap();
        queue.complete(&claim, id.position).await.unwrap();

        let start = Instant::now();
        task.turn().await.unwrap();
        assert_eq!(task.position().await.unwrap(), id.position);
        assert_eq!(
            start.elapsed(),
            Duration::ZERO,
            "it did not wait for an operator"
        );
    }
}
