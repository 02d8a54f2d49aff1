//! Many writers and workers at once, checked by what must be true of each key afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use kvstore_core::conformance::{QueueBounds, QueueHarness, Worker};
use kvstore_core::limits::CLAIM_PERIOD;
use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::commit::Commit;
use kvstore_core::model::id::JobId;
use kvstore_core::model::job::{JobState, NewJob, Outcome};
use kvstore_core::model::write::{Change, Condition, Write};
use kvstore_core::queue::WorkQueue;
use kvstore_core::store::{Watch, WatchFrom};
use kvstore_core::{Error, JobQueue, Key, Store, Value, Version};
use proptest::prelude::*;

use super::steps::{KEYS, key};

/// What runs concurrently.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    producers: usize,
    jobs_each: usize,
    workers: usize,
    direct_writers: usize,
    /// How often a worker dies, out of 10 batches.
    deaths: u32,
    batch: usize,
}

pub(crate) fn plan() -> impl Strategy<Value = Plan> {
    (
        1..4_usize,
        1..80_usize,
        1..4_usize,
        0..3_usize,
        0..6_u32,
        1..10_usize,
    )
        .prop_map(
            |(producers, jobs_each, workers, direct_writers, deaths, batch)| Plan {
                producers,
                jobs_each,
                workers,
                direct_writers,
                deaths,
                batch,
            },
        )
}

/// A write as it was acknowledged: its key, its version, and for a job its position in the queue.
type Written = (Key, Version, Option<JobId>);

pub(crate) async fn history<H: QueueHarness + 'static>(harness: Arc<H>, plan: Plan) {
    let store = harness.store().await;
    let queue = harness.queue(QueueBounds::default()).await;
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for _ in 0..plan.workers {
        let (harness, store, queue) = (harness.clone(), store.clone(), queue.clone());
        let done = done.clone();
        workers.push(tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                live(&*harness, &store, &queue, plan.deaths, &done).await;
            }
        }));
    }
    let mut writers = Vec::new();
    for producer in 0..plan.producers {
        let (store, queue) = (store.clone(), queue.clone());
        writers.push(tokio::spawn(async move {
            produce(&*store, &*queue, producer, plan.jobs_each, plan.batch).await
        }));
    }
    for _ in 0..plan.direct_writers {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            write_directly(&*store, plan.jobs_each).await
        }));
    }
    let mut written: Vec<Written> = Vec::new();
    for writer in writers {
        written.extend(writer.await.unwrap());
    }
    done.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    judge(&*store, &mut watch, written).await;
}

/// Runs one worker until it dies or all is done.
async fn live<H: QueueHarness>(
    harness: &H,
    store: &Arc<dyn Store>,
    queue: &Arc<dyn WorkQueue>,
    deaths: u32,
    done: &AtomicBool,
) {
    let worker = Worker::new(store.clone(), queue.clone());
    while !done.load(Ordering::Relaxed) {
        let mut idle = true;
        for claim in worker.claim().await.unwrap() {
            let prepared = match worker.prepare(&claim).await {
                Ok(Some(prepared)) => prepared,
                // No job, or another worker was faster and has completed it.
                Ok(None) | Err(Error::Gap { .. }) => continue,
                Err(error) => panic!("{error}"),
            };
            idle = false;
            let dies = rand::random_ratio(deaths, 10);
            if dies && rand::random() {
                // No other worker can have the partition before the claim expires.
                let later = harness.now().await.after(CLAIM_PERIOD);
                return harness.set_clock(later).await;
            }
            let to = prepared.commit.advance.as_ref().unwrap().to;
            match store.commit(prepared.commit).await {
                Ok(_) if dies => {
                    let later = harness.now().await.after(CLAIM_PERIOD);
                    return harness.set_clock(later).await;
                }
                Ok(_) => queue.complete(&claim, to).await.unwrap(),
                Err(Error::Stale { .. } | Error::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        if idle {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Sends jobs on all keys and waits for their outcomes.
async fn produce(
    store: &dyn Store,
    queue: &dyn JobQueue,
    producer: usize,
    count: usize,
    batch: usize,
) -> Vec<Written> {
    let jobs: Vec<NewJob> = (0..count)
        .map(|number| {
            let value = Value::parse(format!("[{producer},{number}]")).unwrap();
            // Every third depends on the entry, so that direct writes interfere.
            let condition = if number % 3 == 0 {
                Condition::Present
            } else {
                Condition::Any
            };
            let operation = Operation::set(key((producer + number) % KEYS.len()), value);
            NewJob {
                keep_outcome: true,
                ..NewJob::new(Command::One(Operation {
                    condition,
                    ..operation
                }))
            }
        })
        .collect();
    let mut ids: Vec<JobId> = Vec::new();
    for part in jobs.chunks(batch) {
        for accepted in queue.enqueue(part.to_vec()).await {
            ids.push(accepted.unwrap().id);
        }
    }
    let mut written = Vec::new();
    for (job, id) in jobs.iter().zip(ids) {
        let state = store.outcome(&id, Duration::from_secs(60)).await.unwrap();
        match state {
            JobState::Finished(Outcome::Succeeded(Some(succeeded))) => {
                let key = job.command.first_key().clone();
                written.push((key, succeeded.writes[0].version, Some(id)));
            }
            JobState::Finished(Outcome::Failed(failed)) => assert_eq!(failed.current, None),
            other => panic!("{id}: {other:?}"),
        }
    }
    written
}

async fn write_directly(store: &dyn Store, count: usize) -> Vec<Written> {
    let mut written = Vec::new();
    for number in 0..count {
        let write = Write {
            key: key(number % KEYS.len()),
            change: Change::Set {
                value: Value::parse("true").unwrap(),
                expires_at: None,
            },
        };
        let commit = Commit {
            writes: vec![write.clone()],
            ..Commit::default()
        };
        let version = store.commit(commit).await.unwrap().first_version;
        written.push((write.key, version, None));
        tokio::task::yield_now().await;
    }
    written
}

/// Checks that each acknowledged write happened once, nothing else did, and the jobs of each key
/// took effect in the order of acceptance.
async fn judge(store: &dyn Store, watch: &mut Watch, mut written: Vec<Written>) {
    written.sort_by_key(|(_, version, _)| *version);
    let mut announced = Vec::new();
    for _ in &written {
        let changed = watch.changes.next().await.unwrap().unwrap();
        announced.push((changed.key, changed.version));
    }
    let expected: Vec<(Key, Version)> = written
        .iter()
        .map(|(key, version, _)| (key.clone(), *version))
        .collect();
    assert_eq!(announced, expected);
    let more = tokio::time::timeout(Duration::from_millis(5), watch.changes.next()).await;
    assert!(more.is_err(), "something else happened: {more:?}");
    for index in 0..KEYS.len() {
        let key = key(index);
        let jobs: Vec<JobId> = written
            .iter()
            .filter(|(of, ..)| *of == key)
            .filter_map(|(.., id)| *id)
            .collect();
        assert!(jobs.is_sorted_by(|a, b| a < b), "{key:?}: {jobs:?}");
        let last = written
            .iter()
            .filter(|(of, ..)| *of == key)
            .map(|(_, version, _)| *version)
            .next_back();
        assert_eq!(
            store.get(&key).await.unwrap().map(|entry| entry.version),
            last
        );
    }
}
