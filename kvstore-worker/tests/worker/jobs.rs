//! Is every job applied exactly once and in order, whatever happens to workers, jobs and the store?

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures_util::StreamExt;
use hyper::Method;
use kvstore_core::error::{Subject, Unit};
use kvstore_core::limits::CLAIM_PERIOD;
use kvstore_core::memory::MemoryStore;
use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::commit::{Commit, Verdict};
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::id::{JobId, Position, QueueId};
use kvstore_core::model::job::{DeadLetter, JobState, NewJob, Outcome};
use kvstore_core::model::write::{Condition, Write};
use kvstore_core::queue::{Found, WorkQueue, WorkerId};
use kvstore_core::store::{ChangeKind, DeadRequest, WatchFrom};
use kvstore_core::worker::{Options, run};
use kvstore_core::{Error, JobQueue, Key, Result, Store, StoreExt, Value};
use kvstore_worker::Metrics;
use kvstore_worker::admin::Health;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use kvstore_testing::faulty::{Fault, Faulty, unavailable, unknown};

use crate::support::{TokioClock, drained, enqueue, faulty, key, queue, set};

/// A worker running alongside the test. Dropping `stop` shuts it down.
struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<()>>,
}

impl Running {
    fn start(store: &Arc<impl Store>, queue: &Arc<impl WorkQueue>, options: Options) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (store, queue) = (Arc::clone(store), Arc::clone(queue));
        let ended = tokio::spawn(run(store, queue, options, async {
            let _ = stopped.await;
        }));
        Self { stop, ended }
    }

    async fn stop(self) -> Result<()> {
        drop(self.stop);
        self.ended.await.unwrap()
    }

    /// Kills the worker as a kill of its process would: nothing is finished and no claim released.
    fn kill(self) {
        self.ended.abort();
    }
}

fn writes_key(commit: &Commit, key: &Key) -> bool {
    commit.writes.iter().any(|write| write.key == *key)
}

async fn dead_letters(store: &dyn Store) -> Vec<DeadLetter> {
    let request = DeadRequest {
        after: None,
        limit: 1000,
    };
    store.dead(&request).await.unwrap().letters
}

async fn state(store: &dyn Store, job: &JobId) -> JobState {
    store.outcome(job, Duration::ZERO).await.unwrap()
}

/// Creates a queue with one partition and the default claim period.
fn single() -> Arc<kvstore_core::memory::MemoryQueue> {
    queue(1, CLAIM_PERIOD)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_job_is_applied_once_and_in_order_while_workers_come_and_go() {
    const KEYS: usize = 20;
    const JOBS_PER_KEY: u64 = 150;
    const CLAIMS_LAST: Duration = Duration::from_millis(40);

    // One commit in ten is late, some so late that the claim has expired and others have done the
    // work; some get a wrong answer.
    let faults = |_: &Commit| match rand::random_range(0..100) {
        0..5 => Some(Fault::Late(Duration::from_millis(rand::random_range(
            0..10,
        )))),
        5..10 => Some(Fault::Late(Duration::from_millis(rand::random_range(
            40..200,
        )))),
        10..15 => Some(Fault::Before(unavailable)),
        15..20 => Some(Fault::Before(unknown)),
        20..25 => Some(Fault::After(unknown)),
        25..27 => Some(Fault::Panic),
        _ => None,
    };
    let store = faulty(faults);
    let queue = queue(8, CLAIMS_LAST);
    let keys: Vec<Key> = (0..KEYS)
        .map(|number| key(&format!("key-{number}")))
        .collect();

    let produced = {
        let (queue, keys) = (Arc::clone(&queue), keys.clone());
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for number in 0..JOBS_PER_KEY {
                for key in &keys {
                    let mut job = set(key, number);
                    job.keep_outcome = number % 3 == 0;
                    ids.push(enqueue(&*queue, job).await);
                }
                sleep(Duration::from_millis(rand::random_range(0..15))).await;
            }
            ids
        })
    };

    // No job is given up here: kills and pauses of workers are no fault of a job.
    let options = || Options {
        attempts_max: u32::MAX,
        ..Options::default()
    };
    let mut workers = Vec::new();
    let mut stopping = Vec::new();
    let mut killed = 0;
    while !produced.is_finished() || queue.depth().await.unwrap().jobs > 0 {
        workers.push(Running::start(&store, &queue, options()));
        sleep(Duration::from_millis(rand::random_range(5..40))).await;
        if workers.len() > 3 {
            let worker = workers.swap_remove(rand::random_range(0..workers.len()));
            if rand::random_bool(0.5) {
                killed += 1;
                worker.kill();
            } else {
                stopping.push(tokio::spawn(worker.stop()));
            }
        }
    }
    for worker in workers {
        worker.stop().await.unwrap();
    }
    for worker in stopping {
        worker.await.unwrap().unwrap();
    }

    assert!(killed > 5, "{killed} workers were killed");
    for key in &keys {
        let expected: Vec<u64> = (0..JOBS_PER_KEY).collect();
        assert_eq!(store.history(key), expected, "{key}");
    }
    for id in produced.await.unwrap() {
        let state = state(&*store, &id).await;
        assert!(
            matches!(state, JobState::Finished(Outcome::Succeeded(_))),
            "{id}: {state:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn job_that_is_rejected_for_good_is_a_dead_letter_at_once_and_the_others_continue() {
    let (poison, innocent) = (key("poison"), key("innocent"));
    let store = faulty({
        let poison = poison.clone();
        move |commit| {
            writes_key(commit, &poison).then_some(Fault::Before(|| Error::TooLarge {
                subject: Subject::Value,
                limit: 1,
                unit: Unit::Bytes,
            }))
        }
    });
    let queue = single();
    let mut ids = Vec::new();
    for number in 0..10 {
        ids.push(enqueue(&*queue, set(&innocent, number)).await);
        if number == 4 {
            ids.push(enqueue(&*queue, set(&poison, 4)).await);
        }
    }
    let worker = Running::start(&store, &queue, Options::default());
    drained(&*queue).await;
    worker.stop().await.unwrap();

    let expected: Vec<u64> = (0..10).collect();
    assert_eq!(store.history(&innocent), expected);
    let letters = dead_letters(&*store).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0].id, ids[5]);
    assert_eq!(letters[0].dead.command, set(&poison, 4).command);
    assert_eq!(letters[0].dead.attempts, 1);
    assert!(letters[0].dead.reason.contains("too large"), "{letters:?}");
}

#[tokio::test(start_paused = true)]
async fn job_that_is_rejected_repeatedly_is_a_dead_letter_after_its_attempts() {
    for fault in [Fault::Before(|| Error::KeyReused), Fault::Panic] {
        let (poison, innocent) = (key("poison"), key("innocent"));
        let tries = Arc::new(AtomicU64::new(0));
        let store = faulty({
            let (poison, tries, fault) = (poison.clone(), Arc::clone(&tries), fault.clone());
            move |commit| {
                writes_key(commit, &poison).then(|| {
                    tries.fetch_add(1, SeqCst);
                    fault.clone()
                })
            }
        });
        let queue = single();
        let id = enqueue(&*queue, set(&poison, 0)).await;
        enqueue(&*queue, set(&innocent, 1)).await;
        let options = Options {
            attempts_max: 5,
            ..Options::default()
        };
        let worker = Running::start(&store, &queue, options);
        drained(&*queue).await;
        worker.stop().await.unwrap();

        assert_eq!(tries.load(SeqCst), 5, "{fault:?}");
        let JobState::Finished(Outcome::Dead(dead)) = state(&*store, &id).await else {
            panic!("{fault:?}: it is no dead letter");
        };
        assert_eq!(dead.attempts, 5, "{fault:?}");
        let reason = match fault {
            Fault::Panic => "the worker panicked: the store under test panics",
            _ => "idempotency key",
        };
        assert!(dead.reason.contains(reason), "{}", dead.reason);
        assert_eq!(store.history(&innocent), [1], "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn partition_waits_while_there_is_no_space_for_a_dead_letter() {
    let (poison, next) = (key("poison"), key("next"));
    let full = Arc::new(AtomicBool::new(true));
    let store = faulty({
        let (poison, full) = (poison.clone(), Arc::clone(&full));
        move |commit| {
            let buries = |commit: &Commit| {
                let outcomes = commit.advance.iter().flat_map(|advance| &advance.outcomes);
                outcomes
                    .into_iter()
                    .any(|(_, verdict)| matches!(verdict, Verdict::Dead(_)))
            };
            if writes_key(commit, &poison) {
                return Some(Fault::Before(|| Error::Invalid {
                    subject: Subject::Value,
                    reason: "the store does not want it".to_owned(),
                }));
            }
            (buries(commit) && full.load(SeqCst)).then_some(Fault::Before(|| Error::Full {
                what: "the dead letters",
                limit: 1,
                room_in: None,
            }))
        }
    });
    let queue = single();
    let id = enqueue(&*queue, set(&poison, 1)).await;
    let waiting = enqueue(&*queue, set(&next, 1)).await;
    let worker = Running::start(&store, &queue, Options::default());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(state(&*store, &waiting).await, JobState::Queued);
    // A worker that takes over in this state does not make it worse.
    worker.stop().await.unwrap();
    let worker = Running::start(&store, &queue, Options::default());
    sleep(Duration::from_secs(60)).await;
    full.store(false, SeqCst);
    drained(&*queue).await;
    worker.stop().await.unwrap();

    assert_eq!(store.history(&next), [1]);
    let letters = dead_letters(&*store).await;
    assert_eq!(letters.len(), 1);
    // Once in a batch and once alone by the first worker, once by the second; waiting to become a
    // dead letter is no attempt.
    assert_eq!((letters[0].id, letters[0].dead.attempts), (id, 3));
}

#[tokio::test(start_paused = true)]
async fn job_that_recovers_is_applied_and_no_dead_letter() {
    let key = key("k");
    let tries = AtomicU64::new(0);
    let store = faulty(move |_| {
        (tries.fetch_add(1, SeqCst) < 3).then_some(Fault::Before(|| Error::KeyReused))
    });
    let queue = single();
    enqueue(&*queue, set(&key, 1)).await;
    let worker = Running::start(&store, &queue, Options::default());
    drained(&*queue).await;
    worker.stop().await.unwrap();
    assert_eq!(store.history(&key), [1]);
    assert_eq!(dead_letters(&*store).await, []);
}

#[tokio::test(start_paused = true)]
async fn attempts_survive_the_worker_that_they_end() {
    const ATTEMPTS: u32 = 3;
    let (poison, innocent) = (key("poison"), key("innocent"));
    let hung = Arc::new(AtomicU64::new(0));
    let store = faulty({
        let (poison, hung) = (poison.clone(), Arc::clone(&hung));
        move |commit| {
            writes_key(commit, &poison).then(|| {
                hung.fetch_add(1, SeqCst);
                Fault::Hang
            })
        }
    });
    let queue = single();
    let options = || Options {
        attempts_max: ATTEMPTS,
        ..Options::default()
    };
    let id = enqueue(&*queue, set(&poison, 1)).await;
    enqueue(&*queue, set(&innocent, 2)).await;
    for attempt in 1..=u64::from(ATTEMPTS) {
        let worker = Running::start(&store, &queue, options());
        while hung.load(SeqCst) < attempt {
            sleep(Duration::from_millis(10)).await;
        }
        worker.kill();
        sleep(CLAIM_PERIOD).await;
    }
    let worker = Running::start(&store, &queue, options());
    drained(&*queue).await;
    worker.stop().await.unwrap();

    assert_eq!(hung.load(SeqCst), u64::from(ATTEMPTS));
    let JobState::Finished(Outcome::Dead(dead)) = state(&*store, &id).await else {
        panic!("it is no dead letter");
    };
    assert_eq!(dead.attempts, ATTEMPTS);
    assert_eq!(store.history(&innocent), [2]);
}

#[tokio::test(start_paused = true)]
async fn store_that_is_down_consumes_no_attempts_and_nothing_is_doubled() {
    const JOBS: u64 = 20;
    let down = Arc::new(AtomicBool::new(true));
    let tries = Arc::new(AtomicUsize::new(0));
    let store = faulty({
        let (down, tries) = (Arc::clone(&down), Arc::clone(&tries));
        move |_| {
            let faults = [
                Fault::Before(unavailable),
                Fault::Before(unknown),
                Fault::Before(|| Error::StorageFull {
                    detail: "the disk".to_owned(),
                }),
                Fault::Before(|| Error::Poisoned {
                    reason: "a sync failed".to_owned(),
                }),
                Fault::After(unknown),
            ];
            let number = tries.fetch_add(1, SeqCst);
            down.load(SeqCst)
                .then(|| faults[number % faults.len()].clone())
        }
    });
    let queue = single();
    let key = key("k");
    let options = || Options {
        attempts_max: 2,
        ..Options::default()
    };
    let mut last = enqueue(&*queue, set(&key, 0)).await;
    let worker = Running::start(&store, &queue, options());
    for number in 1..JOBS {
        last = enqueue(&*queue, set(&key, number)).await;
        sleep(Duration::from_secs(7)).await;
    }
    assert!(tries.load(SeqCst) > 30, "it was tried {tries:?} times");
    worker.stop().await.unwrap();
    // What the next worker finds: at most the head waits, and no attempt of it counts.
    if let Found::Held { attempts, .. } = queue.find(&last).await.unwrap() {
        assert_eq!(attempts, 0);
    }
    down.store(false, SeqCst);
    let worker = Running::start(&store, &queue, options());
    drained(&*queue).await;
    worker.stop().await.unwrap();

    let expected: Vec<u64> = (0..JOBS).collect();
    assert_eq!(store.history(&key), expected);
    assert_eq!(dead_letters(&*store).await, []);
}

#[tokio::test(start_paused = true)]
async fn direct_commit_in_between_causes_another_evaluation() {
    const TIMES: u64 = 30;
    let key = key("k");
    let direct = MemoryStore::new(Arc::new(TokioClock::new()));
    // The hook runs between the worker's read and its commit: the moment for a write by another
    // client.
    let store = Arc::new(Faulty::judging(direct.clone(), {
        let key = key.clone();
        let times = AtomicU64::new(0);
        move |_| {
            let number = times.fetch_add(1, SeqCst);
            (number < TIMES).then(|| {
                let expires_at = Some(Timestamp(2_000_000_000_000 + number));
                Fault::Preceded(Commit {
                    writes: vec![Write {
                        key: key.clone(),
                        change: kvstore_core::model::write::Change::Set {
                            value: Value::from_serialize(&number).unwrap(),
                            expires_at,
                        },
                    }],
                    ..Commit::default()
                })
            })
        }
    }));
    let queue = single();
    let keep = Operation::set(key.clone(), Value::from_serialize(&1000).unwrap()).keep_ttl();
    enqueue(&*queue, NewJob::new(keep.into())).await;
    let options = Options {
        attempts_max: 2,
        ..Options::default()
    };
    let worker = Running::start(&store, &queue, options);
    drained(&*queue).await;
    worker.stop().await.unwrap();

    let entry = direct.read(&key).unwrap();
    assert_eq!(entry.value.to::<u64>().unwrap(), 1000);
    assert_eq!(
        entry.expires_at,
        Some(Timestamp(2_000_000_000_000 + TIMES - 1)),
        "the deadline that was kept is the last one written"
    );
    assert_eq!(dead_letters(&*store).await, []);
}

#[tokio::test(start_paused = true)]
async fn jobs_that_depend_on_each_other_see_what_the_earlier_ones_wrote() {
    let store = Arc::new(MemoryStore::new(Arc::new(TokioClock::new())));
    let queue = single();
    let key = key("k");
    let create = |number: u64| {
        let mut job = set(&key, number);
        let Command::One(operation) = &mut job.command else {
            unreachable!("set makes one operation");
        };
        operation.condition = Condition::Absent;
        job
    };
    let delete = NewJob::new(Command::One(Operation::delete(key.clone())));
    let jobs = vec![create(1), create(2), delete, create(3), create(4)];
    let mut ids = Vec::new();
    for answer in queue.enqueue(jobs).await {
        ids.push(answer.unwrap().id);
    }
    let worker = Running::start(&store, &queue, Options::default());
    drained(&*queue).await;
    worker.stop().await.unwrap();

    let mut failed = Vec::new();
    for id in &ids {
        let state = state(&*store, id).await;
        failed.push(matches!(state, JobState::Finished(Outcome::Failed(_))));
    }
    assert_eq!(failed, [false, true, false, false, true]);
    assert_eq!(store.get_as::<u64>("k").await.unwrap(), Some(3));
}

#[tokio::test(start_paused = true)]
async fn gap_stops_the_partition_until_the_loss_is_accepted() {
    let queue = single();
    let key = key("k");
    let newer = Arc::new(MemoryStore::new(Arc::new(TokioClock::new())));
    let lost = enqueue(&*queue, set(&key, 1)).await;
    let worker = Running::start(&newer, &queue, Options::default());
    drained(&*queue).await;
    worker.stop().await.unwrap();

    // The store is restored from a copy made before the first job.
    let older = Arc::new(MemoryStore::new(Arc::new(TokioClock::new())));
    let waiting = enqueue(&*queue, set(&key, 2)).await;
    let health = Health::new(older.clone(), queue.clone());
    let metrics = health.register(Metrics::new);
    health.follow(metrics.clone());
    let figure = async |name: &str| {
        let answer = health.respond(&Method::GET, "/metrics").await.unwrap();
        let text = String::from_utf8(answer.into_body().to_vec()).unwrap();
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let stopped = async || figure("kvstore_worker_partitions{state=\"stopped\"}").await;
    let readiness = async || {
        let answer = health.respond(&Method::GET, "/readyz").await.unwrap();
        answer.status().as_u16()
    };
    assert_eq!((stopped().await, readiness().await), (0, 200));
    let options = Options {
        on_event: Some(metrics.listener()),
        ..Options::default()
    };
    let worker = Running::start(&older, &queue, options);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(state(&*older, &waiting).await, JobState::Queued);
    assert_eq!((stopped().await, readiness().await), (1, 503));
    assert!(
        !worker.ended.is_finished(),
        "other partitions could be fine"
    );
    worker.stop().await.unwrap();
    assert_eq!(stopped().await, 0);

    let accept = Options {
        accept_gap: true,
        on_event: Some(metrics.listener()),
        ..Options::default()
    };
    let worker = Running::start(&older, &queue, accept);
    drained(&*queue).await;
    assert_eq!((stopped().await, readiness().await), (0, 200));
    worker.stop().await.unwrap();
    assert_eq!(older.get_as::<u64>("k").await.unwrap(), Some(2));
    assert_eq!(state(&*older, &lost).await, JobState::Unknown);
}

#[tokio::test(start_paused = true)]
async fn partition_that_waits_for_its_store_is_counted_until_it_works_again() {
    let key = key("k");
    let down = Arc::new(AtomicBool::new(true));
    let store = faulty({
        let down = Arc::clone(&down);
        move |_| down.load(SeqCst).then_some(Fault::Before(unavailable))
    });
    let queue = single();
    let health = Health::new(store.clone(), queue.clone());
    let metrics = health.register(Metrics::new);
    health.follow(metrics.clone());
    let text = async || {
        let answer = health.respond(&Method::GET, "/metrics").await.unwrap();
        String::from_utf8(answer.into_body().to_vec()).unwrap()
    };
    let options = Options {
        on_event: Some(metrics.listener()),
        ..Options::default()
    };
    enqueue(&*queue, set(&key, 1)).await;
    let worker = Running::start(&store, &queue, options);
    sleep(Duration::from_secs(60)).await;
    let waits = text().await;
    assert!(
        waits.contains("kvstore_worker_partitions{state=\"waiting\"} 1\n"),
        "{waits}"
    );
    assert!(
        !waits.contains("kvstore_worker_retries_total 0\n"),
        "{waits}"
    );
    down.store(false, SeqCst);
    drained(&*queue).await;
    let works = text().await;
    assert!(
        works.contains("kvstore_worker_partitions{state=\"waiting\"} 0\n"),
        "{works}"
    );
    assert!(
        works.contains("kvstore_worker_partitions{state=\"working\"} 1\n"),
        "{works}"
    );
    worker.stop().await.unwrap();
    let ended = text().await;
    assert!(
        ended.contains("kvstore_worker_partitions{state=\"working\"} 0\n"),
        "{ended}"
    );
}

#[tokio::test(start_paused = true)]
async fn shutdown_finishes_the_batch_and_the_next_worker_takes_over_at_once() {
    const TAKES: Duration = Duration::from_secs(3);
    let key = key("k");
    let store = faulty(|_| Some(Fault::Late(TAKES)));
    let queue = queue(8, CLAIM_PERIOD);
    enqueue(&*queue, set(&key, 1)).await;
    let start = Instant::now();
    let worker = Running::start(&store, &queue, Options::default());
    sleep(TAKES / 2).await;
    worker.stop().await.unwrap();

    // The commit of the gap before the queue's first position, and the batch.
    assert_eq!(
        start.elapsed(),
        2 * TAKES,
        "it waits for the batch and for nothing else"
    );
    assert_eq!(store.history(&key), [1]);
    assert_eq!(
        queue.depth().await.unwrap().jobs,
        0,
        "the queue knows it, too"
    );
    let claims = queue.claim(&WorkerId::new("next")).await.unwrap();
    assert_eq!(claims.len(), 8);
}

#[tokio::test(start_paused = true)]
async fn shutdown_applies_waiting_jobs_if_no_other_process_will() {
    const TAKES: Duration = Duration::from_secs(1);
    let key = key("k");
    let store = faulty(|_| Some(Fault::Late(TAKES)));
    let queue = single();
    enqueue(&*queue, set(&key, 1)).await;
    let start = Instant::now();
    let worker = Running::start(&store, &queue, Options::default());
    sleep(TAKES / 2).await;
    // The first one is being applied, so this one waits.
    enqueue(&*queue, set(&key, 2)).await;
    worker.stop().await.unwrap();
    assert_eq!(store.history(&key), [1, 2]);
    // The commit of the gap before the queue's first position, and two batches.
    assert_eq!(start.elapsed(), 3 * TAKES);
    assert_eq!(queue.depth().await.unwrap().jobs, 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_although_jobs_keep_coming() {
    const TAKES: Duration = Duration::from_secs(1);
    let store = faulty(|_| Some(Fault::Late(TAKES)));
    let queue = single();
    let feeder = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move {
            loop {
                enqueue(&*queue, set(&key("k"), 1)).await;
                sleep(TAKES / 10).await;
            }
        }
    });
    let worker = Running::start(&store, &queue, Options::default());
    sleep(TAKES / 2).await;
    let start = Instant::now();
    worker.stop().await.unwrap();
    feeder.abort();
    let took = start.elapsed();
    assert!((9..=12).contains(&took.as_secs()), "{took:?}");
    assert!(queue.depth().await.unwrap().jobs > 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_a_store_that_is_down() {
    let store = faulty(|_| Some(Fault::Before(unavailable)));
    let queue = single();
    enqueue(&*queue, set(&key("k"), 1)).await;
    let worker = Running::start(&store, &queue, Options::default());
    sleep(Duration::from_secs(60)).await;
    let start = Instant::now();
    worker.stop().await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(queue.claim(&WorkerId::new("next")).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn worker_shares_the_partitions_with_those_that_come_later() {
    let store = Arc::new(MemoryStore::new(Arc::new(TokioClock::new())));
    let queue = queue(8, CLAIM_PERIOD);
    let worker = Running::start(&store, &queue, Options::default());
    sleep(CLAIM_PERIOD / 2).await;
    let second = WorkerId::new("second");
    assert_eq!(queue.claim(&second).await.unwrap(), []);
    sleep(CLAIM_PERIOD / 2).await;
    assert_eq!(queue.claim(&second).await.unwrap().len(), 4);

    // The first worker still works on the partitions it has kept, and has stopped on those it gave
    // up.
    let held = queue.claim(&second).await.unwrap();
    let keys = (0..100).map(|number| key(&format!("key-{number}")));
    let (mine, theirs): (Vec<Key>, Vec<Key>) = keys.partition(|key| {
        let partition = queue.partitions().partition_of(key);
        held.iter().any(|claim| claim.partition == partition)
    });
    let mut waiting = Vec::new();
    for key in &mine {
        waiting.push(enqueue(&*queue, set(key, 1)).await);
    }
    for key in &theirs {
        enqueue(&*queue, set(key, 1)).await;
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(queue.depth().await.unwrap().jobs, waiting.len() as u64);
    for id in waiting {
        assert_eq!(state(&*store, &id).await, JobState::Queued);
    }

    // The second one is never heard of again, so its claims expire.
    sleep(CLAIM_PERIOD * 2).await;
    assert_eq!(queue.depth().await.unwrap().jobs, 0);
    worker.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn worker_ends_when_the_store_switches_to_another_queue() {
    let store = Arc::new(MemoryStore::new(Arc::new(TokioClock::new())));
    let queue = single();
    enqueue(&*queue, set(&key("k"), 1)).await;
    let worker = Running::start(&store, &queue, Options::default());
    drained(&*queue).await;
    store.adopt_queue(QueueId::random()).await.unwrap();
    let left = enqueue(&*queue, set(&key("k"), 2)).await;
    let ended = timeout(Duration::from_secs(1), worker.ended).await;
    assert!(
        matches!(ended, Ok(Ok(Err(Error::WrongQueue { .. })))),
        "{ended:?}"
    );
    // The job is not blamed, and the next worker finds the partition free.
    assert_eq!(dead_letters(&*store).await, []);
    assert!(matches!(
        queue.find(&left).await.unwrap(),
        Found::Held { .. }
    ));
    assert_eq!(queue.claim(&WorkerId::new("next")).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_queue_is_adopted_only_on_request() {
    let store = Arc::new(MemoryStore::new(Arc::new(TokioClock::new())));
    store.adopt_queue(QueueId::random()).await.unwrap();
    let queue = single();
    enqueue(&*queue, set(&key("k"), 1)).await;
    let refused = run(
        store.clone(),
        queue.clone(),
        Options::default(),
        std::future::pending(),
    );
    assert!(matches!(refused.await, Err(Error::WrongQueue { .. })));

    let adopt = Options {
        adopt_queue: true,
        ..Options::default()
    };
    let worker = Running::start(&store, &queue, adopt);
    drained(&*queue).await;
    worker.stop().await.unwrap();
    assert_eq!(store.active_queue().await.unwrap(), Some(queue.id()));
    assert_eq!(store.get_as::<u64>("k").await.unwrap(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn job_applied_by_a_worker_that_could_not_report_it_is_completed_by_the_next() {
    let store = faulty(|_| None);
    let queue = single();
    let id = enqueue(&*queue, set(&key("k"), 1)).await;
    let claims = queue.claim(&WorkerId::new("first")).await.unwrap();
    let jobs = queue
        .read(&claims[0], Position::START, 10, Duration::ZERO)
        .await
        .unwrap();
    let evaluation =
        kvstore_core::model::evaluate::evaluate(Position::START, &jobs, &HashMap::new());
    store.commit(evaluation.commit).await.unwrap();
    assert_eq!(queue.depth().await.unwrap().jobs, 1);

    sleep(CLAIM_PERIOD).await;
    let worker = Running::start(&store, &queue, Options::default());
    drained(&*queue).await;
    worker.stop().await.unwrap();
    assert_eq!(store.history(&key("k")), [1]);
    assert_eq!(queue.find(&id).await.unwrap(), Found::Dropped);
}

#[tokio::test(start_paused = true)]
async fn expired_entries_are_removed_and_announced() {
    let store = Arc::new(MemoryStore::new(Arc::new(TokioClock::new())));
    let queue = queue(8, CLAIM_PERIOD);
    let key = key("k");
    let set = Operation::set(key, Value::from_serialize(&1).unwrap());
    let job = NewJob::new(set.expires_after(Duration::from_secs(5)).into());
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let worker = Running::start(&store, &queue, Options::default());
    enqueue(&*queue, job).await;
    let start = Instant::now();
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        kinds.push(watch.changes.next().await.unwrap().unwrap().kind);
    }
    assert_eq!(kinds, [ChangeKind::Set, ChangeKind::Expire]);
    assert!(
        start.elapsed() < Duration::from_secs(7),
        "announced after {:?}",
        start.elapsed()
    );
    worker.stop().await.unwrap();
}
