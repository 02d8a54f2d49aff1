//! What if a key of the store has the wrong type in Redis, because another program wrote it?
//! Nothing accepted is lost, doubled or given up: what cannot be applied waits visibly until the key
//! is put right.

use std::time::{Duration, Instant};

use kvstore_testing::client::{Connection, request};
use kvstore_testing::process::{Process, worker_command};
use kvstore_testing::redis::RedisServer;

/// Longer than the worker's longest pause.
const PATIENCE: Duration = Duration::from_secs(60);

const ADD: &str = "/v1/kv/n?add=1";

/// The keys of a partition that a write reads or changes.
const NAMES: [&str; 13] = [
    "v:n",
    "state",
    "keys",
    "deadlines",
    "changes",
    "outcomes:",
    "letters",
    "letter-index",
    "jobs",
    "queue",
    "requests",
    "request-deadlines",
    "request-guarantees",
];

/// Waits until the log names `key` as the cause of `message`.
fn said(process: &Process, message: &str, key: &str) {
    let begun = Instant::now();
    loop {
        let line = process.logged(message);
        let text = line.to_string();
        if text.contains("WRONGTYPE") && text.contains(key) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{key}: {line}");
    }
}

#[tokio::test]
async fn writes_wait_visibly_while_a_key_has_the_wrong_type_and_count_once_when_it_is_right() {
    let redis = RedisServer::start();
    let url = format!("{}?partitions=1", redis.url());
    let worker_args = ["--store", &url, "--admin-listen", "127.0.0.1:0"];
    let worker = Process::launch_command(worker_command(
        &[&worker_args[..], &["--attempts-max", "2"]].concat(),
    ));
    let admin = worker.logged_address("answering probes");
    worker.logged("working");
    let server = Process::start(&["--store", &url, "--worker", "none"]);
    let mut connection = Connection::open(server.address).await;
    let first = request("POST", ADD).header("prefer", "wait=30");
    assert_eq!(connection.ask(&first).await.status, 201);
    let state = redis.ask(&["KEYS", "kv:*:state"]);
    let start = state.trim().strip_suffix("state").expect("one partition");
    let meta = redis.ask(&["HGET", "kv:meta", "queue"]);
    let (mut sum, mut waited) = (1, 0);
    for name in NAMES {
        let key = match name {
            "outcomes:" => format!("{start}{name}{}", meta.trim()),
            _ => format!("{start}{name}"),
        };
        let saved = format!("{key}:saved");
        let exists = redis.ask(&["EXISTS", &key]).trim() == "1";
        if exists {
            redis.ask(&["RENAME", &key, &saved]);
        }
        // No key of a store is a set.
        redis.ask(&["SADD", &key, "x"]);
        // With an idempotency key, so that those are read, too.
        let add = request("POST", ADD)
            .header("prefer", "wait=1")
            .header("idempotency-key", &format!("\"{name}\""));
        let reply = connection.ask(&add).await;
        match reply.status {
            // Applied: this key does not matter to it.
            200 => sum += 1,
            202 => {
                sum += 1;
                waited += 1;
                said(&worker, "the partition waits", &key);
                let mut probes = Connection::open(admin).await;
                let metrics = probes.ask(&request("GET", "/metrics")).await;
                let metrics = metrics.text();
                let waits = "kvstore_worker_partitions{state=\"waiting\"} 1\n";
                assert!(metrics.contains(waits), "{name}: {metrics}");
            }
            // Not accepted.
            503 => {
                // The log has at most one such line per second.
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(connection.ask(&add).await.status, 503, "{name}");
                said(&server, "a request failed", &key);
            }
            _ => panic!("{name}: {reply:?}"),
        }
        match exists {
            true => redis.ask(&["RENAME", &saved, &key]),
            false => redis.ask(&["DEL", &key]),
        };
        // The same request again counts once, whatever its first answer was.
        let again = add.header("prefer", "wait=30");
        let begun = Instant::now();
        let replayed = loop {
            let replayed = connection.ask(&again).await;
            if replayed.status == 200 {
                break replayed;
            }
            assert!(begun.elapsed() < PATIENCE, "{name}: {replayed:?}");
        };
        sum += u64::from(reply.status == 503);
        assert_eq!(replayed.json()["value"], sum, "{name}: {replayed:?}");
        let read = connection.ask(&request("GET", "/v1/kv/n")).await;
        assert_eq!(read.text(), sum.to_string(), "{name}");
    }
    assert!(waited > 0, "no key kept a job waiting");
    let dead = connection
        .ask(&request("GET", "/v1/jobs?status=dead"))
        .await;
    assert_eq!(dead.json()["jobs"], serde_json::json!([]), "{dead:?}");
}
