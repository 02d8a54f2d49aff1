//! Cases for each command, from the queue to the store that applies it: its effect, its outcome,
//! and why it fails.

use std::sync::Arc;
use std::time::Duration;

use super::fixture::*;
use super::worker::Worker;
use super::{QueueBounds, QueueHarness};
use crate::error::Error;
use crate::limits::{VALUE_BYTES_DEFAULT, WORK_BATCH_JOBS};
use crate::model::command::{Command, Operation};
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::id::JobId;
use crate::model::job::{
    Applied, Computed, Failed, Failure, Idempotency, JobState, NewJob, Outcome, Succeeded,
};
use crate::model::key::Key;
use crate::model::write::Condition;
use crate::queue::{JobQueue, WorkQueue};
use crate::store::{ChangeKind, Store, WatchFrom};

/// Far enough ahead that no entry expires by itself, for backends whose clock cannot be set.
const LONG: Duration = Duration::from_secs(600);

/// A store, its queue, and the worker between them.
struct Stack {
    store: Arc<dyn Store>,
    queue: Arc<dyn WorkQueue>,
    worker: Worker,
}

impl Stack {
    async fn open(harness: &dyn QueueHarness) -> Self {
        let store = harness.store().await;
        let queue = harness.queue(QueueBounds::default()).await;
        crate::service::join(&store, &queue).await.unwrap();
        let worker = Worker::new(store.clone(), queue.clone());
        Self {
            store,
            queue,
            worker,
        }
    }

    async fn accept(&self, command: impl Into<Command>) -> JobId {
        let job = NewJob {
            keep_outcome: true,
            ..NewJob::new(command.into())
        };
        accept(&self.queue, job).await
    }

    async fn outcome(&self, id: &JobId) -> Outcome {
        match self.store.outcome(id, Duration::ZERO).await.unwrap() {
            JobState::Finished(outcome) => outcome,
            other => panic!("{id} should be finished: {other:?}"),
        }
    }

    async fn run(&self, command: impl Into<Command>) -> Outcome {
        let id = self.accept(command).await;
        self.worker.drain().await.unwrap();
        self.outcome(&id).await
    }

    /// Runs a command that must succeed, and returns what its writes did.
    async fn succeed(&self, command: impl Into<Command>) -> Vec<Applied> {
        writes_of(self.run(command).await)
    }

    async fn succeed_one(&self, operation: Operation) -> Applied {
        let [applied] = self.succeed(operation).await.try_into().unwrap();
        applied
    }

    /// Runs a command that must fail at operation `index` with `reason`, leaving `key` as it is.
    async fn fail(&self, command: impl Into<Command>, index: usize, reason: Failure, key: &Key) {
        let before = get(&self.store, key).await;
        let outcome = self.run(command).await;
        let Outcome::Failed(failed) = outcome else {
            panic!("it should have failed: {outcome:?}");
        };
        let current = before.as_ref().map(|entry| entry.version);
        assert_eq!(
            (failed.operation, failed.reason, failed.current),
            (index, reason, current)
        );
        assert_eq!(get(&self.store, key).await, before);
    }

    async fn entry(&self, key: &Key) -> Entry {
        get(&self.store, key).await.expect("it is there")
    }

    async fn text(&self, key: &Key) -> String {
        self.entry(key).await.value.as_str().to_owned()
    }
}

fn writes_of(outcome: Outcome) -> Vec<Applied> {
    match outcome {
        Outcome::Succeeded(Some(Succeeded { writes, .. })) => writes,
        other => panic!("it should have succeeded with details: {other:?}"),
    }
}

pub async fn adds_to_one_counter_are_applied_together_and_all_count(harness: &dyn QueueHarness) {
    let fleet = Stack::open(harness).await;
    let key = key("n");
    let mut watch = fleet.store.watch(&WatchFrom::Now.into()).await.unwrap();
    let job = NewJob {
        keep_outcome: true,
        ..NewJob::new(Operation::add(key.clone(), 3).into())
    };
    let ids = accept_all(&fleet.queue, vec![job; WORK_BATCH_JOBS]).await;
    let claims = fleet.worker.claim().await.unwrap();
    let claim = claims
        .iter()
        .find(|claim| claim.partition == ids[0].partition)
        .unwrap();
    let applied = fleet.worker.step(claim).await.unwrap();
    assert_eq!(applied, WORK_BATCH_JOBS, "one commit for all of them");
    for (before, id) in ids.iter().enumerate() {
        let [applied] = writes_of(fleet.outcome(id).await).try_into().unwrap();
        assert_eq!(applied.computed.number, Some(3 * (before as i64 + 1)));
        assert_eq!(applied.existed, before > 0);
        assert_eq!(next(&mut watch).await.version, applied.version);
    }
    let sum = 3 * WORK_BATCH_JOBS as i64;
    assert_eq!(fleet.text(&key).await, sum.to_string());
}

pub async fn adds_beside_direct_commits_all_count(harness: &dyn QueueHarness) {
    const ADDS: i64 = 100;
    const DIRECT: i64 = 30;
    let fleet = Stack::open(harness).await;
    let key = key("n");
    for _ in 0..ADDS {
        fleet.accept(Operation::add(key.clone(), 1)).await;
    }
    let direct = tokio::spawn({
        let (store, key) = (fleet.store.clone(), key.clone());
        async move {
            for _ in 0..DIRECT {
                loop {
                    let entry = get(&store, &key).await;
                    let current = entry.as_ref().map(|entry| entry.version);
                    let number: i64 = entry.map_or(0, |entry| entry.value.to().unwrap());
                    let mut commit = check(&key, Condition::unchanged(current));
                    commit.writes = vec![set(&key, &(number + 1000).to_string())];
                    match store.commit(commit).await {
                        Ok(_) => break,
                        Err(Error::Conflict { .. }) => tokio::task::yield_now().await,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
    });
    fleet.worker.drain().await.unwrap();
    direct.await.unwrap();
    fleet.worker.drain().await.unwrap();
    assert_eq!(fleet.text(&key).await, (ADDS + 1000 * DIRECT).to_string());
}

pub async fn an_add_to_anything_but_a_64_bit_integer_fails(harness: &dyn QueueHarness) {
    let fleet = Stack::open(harness).await;
    let key = key("n");
    for (text, by, reason) in [
        ("1.0", 1, Failure::NotInteger),
        ("1e2", 1, Failure::NotInteger),
        ("\"1\"", 1, Failure::NotInteger),
        ("null", 1, Failure::NotInteger),
        ("[1]", 1, Failure::NotInteger),
        ("9223372036854775808", -1, Failure::NotInteger),
        ("9223372036854775807", 1, Failure::Overflow),
        ("-9223372036854775808", -1, Failure::Overflow),
        ("-1", i64::MIN, Failure::Overflow),
    ] {
        put(&fleet.store, &key, text).await;
        let add = Operation::add(key.clone(), by);
        fleet.fail(add.clone(), 0, reason, &key).await;
        let batch = Command::Batch(vec![Operation::delete(super::fixture::key("other")), add]);
        fleet.fail(batch, 1, reason, &key).await;
    }
    for (text, by, sum) in [
        ("-0", 0, "0"),
        ("9223372036854775806", 1, "9223372036854775807"),
        ("-9223372036854775807", -1, "-9223372036854775808"),
        ("9223372036854775807", i64::MIN, "-1"),
    ] {
        put(&fleet.store, &key, text).await;
        let applied = fleet.succeed_one(Operation::add(key.clone(), by)).await;
        assert_eq!(applied.computed.number, Some(sum.parse().unwrap()));
        assert_eq!(fleet.text(&key).await, sum);
    }
}

pub async fn the_deadline_of_a_counter_counts_from_its_creation(harness: &dyn QueueHarness) {
    let fleet = Stack::open(harness).await;
    let key = key("n");
    let add = |ttl| Operation::add(key.clone(), 1).expires_after(ttl);
    let created = fleet.succeed_one(add(SHORT)).await;
    let deadline = fleet.entry(&key).await.expires_at;
    assert!(deadline.is_some());
    let again = fleet.succeed_one(add(LONG)).await;
    let computed = |number| Computed {
        number: Some(number),
        expires_at: deadline,
    };
    assert_eq!(
        (created.computed, again.computed),
        (computed(1), computed(2))
    );
    assert_eq!(fleet.entry(&key).await.expires_at, deadline);

    // Many in one batch, some of them past the deadline of the counter that the first one creates.
    harness.set_clock(deadline.unwrap().after(SHORT)).await;
    let late = fleet.succeed_one(add(LONG)).await;
    assert_eq!((late.computed.number, late.existed), (Some(1), false));
    assert!(late.computed.expires_at > deadline);

    put(&fleet.store, &key, "7").await;
    let permanent = fleet.succeed_one(add(SHORT)).await;
    assert_eq!(permanent.computed.expires_at, None);
    assert_eq!(fleet.entry(&key).await.expires_at, None);
}

/// Checks that a batch is evaluated as its jobs would be one by one, even if a deadline that it
/// sets passes before its commit.
pub async fn a_counter_that_waited_longer_than_it_lives_starts_again(harness: &dyn QueueHarness) {
    let fleet = Stack::open(harness).await;
    let key = key("n");
    let short_lived = Operation::add(key.clone(), 1).expires_after(SHORT);
    let first = fleet.accept(short_lived).await;
    let second = fleet.accept(Operation::add(key.clone(), 5)).await;
    move_clock(harness, SHORT).await;
    fleet.worker.drain().await.unwrap();
    let applied = async |id| writes_of(fleet.outcome(id).await)[0];
    assert_eq!(applied(&first).await.computed.number, Some(1));
    let second = applied(&second).await;
    assert_eq!((second.computed.number, second.existed), (Some(5), false));
    assert_eq!(fleet.text(&key).await, "5");
}

pub async fn a_merge_changes_what_it_names_and_no_other_byte(harness: &dyn QueueHarness) {
    let fleet = Stack::open(harness).await;
    let key = key("m");
    let merge = |patch: &str| Operation::merge(key.clone(), value(patch));
    let created = fleet.succeed_one(merge(r#"{"a":1,"b":null}"#)).await;
    assert!(!created.existed);
    assert_eq!(fleet.text(&key).await, r#"{"a":1}"#);

    let now = harness.now().await;
    let deadline = now.after(LONG);
    let stored = r#"{"x":1.0,"a":1,"x":1e400,"\u00e9":{"y":-0,"z":[1]}}"#;
    let write = set_until(&key, stored, deadline);
    commit_one(&fleet.store, write).await;
    let merged = fleet
        .succeed_one(merge(r#"{"é":{"z":null},"n":"\u0000"}"#))
        .await;
    assert!(merged.existed);
    let entry = fleet.entry(&key).await;
    assert_eq!(
        entry.value.as_str(),
        r#"{"x":1.0,"a":1,"x":1e400,"\u00e9":{"y":-0},"n":"\u0000"}"#
    );
    assert_eq!(entry.version, merged.version);
    assert_eq!(entry.expires_at, Some(deadline), "it keeps its deadline");
    assert_eq!(merged.computed.expires_at, Some(deadline));

    let longer = fleet.succeed_one(merge("{}").expires_after(2 * LONG)).await;
    assert!(longer.computed.expires_at > Some(deadline));
    let replaced = fleet.succeed_one(merge("[1]")).await;
    assert_eq!(replaced.computed.expires_at, longer.computed.expires_at);
    assert_eq!(fleet.text(&key).await, "[1]");
    fleet
        .fail(merge("{}").if_absent(), 0, Failure::Condition, &key)
        .await;
}

pub async fn a_merge_into_more_than_its_bound_fails(harness: &dyn QueueHarness) {
    let fleet = Stack::open(harness).await;
    let key = key("m");
    let half = format!("\"{}\"", "x".repeat(VALUE_BYTES_DEFAULT / 2));
    let merge = |name: &str| {
        let patch = format!("{{\"{name}\":{half}}}");
        Operation::merge(key.clone(), value(&patch))
    };
    fleet.succeed_one(merge("a")).await;
    let limit_bytes = VALUE_BYTES_DEFAULT as u64;
    let reason = Failure::TooLarge { limit_bytes };
    fleet.fail(merge("b"), 0, reason, &key).await;
    fleet.succeed_one(merge("a")).await;
}

pub async fn a_touch_changes_the_deadline_alone(harness: &dyn QueueHarness) {
    let fleet = Stack::open(harness).await;
    let key = key("t");
    let touch = |ttl| Operation::touch(key.clone(), ttl);
    fleet.fail(touch(LONG), 0, Failure::NotFound, &key).await;

    let text = r#"{"a":1.0,"a":2}"#;
    let version = put(&fleet.store, &key, text).await;
    let mut watch = fleet.store.watch(&WatchFrom::Now.into()).await.unwrap();
    let before = harness.now().await;
    let applied = fleet.succeed_one(touch(SHORT)).await;
    assert!(applied.version > version && applied.existed);
    let change = next(&mut watch).await;
    assert_eq!(
        (change.kind, change.version),
        (ChangeKind::Set, applied.version)
    );
    let entry = fleet.entry(&key).await;
    assert_eq!(
        (entry.value.as_str(), entry.version),
        (text, applied.version)
    );
    assert_eq!(entry.expires_at, applied.computed.expires_at);
    assert!(entry.expires_at >= Some(before.after(SHORT)));
    let stale = touch(LONG).if_version(version);
    fleet.fail(stale, 0, Failure::Condition, &key).await;

    let longer = fleet.succeed_one(touch(LONG)).await.computed.expires_at;
    harness.set_clock(entry.expires_at.unwrap()).await;
    assert_eq!(fleet.entry(&key).await.expires_at, longer, "it lives on");
}

pub async fn a_batch_depends_on_keys_that_it_only_checks(harness: &dyn QueueHarness) {
    let fleet = Stack::open(harness).await;
    let (lock, data) = (key("lock"), key("data"));
    let held = put(&fleet.store, &lock, "\"me\"").await;
    let batch = |check: Operation| {
        Command::Batch(vec![
            Operation::set(data.clone(), value("1")),
            check,
            Operation::add(key("n"), 1),
        ])
    };
    let applied = fleet
        .succeed(batch(Operation::check(lock.clone()).if_version(held)))
        .await;
    assert_eq!(applied.len(), 2, "a check writes nothing");
    assert_eq!(applied[1].version.0, applied[0].version.0 + 1);
    assert_eq!(applied[1].computed.number, Some(1));
    assert_eq!(fleet.entry(&lock).await.version, held);

    for check in [
        Operation::check(lock.clone()).if_absent(),
        Operation::check(lock.clone()).if_version(Version(held.0 + 1)),
    ] {
        fleet.fail(batch(check), 1, Failure::Condition, &lock).await;
    }
    let missing = key("missing");
    let check = Operation::check(missing.clone()).if_present();
    fleet
        .fail(batch(check), 1, Failure::Condition, &missing)
        .await;
    assert_eq!(
        fleet.text(&key("n")).await,
        "1",
        "only the first one counted"
    );
    let alone = Operation::check(lock).if_present();
    assert_eq!(fleet.succeed(alone).await, []);
}

pub async fn a_retried_add_counts_once_and_is_answered_alike(harness: &dyn QueueHarness) {
    let key = key("n");
    let request = || NewJob {
        idempotency: Some(Idempotency {
            key: "request".into(),
            window: SOON,
            minimum: SOON,
        }),
        keep_outcome: true,
        ..NewJob::new(Operation::add(key.clone(), 1).into())
    };
    let fleet = Stack::open(harness).await;
    let id = accept(&fleet.queue, request()).await;
    fleet.worker.drain().await.unwrap();
    let told = fleet.outcome(&id).await;
    drop(fleet);
    for _ in 0..2 {
        harness.restart().await;
        let fleet = Stack::open(harness).await;
        let again = fleet.queue.enqueue(vec![request()]).await.pop().unwrap();
        assert_eq!(again.unwrap().id, id);
        assert_eq!(fleet.worker.drain().await.unwrap(), 0);
        assert_eq!(fleet.outcome(&id).await, told);
        assert_eq!(fleet.text(&key).await, "1");
    }
}

pub async fn outcomes_of_commands_survive_a_restart(harness: &dyn QueueHarness) {
    let (n, t) = (key("n"), key("t"));
    let fleet = Stack::open(harness).await;
    put(&fleet.store, &t, "\"x\"").await;
    let add = || Operation::add(n.clone(), i64::MIN);
    let commands = [
        add().expires_after(LONG).into(),
        Operation::touch(t.clone(), LONG).into(),
        Command::Batch(vec![
            Operation::set(key("a"), value("1")),
            Operation::merge(t.clone(), value("{}")),
            Operation::delete(key("b")),
        ]),
        add().into(),
        Operation::add(t.clone(), 1).into(),
        Operation::touch(key("missing"), LONG).into(),
    ];
    let mut ids = Vec::new();
    for command in commands {
        ids.push(fleet.accept(command).await);
    }
    fleet.worker.drain().await.unwrap();
    let mut told = Vec::new();
    for id in &ids {
        told.push(fleet.outcome(id).await);
    }
    let reasons: Vec<_> = told
        .iter()
        .filter_map(|outcome| match outcome {
            Outcome::Failed(Failed { reason, .. }) => Some(*reason),
            _ => None,
        })
        .collect();
    assert_eq!(
        reasons,
        [Failure::Overflow, Failure::NotInteger, Failure::NotFound]
    );
    let deadlines: Vec<Option<Timestamp>> = told[..3]
        .iter()
        .flat_map(|outcome| writes_of(outcome.clone()))
        .map(|applied| applied.computed.expires_at)
        .collect();
    assert_eq!(
        deadlines[1], deadlines[3],
        "a merge keeps what the touch set"
    );
    assert_eq!((deadlines[2], deadlines[4]), (None, None));
    assert!(deadlines[0].is_some() && deadlines[1].is_some());
    drop(fleet);
    harness.restart().await;
    let fleet = Stack::open(harness).await;
    for (id, told) in ids.iter().zip(told) {
        assert_eq!(fleet.outcome(id).await, told);
    }
}
