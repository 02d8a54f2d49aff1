//! Do the replicas of a Redis server have every acknowledged write, if the settings require it?

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::id::{JobId, Partition, PartitionCount, Position};
use kvstore_core::model::job::NewJob;
use kvstore_core::queue::{Found, WorkerId};
use kvstore_core::redis::{Options, Redis};
use kvstore_core::{Error, Key, StoreExt, Value};
use kvstore_testing::cluster::Cluster;
use kvstore_testing::redis::{RedisServer, free_port};
use tokio::net::{TcpListener, TcpStream};

const PATIENCE: Duration = Duration::from_secs(30);

async fn open(url: &str, wait_replicas: usize) -> Redis {
    let options = Options {
        partitions: Some(PartitionCount::new(2).unwrap()),
        wait_replicas,
        ..Options::default()
    };
    Redis::open(url, options).await.unwrap()
}

fn job(key: &str) -> NewJob {
    let (key, value) = (Key::new(key).unwrap(), Value::parse("1").unwrap());
    NewJob::new(Command::One(Operation::set(key, value)))
}

/// Returns how many jobs a server holds.
fn jobs_on(server: &RedisServer) -> usize {
    let count = "local sum = 0 for _, key in ipairs(redis.call('KEYS', 'kv:{*:queue')) do \
                 sum = sum + (redis.call('HGET', key, 'jobs') or 0) end return sum";
    let answer = server.ask(&["eval_ro", count, "0"]);
    answer.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_is_on_the_replica() {
    let (primary, replica, _) = RedisServer::pair();
    let redis = open(&primary.url(), 1).await;
    let (store, queue) = (redis.store(), redis.queue());
    for number in 1..=20 {
        queue
            .enqueue(vec![job(&format!("{number}"))])
            .await
            .remove(0)
            .unwrap();
        assert_eq!(jobs_on(&replica), number);
        let version = store.set("{a}", &number).await.unwrap();
        let versions = replica.ask(&[
            "eval_ro",
            "return redis.call('GET', redis.call('KEYS', 'kv:{*}:v:{a}')[1])",
            "0",
        ]);
        assert!(
            versions.starts_with(&format!("{version} 0 {number}")),
            "{versions}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_while_the_replica_hangs() {
    let (primary, replica, _) = RedisServer::pair();
    let redis = open(&primary.url(), 1).await;
    let (store, queue) = (redis.store(), redis.queue());
    store.set("{a}", &0).await.unwrap();

    replica.pause(true);
    let waiting = tokio::spawn({
        let queue = redis.queue();
        async move { queue.enqueue(vec![job("a")]).await.remove(0) }
    });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(jobs_on(&primary), 1, "the server itself has it");
    assert!(!waiting.is_finished());
    // Nor does reading wait for it.
    assert_eq!(store.get_as::<i32>("{a}").await.unwrap(), Some(0));
    replica.pause(false);
    waiting.await.unwrap().unwrap();
    assert_eq!(jobs_on(&replica), 1);
    assert_eq!(jobs_on(&primary), 1, "it was sent again, and is there once");

    replica.pause(true);
    let (set, enqueued) = tokio::join!(store.set("{a}", &1), queue.enqueue(vec![job("b")]));
    let unknown = set.unwrap_err().to_string();
    assert!(
        unknown.contains("0 replicas have it, and wait_replicas is 1"),
        "{unknown}"
    );
    assert!(
        matches!(enqueued[0], Err(Error::Unknown { .. })),
        "{enqueued:?}"
    );
    replica.pause(false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_applies_no_job_that_a_failover_could_lose() {
    let (primary, replica, _) = RedisServer::pair();
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().display());
    let queue = format!("{}?partitions=1&wait_replicas=1", primary.url());
    let (store, queue) = (store.parse().unwrap(), queue.parse().unwrap());
    let opened = kvstore_core::open(&store, Some(&queue)).await.unwrap();
    let claims = opened.queue.claim(&WorkerId::new("test")).await.unwrap();
    let read = async || {
        let (after, wait) = (Position::START, Duration::ZERO);
        opened.queue.read(&claims[0], after, 100, wait).await
    };

    replica.pause(true);
    let accepted = opened.queue.enqueue(vec![job("a")]).await.remove(0);
    assert!(
        matches!(accepted, Err(Error::Unknown { .. })),
        "{accepted:?}"
    );
    assert_eq!(jobs_on(&primary), 1);
    let jobs = read().await;
    assert!(matches!(jobs, Err(Error::Unavailable { .. })), "{jobs:?}");
    // An operator sees it all the same.
    let shown = opened.queue.peek(Partition(0), Position::START, 1).await;
    assert_eq!(shown.unwrap().len(), 1);
    replica.pause(false);
    // Also from a full server, so that it drains.
    primary.ask(&["config", "set", "maxmemory", "1"]);
    assert_eq!(read().await.unwrap().len(), 1);
    opened.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_replicas_acknowledges_nothing_to_who_waits_for_them() {
    let cluster = Cluster::shared();
    let redis = open(&cluster.url(), 1).await;
    let begun = Instant::now();
    let refused = redis.store().set("a", &1).await;
    assert!(matches!(refused, Err(Error::Unknown { .. })), "{refused:?}");
    assert!(begun.elapsed() > Duration::from_secs(1));
    let alone = open(&cluster.url(), 0).await;
    assert_eq!(alone.store().get_as::<i32>("a").await.unwrap(), Some(1));
}

/// Forwards connections to the current primary.
async fn forwarder(primary: Arc<AtomicU16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let to = ("127.0.0.1", primary.load(Ordering::SeqCst));
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(to).await {
                    // Ends with either side.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_takes_over_has_all_that_was_acknowledged() {
    const ACKNOWLEDGED_MIN: usize = 200;
    let (mut primary, replica, port) = RedisServer::pair();
    let target = Arc::new(AtomicU16::new(port));
    let url = format!("redis://127.0.0.1:{}", forwarder(Arc::clone(&target)).await);
    let redis = open(&url, 1).await;
    let acknowledged: Arc<Mutex<Vec<JobId>>> = Arc::default();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (queue, acknowledged) = (redis.queue(), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                for number in 0.. {
                    match queue
                        .enqueue(vec![job(&format!("{writer}:{number}"))])
                        .await
                        .remove(0)
                    {
                        Ok(accepted) => acknowledged.lock().unwrap().push(accepted.id),
                        Err(_) => return number,
                    }
                }
                unreachable!("it ends with an error")
            })
        })
        .collect();
    let count = || acknowledged.lock().unwrap().len();
    let begun = Instant::now();
    while count() < ACKNOWLEDGED_MIN {
        assert!(begun.elapsed() < PATIENCE, "too slow: {}", count());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    primary.kill();
    for writer in writers {
        let under_way = writer.await.unwrap();
        assert!(under_way > 0, "each was at it");
    }

    // At the address of the old primary; it has never seen a replica, so nothing waits for one any
    // more.
    replica.ask(&["replicaof", "no", "one"]);
    let new_port = free_port();
    replica.ask(&["config", "set", "port", &new_port.to_string()]);
    target.store(new_port, Ordering::SeqCst);
    drop(redis);
    let redis = open(&url, 0).await;
    let acknowledged = acknowledged.lock().unwrap().clone();
    for id in &acknowledged {
        let found = redis.queue().find(id).await.unwrap();
        assert!(matches!(found, Found::Held { .. }), "{id}: {found:?}");
    }
    // Its numbers continue above all that either server ever gave out.
    let next = redis
        .queue()
        .enqueue(vec![job("next")])
        .await
        .remove(0)
        .unwrap()
        .id;
    let highest = acknowledged.iter().map(|id| id.position.major).max();
    assert!(next.position.major > highest.unwrap(), "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_not_refused_whose_server_becomes_a_replica_while_it_waits_for_one() {
    let (primary, replica, _) = RedisServer::pair();
    let redis = open(&primary.url(), 1).await;
    redis
        .queue()
        .enqueue(vec![job("a")])
        .await
        .remove(0)
        .unwrap();
    replica.pause(true);
    let queue = redis.queue();
    let waiting = tokio::spawn(async move { queue.enqueue(vec![job("b")]).await.remove(0) });
    let begun = Instant::now();
    while jobs_on(&primary) < 2 {
        assert!(begun.elapsed() < PATIENCE, "it does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    primary.ask(&["replicaof", "127.0.0.1", "1"]);
    let answer = waiting.await.unwrap();
    assert!(matches!(answer, Err(Error::Unknown { .. })), "{answer:?}");
    replica.pause(false);
}
