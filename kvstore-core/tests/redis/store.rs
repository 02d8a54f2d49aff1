//! What is specific to Redis: does a store there outlive its server, and reject a server that loses
//! data or holds another store? And does a queue there, in front of a folder, belong to that folder
//! alone?

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::evaluate::evaluate;
use kvstore_core::model::id::PartitionCount;
use kvstore_core::model::job::{JobState, NewJob};
use kvstore_core::open::{Opened, StoreUrl};
use kvstore_core::queue::{WorkQueue, WorkerId};
use kvstore_core::redis::{Options, Redis};
use kvstore_core::{Error, JobQueue, Key, StoreExt, Value};
use kvstore_testing::redis::{RedisServer, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longer than any wait in these tests.
const PATIENCE: Duration = Duration::from_secs(60);

fn url(text: String) -> StoreUrl {
    text.parse().unwrap()
}

fn file_url(folder: &Path) -> StoreUrl {
    url(format!("file:{}", folder.display()))
}

async fn open(server: &RedisServer, options: Options) -> Result<Redis, Error> {
    Redis::open(&server.url(), options).await
}

fn config(result: Result<Redis, Error>) -> String {
    match result {
        Err(Error::Config(message)) => message,
        other => panic!("{other:?} is not a wrong setting"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_outlives_a_killed_server() {
    let mut server = RedisServer::start();
    let redis = open(&server, Options::default()).await.unwrap();
    let store = redis.store();
    let mut versions = Vec::new();
    for round in 0..3 {
        for number in 0..50 {
            versions.push(store.set(&format!("{{t}}{number}"), &round).await.unwrap());
        }
        server.kill_and_start();
        // Through the broken connection, which is re-established.
        let found = loop {
            match store.get_as::<i32>("{t}49").await {
                Ok(found) => break found,
                Err(Error::Unavailable { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(found, Some(round));
        for number in 0..50 {
            let found = store
                .get_as::<i32>(&format!("{{t}}{number}"))
                .await
                .unwrap();
            assert_eq!(found, Some(round));
        }
    }
    assert!(versions.is_sorted_by(|a, b| a < b), "none is used twice");
}

#[tokio::test]
async fn a_server_that_may_lose_data_is_refused_unless_accepted() {
    for (settings, part) in [
        (
            &["--appendonly", "no"][..],
            "appendonly is no, set it to yes",
        ),
        (
            &["--appendonly", "yes", "--appendfsync", "everysec"],
            "appendfsync is everysec, set it to always",
        ),
        (
            &[
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                "--maxmemory-policy",
                "allkeys-lru",
            ],
            "maxmemory-policy is allkeys-lru, set it to noeviction",
        ),
        (
            &[
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                "--rename-command",
                "CONFIG",
                "",
            ],
            "does not show its setting appendonly",
        ),
    ] {
        let server = RedisServer::start_with(settings);
        let message = config(open(&server, Options::default()).await);
        assert!(message.contains(part), "{message}");
        let relaxed = Options {
            relaxed_durability: true,
            ..Options::default()
        };
        let redis = open(&server, relaxed).await.unwrap();
        redis.store().set("a", "1").await.unwrap();
    }
}

#[tokio::test]
async fn another_number_of_partitions_or_format_is_refused() {
    let server = RedisServer::start();
    let with = |partitions| Options {
        partitions: Some(PartitionCount::new(partitions).unwrap()),
        ..Options::default()
    };
    open(&server, with(8)).await.unwrap();
    let message = config(open(&server, with(9)).await);
    assert!(message.contains("has 8 partitions, not 9"), "{message}");
    let as_created = open(&server, Options::default()).await.unwrap();
    assert_eq!(as_created.store().partitions().unwrap().get(), 8);
    let elsewhere = Options {
        prefix: "other".to_owned(),
        ..with(9)
    };
    open(&server, elsewhere).await.unwrap();

    server.ask(&["hset", "kv:meta", "format", "9"]);
    let message = config(open(&server, Options::default()).await);
    assert!(message.contains("format 9"), "{message}");
}

#[tokio::test]
async fn stores_with_other_prefixes_share_a_server() {
    let server = RedisServer::start();
    let first = open(&server, Options::default()).await.unwrap().store();
    let elsewhere = Options {
        prefix: "other".to_owned(),
        ..Options::default()
    };
    let second = open(&server, elsewhere).await.unwrap().store();
    first.set("a", "1").await.unwrap();
    assert_eq!(second.get_as::<String>("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_flushed_script_cache_is_filled_again() {
    let server = RedisServer::start();
    let store = open(&server, Options::default()).await.unwrap().store();
    for round in 0..3 {
        store.set("a", &round).await.unwrap();
        server.ask(&["script", "flush"]);
    }
    assert_eq!(store.get_as::<i32>("a").await.unwrap(), Some(2));
}

#[tokio::test]
async fn an_unreachable_server_is_named_without_the_password() {
    let missing = Path::new("/nowhere/redis");
    let url = format!("redis+unix://{}", missing.display());
    let error = Redis::open(&url, Options::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let message = config(Redis::open("redis://:hunter2@host:x", Options::default()).await);
    assert!(!message.contains("hunter2"), "{message}");
}

#[tokio::test]
async fn only_what_cannot_be_reached_yet_is_waited_for() {
    let mut server = RedisServer::start_with(&["--requirepass", "x"]);
    let refused = url(format!("{}?durability=relaxed", server.url()));
    let wrong = kvstore_core::open::stand_by(&refused, None, |_| unreachable!()).await;
    assert!(matches!(&wrong, Err(Error::Config(_))), "{wrong:?}");
    server.kill();

    // At first there is no server, then one that still reads its data, and then a usable one.
    let loading = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let loading_url = url(format!("redis://{}", loading.local_addr().unwrap()));
    let answering = tokio::spawn(async move {
        loop {
            let (mut client, _) = loading.accept().await.unwrap();
            tokio::spawn(async move {
                let mut scrap = [0; 1024];
                while client.read(&mut scrap).await.is_ok_and(|length| length > 0) {
                    let many = "-LOADING Redis is loading the dataset in memory\r\n".repeat(8);
                    client.write_all(many.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let node = free_port().to_string();
    let kept = ["--appendonly", "yes", "--appendfsync", "always"];
    let alone = [&kept[..], &["--cluster-enabled", "yes", "--port", &node]].concat();
    let _unformed = RedisServer::start_with(&alone);
    let unformed_url = url(format!("redis+cluster://127.0.0.1:{node}"));
    let unknown_url = url("redis://kvstore.invalid".to_owned());
    let absent_url = url(server.url());
    for store in [&absent_url, &loading_url, &unformed_url, &unknown_url] {
        let mut tries = 0;
        let given_up = kvstore_core::open::stand_by(store, None, |_| {
            tries += 1;
            tries < 2
        });
        let given_up = given_up.await;
        let reason = given_up.map(drop).unwrap_err();
        assert!(
            matches!(reason, Error::Unavailable { .. }),
            "{store}: {reason}"
        );
        assert_eq!(tries, 2, "{store}: {reason}");
    }
    answering.abort();

    let waiting =
        tokio::spawn(
            async move { kvstore_core::open::stand_by(&absent_url, None, |_| true).await },
        );
    server.kill_and_start();
    let opened = waiting.await.unwrap().unwrap();
    opened.store.set("a", &1).await.unwrap();
    opened.close().await.unwrap();
}

/// As many calls as would take an hour if each of them waited for a silent server.
const CALLS: usize = 1000;

#[tokio::test]
async fn calls_to_a_server_that_is_known_to_be_silent_fail_at_once() {
    let server = RedisServer::start();
    let redis = open(&server, Options::default()).await.unwrap();
    let (store, queue) = (redis.store(), redis.queue());
    store.set("a", &1).await.unwrap();
    server.pause(true);
    let failing = async {
        for _ in 0..CALLS {
            let read = store.get_as::<i32>("a").await;
            assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
            // It was not sent, so it certainly did not happen.
            let written = queue.enqueue(vec![set("b")]).await.pop().unwrap();
            assert!(
                matches!(written, Err(Error::Unavailable { .. })),
                "{written:?}"
            );
            store.ping().await.unwrap_err();
        }
    };
    tokio::time::timeout(PATIENCE, failing).await.unwrap();
    server.pause(false);
    let answered = async {
        while store.get_as::<i32>("a").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        queue.enqueue(vec![set("b")]).await.pop().unwrap().unwrap();
    };
    tokio::time::timeout(PATIENCE, answered).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_opens_store_and_queue_with_its_parameters() {
    let server = RedisServer::start_with(&["--requirepass", "se cret"]);
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "se cret\n").unwrap();
    let url = format!(
        "{}?prefix=x&partitions=3&queue_jobs=1&durability=relaxed&password_file={}",
        server.url(),
        secret.path().display()
    );
    let url = url.parse().unwrap();
    let opened = kvstore_core::open(&url, Some(&url)).await.unwrap();
    assert_eq!(opened.queue.partitions().get(), 3);
    let job = || {
        let (key, value) = (Key::new("k").unwrap(), Value::parse("1").unwrap());
        NewJob::new(Command::One(Operation::set(key, value)))
    };
    let answers = opened.queue.enqueue(vec![job(), job()]).await;
    assert!(
        matches!(&answers[..], [Ok(_), Err(Error::Full { limit: 1, .. })]),
        "{answers:?}"
    );
    opened.close().await.unwrap();
}

fn set(key: &str) -> NewJob {
    let (key, value) = (Key::new(key).unwrap(), Value::parse("1").unwrap());
    NewJob::new(Command::One(Operation::set(key, value)))
}

/// Applies all waiting jobs, as a worker does.
async fn apply(opened: &Opened) {
    let worker = WorkerId::new("test");
    for claim in opened.queue.claim(&worker).await.unwrap() {
        let id = opened.queue.id();
        let applied = opened.store.applied(id, claim.partition).await.unwrap();
        let jobs = opened
            .queue
            .read(&claim, applied, 100, Duration::ZERO)
            .await
            .unwrap();
        if !jobs.is_empty() {
            let commit = evaluate(applied, &jobs, &HashMap::new()).commit;
            let to = commit.advance.as_ref().unwrap().to;
            opened.store.commit(commit).await.unwrap();
            opened.queue.complete(&claim, to).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_comes_back_older_than_its_folder_gives_no_number_again() {
    let server = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let store = file_url(folder.path());
    let queue = url(format!("{}?partitions=2", server.url()));
    let writer = kvstore_core::open(&store, Some(&queue)).await.unwrap();
    let reader = kvstore_core::open::follow(&store, Some(&queue))
        .await
        .unwrap();
    let mut last = None;
    for _ in 0..3 {
        last = reader.queue.enqueue(vec![set("a")]).await.pop();
        apply(&writer).await;
    }
    let last = last.unwrap().unwrap().id;
    let state = reader.store.outcome(&last, Duration::ZERO).await.unwrap();
    assert!(matches!(state, JobState::Finished(_)), "{state:?}");

    // The server forgets its partitions, and its clock was wrong: its numbers start far behind.
    let forget = "for _, key in ipairs(redis.call('KEYS', 'kv:{*')) do \
                  local run = string.find(key, ':queue$') and redis.call('HGET', key, 'run') \
                  redis.call('DEL', key) \
                  if run then redis.call('HSET', key, 'run', run, 'major', 1, 'minor', 0) end end";
    server.ask(&["eval", forget, "0"]);
    // By the store's position it would count as applied already, so no worker would ever read it.
    let refused = reader.queue.enqueue(vec![set("a")]).await.remove(0);
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
    let next = reader.queue.enqueue(vec![set("a")]).await.remove(0);
    let next = next.unwrap().id;
    assert!(next.position > last.position, "{next} after {last}");
    let state = reader.store.outcome(&next, Duration::ZERO).await.unwrap();
    assert_eq!(state, JobState::Queued);
    apply(&writer).await;
    let state = reader.store.outcome(&next, Duration::ZERO).await.unwrap();
    assert!(matches!(state, JobState::Finished(_)), "{state:?}");
    for opened in [writer.into(), reader] {
        opened.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_of_one_folder_or_of_the_store_beside_it() {
    let server = RedisServer::start();
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let stores = folders.each_ref().map(|folder| file_url(folder.path()));
    let queue = url(server.url());
    let first = kvstore_core::open(&stores[0], Some(&queue)).await.unwrap();
    kvstore_core::service::join(&first.store, &first.queue)
        .await
        .unwrap();
    let second = kvstore_core::open(&stores[1], Some(&queue)).await.unwrap();
    let told = kvstore_core::service::join(&second.store, &second.queue)
        .await
        .unwrap_err()
        .to_string();
    assert!(told.contains("redis-cli HDEL kv:meta store"), "{told}");
    // Nor does a process that follows the wrong folder accept anything.
    let reader = kvstore_core::open::follow(&stores[1], Some(&queue))
        .await
        .unwrap();
    let refused = reader.queue.enqueue(vec![set("a")]).await.remove(0);
    assert!(
        matches!(&refused, Err(Error::Config(reason)) if reason.contains("another folder")),
        "{refused:?}"
    );
    let message = config(open(&server, Options::default()).await);
    assert!(message.contains("no store, only a queue"), "{message}");

    // The other way round.
    let elsewhere = Options {
        prefix: "other".to_owned(),
        ..Options::default()
    };
    open(&server, elsewhere).await.unwrap();
    let other = url(format!("{queue}?prefix=other"));
    let third = kvstore_core::open(&stores[1], Some(&other)).await;
    assert!(matches!(third, Err(Error::Locked { .. })), "{third:?}");
    second.close().await.unwrap();
    let third = kvstore_core::open(&stores[1], Some(&other)).await.unwrap();
    let told = kvstore_core::service::join(&third.store, &third.queue)
        .await
        .unwrap_err()
        .to_string();
    assert!(told.contains("there is a whole store"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_the_folder_when_its_holder_releases_it() {
    let server = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let store = file_url(folder.path());
    let queue = url(server.url());
    let first = kvstore_core::open(&store, Some(&queue)).await.unwrap();
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let waiting = tokio::spawn({
        let (store, queue) = (store.clone(), queue.clone());
        async move {
            let locked = |error: &Error| told.send(error.to_string()).is_ok();
            kvstore_core::open::stand_by(&store, Some(&queue), locked).await
        }
    });
    let holder = hears.recv().await.unwrap();
    let pid = std::process::id();
    assert!(holder.contains(&format!("process {pid}")), "{holder}");
    first.close().await.unwrap();
    let second = waiting.await.unwrap().unwrap();
    second.close().await.unwrap();

    // A folder with a queue of its own has no standby.
    let first = kvstore_core::open(&store, None).await.unwrap();
    let refused = kvstore_core::open::stand_by(&store, None, |_| unreachable!()).await;
    assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
    first.close().await.unwrap();
}

/// Returns the result of `commit` on one store, and what is there afterwards.
async fn made(
    store: &std::sync::Arc<dyn kvstore_core::Store>,
    commit: kvstore_core::model::commit::Commit,
) -> (
    kvstore_core::model::commit::Committed,
    Vec<(String, u64, String)>,
) {
    let committed = store.commit(commit).await.unwrap();
    let request = kvstore_core::store::ListRequest {
        include_values: true,
        ..kvstore_core::store::ListRequest::default()
    };
    let page = store.list(&request).await.unwrap();
    let entries = page.entries.into_iter().map(|listed| {
        let value = listed.value.unwrap().as_str().to_owned();
        (listed.key.as_str().to_owned(), listed.version.0, value)
    });
    (committed, entries.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_with_and_without_a_check_do_the_same() {
    use kvstore_core::model::commit::{Advance, Commit};
    use kvstore_core::model::entry::Timestamp;
    use kvstore_core::model::id::{Partition, Position, QueueId};
    use kvstore_core::model::write::{Change, Condition, Write};
    let key = |text: &str| Key::new(text).unwrap();
    let servers = [RedisServer::start(), RedisServer::start()];
    let options = || Options {
        partitions: Some(PartitionCount::new(1).unwrap()),
        ..Options::default()
    };
    let mut said = Vec::new();
    for (server, is_general) in servers.iter().zip([false, true]) {
        let redis = open(server, options()).await.unwrap();
        let other = open(server, options()).await.unwrap();
        let (store, queue) = (redis.store(), QueueId::random());
        let mut of_this_server = Vec::new();
        // New keys; an old and a new one; repeats; after a write by another process; over one with
        // a deadline.
        for (round, keys) in ["a b", "b c", "d a d e d", "a f", "g a"].iter().enumerate() {
            if round == 3 {
                other.store().set("h", &0).await.unwrap();
            }
            if round == 4 {
                let dated = Write {
                    key: key("g"),
                    change: Change::Set {
                        value: Value::parse("0").unwrap(),
                        expires_at: Some(Timestamp(1 << 50)),
                    },
                };
                let writes = vec![dated];
                let commit = Commit {
                    writes,
                    ..Commit::default()
                };
                other.store().commit(commit).await.unwrap();
            }
            let writes = keys.split(' ').enumerate().map(|(number, name)| Write {
                key: key(name),
                change: Change::Set {
                    value: Value::parse(format!("[{round},{number}]")).unwrap(),
                    expires_at: None,
                },
            });
            let position = |minor| Position { major: 0, minor };
            // A check that holds has to be evaluated all the same.
            let always = (key("never"), Condition::Absent);
            let commit = Commit {
                checks: is_general.then_some(always).into_iter().collect(),
                writes: writes.collect(),
                advance: Some(Advance {
                    queue,
                    partition: Partition(0),
                    from: position(round as u64),
                    to: position(round as u64 + 1),
                    outcomes: Vec::new(),
                    lost: false,
                }),
            };
            of_this_server.push(made(&store, commit).await);
        }
        let calls = server.ask(&["info", "commandstats"]);
        // The first is sent twice, since no queue is active before it. A commit without a check reads
        // no value.
        let reads = calls.lines().find(|line| line.starts_with("cmdstat_mget:"));
        let reads = reads.and_then(|line| line.split(['=', ',']).nth(1));
        assert_eq!(reads, is_general.then_some("6"), "{calls}");
        assert_eq!(server.ask(&["exists", "kv:{3560}:keys"]), "1");
        let left = server.ask(&["zcard", "kv:{3560}:deadlines"]);
        assert_eq!(left.trim(), "0", "its deadline is gone");
        // Version numbers start at the time.
        let begin = of_this_server[0].0.first_version.0;
        for (committed, entries) in &mut of_this_server {
            committed.first_version.0 -= begin;
            for (_, version, _) in entries {
                *version -= begin;
            }
        }
        said.push(of_this_server);
    }
    assert_eq!(said[0], said[1]);
    let digits = &said[0][2].0.existed;
    assert_eq!(digits[..], [false, true, true, false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_one_entry_are_dropped_one_by_one_whether_read_or_not() {
    let server = RedisServer::start();
    let options = || Options {
        partitions: Some(PartitionCount::new(1).unwrap()),
        ..Options::default()
    };
    let reader = open(&server, options()).await.unwrap().queue();
    let other = open(&server, options()).await.unwrap().queue();
    // Of different sizes, in two entries.
    let keys = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff"];
    let mut ids = Vec::new();
    for keys in keys.chunks(3) {
        let jobs = keys.iter().map(|key| set(key)).collect();
        for answer in reader.enqueue(jobs).await {
            ids.push(answer.unwrap().id);
        }
    }
    assert_eq!(server.ask(&["xlen", "kv:{3560}:jobs"]), "2");
    let claim = reader
        .claim(&WorkerId::new("test"))
        .await
        .unwrap()
        .remove(0);
    let start = kvstore_core::model::id::Position::START;
    let jobs = reader.read(&claim, start, 100, Duration::ZERO).await;
    assert_eq!(jobs.unwrap().len(), keys.len());
    for (place, id) in ids.iter().enumerate() {
        let queue = if place % 2 == 0 { &other } else { &reader };
        queue.complete(&claim, id.position).await.unwrap();
        // A repetition changes nothing, nor does going back.
        other.complete(&claim, ids[0].position).await.unwrap();
        let depth = reader.depth().await.unwrap();
        let left = &keys[place + 1..];
        assert_eq!(depth.jobs, left.len() as u64, "{id}");
        let bytes: usize = left.iter().map(|key| set(key).size_bytes()).sum();
        assert_eq!(depth.bytes, bytes as u64, "{id}");
        let rest = other.read(&claim, id.position, 100, Duration::ZERO).await;
        assert_eq!(rest.unwrap().len(), left.len(), "{id}");
    }
    assert_eq!(server.ask(&["xlen", "kv:{3560}:jobs"]), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_hear_of_each_other_at_once() {
    const PARTITIONS: u16 = 12;
    let server = RedisServer::start();
    let options = Options {
        partitions: Some(PartitionCount::new(PARTITIONS).unwrap()),
        ..Options::default()
    };
    let mut workers = Vec::new();
    for name in ["first", "second"] {
        let redis = open(&server, options.clone()).await.unwrap();
        workers.push((redis.queue(), WorkerId::new(name)));
    }
    let [(first, first_id), (second, second_id)] = &workers[..] else {
        unreachable!("there are two")
    };
    // Without a notification it would not return at all.
    let told = async |queue: &Arc<dyn WorkQueue>| {
        let changed = tokio::time::timeout(Duration::from_secs(30), queue.claims_changed());
        changed.await.expect("a worker is notified");
    };
    // Listeners announce themselves when they begin to listen.
    told(first).await;
    let all = first.claim(first_id).await.unwrap();
    assert_eq!(all.len(), usize::from(PARTITIONS));

    assert!(second.claim(second_id).await.unwrap().is_empty());
    told(first).await;
    let half = first.claim(first_id).await.unwrap();
    assert_eq!(half.len(), usize::from(PARTITIONS / 2));
    // As a worker does whose tasks have ended, but it stays.
    for claim in all.into_iter().filter(|claim| !half.contains(claim)) {
        first.release(claim).await.unwrap();
    }
    told(second).await;
    let other_half = second.claim(second_id).await.unwrap();
    assert_eq!(other_half.len(), usize::from(PARTITIONS / 2));
    assert_eq!(first.claim(first_id).await.unwrap(), half);

    // It leaves.
    for claim in half {
        first.release(claim).await.unwrap();
    }
    told(second).await;
    let mut held = 0;
    while held < usize::from(PARTITIONS) {
        held = second.claim(second_id).await.unwrap().len();
    }
}

/// Returns how many scripts a server has run.
fn scripts_run(server: &RedisServer) -> u64 {
    let stats = server.ask(&["info", "commandstats"]);
    let calls = stats.split("cmdstat_evalsha:calls=").nth(1).unwrap();
    calls.split(',').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_stay_one_script_each_while_outcomes_grow_too_old() {
    const COMMITS: u64 = 20;
    let server = RedisServer::start();
    let skew = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let options = Options {
        partitions: Some(PartitionCount::new(1).unwrap()),
        skew_ms: Arc::clone(&skew),
        ..Options::default()
    };
    let redis = open(&server, options).await.unwrap();
    let (store, queue) = (redis.store(), redis.queue());
    let claim = queue.claim(&WorkerId::new("w")).await.unwrap().remove(0);
    let kept = || NewJob {
        keep_outcome: true,
        ..set("a")
    };
    let commits = async || {
        let mut scripts = 0;
        for _ in 0..COMMITS {
            queue.enqueue(vec![kept()]).await.remove(0).unwrap();
            let applied = store.applied(queue.id(), claim.partition).await.unwrap();
            let jobs = queue.read(&claim, applied, 1, Duration::ZERO).await;
            let commit = evaluate(applied, &jobs.unwrap(), &HashMap::new()).commit;
            let before = scripts_run(&server);
            store.commit(commit).await.unwrap();
            scripts += scripts_run(&server) - before;
            skew.fetch_add(1000, std::sync::atomic::Ordering::SeqCst);
        }
        scripts
    };
    let fresh = commits().await;
    // From now on each commit makes one more outcome older than an hour.
    let hour = kvstore_core::limits::OUTCOME_RETENTION.as_millis() as i64;
    for _ in 0..2 {
        let rest = hour - 1000 * i64::try_from(COMMITS).unwrap();
        skew.fetch_add(rest, std::sync::atomic::Ordering::SeqCst);
        let later = commits().await;
        assert!(later <= fresh + 3, "{later} scripts, {fresh} while fresh");
    }
}
