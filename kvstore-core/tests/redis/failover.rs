//! Does a fleet on Redis keep what it acknowledged when another server takes over behind the same
//! address: a replica that lags, or one that hangs?

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::address::Address;
use kvstore_core::conformance::Worker;
use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::commit::Commit;
use kvstore_core::model::evaluate::evaluate;
use kvstore_core::model::id::{JobId, Partition, PartitionCount, Position};
use kvstore_core::model::job::{JobState, NewJob, Outcome};
use kvstore_core::model::write::{Change, Write};
use kvstore_core::queue::{Found, WorkerId};
use kvstore_core::redis::{Options, Redis};
use kvstore_core::store::DeadRequest;
use kvstore_core::worker;
use kvstore_core::{Error, JobQueue, Key, Store, StoreExt, Value};
use kvstore_testing::cluster::Cluster;
use kvstore_testing::redis::RedisServer;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a server, a replica of it, and an address that leads to the first.
async fn pair() -> (RedisServer, RedisServer, Address) {
    let (primary, replica, _) = RedisServer::pair();
    let address = Address::of(&primary).await;
    (primary, replica, address)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn open(address: &Address, wait_replicas: usize) -> Redis {
    open_at(address, wait_replicas, &Arc::default()).await
}

/// Opens the store by a clock that `skew` moves.
async fn open_at(address: &Address, wait_replicas: usize, skew: &Arc<AtomicI64>) -> Redis {
    let options = Options {
        partitions: Some(PartitionCount::ONE),
        wait_replicas,
        skew_ms: Arc::clone(skew),
        ..Options::default()
    };
    Redis::open(&address.url(), options).await.unwrap()
}

/// Starts a worker. It ends when the sender is dropped.
fn start_worker(redis: &Redis) -> (oneshot::Sender<()>, JoinHandle<kvstore_core::Result<()>>) {
    let (shutdown, stopped) = oneshot::channel();
    let until = async move { drop(stopped.await) };
    let options = worker::Options::default();
    let running = worker::run(redis.store(), redis.queue(), options, until);
    (shutdown, tokio::spawn(running))
}

/// Returns a job that adds 1 to "count", so that a job that is applied twice, or not at all, shows.
fn count_up() -> NewJob {
    let key = Key::new("count").unwrap();
    NewJob::new(Command::One(Operation::add(key, 1)))
}

async fn enqueue(queue: &dyn JobQueue, job: NewJob) -> JobId {
    queue.enqueue(vec![job]).await.remove(0).unwrap().id
}

/// Returns how far a server has applied the log.
fn applied_on(server: &RedisServer) -> String {
    let script = "for _, field in ipairs(redis.call('HKEYS', 'kv:{0}:state')) do \
                  if string.sub(field, 1, 8) == 'applied:' then \
                  return redis.call('HGET', 'kv:{0}:state', field) end end return 'none'";
    let keys = "local keys = redis.call('KEYS', 'kv:{*:state') return keys[1] or ''";
    let state = server.ask(&["eval_ro", keys, "0"]);
    let script = script.replace("kv:{0}:state", state.trim());
    server.ask(&["eval_ro", &script, "0"]).to_owned()
}

async fn dead_letters(redis: &Redis) -> usize {
    let request = DeadRequest {
        limit: 10,
        after: None,
    };
    redis.store().dead(&request).await.unwrap().letters.len()
}

/// Waits until there are `count` connections to the server at `port`, and each is probed.
async fn are_probed(port: &str, count: usize) {
    let port: u16 = port.parse().unwrap();
    // Which timer runs: 2 is that of the probes.
    let timers = || {
        let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = connections.lines().map(|line| line.split_whitespace());
        let fields = fields.map(|fields| fields.collect::<Vec<_>>());
        let ours = fields.filter(|it| it[2].ends_with(&format!(":{port:04X}")) && it[3] == "01");
        let timers = ours.map(|it| it[5].starts_with("02:"));
        timers.collect::<Vec<_>>()
    };
    until("requests and messages", || {
        timers().len() >= count && timers().iter().all(|is_probed| *is_probed)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_connection_is_probed_so_that_none_waits_for_a_machine_that_has_failed() {
    let (_primary, _replica, port) = RedisServer::pair();
    let options = Options::default();
    let _redis = Redis::open(&format!("redis://127.0.0.1:{port}"), options).await;
    // The replica's own connection to its primary has probes, too, as Redis sets them.
    are_probed(&port.to_string(), 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_connection_to_a_cluster_is_probed() {
    let cluster = Cluster::start();
    let url = cluster.url();
    let _redis = Redis::open(&url, Options::default()).await;
    for node in url.split(',') {
        let (_, port) = node.rsplit_once(':').unwrap();
        are_probed(port, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_the_new_primary_never_applied_are_not_dropped() {
    let (primary, replica, address) = pair().await;
    let waiting = open(&address, 1).await;
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(enqueue(&*waiting.queue(), count_up()).await);
    }
    // From now on it lags.
    replica.ask(&["replicaof", "no", "one"]);

    let redis = open(&address, 0).await;
    let (store, queue) = (redis.store(), redis.queue());
    let claim = queue.claim(&WorkerId::new("w")).await.unwrap().remove(0);
    let read = queue
        .read(&claim, Position::START, 10, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(read.len(), 4);
    let commit = evaluate(Position::START, &read, &HashMap::new()).commit;
    store.commit(commit).await.unwrap();
    let end = jobs[3].position;
    assert_ne!(applied_on(&primary), "none");
    assert_eq!(applied_on(&replica), "none");

    address.lead_to(&replica);
    // The commit has dropped them already, so the first call asks no server; then through the
    // broken connection, and through the next one.
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(queue.complete(&claim, end).await);
    }
    assert!(
        matches!(
            answers[2],
            Err(Error::Stale { applied, .. }) if applied == Position::START
        ),
        "{answers:?}"
    );
    let read = queue.read(&claim, end, 10, Duration::ZERO).await;
    assert!(matches!(read, Err(Error::Stale { .. })), "{read:?}");
    // Nor by a number that the new primary has not reached.
    let behind = Position {
        minor: end.minor + 10,
        ..end
    };
    queue.start_after(Partition(0), behind).await.unwrap();
    for job in &jobs {
        let found = queue.find(job).await.unwrap();
        assert!(matches!(found, Found::Held { .. }), "{found:?}");
    }
    Worker::new(redis.store(), redis.queue())
        .drain()
        .await
        .unwrap();
    assert_eq!(store.get_as::<u64>("count").await.unwrap(), Some(4));
    assert_eq!(queue.depth().await.unwrap().jobs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_work_applies_again_what_a_new_primary_has_not_applied() {
    let (primary, replica, address) = pair().await;
    let waiting = open(&address, 1).await;
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(enqueue(&*waiting.queue(), count_up()).await);
    }
    replica.ask(&["replicaof", "no", "one"]);

    let redis = open(&address, 0).await;
    let (shutdown, working) = start_worker(&redis);
    let store = redis.store();
    let state = store.outcome(&jobs[3], PATIENCE).await.unwrap();
    assert!(matches!(state, JobState::Finished(_)), "{state:?}");
    let end = applied_on(&primary);
    assert_eq!(applied_on(&replica), "none");

    address.lead_to(&replica);
    until("the new primary is as far", || applied_on(&replica) == end).await;
    assert_eq!(applied_on(&primary), end);
    for job in &jobs {
        let state = store.outcome(job, PATIENCE).await.unwrap();
        let succeeded = matches!(state, JobState::Finished(Outcome::Succeeded(_)));
        assert!(succeeded, "{state:?}");
    }
    // The next jobs have their positions after them.
    let next = enqueue(&*redis.queue(), count_up()).await;
    assert!(next.position > jobs[3].position, "{next}");
    let state = store.outcome(&next, PATIENCE).await.unwrap();
    assert!(matches!(state, JobState::Finished(_)), "{state:?}");
    assert_eq!(store.get_as::<u64>("count").await.unwrap(), Some(5));
    assert_eq!(dead_letters(&redis).await, 0);
    drop(shutdown);
    working.await.unwrap().unwrap();
    assert_eq!(redis.queue().depth().await.unwrap().jobs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_reported_as_applied_is_on_the_required_replicas() {
    let (primary, replica, address) = pair().await;
    let redis = open(&address, 1).await;
    let job = enqueue(&*redis.queue(), count_up()).await;
    replica.pause(true);
    let work = Worker::new(redis.store(), redis.queue()).drain().await;
    assert!(matches!(work, Err(Error::Unknown { .. })), "{work:?}");
    assert_ne!(applied_on(&primary), "none");

    let store = redis.store();
    let (first, second) = tokio::join!(
        store.outcome(&job, Duration::from_secs(1)),
        store.outcome(&job, Duration::ZERO)
    );
    assert_eq!(first.unwrap(), JobState::Queued);
    assert_eq!(second.unwrap(), JobState::Queued);
    replica.pause(false);
    let state = store.outcome(&job, PATIENCE).await.unwrap();
    assert!(matches!(state, JobState::Finished(_)), "{state:?}");
    assert_eq!(applied_on(&replica), applied_on(&primary));

    replica.ask(&["replicaof", "no", "one"]);
    address.lead_to(&replica);
    let after = open(&address, 0).await;
    assert_eq!(after.store().get_as::<u64>("count").await.unwrap(), Some(1));
    let state = after.store().outcome(&job, Duration::ZERO).await.unwrap();
    assert!(matches!(state, JobState::Finished(_)), "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_whose_count_went_back_is_no_deeper_than_nothing() {
    let server = RedisServer::start();
    let address = Address::of(&server).await;
    let redis = open(&address, 0).await;
    enqueue(&*redis.queue(), count_up()).await;
    let queue = server.ask(&["keys", "kv:{*:queue"]);
    server.ask(&["hset", queue.trim(), "jobs done", "7", "bytes done", "1000"]);
    let depth = redis.queue().depth().await.unwrap();
    assert_eq!((depth.jobs, depth.bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_primary_whose_clock_is_behind_holds_up_nothing_and_keeps_nothing_longer() {
    const HOUR: i64 = 3_600_000;
    let (_primary, replica, address) = pair().await;
    let skew = Arc::new(AtomicI64::new(HOUR));
    let redis = open_at(&address, 1, &skew).await;
    let store = redis.store();
    // A worker of the first primary, which never comes back.
    let dead = open_at(&address, 1, &skew).await;
    let claims = dead.queue().claim(&WorkerId::new("dead")).await.unwrap();
    assert_eq!(claims.len(), 1);
    let ttl = Change::SetFor {
        value: Value::parse("1").unwrap(),
        ttl: Duration::from_secs(2),
    };
    let write = Write {
        key: Key::new("short").unwrap(),
        change: ttl,
    };
    let commit = Commit {
        writes: vec![write],
        ..Commit::default()
    };
    store.commit(commit).await.unwrap();

    replica.ask(&["replicaof", "no", "one"]);
    skew.store(0, Ordering::SeqCst);
    address.lead_to(&replica);
    let redis_after = open_at(&address, 0, &skew).await;
    let (shutdown, working) = start_worker(&redis_after);
    let job = enqueue(&*redis_after.queue(), count_up()).await;
    let state = redis_after.store().outcome(&job, PATIENCE).await.unwrap();
    assert!(matches!(state, JobState::Finished(_)), "{state:?}");
    let begun = Instant::now();
    while redis_after
        .store()
        .get_as::<u64>("short")
        .await
        .unwrap()
        .is_some()
    {
        assert!(begun.elapsed() < PATIENCE, "it does not expire");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Nor does it come back with the first clock, which is ahead of the time that was seen.
    skew.store(HOUR, Ordering::SeqCst);
    assert_eq!(
        redis_after.store().get_as::<u64>("short").await.unwrap(),
        None
    );
    let job = enqueue(&*redis_after.queue(), count_up()).await;
    let state = redis_after.store().outcome(&job, PATIENCE).await.unwrap();
    assert!(matches!(state, JobState::Finished(_)), "{state:?}");
    assert_eq!(dead_letters(&redis_after).await, 0);
    drop(shutdown);
    working.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_data_set_behind_the_address_is_worked_on_at_once_and_what_it_lacks_is_counted() {
    let (primary, replica, address) = pair().await;
    let redis = open(&address, 0).await;
    let (store, queue) = (redis.store(), redis.queue());
    let (shutdown, working) = start_worker(&redis);
    let apply = async |job: &JobId| {
        let state = store.outcome(job, PATIENCE).await.unwrap();
        assert!(matches!(state, JobState::Finished(_)), "{state:?}");
    };
    let kept = enqueue(&*queue, count_up()).await;
    apply(&kept).await;
    until("the copy has it", || {
        applied_on(&replica) == applied_on(&primary)
    })
    .await;
    // The copy as of now, without what comes next.
    replica.ask(&["replicaof", "no", "one"]);
    let mut lost = Vec::new();
    for _ in 0..3 {
        lost.push(enqueue(&*queue, count_up()).await);
        apply(&lost[lost.len() - 1]).await;
    }
    let seen = store
        .get(&Key::new("count").unwrap())
        .await
        .unwrap()
        .unwrap();

    address.lead_to(&replica);
    let next = enqueue(&*queue, count_up()).await;
    apply(&next).await;
    assert!(next.position > lost[2].position, "{next}");
    let found = store
        .get(&Key::new("count").unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        found.value.as_str(),
        "2",
        "the one that was kept, and the next"
    );
    assert!(found.version > seen.version);
    apply(&kept).await;
    for job in &lost {
        let state = store.outcome(job, Duration::ZERO).await.unwrap();
        assert!(
            matches!(state, JobState::Unknown | JobState::Queued),
            "{state:?}"
        );
        assert_eq!(queue.find(job).await.unwrap(), Found::Unknown);
    }
    assert_eq!(queue.depth().await.unwrap().lost, 3);
    assert_eq!(dead_letters(&redis).await, 0);
    drop(shutdown);
    working.await.unwrap().unwrap();
}
