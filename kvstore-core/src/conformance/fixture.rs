//! Helpers that the cases share: short ways to make keys, values, commits and jobs.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

use super::StoreHarness;
use crate::model::command::{Action, Command, Operation};
use crate::model::commit::{Advance, Commit, Committed, Verdict};
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{Computed, Failure, Job, NewJob, Summary};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::{Change, Condition, Write};
use crate::queue::{Claim, JobQueue, WorkQueue, WorkerId};
use crate::store::{Changed, ListRequest, Listed, Store, Watch};

/// Longer than anything takes, except waiting for something that never comes.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// How far ahead a deadline is: short, for backends whose clock cannot be set.
pub(super) const SHORT: Duration = Duration::from_secs(1);

/// Returns a key. All of them are in one partition, so that every store can change them in one
/// commit.
pub(super) fn key(name: &str) -> Key {
    Key::new(&format!("{{t}}{name}")).unwrap()
}

pub(super) fn value(text: &str) -> Value {
    Value::parse(text).unwrap()
}

/// Makes a value from `number`.
pub(super) fn number(number: u64) -> Value {
    value(&number.to_string())
}

/// Parses a value made by [`number`].
pub(super) fn as_number(value: &Value) -> u64 {
    value.to().unwrap()
}

pub(super) fn set(key: &Key, text: &str) -> Write {
    set_until(key, text, None)
}

pub(super) fn set_until(key: &Key, text: &str, expires_at: impl Into<Option<Timestamp>>) -> Write {
    Write {
        key: key.clone(),
        change: Change::Set {
            value: value(text),
            expires_at: expires_at.into(),
        },
    }
}

pub(super) fn delete(key: &Key) -> Write {
    Write {
        key: key.clone(),
        change: Change::Delete,
    }
}

pub(super) fn writes(writes: impl Into<Vec<Write>>) -> Commit {
    Commit {
        writes: writes.into(),
        ..Commit::default()
    }
}

pub(super) fn check(key: &Key, condition: Condition) -> Commit {
    Commit {
        checks: vec![(key.clone(), condition)],
        ..Commit::default()
    }
}

/// Commits one write and returns its version, and whether its key existed.
pub(super) async fn commit_one(store: &dyn Store, write: Write) -> (Version, bool) {
    let Committed {
        first_version,
        existed,
    } = store.commit(writes([write])).await.unwrap();
    assert_eq!(existed.len(), 1, "one answer for one write");
    (first_version, existed[0])
}

/// Commits `key = text` and returns its version.
pub(super) async fn put(store: &dyn Store, key: &Key, text: &str) -> Version {
    commit_one(store, set(key, text)).await.0
}

pub(super) async fn get(store: &dyn Store, key: &Key) -> Option<Entry> {
    store.get(key).await.unwrap()
}

/// Returns the text under `key`.
pub(super) async fn text(store: &dyn Store, key: &Key) -> Option<String> {
    get(store, key)
        .await
        .map(|entry| entry.value.as_str().to_owned())
}

/// Lists all entries, with values.
pub(super) async fn everything(store: &dyn Store) -> Vec<Listed> {
    let mut request = ListRequest {
        include_values: true,
        limit: crate::limits::PAGE_ENTRIES_MAX,
        ..ListRequest::default()
    };
    let mut all = Vec::new();
    loop {
        let page = store.list(&request).await.unwrap();
        all.extend(page.entries);
        match page.next {
            Some(next) => request.after = Some(next),
            None => return all,
        }
    }
}

/// Returns how many partitions the cases use with a store.
pub(super) fn partitions(store: &dyn Store) -> PartitionCount {
    store.partitions().unwrap_or(PartitionCount::ONE)
}

/// Returns the partition of all keys made by [`key`].
pub(super) fn partition(store: &dyn Store) -> Partition {
    partitions(store).partition_of(&key(""))
}

pub(super) async fn move_clock(harness: &(impl StoreHarness + ?Sized), span: Duration) {
    let now = harness.now().await;
    harness.set_clock(now.after(span)).await;
}

pub(super) fn at(number: u64) -> Position {
    Position::counted(number)
}

/// A queue that exists only as an id and a partition, which is all that a store knows of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    pub(super) queue: QueueId,
    pub(super) partition: Partition,
}

impl Named {
    pub(super) fn new(store: &dyn Store) -> Self {
        Self {
            queue: QueueId::random(),
            partition: partition(store),
        }
    }

    pub(super) fn job(self, number: u64) -> JobId {
        JobId {
            queue: self.queue,
            partition: self.partition,
            position: at(number),
        }
    }

    pub(super) fn advance(self, from: u64, to: u64) -> Advance {
        Advance {
            queue: self.queue,
            partition: self.partition,
            from: at(from),
            to: at(to),
            outcomes: Vec::new(),
            lost: false,
        }
    }

    /// Returns a commit that only advances the partition.
    pub(super) fn step(self, from: u64, to: u64) -> Commit {
        self.step_with(from, to, Vec::new())
    }

    pub(super) fn step_with(
        self,
        from: u64,
        to: u64,
        outcomes: Vec<(Position, Verdict)>,
    ) -> Commit {
        let mut advance = self.advance(from, to);
        advance.outcomes = outcomes;
        Commit {
            advance: Some(advance),
            ..Commit::default()
        }
    }

    pub(super) async fn applied(self, store: &dyn Store) -> Position {
        store.applied(self.queue, self.partition).await.unwrap()
    }
}

/// Returns the verdict on a failed set of `key`.
pub(super) fn failed(key: &Key, current: Option<Version>) -> Verdict {
    Verdict::Failed {
        summary: summary(key),
        operation: 0,
        reason: Failure::Condition,
        current,
    }
}

pub(super) fn succeeded(key: &Key, first: usize, count: usize) -> Verdict {
    Verdict::Succeeded {
        summary: summary(key),
        first,
        computed: vec![Computed::default(); count],
    }
}

pub(super) fn summary(key: &Key) -> Summary {
    Summary::of(&set_command(key, "0"))
}

pub(super) fn set_command(key: &Key, text: &str) -> Command {
    Command::One(Operation::set(key.clone(), value(text)))
}

pub(super) fn set_if_command(key: &Key, text: &str, condition: Condition) -> Command {
    Command::One(Operation {
        condition,
        ..Operation::set(key.clone(), value(text))
    })
}

pub(super) fn set_job(key: &Key, text: &str) -> NewJob {
    NewJob::new(set_command(key, text))
}

/// Returns the text that a set job writes.
pub(super) fn text_of(command: &Command) -> &str {
    match &command.operations()[0].action {
        Action::Set { value } => value.as_str(),
        _ => panic!("not a set: {command:?}"),
    }
}

/// Enqueues one job that must be accepted.
pub(super) async fn accept(queue: &dyn JobQueue, job: NewJob) -> JobId {
    accept_all(queue, vec![job]).await[0]
}

/// Enqueues jobs that must all be accepted as new ones.
pub(super) async fn accept_all(queue: &dyn JobQueue, jobs: Vec<NewJob>) -> Vec<JobId> {
    let count = jobs.len();
    let answers = queue.enqueue(jobs).await;
    assert_eq!(answers.len(), count, "one answer for each job");
    answers
        .into_iter()
        .map(|answer| {
            let accepted = answer.unwrap();
            assert!(!accepted.replayed, "{accepted:?} is new");
            accepted.id
        })
        .collect()
}

/// Returns one key for each partition, in partition order.
pub(super) fn key_for_each_partition(count: PartitionCount) -> Vec<Key> {
    count
        .iter()
        .map(|partition| {
            (0..)
                .map(|number| Key::new(&format!("key-{number}")).unwrap())
                .find(|key| count.partition_of(key) == partition)
                .unwrap()
        })
        .collect()
}

/// Waits for the next change of a watch.
pub(super) async fn next(watch: &mut Watch) -> Changed {
    tokio::time::timeout(SOON, watch.changes.next())
        .await
        .expect("a change should have been announced")
        .expect("the watch should not have ended")
        .unwrap()
}

/// Polls a future once and drops it, as for a caller that has gone away.
pub(super) async fn give_up_after_one_poll<F: Future>(future: F) {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        let _ = future.as_mut().poll(context);
        std::task::Poll::Ready(())
    })
    .await;
}

/// Waits for tasks, and panics if one of them did.
pub(super) async fn join_all(tasks: impl IntoIterator<Item = tokio::task::JoinHandle<()>>) {
    for task in tasks {
        task.await.unwrap();
    }
}

/// Clones the store's `Arc`, for a task.
pub(super) fn share(store: &Arc<dyn Store>) -> Arc<dyn Store> {
    Arc::clone(store)
}

/// Makes one worker claim every partition, and returns its claims in partition order.
pub(super) async fn claim_all(queue: &dyn WorkQueue) -> Vec<Claim> {
    let mut claims = queue.claim(&WorkerId::new("only")).await.unwrap();
    claims.sort_by_key(|claim| claim.partition);
    let held: Vec<Partition> = claims.iter().map(|claim| claim.partition).collect();
    let all: Vec<Partition> = queue.partitions().iter().collect();
    assert_eq!(held, all, "who is alone has everything");
    claims
}

/// Makes one worker claim every partition, and returns its claim on the partition of [`key`].
pub(super) async fn claim(queue: &dyn WorkQueue) -> Claim {
    let partition = queue.partitions().partition_of(&key(""));
    claim_all(queue).await.swap_remove(usize::from(partition.0))
}

/// Releases all claims, so that the next worker need not wait for them to expire.
pub(super) async fn release_all(queue: &dyn WorkQueue, claims: Vec<Claim>) {
    for claim in claims {
        queue.release(claim).await.unwrap();
    }
}

/// Reads all jobs of a partition after a position, without waiting.
pub(super) async fn read_from(queue: &dyn WorkQueue, claim: &Claim, after: Position) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    loop {
        let after = jobs.last().map_or(after, |job| job.id.position);
        let more = queue
            .read(claim, after, 1000, Duration::ZERO)
            .await
            .unwrap();
        if more.is_empty() {
            return jobs;
        }
        jobs.extend(more);
    }
}

/// Reads all jobs of all partitions, one partition after the other.
pub(super) async fn read_all(queue: &dyn WorkQueue) -> Vec<Job> {
    let claims = claim_all(queue).await;
    let mut jobs = Vec::new();
    for claim in &claims {
        jobs.extend(read_from(queue, claim, Position::START).await);
    }
    release_all(queue, claims).await;
    jobs
}
