//! Cases for a queue together with the store that applies it: each accepted job has exactly one
//! effect, in order, whatever happens.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

use super::fixture::*;
use super::worker::Worker;
use super::{QueueBounds, QueueHarness};
use crate::error::Error;
use crate::limits::{CLAIM_PERIOD, WORK_BATCH_JOBS};
use crate::model::command::{Command, Operation};
use crate::model::entry::Version;
use crate::model::id::{JobId, Position};
use crate::model::job::{Idempotency, JobState, NewJob, Outcome, Succeeded};
use crate::model::key::Key;
use crate::model::write::Condition;
use crate::queue::{JobQueue, WorkQueue};
use crate::store::{Store, Watch, WatchFrom};

async fn open(harness: &dyn QueueHarness) -> (Arc<dyn Store>, Arc<dyn WorkQueue>) {
    let (store, queue) = (
        harness.store().await,
        harness.queue(QueueBounds::default()).await,
    );
    crate::service::join(&store, &queue)
        .await
        .expect("they belong together");
    (store, queue)
}

/// Returns a set whose outcome includes its version.
fn traced(key: &Key, text: &str) -> NewJob {
    NewJob {
        keep_outcome: true,
        ..set_job(key, text)
    }
}

async fn outcome(store: &dyn Store, id: &JobId) -> Outcome {
    match store.outcome(id, Duration::ZERO).await.unwrap() {
        JobState::Finished(outcome) => outcome,
        other => panic!("{id} should be finished: {other:?}"),
    }
}

/// Returns the versions of the writes of a traced job.
async fn versions(store: &dyn Store, id: &JobId) -> Vec<Version> {
    match outcome(store, id).await {
        Outcome::Succeeded(Some(Succeeded { writes, .. })) => {
            writes.iter().map(|applied| applied.version).collect()
        }
        other => panic!("{id} should have succeeded with details: {other:?}"),
    }
}

/// Checks that each of the traced jobs, all on one key, was applied once and in this order, and
/// nothing else was.
async fn applied_once_in_order(store: &dyn Store, watch: &mut Watch, ids: &[JobId]) {
    let mut expected = Vec::new();
    for id in ids {
        expected.extend(versions(store, id).await);
    }
    assert!(expected.is_sorted_by(|a, b| a < b), "in order");
    for version in expected {
        assert_eq!(next(watch).await.version, version, "each once");
    }
    let quiet = tokio::time::timeout(Duration::from_millis(50), watch.changes.next()).await;
    assert!(quiet.is_err(), "nothing else: {quiet:?}");
}

pub async fn what_is_accepted_is_applied_in_order(harness: &dyn QueueHarness) {
    let (store, queue) = open(harness).await;
    let key = key("a");
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let count = 2 * WORK_BATCH_JOBS + 10;
    let ids = accept_all(
        &queue,
        (0..count)
            .map(|number| traced(&key, &number.to_string()))
            .collect(),
    )
    .await;
    for id in &ids {
        assert_eq!(
            store.outcome(id, Duration::ZERO).await.unwrap(),
            JobState::Queued
        );
    }
    let worker = Worker::new(store.clone(), queue.clone());
    assert_eq!(worker.drain().await.unwrap(), count);
    assert_eq!(worker.drain().await.unwrap(), 0);
    applied_once_in_order(&store, &mut watch, &ids).await;
    assert_eq!(text(&store, &key).await, Some((count - 1).to_string()));
    assert_eq!(queue.depth().await.unwrap().jobs, 0);
}

pub async fn a_worker_that_dies_before_its_commit_loses_nothing(harness: &dyn QueueHarness) {
    let (store, queue) = open(harness).await;
    let key = key("a");
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let ids = accept_all(
        &queue,
        (0..10)
            .map(|number| traced(&key, &number.to_string()))
            .collect(),
    )
    .await;
    let first = Worker::new(store.clone(), queue.clone());
    let claims = first.claim().await.unwrap();
    let claim = claims
        .iter()
        .find(|claim| claim.partition == ids[0].partition)
        .unwrap();
    let prepared = first.prepare(claim).await.unwrap().unwrap();
    assert_eq!(prepared.taken, 10);

    move_clock(harness, CLAIM_PERIOD + SHORT).await;
    let second = Worker::new(store.clone(), queue.clone());
    assert_eq!(second.drain().await.unwrap(), 10);

    // The worker was slow, not dead: its commit comes too late and does nothing.
    let error = store.commit(prepared.commit).await.unwrap_err();
    assert!(
        matches!(error, Error::Stale { applied, .. } if applied == ids[9].position),
        "{error}"
    );
    applied_once_in_order(&store, &mut watch, &ids).await;
}

pub async fn a_worker_that_dies_after_its_commit_doubles_nothing(harness: &dyn QueueHarness) {
    let (store, queue) = open(harness).await;
    let key = key("a");
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let mut ids = accept_all(
        &queue,
        (0..10)
            .map(|number| traced(&key, &number.to_string()))
            .collect(),
    )
    .await;
    let first = Worker::new(store.clone(), queue.clone());
    let claims = first.claim().await.unwrap();
    let claim = claims
        .iter()
        .find(|claim| claim.partition == ids[0].partition)
        .unwrap();
    let prepared = first.prepare(claim).await.unwrap().unwrap();
    store.commit(prepared.commit).await.unwrap();
    // Here the worker dies, before it informs the queue.
    ids.push(accept(&queue, traced(&key, "10")).await);

    move_clock(harness, CLAIM_PERIOD + SHORT).await;
    let second = Worker::new(store.clone(), queue.clone());
    assert_eq!(
        second.drain().await.unwrap(),
        1,
        "only what is not applied yet"
    );
    applied_once_in_order(&store, &mut watch, &ids).await;
    assert_eq!(queue.depth().await.unwrap().jobs, 0);
}

pub async fn workers_on_one_partition_apply_each_job_once(harness: &dyn QueueHarness) {
    const JOBS: u64 = 60;
    let (store, queue) = open(harness).await;
    let key = key("a");
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let mut ids = Vec::new();
    for number in 0..JOBS {
        // Each job depends on whether the deadline set by the one before has passed, so the jobs
        // are applied one by one and the workers collide often.
        let set = Operation::set(key.clone(), value(&number.to_string()))
            .expires_after(Duration::from_secs(3600 + number));
        let job = NewJob {
            keep_outcome: true,
            ..NewJob::new(match number {
                0 => set.if_absent().into(),
                _ => set.if_present().into(),
            })
        };
        ids.push(accept(&queue, job).await);
    }
    let claim = claim(&queue).await;
    let mut workers = Vec::new();
    for _ in 0..4 {
        // All workers use the same claim, as if each believed that it still held it.
        let (worker, claim) = (Worker::new(store.clone(), queue.clone()), claim.clone());
        workers.push(tokio::spawn(async move {
            let mut applied = 0;
            loop {
                match worker.step(&claim).await {
                    Ok(0) => break applied,
                    Ok(some) => applied += some,
                    // Another worker has completed the job that this one was about to read.
                    Err(Error::Gap { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }));
    }
    let mut applied = 0;
    for worker in workers {
        applied += worker.await.unwrap();
    }
    assert_eq!(applied as u64, JOBS);
    applied_once_in_order(&store, &mut watch, &ids).await;
}

pub async fn many_workers_and_producers_keep_every_order(harness: &dyn QueueHarness) {
    const PRODUCERS: usize = 4;
    const ROUNDS: usize = 40;
    let (store, queue) = open(harness).await;
    let keys = key_for_each_partition(queue.partitions());
    let mut workers = Vec::new();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for _ in 0..3 {
        let (worker, done) = (Worker::new(store.clone(), queue.clone()), Arc::clone(&done));
        workers.push(tokio::spawn(async move {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for claim in worker.claim().await.unwrap() {
                    match worker.step(&claim).await {
                        Ok(_) | Err(Error::Gap { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }));
    }
    let mut producers = Vec::new();
    for producer in 0..PRODUCERS {
        let (queue, keys) = (queue.clone(), keys.clone());
        producers.push(tokio::spawn(async move {
            let mut ids = Vec::new();
            for round in 0..ROUNDS {
                let key = &keys[(producer + round) % keys.len()];
                ids.push(accept(&queue, traced(key, &format!("[{producer},{round}]"))).await);
            }
            ids
        }));
    }
    let mut ids = Vec::new();
    for producer in producers {
        ids.extend(producer.await.unwrap());
    }
    ids.sort();
    for id in &ids {
        let state = store.outcome(id, SOON).await.unwrap();
        assert!(
            matches!(state, JobState::Finished(Outcome::Succeeded(Some(_)))),
            "{id}: {state:?}"
        );
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    join_all(workers).await;
    for (key, partition) in keys.iter().zip(queue.partitions().iter()) {
        let mut latest = None;
        for id in ids.iter().filter(|id| id.partition == partition) {
            let version = versions(&store, id).await[0];
            assert!(latest < Some(version), "{key:?}: as accepted, so applied");
            latest = Some(version);
        }
        let version = get(&store, key).await.map(|entry| entry.version);
        assert_eq!(version, latest, "and nothing after the last");
    }
}

pub async fn order_holds_beside_direct_commits(harness: &dyn QueueHarness) {
    const JOBS: u64 = 60;
    let (store, queue) = open(harness).await;
    let (counted, chained) = (key("counted"), key("chained"));
    put(&store, &counted, "0").await;
    let mut ids = Vec::new();
    for number in 0..JOBS {
        // `chained` is changed by the queue alone; `counted` is also written directly, and each job
        // depends on its entry.
        let keep = Operation::set(counted.clone(), number_value(number))
            .if_present()
            .keep_ttl();
        let batch = Command::Batch(vec![
            keep,
            Operation::set(chained.clone(), number_value(number)),
        ]);
        let job = NewJob {
            keep_outcome: true,
            ..NewJob::new(batch)
        };
        ids.push(accept(&queue, job).await);
    }
    let direct = tokio::spawn({
        let (store, counted) = (store.clone(), counted.clone());
        async move {
            for number in 0..100 {
                put(&store, &counted, &format!("\"direct {number}\"")).await;
                tokio::task::yield_now().await;
            }
        }
    });
    let applied = Worker::new(store.clone(), queue.clone())
        .drain()
        .await
        .unwrap();
    direct.await.unwrap();
    assert_eq!(applied as u64, JOBS);
    let mut latest = Version(0);
    for id in &ids {
        let both = versions(&store, id).await;
        assert!(
            both[0] > latest && both[1].0 == both[0].0 + 1,
            "{id}: {both:?} after {latest}"
        );
        latest = both[1];
    }
    let entry = get(&store, &chained).await.unwrap();
    assert_eq!((entry.version, as_number(&entry.value)), (latest, JOBS - 1));
}

fn number_value(value: u64) -> crate::model::value::Value {
    super::fixture::number(value)
}

pub async fn a_condition_is_judged_when_its_turn_comes(harness: &dyn QueueHarness) {
    let (store, queue) = open(harness).await;
    let key = key("a");
    let create = |text| NewJob {
        keep_outcome: true,
        ..NewJob::new(set_if_command(&key, text, Condition::Absent))
    };
    let ids = accept_all(
        &queue,
        vec![
            create("1"),
            create("2"),
            NewJob::new(Command::One(Operation::delete(key.clone()))),
            create("3"),
        ],
    )
    .await;
    // Its presence at acceptance does not matter; the order does.
    let worker = Worker::new(store.clone(), queue.clone());
    worker.drain().await.unwrap();
    let first = versions(&store, &ids[0]).await[0];
    let Outcome::Failed(failed) = outcome(&store, &ids[1]).await else {
        panic!("the key was present by then");
    };
    assert_eq!((failed.operation, failed.current), (0, Some(first)));
    assert_eq!(outcome(&store, &ids[2]).await, Outcome::Succeeded(None));
    versions(&store, &ids[3]).await;
    assert_eq!(text(&store, &key).await.as_deref(), Some("3"));
}

pub async fn a_batch_takes_effect_whole_or_not_at_all(harness: &dyn QueueHarness) {
    let (store, queue) = open(harness).await;
    let (a, b) = (key("a"), key("b"));
    let batch = |text, condition| {
        let mut second = Operation::set(b.clone(), value(text));
        second.condition = condition;
        NewJob {
            keep_outcome: true,
            ..NewJob::new(Command::Batch(vec![
                Operation::set(a.clone(), value(text)),
                second,
            ]))
        }
    };
    let ids = accept_all(
        &queue,
        vec![batch("1", Condition::Absent), batch("2", Condition::Absent)],
    )
    .await;
    Worker::new(store.clone(), queue.clone())
        .drain()
        .await
        .unwrap();
    let made = versions(&store, &ids[0]).await;
    assert_eq!(made.len(), 2);
    let Outcome::Failed(failed) = outcome(&store, &ids[1]).await else {
        panic!("{b:?} was present");
    };
    assert_eq!((failed.operation, failed.current), (1, Some(made[1])));
    assert_eq!(failed.summary.name, "batch");
    assert_eq!(text(&store, &a).await.as_deref(), Some("1"));
    assert_eq!(text(&store, &b).await.as_deref(), Some("1"));
}

pub async fn time_in_the_queue_does_not_prolong_life(harness: &dyn QueueHarness) {
    let (store, queue) = open(harness).await;
    let key = key("a");
    put(&store, &key, "0").await;
    let mortal = NewJob {
        keep_outcome: true,
        ..NewJob::new(
            Operation::set(key.clone(), value("1"))
                .expires_after(SHORT)
                .into(),
        )
    };
    let id = accept(&queue, mortal).await;
    move_clock(harness, SHORT).await;
    Worker::new(store.clone(), queue.clone())
        .drain()
        .await
        .unwrap();
    assert_eq!(get(&store, &key).await, None);
    versions(&store, &id).await;
}

pub async fn a_restart_between_jobs_changes_nothing(harness: &dyn QueueHarness) {
    let key = key("a");
    let mut ids = Vec::new();
    for round in 0..4 {
        let (store, queue) = open(harness).await;
        let jobs = (0..5).map(|number| traced(&key, &format!("[{round},{number}]")));
        ids.extend(accept_all(&queue, jobs.collect()).await);
        if round % 2 == 1 {
            let applied = Worker::new(store.clone(), queue.clone())
                .drain()
                .await
                .unwrap();
            assert_eq!(applied, 10, "this round's and the last one's");
        }
        drop((store, queue));
        harness.restart().await;
    }
    let (store, _) = open(harness).await;
    let mut latest = Version(0);
    for id in &ids {
        let [version] = versions(&store, id).await.try_into().unwrap();
        assert!(version > latest, "{id}");
        latest = version;
    }
    let entry = get(&store, &key).await.unwrap();
    assert_eq!((entry.version, entry.value.as_str()), (latest, "[3,4]"));
}

pub async fn a_request_sent_again_has_one_effect(harness: &dyn QueueHarness) {
    let key = key("a");
    let request = || NewJob {
        idempotency: Some(Idempotency {
            key: "request".into(),
            window: SOON,
            minimum: SOON,
        }),
        ..traced(&key, "1")
    };
    let (store, queue) = open(harness).await;
    let id = accept(&queue, request()).await;
    Worker::new(store.clone(), queue.clone())
        .drain()
        .await
        .unwrap();
    let version = get(&store, &key).await.unwrap().version;
    drop((store, queue));
    for _ in 0..2 {
        harness.restart().await;
        let (store, queue) = open(harness).await;
        let accepted = queue.enqueue(vec![request()]).await.pop().unwrap().unwrap();
        assert_eq!((accepted.id, accepted.replayed), (id, true));
        assert_eq!(
            Worker::new(store.clone(), queue.clone())
                .drain()
                .await
                .unwrap(),
            0
        );
        assert_eq!(get(&store, &key).await.unwrap().version, version);
        assert_eq!(
            versions(&store, &id).await,
            [version],
            "and its outcome is still told"
        );
    }
}

pub async fn a_queue_behind_its_store_numbers_past_it(harness: &dyn QueueHarness) {
    let (store, queue) = open(harness).await;
    // The store is further than this queue remembers.
    for partition in queue.partitions().iter() {
        let named = Named {
            queue: queue.id(),
            partition,
        };
        let mut further = named.step(0, 1000);
        further.advance.as_mut().unwrap().lost = true;
        store.commit(further).await.unwrap();
    }
    let (store, queue) = open(harness).await;
    for key in key_for_each_partition(queue.partitions()) {
        let id = accept(&queue, traced(&key, "1")).await;
        assert!(id.position > at(1000), "{id}");
        assert_eq!(
            store.outcome(&id, Duration::ZERO).await.unwrap(),
            JobState::Queued
        );
        assert_eq!(
            Worker::new(store.clone(), queue.clone())
                .drain()
                .await
                .unwrap(),
            1
        );
        assert_eq!(text(&store, &key).await.as_deref(), Some("1"));
    }
}

pub async fn a_store_of_another_queue_is_refused(harness: &dyn QueueHarness) {
    let (store, queue) = (
        harness.store().await,
        harness.queue(QueueBounds::default()).await,
    );
    store.commit(Named::new(&store).step(0, 1)).await.unwrap();
    let error = crate::service::join(&store, &queue).await.unwrap_err();
    assert!(matches!(error, Error::WrongQueue { .. }), "{error}");
    store.adopt_queue(queue.id()).await.unwrap();
    open(harness).await;
}

pub async fn a_store_older_than_its_queue_meets_a_gap(harness: &dyn QueueHarness) {
    let (store, queue) = open(harness).await;
    let ids = accept_all(&queue, vec![traced(&key("a"), "1"); 10]).await;
    let claims = claim_all(&queue).await;
    let claim = &claims[usize::from(ids[0].partition.0)];
    // The queue knows these as applied; this store, restored from a copy, does not.
    queue.complete(claim, ids[4].position).await.unwrap();
    let worker = Worker::new(store.clone(), queue.clone());
    match worker.step(claim).await {
        Ok(applied) => assert_eq!(
            applied, 10,
            "completed jobs that are still there are applied"
        ),
        Err(Error::Gap { after, trimmed, .. }) => {
            assert_eq!(after, Position::START);
            // An operator explicitly accepts the loss.
            let named = Named {
                queue: queue.id(),
                partition: claim.partition,
            };
            let mut lost = named.step(0, 0);
            lost.advance = lost.advance.map(|advance| crate::model::commit::Advance {
                to: trimmed,
                lost: true,
                ..advance
            });
            store.commit(lost).await.unwrap();
            worker.step(claim).await.unwrap();
            assert_eq!(
                store.outcome(&ids[0], Duration::ZERO).await.unwrap(),
                JobState::Unknown
            );
        }
        Err(error) => panic!("{error}"),
    }
    assert_eq!(versions(&store, &ids[9]).await.len(), 1);
}
