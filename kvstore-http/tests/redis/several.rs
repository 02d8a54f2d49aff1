//! Do three servers and four workers on one Redis server lose, double or reorder anything when some
//! of them are killed?

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kvstore_testing::client::{Connection, Reply, Request, request};
use kvstore_testing::process::{Process, run, run_command, worker_command};
use kvstore_testing::redis::RedisServer;

const CLIENTS: usize = 12;
const WRITES: usize = 40;

/// The longest wait for a write: the partitions of a killed worker are taken over when its claims
/// end.
const WAIT: &str = "wait=18";

/// How often a write that is still queued after that is sent again, under its idempotency key.
const AGAIN_MAX: usize = 2;

/// Longer than the whole test takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts a worker process.
fn worker(store: &str) -> Process {
    Process::launch_command(worker_command(&["--store", store]))
}

/// Sends a request to the servers in turn, starting at `first`, until one answers; returns which
/// one did.
async fn ask(servers: &[SocketAddr], first: usize, request: &Request) -> (usize, Reply) {
    for at in (0..servers.len()).map(|next| (first + next) % servers.len()) {
        if let Some(mut connection) = Connection::try_open(servers[at]).await
            && let Some(reply) = connection.try_ask(request).await
        {
            return (at, reply);
        }
    }
    panic!("no server answers");
}

/// Counts up a key of its own, sending each write to another server under the condition that the
/// previous write is the current version.
async fn count(number: usize, servers: Vec<SocketAddr>, acknowledged: Arc<AtomicUsize>) {
    let target = format!("/v1/kv/client:{number}");
    let mut tag: Option<String> = None;
    for write in 1..=WRITES {
        let put = request("PUT", &target)
            .header("prefer", WAIT)
            // A write that is sent again after a kill must not take effect twice.
            .header("idempotency-key", &format!("{number}:{write}"))
            .body(write.to_string());
        let put = match &tag {
            Some(tag) => put.header("if-match", tag),
            None => put.header("if-none-match", "*"),
        };
        let (mut at, mut reply) = ask(&servers, number + write, &put).await;
        // A partition of a killed worker may be assigned to one that is killed before it takes
        // over, so the write may have to wait for the end of both claims.
        for _ in 0..AGAIN_MAX {
            if reply.status != 202 {
                break;
            }
            (at, reply) = ask(&servers, at, &put).await;
        }
        assert!(
            matches!((write, reply.status), (1, 201) | (_, 200 | 201)),
            "{target} {write}: {reply:?}"
        );
        tag = reply.header("etag").map(str::to_owned);
        acknowledged.fetch_add(1, Ordering::Relaxed);

        // Another server shows it at once.
        let (_, seen) = ask(&servers, at + 1, &request("GET", &target)).await;
        assert_eq!(
            (seen.status, seen.text(), seen.header("etag")),
            (200, write.to_string().as_str(), tag.as_deref()),
            "{target}"
        );
    }
}

#[tokio::test]
async fn keys_of_all_partitions_are_deleted_by_their_prefix() {
    const KEYS: usize = 40;
    let redis = RedisServer::start();
    let store = format!("{}?partitions=8", redis.url());
    let server = Process::start(&["--store", &store, "--worker", "none"]);
    let _worker = worker(&store);
    let mut connection = Connection::open(server.address).await;
    let mut tokens = Vec::new();
    for number in 0..KEYS {
        for prefix in ["a/", "b/"] {
            let put = request("PUT", &format!("/v1/kv/{prefix}{number}")).header("prefer", WAIT);
            let reply = connection.ask(&put.body("1")).await;
            assert_eq!(reply.status, 201, "{reply:?}");
            tokens.push(reply.header("sync-token").unwrap().to_owned());
        }
    }
    let partitions: BTreeSet<_> = tokens.iter().map(|token| token.split('.').nth(1)).collect();
    assert!(partitions.len() > 1, "{tokens:?}");

    let delete = request("DELETE", "/v1/kv?prefix=a/").header("prefer", WAIT);
    let reply = connection.ask(&delete).await;
    assert_eq!(
        (reply.status, &reply.json()["deleted"]),
        (200, &KEYS.into()),
        "{reply:?}"
    );
    let jobs = reply.json()["job_ids"].as_array().unwrap().len();
    assert!(
        (2..=8).contains(&jobs),
        "one for each partition with such a key: {jobs}"
    );
    for (prefix, left) in [("a/", 0), ("b/", KEYS)] {
        let count = request("GET", &format!("/v1/kv?prefix={prefix}&count=1&limit=1"));
        assert_eq!(
            connection.ask(&count).await.json()["count"],
            left,
            "{prefix}"
        );
    }
    // A repetition finds nothing to delete, which is no error.
    let reply = connection.ask(&delete).await;
    assert_eq!(
        (reply.status, &reply.json()["deleted"]),
        (200, &0.into()),
        "{reply:?}"
    );
}

#[tokio::test]
async fn servers_and_workers_on_one_redis_lose_nothing_when_some_are_killed() {
    let redis = RedisServer::start();
    let store = redis.url();
    let mut servers = [(); 3].map(|()| Process::start(&["--store", &store]));
    let mut workers = [(); 4].map(|()| worker(&store));
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let counting = count(number, addresses.clone(), Arc::clone(&acknowledged));
            tokio::spawn(counting)
        })
        .collect();

    let all = CLIENTS * WRITES;
    let until = async |share: usize| {
        let begun = Instant::now();
        while acknowledged.load(Ordering::Relaxed) < share
            && clients.iter().any(|client| !client.is_finished())
        {
            assert!(begun.elapsed() < PATIENCE, "too slow");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(
            acknowledged.load(Ordering::Relaxed) < all,
            "it is over already"
        );
    };
    until(all / 8).await;
    servers[0].kill();
    until(all / 4).await;
    workers[0].kill();
    // A worker that stops in order hands its partitions over at once.
    workers[1].signal("TERM");
    assert_eq!(workers[1].ended().code(), Some(0));
    until(all / 2).await;
    workers[2].kill();

    for client in clients {
        tokio::time::timeout(PATIENCE, client)
            .await
            .expect("it comes to an end")
            .expect("no wrong answer");
    }
    assert_eq!(acknowledged.load(Ordering::Relaxed), all);
}

#[tokio::test]
async fn server_and_worker_wait_for_a_redis_that_is_not_there_yet() {
    let mut redis = RedisServer::start();
    redis.kill();
    let store = redis.url();
    let server = Process::launch(&["--store", &store, "--worker", "none"]);
    let worker_args = ["--store", &store, "--admin-listen", "127.0.0.1:0"];
    let worker = Process::launch_command(worker_command(&worker_args));
    let address = server.logged_address("starting: requests are answered 503 for now");
    let admin = worker.logged_address("answering probes");
    for process in [&server, &worker] {
        let line = process.logged("waiting until store and queue can be reached");
        let reason = line["reason"].as_str().unwrap();
        assert!(reason.contains(redis.socket().to_str().unwrap()), "{line}");
    }
    let put = request("PUT", "/v1/kv/a").body("1").header("prefer", WAIT);
    for address in [address, admin] {
        let mut connection = Connection::open(address).await;
        let reply = connection.ask(&request("GET", "/livez")).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let reply = connection.ask(&request("GET", "/readyz")).await;
        let reason = &reply.json()["status"];
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(
            reason.as_str().unwrap().contains("cannot be reached yet"),
            "{reply:?}"
        );
    }
    let mut connection = Connection::open(address).await;
    for refused in [
        &put,
        &request("GET", "/get/a"),
        &request("GET", "/v1/watch"),
    ] {
        let reply = connection.ask(refused).await;
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
    }

    redis.restart();
    let server = server.serves();
    assert_eq!(server.address, address);
    // The connection of before serves on.
    let reply = connection.ask(&put).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    for address in [address, admin] {
        let reply = Connection::open(address)
            .await
            .ask(&request("GET", "/readyz"))
            .await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
}

#[tokio::test]
async fn neither_waits_for_a_redis_that_refuses_it() {
    let redis = RedisServer::start();
    redis.ask(&["CONFIG", "SET", "requirepass", "x"]);
    let args = ["--store", &redis.url()];
    for refused in [run(&args, &[]), run_command(&mut worker_command(&args))] {
        assert_eq!(refused.code, Some(1), "{refused:?}");
        let line = refused.stderr.last().unwrap();
        assert!(line.starts_with("error: "), "{refused:?}");
        assert!(line.contains("cannot be used"), "{refused:?}");
    }
}

/// As many requests as would take an hour if each of them waited for a Redis that hangs.
const REQUESTS: usize = 1000;

#[tokio::test]
async fn requests_fail_at_once_while_redis_hangs() {
    let redis = RedisServer::start();
    let server = Process::start(&["--store", &redis.url(), "--worker", "none"]);
    redis.pause(true);
    let asked = async {
        let mut connection = Connection::open(server.address).await;
        for number in 0..REQUESTS {
            let reply = match number % 2 {
                0 => connection.ask(&request("GET", "/v1/kv/a")).await,
                _ => connection.ask(&request("PUT", "/v1/kv/a").body("1")).await,
            };
            assert_eq!(reply.status, 503, "{reply:?}");
            assert!(reply.header("retry-after").is_some(), "{reply:?}");
        }
        assert_eq!(connection.ask(&request("GET", "/livez")).await.status, 200);
        assert_eq!(connection.ask(&request("GET", "/readyz")).await.status, 503);
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap();
    // A warning for each second at most, not for each request.
    let warnings = server.count_logged("a request failed");
    assert!((1..REQUESTS / 10).contains(&warnings), "{warnings}");
    redis.pause(false);
    let answered = async {
        let mut connection = Connection::open(server.address).await;
        while connection.ask(&request("GET", "/readyz")).await.status != 200 {}
        let put = request("PUT", "/v1/kv/a")
            .body("1")
            .header("prefer", "respond-async");
        assert_eq!(connection.ask(&put).await.status, 202);
    };
    tokio::time::timeout(PATIENCE, answered).await.unwrap();
}

#[tokio::test]
async fn server_alone_on_redis_applies_its_own_writes_unless_it_is_started_without_a_worker() {
    let redis = RedisServer::start();
    let store = redis.url();
    let without = Process::start(&["--store", &store, "--worker", "none"]);
    let put = |value: &str| request("PUT", "/v1/kv/a").body(value.to_owned());
    let waits = put("1").header("prefer", "wait=1");
    let mut connection = Connection::open(without.address).await;
    assert_eq!(connection.ask(&waits).await.status, 202);
    let server = Process::start(&["--store", &store]);
    let mut connection = Connection::open(server.address).await;
    let applied = connection.ask(&put("2").header("prefer", WAIT)).await;
    assert_eq!(
        applied.status, 200,
        "behind the one that waited: {applied:?}"
    );
}
