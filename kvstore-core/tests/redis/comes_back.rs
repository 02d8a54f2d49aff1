//! A Redis server comes back with less data, with other settings, or as a replica of another one:
//! is anything given out twice, taken for done, or acknowledged although it may be lost?

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::commit::{Advance, Commit};
use kvstore_core::model::evaluate::evaluate;
use kvstore_core::model::id::{JobId, PartitionCount, Position};
use kvstore_core::model::job::{Idempotency, JobState, NewJob};
use kvstore_core::model::write::Condition;
use kvstore_core::queue::{Found, WorkQueue, WorkerId};
use kvstore_core::redis::{Options, Redis};
use kvstore_core::service::{Service, ServiceOptions};
use kvstore_core::store::{ChangeId, WatchFrom};
use kvstore_core::worker;
use kvstore_core::{Error, JobQueue, Key, Store, StoreExt, Value, Version};
use kvstore_testing::redis::{RedisServer, free_port};

async fn open(server: &RedisServer) -> Redis {
    let options = Options {
        partitions: Some(PartitionCount::new(1).unwrap()),
        ..Options::default()
    };
    Redis::open(&server.url(), options).await.unwrap()
}

async fn enqueue(queue: &dyn JobQueue) -> JobId {
    let (key, value) = (Key::new("job").unwrap(), Value::parse("1").unwrap());
    let job = NewJob::new(Command::One(Operation::set(key, value)));
    queue.enqueue(vec![job]).await.remove(0).unwrap().id
}

/// Applies all waiting jobs, as a worker does.
async fn apply(redis: &Redis, worker: &WorkerId) {
    let (store, queue) = (redis.store(), redis.queue());
    let claim = queue.claim(worker).await.unwrap().remove(0);
    let applied = store.applied(queue.id(), claim.partition).await.unwrap();
    let jobs = queue.read(&claim, applied, 100, Duration::ZERO).await;
    let commit = evaluate(applied, &jobs.unwrap(), &HashMap::new()).commit;
    store.commit(commit).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_lost_is_not_given_out_again() {
    come_back_with_less(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_if_it_forgets_its_scripts_meanwhile() {
    come_back_with_less(true).await;
}

async fn come_back_with_less(forgets_scripts: bool) {
    let mut server = RedisServer::start();
    let redis = open(&server).await;
    let other = open(&server).await;
    let (store, queue) = (redis.store(), redis.queue());
    let kept = store.set("kept", &1).await.unwrap();
    let kept_job = enqueue(&*queue).await;
    let old = server.copy();
    let lost = store.set("lost", &1).await.unwrap();
    let lost_jobs = [enqueue(&*queue).await, enqueue(&*queue).await];
    let heard = store.watch(&WatchFrom::Now.into()).await.unwrap().start;

    server.kill_and_start_from(&old);
    // Through the broken connection. Another process is there first.
    let version = other.store().set("lost", &2).await.unwrap();
    assert!(version > lost, "{version} after {lost}");
    let job = enqueue(&*other.queue()).await;
    assert!(job.position > lost_jobs[1].position, "{job}");
    assert_eq!(other.queue().depth().await.unwrap().lost, 0);
    if forgets_scripts {
        server.ask(&["script", "flush"]);
    }
    let job = enqueue(&*queue).await;
    assert!(job.position > lost_jobs[1].position, "{job}");
    assert_eq!(store.get_as::<i32>("lost").await.unwrap(), Some(2));

    // A client that holds their ids learns of it.
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.jobs, depth.lost), (3, 2));
    for lost in lost_jobs {
        assert_eq!(queue.find(&lost).await.unwrap(), Found::Unknown);
    }
    for held in [kept_job, job] {
        let found = queue.find(&held).await.unwrap();
        assert!(matches!(found, Found::Held { .. }), "{held}: {found:?}");
    }
    let watch = store.watch(&WatchFrom::After(heard).into()).await;
    assert!(matches!(watch, Err(Error::Compacted)), "{watch:?}");
    // Everything that was not lost is unchanged.
    let entry = store.get(&Key::new("kept").unwrap()).await.unwrap();
    assert_eq!(entry.unwrap().version, kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_a_worker_holds_is_not_applied_once_its_log_has_lost_it() {
    let mut server = RedisServer::start();
    let redis = open(&server).await;
    let (store, queue) = (redis.store(), redis.queue());
    let worker = WorkerId::new("test");
    enqueue(&*queue).await;
    apply(&redis, &worker).await;
    let old = server.copy();

    let key = Key::new("count").unwrap();
    let increment = Command::One(Operation::add(key, 1));
    let mut job = NewJob::new(increment);
    job.idempotency = Some(Idempotency {
        key: "once".to_owned(),
        window: Duration::from_secs(60),
        minimum: Duration::from_secs(60),
    });
    let lost = queue.enqueue(vec![job.clone()]).await.remove(0).unwrap().id;
    let claim = queue.claim(&worker).await.unwrap().remove(0);
    let applied = store.applied(queue.id(), claim.partition).await.unwrap();
    let held = queue.read(&claim, applied, 100, Duration::ZERO).await;
    let held = held.unwrap();
    assert_eq!(held.last().unwrap().id, lost);

    // The log forgets the job with its idempotency key, so the client's retry is a new job.
    server.kill_and_start_from(&old);
    let again = queue.enqueue(vec![job]).await.remove(0).unwrap();
    assert!(!again.replayed);
    let commit = evaluate(applied, &held, &HashMap::new()).commit;
    let answer = store.commit(commit).await;
    assert!(matches!(answer, Err(Error::Stale { .. })), "{answer:?}");
    work(&redis).await;
    assert_eq!(store.get_as::<i32>("count").await.unwrap(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_skips_to_a_lost_numbering_skips_no_job_of_the_present_one() {
    let mut server = RedisServer::start();
    let skew = Arc::new(AtomicI64::new(0));
    let options = Options {
        partitions: Some(PartitionCount::new(1).unwrap()),
        skew_ms: Arc::clone(&skew),
        ..Options::default()
    };
    let redis = Redis::open(&server.url(), options).await.unwrap();
    let (store, queue) = (redis.store(), redis.queue());
    enqueue(&*queue).await;
    work(&redis).await;
    let old = server.copy();
    // A numbering that the copy lacks, from a clock that is ahead.
    skew.store(3_600_000, Ordering::SeqCst);
    server.kill_and_start();
    let lost = enqueue(&*queue).await;
    let from = store.applied(queue.id(), lost.partition).await.unwrap();
    assert!(lost.position.major > from.major);

    server.kill_and_start_from(&old);
    skew.store(0, Ordering::SeqCst);
    let skip = Advance {
        queue: queue.id(),
        partition: lost.partition,
        from,
        to: Position {
            minor: 0,
            ..lost.position
        },
        outcomes: Vec::new(),
        lost: true,
    };
    let skip = Commit {
        advance: Some(skip),
        ..Commit::default()
    };
    let add = Operation::add(Key::new("count").unwrap(), 1);
    let add = NewJob::new(Command::One(add));
    let present = queue.enqueue(vec![add]).await.remove(0).unwrap().id;
    assert!(present.position < lost.position);
    let answer = store.commit(skip).await;
    assert!(matches!(answer, Err(Error::Stale { .. })), "{answer:?}");
    work(&redis).await;
    assert_eq!(store.get_as::<i32>("count").await.unwrap(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_watch_shows_no_change_that_was_lost() {
    let mut server = RedisServer::start();
    let redis = open(&server).await;
    let store = redis.store();
    store.set("a", &1).await.unwrap();
    let old = server.copy();
    let before = store.watch(&WatchFrom::Now.into()).await.unwrap().start;
    let first = async || {
        let from = WatchFrom::After(before.clone()).into();
        let mut watch = store.watch(&from).await.unwrap();
        watch.changes.next().await.unwrap().unwrap().version
    };
    let lost = store.set("a", &2).await.unwrap();
    assert_eq!(first().await, lost);

    server.kill_and_start_from(&old);
    // The answer of the connection that broke is unknown.
    let _ = store.set("a", &3).await;
    let version = store.set("a", &4).await.unwrap();
    let shown = first().await;
    assert!(lost < shown && shown <= version, "{shown}, {lost} is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_applied_again_is_done_once_replicas_have_that() {
    let (mut primary, _replica, _) = RedisServer::pair();
    let options = Options {
        partitions: Some(PartitionCount::new(1).unwrap()),
        wait_replicas: 1,
        ..Options::default()
    };
    let redis = Redis::open(&primary.url(), options).await.unwrap();
    let (store, queue) = (redis.store(), redis.queue());
    let job = enqueue(&*queue).await;
    let old = primary.copy();
    work(&redis).await;
    let state = store.outcome(&job, Duration::ZERO).await.unwrap();
    assert!(matches!(state, JobState::Finished(_)), "{state:?}");
    primary.kill_and_start_from(&old);
    let state = store.outcome(&job, Duration::ZERO).await.unwrap();
    assert_eq!(state, JobState::Queued);
    let alone = open(&primary).await;
    work(&alone).await;
    let state = store.outcome(&job, Duration::ZERO).await.unwrap();
    assert_eq!(state, JobState::Queued);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_was_a_replica_meanwhile_gives_nothing_out_again() {
    let (primary, replica, _) = RedisServer::pair();
    let redis = open(&primary).await;
    let (store, queue) = (redis.store(), redis.queue());
    store.set("a", &1).await.unwrap();
    enqueue(&*queue).await;
    let is_level = || {
        replica.info("replication", "master_repl_offset")
            == primary.info("replication", "master_repl_offset")
    };
    while !is_level() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    replica.ask(&["replicaof", "no", "one"]);
    let version = store.set("a", &2).await.unwrap();
    let job = enqueue(&*queue).await;
    // The replica takes over without these, and the primary takes its data.
    let port = free_port().to_string();
    replica.ask(&["config", "set", "port", &port]);
    primary.ask(&["replicaof", "127.0.0.1", &port]);
    replica.wait_for_replica();
    primary.ask(&["replicaof", "no", "one"]);
    assert_eq!(store.get_as::<i32>("a").await.unwrap(), Some(1));
    let next = enqueue(&*queue).await;
    assert!(next.position > job.position, "{next} after {job}");
    assert!(store.set("b", &3).await.unwrap() > version);
    assert_eq!(queue.find(&job).await.unwrap(), Found::Unknown);
    assert_eq!(queue.depth().await.unwrap().lost, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_alone_loses_nothing_and_ends_no_watch() {
    let mut server = RedisServer::start();
    let redis = open(&server).await;
    let (store, queue) = (redis.store(), redis.queue());
    let worker = WorkerId::new("test");
    let mut before = store.watch(&WatchFrom::Now.into()).await.unwrap().start;
    let mut versions = Vec::new();
    let mut jobs = Vec::new();
    for round in 0..4 {
        versions.push(store.set("a", &round).await.unwrap());
        before = store.watch(&WatchFrom::Now.into()).await.unwrap().start;
        jobs.push(enqueue(&*queue).await);
        apply(&redis, &worker).await;
        server.kill_and_start();
    }
    versions.push(store.set("a", &4).await.unwrap());
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    assert!(
        jobs.is_sorted_by(|a, b| a.position < b.position),
        "{jobs:?}"
    );
    assert_eq!(queue.depth().await.unwrap().lost, 0);
    for job in jobs {
        let found = queue.find(&job).await.unwrap();
        assert_ne!(found, Found::Unknown, "{job}");
    }
    // From before the last restart: the job's set, and the one after it.
    let mut watch = store.watch(&WatchFrom::After(before).into()).await.unwrap();
    let mut heard: Vec<Version> = Vec::new();
    while heard.len() < 2 {
        heard.push(watch.changes.next().await.unwrap().unwrap().version);
    }
    assert!(heard.is_sorted_by(|a, b| a < b), "{heard:?}");
    assert!(versions[3] < heard[0]);
    assert_eq!(heard[1], versions[4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_other_settings_it_is_given_nothing_until_they_are_right() {
    let mut server = RedisServer::start();
    let redis = open(&server).await;
    let (store, queue) = (redis.store(), redis.queue());
    let first = store.set("a", &1).await.unwrap();

    server.kill_and_start_with(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let needed = "appendfsync is everysec, set it to always";
    // It was sent on the connection that broke, so its effect is unknown.
    let unknown = store.set("a", &2).await.unwrap_err();
    assert!(matches!(unknown, Error::Unknown { .. }), "{unknown}");
    let reason = std::error::Error::source(&unknown).unwrap().to_string();
    assert!(reason.contains(needed), "{reason}");
    let refused = store.set("a", &2).await;
    assert!(
        matches!(&refused, Err(Error::Unavailable { what, .. }) if what.contains(needed)),
        "{refused:?}"
    );
    let (key, value) = (Key::new("a").unwrap(), Value::parse("2").unwrap());
    let job = NewJob::new(Command::One(Operation::set(key, value)));
    let refused = queue.enqueue(vec![job]).await.remove(0);
    assert!(
        matches!(&refused, Err(Error::Unavailable { what, .. }) if what.contains(needed)),
        "{refused:?}"
    );
    // Existing data can be read.
    assert_eq!(store.get_as::<i32>("a").await.unwrap(), Some(1));
    assert_eq!(queue.depth().await.unwrap().jobs, 0);

    server.ask(&["config", "set", "appendfsync", "always"]);
    assert!(store.set("a", &2).await.unwrap() > first);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_read_again_with_each_connection() {
    let server = RedisServer::start();
    let redis = open(&server).await;
    let store = redis.store();
    store.set("a", &1).await.unwrap();
    server.ask(&["config", "set", "appendfsync", "everysec"]);
    let killed = server.ask(&["client", "kill", "type", "normal", "skipme", "yes"]);
    assert_ne!(killed.trim(), "0");
    // The first request to find it broken is a read, which is answered all the same; the next one
    // is a write.
    assert_eq!(store.get_as::<i32>("a").await.unwrap(), Some(1));
    let refused = store.set("a", &2).await;
    assert!(
        matches!(&refused, Err(Error::Unavailable { what, .. }) if what.contains("appendfsync is everysec")),
        "{refused:?}"
    );
    assert_eq!(store.get_as::<i32>("a").await.unwrap(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn as_a_replica_it_is_not_even_read() {
    let server = RedisServer::start();
    let redis = open(&server).await;
    let store = redis.store();
    store.set("a", &1).await.unwrap();

    server.ask(&["replicaof", "127.0.0.1", "1"]);
    let refused = store.set("a", &2).await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
    let refused = store.get_as::<i32>("a").await.unwrap_err();
    let source = std::error::Error::source(&refused).unwrap().to_string();
    assert!(source.contains("it is a replica"), "{source}");
    let options = Options::default();
    let refused = Redis::open(&server.url(), options).await;
    assert!(
        matches!(&refused, Err(Error::Config(message)) if message.contains("give the address of its primary")),
        "{refused:?}"
    );

    server.ask(&["replicaof", "no", "one"]);
    assert_eq!(store.get_as::<i32>("a").await.unwrap(), Some(1));
    store.set("a", &2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_change_no_numbers() {
    let server = RedisServer::start();
    let redis = open(&server).await;
    let (store, queue) = (redis.store(), redis.queue());
    let mut last = (Version(0), Position::START);
    for round in 0..5 {
        let version = store.set("a", &round).await.unwrap();
        let job = enqueue(&*queue).await;
        if round > 0 {
            assert_eq!(version.0, last.0.0 + 1);
            assert_eq!(job.position.major, last.1.major);
            assert_eq!(job.position.minor, last.1.minor + 1);
        }
        last = (version, job.position);
        let killed = server.ask(&["client", "kill", "type", "normal", "skipme", "yes"]);
        assert_ne!(killed.trim(), "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_send_messages_has_no_write_refused_that_was_made() {
    let server = RedisServer::start();
    let redis = open(&server).await;
    server.ask(&["acl", "setuser", "default", "resetchannels"]);
    let (store, queue) = (redis.store(), redis.queue());
    let job = enqueue(&*queue).await;
    let found = queue.find(&job).await.unwrap();
    assert!(matches!(found, Found::Held { .. }), "{found:?}");
    store.set("a", &1).await.unwrap();
    assert_eq!(store.get_as::<i32>("a").await.unwrap(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_from_a_clock_that_was_ahead_is_over() {
    let server = RedisServer::start();
    let ahead = Options {
        partitions: Some(PartitionCount::new(1).unwrap()),
        ..Options::default()
    };
    ahead
        .skew_ms
        .store(3_600_000, std::sync::atomic::Ordering::SeqCst);
    let dead = Redis::open(&server.url(), ahead).await.unwrap();
    let claims = dead.queue().claim(&WorkerId::new("dead")).await.unwrap();
    assert_eq!(claims.len(), 1);

    let redis = open(&server).await;
    let claims = redis.queue().claim(&WorkerId::new("alive")).await.unwrap();
    assert_eq!(claims.len(), 1);
}

/// Lets a worker apply all waiting jobs.
async fn work(redis: &Redis) {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let working = tokio::spawn(worker::run(
        redis.store(),
        redis.queue(),
        worker::Options::default(),
        async move {
            let _ = stopped.await;
        },
    ));
    while redis.queue().depth().await.unwrap().jobs > 0 {
        assert!(!working.is_finished());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.send(()).unwrap();
    working.await.unwrap().unwrap();
}

/// What a lost history has given out, to be checked against the one that replaces it.
struct Lost {
    version: Version,
    jobs: [JobId; 2],
    heard: ChangeId,
}

impl Lost {
    async fn give_out(redis: &Redis) -> Self {
        let (store, queue) = (redis.store(), redis.queue());
        let applied = enqueue(&*queue).await;
        work(redis).await;
        let version = store.set("lost", &1).await.unwrap();
        Self {
            version,
            jobs: [applied, enqueue(&*queue).await],
            heard: store.watch(&WatchFrom::Now.into()).await.unwrap().start,
        }
    }

    /// Makes as many changes as the lost history, and asks after each for what the lost one gave
    /// out.
    async fn is_unknown_to(&self, redis: &Redis) {
        let (store, queue) = (redis.store(), redis.queue());
        let service = Service::open(redis.store(), redis.queue(), ServiceOptions::default());
        let service = service.await.unwrap();
        for round in 0..4 {
            assert_ne!(store.set("lost", &2).await.unwrap(), self.version);
            let job = enqueue(&*queue).await;
            assert!(!self.jobs.contains(&job), "{job}");
            work(redis).await;
            service.wait_visible(&job).await.unwrap();
            for lost in &self.jobs {
                let state = store.outcome(lost, Duration::ZERO).await.unwrap();
                assert_eq!(state, JobState::Unknown, "round {round}");
                assert_eq!(queue.find(lost).await.unwrap(), Found::Unknown, "{round}");
                assert_eq!(service.job(lost, Duration::ZERO).await.unwrap(), None);
                let token = service.wait_visible(lost).await;
                assert!(matches!(token, Err(Error::Invalid { .. })), "{token:?}");
            }
            let watch = store
                .watch(&WatchFrom::After(self.heard.clone()).into())
                .await;
            assert!(matches!(watch, Err(Error::Compacted)), "{round}: {watch:?}");
            let on_lost = Commit {
                checks: vec![(Key::new("lost").unwrap(), Condition::Version(self.version))],
                ..Commit::default()
            };
            let conflict = store.commit(on_lost).await;
            assert!(
                matches!(conflict, Err(Error::Conflict { .. })),
                "{conflict:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_lost_history_that_had_restarted_is_taken_for_something_else() {
    // The clock of its replacement is right, or an hour behind.
    for skew_ms in [0, -3_600_000] {
        let mut server = RedisServer::start();
        let redis = open(&server).await;
        let kept = enqueue(&*redis.queue()).await;
        work(&redis).await;
        let old = server.copy();
        redis.close();

        server.kill_and_start();
        let redis = open(&server).await;
        let lost = Lost::give_out(&redis).await;
        redis.close();

        server.kill_and_start_from(&old);
        for _ in 0..2 {
            let options = Options {
                partitions: Some(PartitionCount::new(1).unwrap()),
                ..Options::default()
            };
            let skew = &options.skew_ms;
            skew.store(skew_ms, std::sync::atomic::Ordering::SeqCst);
            let redis = Redis::open(&server.url(), options).await.unwrap();
            lost.is_unknown_to(&redis).await;
            let state = redis.store().outcome(&kept, Duration::ZERO).await.unwrap();
            assert!(matches!(state, JobState::Finished(_)), "{state:?}");
            redis.close();
            server.kill_and_start();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_emptied_takes_writes_and_gives_nothing_out_again() {
    let server = RedisServer::start();
    let redis = open(&server).await;
    let lost = Lost::give_out(&redis).await;
    server.ask(&["flushall"]);
    assert_eq!(redis.store().get_as::<i32>("lost").await.unwrap(), None);
    // A program that was only told so is the first to come.
    let (store, queue) = (redis.store(), redis.queue());
    store.adopt_queue(queue.id()).await.unwrap();
    lost.is_unknown_to(&redis).await;
    assert_eq!(queue.depth().await.unwrap().lost, 2);
    // Another process finds the store that this one has made.
    let other = open(&server).await;
    assert_eq!(other.queue().id(), queue.id());
    lost.is_unknown_to(&other).await;
}
