//! What does an idle store on Redis give back, how much does Redis do for a read, and what happens
//! to reads and writes while a slot of a cluster moves?

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kvstore_core::limits::{DEAD_LETTERS_BYTES_MAX, OUTCOMES_BYTES_MAX};
use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::commit::{Advance, Commit, Verdict};
use kvstore_core::model::evaluate::evaluate;
use kvstore_core::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use kvstore_core::model::job::{Computed, Dead, Failure, Idempotency, JobState, NewJob, Summary};
use kvstore_core::model::write::{Change, Write};
use kvstore_core::queue::{Found, WorkQueue, WorkerId};
use kvstore_core::redis::{Options, Redis};
use kvstore_core::store::{ListRequest, WatchFrom, WatchRequest};
use kvstore_core::{Error, JobQueue, Key, Store, StoreExt, Value, worker};
use kvstore_testing::cluster::Cluster;
use kvstore_testing::redis::RedisServer;

const PATIENCE: Duration = Duration::from_secs(60);

/// Opens a store of one partition whose clock `skew` moves.
async fn open(server: &RedisServer, skew: &Arc<AtomicI64>) -> Redis {
    let options = Options {
        partitions: Some(PartitionCount::ONE),
        skew_ms: Arc::clone(skew),
        ..Options::default()
    };
    Redis::open(&server.url(), options).await.unwrap()
}

/// Returns a job whose outcome is kept, with an idempotency key.
fn keyed(number: usize) -> NewJob {
    let key = Key::new("key").unwrap();
    let value = Value::parse(number.to_string()).unwrap();
    NewJob {
        idempotency: Some(Idempotency {
            key: format!("request {number}"),
            window: Duration::from_secs(60),
            minimum: Duration::from_secs(60),
        }),
        ..NewJob::new(Command::One(Operation::set(key, value)))
    }
}

async fn enqueue(redis: &Redis, jobs: Vec<NewJob>) -> Vec<JobId> {
    let answers = redis.queue().enqueue(jobs).await;
    answers
        .into_iter()
        .map(|answer| answer.unwrap().id)
        .collect()
}

/// A worker that runs until it is stopped.
struct Working {
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<kvstore_core::Result<()>>,
}

impl Working {
    fn start(redis: &Redis) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let options = worker::Options::default();
        let until = async move { stopped.await.unwrap_or(()) };
        let run = worker::run(redis.store(), redis.queue(), options, until);
        Self {
            stop,
            task: tokio::spawn(run),
        }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

/// Returns the one key of a partition that ends with `name`.
fn key_of(server: &RedisServer, name: &str) -> String {
    let found = server.ask(&["keys", &format!("kv:{{*:{name}")]);
    found.trim().to_owned()
}

fn number(server: &RedisServer, command: &[&str]) -> usize {
    server.ask(command).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_idle_store_remembers_of_jobs_goes_without_another_job() {
    const JOBS: usize = 1500;
    let server = RedisServer::start();
    let skew = Arc::default();
    let redis = open(&server, &skew).await;
    let worker = Working::start(&redis);
    let mut jobs = Vec::new();
    for first in (0..JOBS).step_by(500) {
        let some = (first..first + 500).map(keyed).collect();
        jobs.extend(enqueue(&redis, some).await);
    }
    let last = jobs[JOBS - 1];
    let state = redis.store().outcome(&last, PATIENCE).await.unwrap();
    assert!(
        matches!(&state, JobState::Finished(outcome) if format!("{outcome:?}").contains("version")),
        "{state:?}"
    );
    let outcomes = key_of(&server, &format!("outcomes:{}", last.queue));
    let (requests, deadlines) = (
        key_of(&server, "requests"),
        key_of(&server, "request-deadlines"),
    );
    let kept = || {
        [
            number(&server, &["xlen", &outcomes]),
            number(&server, &["hlen", &requests]),
            number(&server, &["zcard", &deadlines]),
        ]
    };
    assert_eq!(kept(), [JOBS; 3]);

    skew.store(2 * 3_600_000, Ordering::SeqCst);
    let begun = Instant::now();
    while kept() != [0; 3] {
        assert!(begun.elapsed() < PATIENCE, "{:?} are kept", kept());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let state = redis.store().outcome(&last, Duration::ZERO).await.unwrap();
    assert_eq!(state, JobState::Forgotten);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_a_queue_goes_when_another_is_adopted() {
    let server = RedisServer::start();
    let redis = open(&server, &Arc::default()).await;
    let (store, own) = (redis.store(), redis.queue().id());
    let worker = Working::start(&redis);
    let job = enqueue(&redis, vec![keyed(0)]).await[0];
    store.outcome(&job, PATIENCE).await.unwrap();
    worker.stop().await;
    let outcomes = key_of(&server, &format!("outcomes:{own}"));
    assert_eq!(number(&server, &["exists", &outcomes]), 1);

    // A queue in between whose partitions never learn of it.
    for queue in [QueueId::random(), QueueId::random()] {
        store.adopt_queue(queue).await.unwrap();
    }
    assert_eq!(number(&server, &["exists", &outcomes]), 0);
    let ask = async || store.outcome(&job, Duration::ZERO).await.unwrap();
    assert_eq!(ask().await, JobState::Unknown);
    store.adopt_queue(own).await.unwrap();
    assert_eq!(ask().await, JobState::Forgotten);
    let applied = store.applied(own, job.partition).await.unwrap();
    assert_eq!(applied, job.position, "nothing is applied twice");
}

/// Returns the commit that ends job `number` of a queue with `verdict`.
fn ends(queue: QueueId, number: u64, verdict: Verdict) -> Commit {
    let position = |minor| Position { major: 0, minor };
    Commit {
        advance: Some(Advance {
            queue,
            partition: Partition(0),
            from: position(number - 1),
            to: position(number),
            outcomes: vec![(position(number), verdict)],
            lost: false,
        }),
        ..Commit::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_jobs_is_bounded_in_bytes() {
    let server = RedisServer::start();
    let redis = open(&server, &Arc::default()).await;
    let (store, queue) = (redis.store(), QueueId::random());
    let job = |minor| JobId {
        queue,
        partition: Partition(0),
        position: Position { major: 0, minor },
    };
    let key = Key::new("a").unwrap();
    let step = async |number, verdict| store.commit(ends(queue, number, verdict)).await;
    let text = "x".repeat(1 << 20);
    let failed = || Verdict::Failed {
        summary: Summary {
            name: text.clone().into(),
            key: key.clone(),
            common: None,
        },
        operation: 0,
        reason: Failure::Condition,
        current: None,
    };
    let outcomes = (OUTCOMES_BYTES_MAX >> 20) as u64 + 5;
    for number in 1..=outcomes {
        step(number, failed()).await.unwrap();
    }
    // Each is a little larger than its text.
    let kept = number(
        &server,
        &["xlen", &key_of(&server, &format!("outcomes:{queue}"))],
    );
    assert_eq!(kept, (OUTCOMES_BYTES_MAX >> 20) - 1);
    let state = async |number| store.outcome(&job(number), Duration::ZERO).await.unwrap();
    assert_eq!(state(6).await, JobState::Forgotten);
    assert!(matches!(state(7).await, JobState::Finished(_)));

    let dead = || {
        let value = Value::parse(format!("\"{text}\"")).unwrap();
        Verdict::Dead(Dead {
            reason: String::new(),
            attempts: 1,
            command: Command::One(Operation::set(key.clone(), value)),
        })
    };
    let letters = (DEAD_LETTERS_BYTES_MAX >> 20) as u64;
    for number in outcomes + 1..=outcomes + letters {
        step(number, dead()).await.unwrap();
    }
    let next = outcomes + letters + 1;
    let refused = step(next, dead()).await;
    assert!(
        matches!(refused, Err(Error::Full { limit, .. }) if limit == DEAD_LETTERS_BYTES_MAX as u64),
        "{refused:?}"
    );
    assert!(store.forget(&job(outcomes + 1)).await.unwrap());
    assert!(!store.forget(&job(outcomes + 1)).await.unwrap());
    step(next, dead()).await.unwrap();
    for number in outcomes + 2..=next {
        store.forget(&job(number)).await.unwrap();
    }
    let kept = server.ask(&["hget", &key_of(&server, "state"), "letters"]);
    assert_eq!(kept.trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_waited_for_costs_two_scripts() {
    const WRITES: usize = 100;
    let server = RedisServer::start();
    let redis = open(&server, &Arc::default()).await;
    let worker = Working::start(&redis);
    let write = async || {
        let key = Key::new("a").unwrap();
        let value = Value::parse("1").unwrap();
        let mut job = NewJob::new(Command::One(Operation::set(key, value)));
        job.keep_outcome = true;
        let job = enqueue(&redis, vec![job]).await[0];
        let state = redis.store().outcome(&job, PATIENCE).await.unwrap();
        assert!(matches!(state, JobState::Finished(_)), "{state:?}");
    };
    write().await;
    let (before, begun) = (scripts_run(&server), Instant::now());
    for _ in 0..WRITES {
        write().await;
    }
    // One accepts it and one commits it: messages carry the job and its outcome. In addition,
    // waiting polls four times a second, and the worker renews its claim and expires entries; and
    // now and then a message comes too late or too early to be waited for.
    let besides = 8 + begun.elapsed().as_millis() as usize / 125;
    let scripts = scripts_run(&server) - before;
    assert!(
        scripts <= 5 * WRITES / 2 + besides,
        "{scripts} and {besides}"
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_stay_small_however_many_jobs_they_announce() {
    let server = RedisServer::start();
    let redis = open(&server, &Arc::default()).await;
    let worker = Working::start(&redis);
    let applied = async |numbers: std::ops::Range<usize>| {
        let jobs = enqueue(&redis, numbers.map(keyed).collect()).await;
        let last = jobs.last().unwrap();
        let state = redis.store().outcome(last, PATIENCE).await.unwrap();
        assert!(matches!(state, JobState::Finished(_)), "{state:?}");
    };
    // The worker is there.
    applied(0..1).await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut messages = client.get_async_pubsub().await.unwrap();
    messages.psubscribe("*").await.unwrap();

    applied(1..1001).await;
    worker.stop().await;
    // The end of the worker is the last message.
    let mut messages = messages.on_message();
    let mut sizes = Vec::new();
    while let Some(message) = messages.next().await {
        let text: String = message.get_payload().unwrap();
        if text == "claims" {
            break;
        }
        sizes.push(text.len());
    }
    let largest = sizes.iter().max().unwrap();
    // A commit's carries outcomes, as many as there is room for.
    assert!((1024..2200).contains(largest), "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_costs_the_same_after_hours_of_waited_writes() {
    // As many as make an hour, and again as many, with each of which one outcome gets too old.
    const HOUR: u64 = 300;
    const MEASURED: u64 = 50;
    let server = RedisServer::start();
    let skew = Arc::default();
    let redis = open(&server, &skew).await;
    let (store, queue) = (redis.store(), QueueId::random());
    let key = Key::new("a").unwrap();
    let commit = async |number| {
        let succeeded = Verdict::Succeeded {
            summary: Summary {
                name: "set".into(),
                key: key.clone(),
                common: None,
            },
            first: 0,
            computed: vec![Computed::default()],
        };
        let set = Write {
            key: key.clone(),
            change: Change::Set {
                value: Value::parse("1").unwrap(),
                expires_at: None,
            },
        };
        let commit = Commit {
            writes: vec![set],
            ..ends(queue, number, succeeded)
        };
        store.commit(commit).await.unwrap();
        let step = 3_600_000 / HOUR as i64;
        skew.fetch_add(step, Ordering::SeqCst);
    };
    let kept = || {
        let outcomes = key_of(&server, &format!("outcomes:{queue}"));
        number(&server, &["xlen", &outcomes]) as u64
    };
    let cost = async |first| {
        let (scripts, bytes) = (scripts_run(&server), bytes_received(&server));
        for number in first..first + MEASURED {
            commit(number).await;
        }
        (
            scripts_run(&server) - scripts,
            bytes_received(&server) - bytes,
        )
    };
    commit(1).await;
    let (scripts, bytes) = cost(2).await;
    assert_eq!(kept(), MEASURED + 1, "none is too old yet");
    for number in MEASURED + 2..=2 * HOUR {
        commit(number).await;
    }
    let (scripts_later, bytes_later) = cost(2 * HOUR + 1).await;
    assert!(kept().abs_diff(HOUR) <= 1, "{} are kept", kept());
    assert_eq!(scripts_later, scripts);
    assert!(
        10 * bytes_later <= 11 * bytes,
        "{bytes} bytes, later {bytes_later}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_another_worker_may_have_ended_in_are_tried_one_by_one() {
    for is_given_up in [true, false] {
        let server = RedisServer::start();
        let skew = Arc::default();
        let redis = open(&server, &skew).await;
        let jobs = enqueue(&redis, (0..3).map(keyed).collect()).await;
        let before = open(&server, &skew).await.queue();
        let claims = before.claim(&WorkerId::new("before")).await.unwrap();
        for claim in claims.into_iter().filter(|_| is_given_up) {
            before.release(claim).await.unwrap();
        }
        skew.fetch_add(60_000, Ordering::SeqCst);
        let worker = Working::start(&redis);
        let state = redis.store().outcome(&jobs[2], PATIENCE).await.unwrap();
        assert!(matches!(state, JobState::Finished(_)), "{state:?}");
        worker.stop().await;
        let commits = number(&server, &["xlen", &key_of(&server, "changes")]);
        assert_eq!(commits, if is_given_up { 1 } else { 3 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_lost_hold_up_nothing_for_good() {
    let server = RedisServer::start();
    let skew = Arc::default();
    let (one, other) = (open(&server, &skew).await, open(&server, &skew).await);
    let worker = Working::start(&other);
    let write = async |number: usize| {
        let job = enqueue(&one, vec![keyed(number)]).await[0];
        let state = one.store().outcome(&job, PATIENCE).await.unwrap();
        assert!(matches!(state, JobState::Finished(_)), "{state:?}");
    };
    let published = || {
        let stats = server.ask(&["info", "commandstats"]);
        let calls = stats.split("cmdstat_publish:calls=").nth(1).unwrap();
        number(&server, &["echo", calls.split(',').next().unwrap()])
    };
    write(0).await;
    // From now on each message is refused inside the script that sends it, after its writes.
    server.ask(&["acl", "setuser", "default", "-publish"]);
    let before = published();
    for number in 1..=3 {
        write(number).await;
    }
    assert_eq!(published(), before);
    assert_eq!(one.queue().depth().await.unwrap().jobs, 0);
    worker.stop().await;
}

/// Returns how many commands `server` has run, including those of scripts.
fn commands_run(server: &RedisServer) -> usize {
    let stats = server.ask(&["info", "commandstats"]);
    let calls = stats.lines().filter_map(|line| line.split("calls=").nth(1));
    calls
        .map(|rest| rest.split(',').next().unwrap().parse::<usize>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folded_page_costs_redis_no_more_commands_than_a_plain_one() {
    const FOLDERS: usize = 20_000;
    let server = RedisServer::start();
    let redis = open(&server, &Arc::default()).await;
    let store = redis.store();
    let value = Value::parse("\"0123456789012345678901234567890123456789\"").unwrap();
    for first in (0..FOLDERS).step_by(500) {
        let folders = first..first + 500;
        let keys = folders.flat_map(|folder| [0, 1].map(|file| format!("{folder:05}/{file}")));
        let writes = keys.map(|key| Write {
            key: Key::new(&key).unwrap(),
            change: Change::Set {
                value: value.clone(),
                expires_at: None,
            },
        });
        let commit = Commit {
            writes: writes.collect(),
            ..Commit::default()
        };
        store.commit(commit).await.unwrap();
    }
    let cost = async |delimiter: Option<&str>| {
        let before = commands_run(&server);
        let page = store
            .list(&ListRequest {
                limit: 1000,
                delimiter: delimiter.map(str::to_owned),
                ..ListRequest::default()
            })
            .await
            .unwrap();
        assert_eq!(page.entries.len() + page.prefixes.len(), 1000);
        assert_eq!(page.prefixes.is_empty(), delimiter.is_none());
        commands_run(&server) - before
    };
    let (plain, folded) = (cost(None).await, cost(Some("/")).await);
    // One look-up for each fold, instead of one for each key.
    assert!(
        folded <= plain + plain / 10,
        "{folded} commands, {plain} for a plain page"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_a_waiting_job_moves_that_job_alone() {
    const SIZE: usize = 10_000;
    let server = RedisServer::start();
    let redis = open(&server, &Arc::default()).await;
    let value = format!("\"{}\"", "x".repeat(SIZE));
    let large = |number| {
        let key = Key::new(&format!("key {number}")).unwrap();
        let value = Value::parse(value.clone()).unwrap();
        NewJob::new(Command::One(Operation::set(key, value)))
    };
    let jobs = enqueue(&redis, (0..20).map(large).collect()).await;
    let queue = redis.queue();
    let sent = || {
        let stats = server.ask(&["info", "stats"]);
        let sent = stats.split("total_net_output_bytes:").nth(1).unwrap();
        sent.lines().next().unwrap().parse::<usize>().unwrap()
    };
    let before = sent();
    for (job, number) in jobs.iter().zip(0..) {
        let found = queue.find(job).await.unwrap();
        let Found::Held { job: held, .. } = found else {
            panic!("{found:?}");
        };
        assert_eq!((held.id, &held.command), (*job, &large(number).command));
    }
    let sent = sent() - before;
    assert!(sent < 2 * SIZE * jobs.len(), "{sent} bytes");

    // Applied jobs are dropped, though the entry remains until its last job is.
    let claim = queue.claim(&WorkerId::new("w")).await.unwrap().remove(0);
    let store = redis.store();
    let applied = store.applied(queue.id(), claim.partition).await.unwrap();
    let read = queue
        .read(&claim, applied, 5, Duration::ZERO)
        .await
        .unwrap();
    let commit = evaluate(applied, &read, &HashMap::new()).commit;
    store.commit(commit).await.unwrap();
    queue.complete(&claim, jobs[4].position).await.unwrap();
    assert_eq!(queue.find(&jobs[4]).await.unwrap(), Found::Dropped);
    let found = queue.find(&jobs[5]).await.unwrap();
    assert!(matches!(found, Found::Held { .. }), "{found:?}");
}

/// Returns how many bytes of commands `server` has received.
fn bytes_received(server: &RedisServer) -> usize {
    let stats = server.ask(&["info", "stats"]);
    let bytes = stats
        .lines()
        .find_map(|line| line.strip_prefix("total_net_input_bytes:"));
    bytes.unwrap().trim().parse().unwrap()
}

/// Returns how many scripts `server` has run.
fn scripts_run(server: &RedisServer) -> usize {
    let stats = server.ask(&["info", "commandstats"]);
    let calls = stats.split("cmdstat_evalsha:calls=").nth(1).unwrap();
    calls.split(',').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_watchers_cost_redis_what_one_does() {
    const WATCHERS: usize = 300;
    const COMMITS: usize = 20;
    let server = RedisServer::start();
    let redis = open(&server, &Arc::default()).await;
    let store = redis.store();
    let (hear, mut heard) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..WATCHERS {
        let request = WatchRequest {
            prefix: format!("{number}/"),
            ..WatchRequest::default()
        };
        let mut watch = store.watch(&request).await.unwrap();
        let hear = hear.clone();
        tokio::spawn(async move {
            while let Some(changed) = watch.changes.next().await {
                let _ = hear.send((number, changed.unwrap()));
            }
        });
    }
    // The history is read once in 250 ms, whichever watcher asks, and with each message.
    let polls = |begun: Instant| begun.elapsed().as_millis() as usize / 250 + 2;
    let (before, begun) = (scripts_run(&server), Instant::now());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let scripts = scripts_run(&server) - before;
    assert!(scripts > 1 && scripts <= polls(begun), "{scripts} scripts");

    // A commit is read once or twice (for the message, and where it was made), and its value by the
    // one watcher that shows it.
    let (before, begun) = (scripts_run(&server), Instant::now());
    for number in 0..COMMITS {
        let key = format!("{number}/key");
        store.set(&key, &number).await.unwrap();
        let (watcher, changed) = tokio::time::timeout(PATIENCE, heard.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!((watcher, changed.key.as_str()), (number, key.as_str()));
        assert_eq!(changed.value.unwrap().as_str(), number.to_string());
    }
    let scripts = scripts_run(&server) - before;
    let most = 4 * COMMITS + polls(begun);
    assert!(scripts <= most, "{scripts} scripts, at most {most}");
    assert!(heard.try_recv().is_err(), "each change is heard once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_is_behind_asks_for_no_more_than_it_takes() {
    const VALUE_BYTES: usize = 512 << 10;
    const KEY_BYTES: usize = 500;
    let server = RedisServer::start();
    let redis = open(&server, &Arc::default()).await;
    let store = redis.store();
    let watch = async |from, include_values| {
        let request = WatchRequest {
            from,
            include_values,
            ..WatchRequest::default()
        };
        store.watch(&request).await.unwrap()
    };
    let start = watch(WatchFrom::Now, false).await.start;
    // 16 MiB of values in one part of the history, and 4.5 MB of keys behind them.
    let value = Value::parse(format!("\"{}\"", "x".repeat(VALUE_BYTES))).unwrap();
    let set = |key: &str, value: &Value| Write {
        key: Key::new(key).unwrap(),
        change: Change::Set {
            value: value.clone(),
            expires_at: None,
        },
    };
    let commit = async |writes| {
        let commit = Commit {
            writes,
            ..Commit::default()
        };
        store.commit(commit).await.unwrap();
    };
    for first in (0..32).step_by(8) {
        let large = first..first + 8;
        commit(
            large
                .map(|number| set(&number.to_string(), &value))
                .collect(),
        )
        .await;
    }
    let small = Value::parse("1").unwrap();
    for round in 0..9 {
        let keys = (0..1000).map(|number| format!("{round}/{number:0>KEY_BYTES$}"));
        commit(keys.map(|key| set(&key, &small)).collect()).await;
    }
    let sent = || {
        let stats = server.ask(&["info", "stats"]);
        let sent = stats.split("total_net_output_bytes:").nth(1).unwrap();
        sent.lines().next().unwrap().parse::<usize>().unwrap()
    };
    let before = sent();
    let mut changes = watch(WatchFrom::After(start), true).await.changes;
    for number in 0..32_usize {
        let changed = changes.next().await.unwrap().unwrap();
        assert_eq!(changed.key.as_str(), number.to_string());
        assert_eq!(changed.value.as_ref(), Some(&value), "{number}");
        let most = (number + 4) * VALUE_BYTES + (1 << 20);
        assert!(
            sent() - before < most,
            "{number}: {} bytes",
            sent() - before
        );
    }
    for _ in 0..9000 {
        let changed = changes.next().await.unwrap().unwrap();
        assert_eq!(changed.value.as_ref(), Some(&small));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_meets_a_moving_slot_waits_or_has_not_happened() {
    let cluster = Cluster::start();
    let options = Options {
        partitions: Some(PartitionCount::ONE),
        ..Options::default()
    };
    let redis = Redis::open(&cluster.url(), options).await.unwrap();
    let (store, queue) = (redis.store(), redis.queue());
    let key = Key::new("a").unwrap();
    let version = store.set("a", &1).await.unwrap();

    // The one partition is in slot 0, the first of the first server.
    cluster.begin_move(0, 0, 1);
    let written = store.set("a", &2).await;
    assert!(
        matches!(written, Err(Error::Unavailable { .. })),
        "{written:?}"
    );
    let accepted = queue.enqueue(vec![keyed(0)]).await.remove(0);
    assert!(
        matches!(accepted, Err(Error::Unavailable { .. })),
        "{accepted:?}"
    );
    assert_eq!(store.get(&key).await.unwrap().unwrap().version, version);
    cluster.move_keys(0, 0, 1, 1);
    let listed = store.list(&ListRequest::default()).await;
    assert!(
        matches!(listed, Err(Error::Unavailable { .. })),
        "{listed:?}"
    );

    // Requests at its end are answered, if they need not wait for too long.
    let waiting = tokio::spawn({
        let store = redis.store();
        async move {
            loop {
                match store.list(&ListRequest::default()).await {
                    Err(Error::Unavailable { .. }) => {}
                    listed => break listed,
                }
            }
        }
    });
    cluster.move_keys(0, 0, 1, 1000);
    cluster.end_move(0, 1);
    let listed = waiting.await.unwrap().unwrap();
    assert_eq!(listed.entries[0].version, version, "nothing was written");
    assert_eq!(queue.depth().await.unwrap().jobs, 0);
    assert!(store.set("a", &2).await.unwrap() > version);
    queue.enqueue(vec![keyed(0)]).await.remove(0).unwrap();
}
