//! Does a watch report every change, whichever process made it and on any store?

use kvstore_testing::client::{Connection, request};
use kvstore_testing::events::Events;
use kvstore_testing::process::{Process, worker_command};
use kvstore_testing::redis::RedisServer;
use serde_json::json;

/// Writes at one server in every possible way, and checks that a watch at the other one reports the
/// changes in order.
async fn is_told(writer: &Process, other: &Process) {
    let mut connection = Connection::open(writer.address).await;
    let put = |value: u64| {
        let put = request("PUT", "/v1/kv/user:1").header("prefer", "wait=20");
        put.body(value.to_string())
    };
    assert_eq!(connection.ask(&put(0)).await.status, 201);
    let target = "/v1/watch?prefix=user:&snapshot=1&include=value";
    let mut events = Events::open(other.address, &request("GET", target)).await;
    // The first write may be reported twice, in the snapshot or as a change.
    loop {
        let (name, data) = events.told().await;
        if name == "synced" {
            break;
        }
        assert_eq!(
            (&data["key"], &data["value"]),
            (&json!("user:1"), &json!(0))
        );
    }
    let id = events.last_id.clone();
    for value in 1..50 {
        assert_eq!(connection.ask(&put(value)).await.status, 200);
    }
    let delete = request("DELETE", "/v1/kv/user:1").header("prefer", "wait=20");
    assert_eq!(connection.ask(&delete).await.status, 200);
    let short = request("PUT", "/v1/kv/user:2?ttl=1").header("prefer", "wait=20");
    assert_eq!(connection.ask(&short.body("2")).await.status, 201);

    let again = request("GET", target).header("last-event-id", &id);
    let resumed = Events::open(other.address, &again).await;
    for mut events in [events, resumed] {
        let mut told = Vec::new();
        let mut version = 0;
        while told.last().is_none_or(|(name, _)| name != "expire") {
            let (name, data) = events.told().await;
            let tag = data["etag"].as_str().unwrap().trim_matches('"');
            let number: u64 = tag.parse().unwrap();
            if data["key"] == "user:1" {
                assert!(
                    version < number || told.is_empty(),
                    "{version}, then {number}"
                );
                version = number;
            }
            told.push((name, data["key"].as_str().unwrap().to_owned()));
        }
        let sets = told.iter().filter(|(name, _)| name == "set").count();
        // One more if the first write was reported again.
        assert!((50..=51).contains(&sets), "{told:?}");
        assert!(told.contains(&("delete".to_owned(), "user:1".to_owned())));
        assert_eq!(told.last().unwrap().1, "user:2");
    }
}

#[tokio::test]
async fn change_in_a_folder_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().display());
    let server = Process::start(&["--store", &store]);
    is_told(&server, &server).await;
}

#[tokio::test]
async fn change_on_redis_is_told_by_a_server_that_did_not_take_it() {
    let redis = RedisServer::start();
    let url = redis.url();
    let worker = Process::launch_command(worker_command(&["--store", &url]));
    worker.logged("working");
    let [first, second] = [(); 2].map(|()| Process::start(&["--store", &url, "--worker", "none"]));
    is_told(&first, &second).await;
}

#[tokio::test]
async fn change_in_a_folder_is_told_by_those_that_read_it() {
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().join("database").display());
    let queue = redis.url();
    let args = ["--store", &store, "--queue", &queue];
    let worker = Process::launch_command(worker_command(&args));
    worker.logged("working");
    let args = ["--store", &store, "--queue", &queue, "--worker", "none"];
    let [first, second] = [(); 2].map(|()| Process::start(&args));
    is_told(&first, &second).await;
}
