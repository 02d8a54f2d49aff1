//! §7: `/v1/watch`, and waiting for a change of one key.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kvstore_core::limits::CHANGES_MAX;
use kvstore_http::Options;
use serde_json::{Value, json};

use crate::support::server::{Server, Setup};
use kvstore_testing::client::{Connection, Request, request};
use kvstore_testing::events::Events;

async fn put(server: &Server, key: &str, value: &str) -> String {
    let put = request("PUT", &format!("/v1/kv/{key}")).body(value);
    let reply = server.ask(&put).await;
    reply.header("etag").expect("it was applied").to_owned()
}

async fn delete(server: &Server, key: &str) {
    let reply = server
        .ask(&request("DELETE", &format!("/v1/kv/{key}")))
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

async fn watch(server: &Server, query: &str) -> Events {
    let target = format!("/v1/watch{query}");
    Events::open(server.address, &request("GET", &target)).await
}

fn with(options: Options) -> Setup {
    Setup {
        options,
        ..Setup::default()
    }
}

#[tokio::test]
async fn changes_are_told_as_they_become_visible() {
    let server = Server::start().await;
    put(&server, "before", "0").await;
    let mut events = watch(&server, "?include=value").await;
    for (header, value) in [("cache-control", "no-store"), ("x-accel-buffering", "no")] {
        assert_eq!(events.head.header(header), Some(value));
    }
    let set = put(&server, "user:1", r#"{ "name": "Ada" }"#).await;
    let (name, told) = events.told().await;
    assert_eq!(name, "set");
    assert_eq!(
        told,
        json!({"key": "user:1", "etag": set, "value": {"name": "Ada"}})
    );
    delete(&server, "user:1").await;
    let (name, told) = events.told().await;
    assert_eq!((&*name, &told["key"]), ("delete", &json!("user:1")));
    assert!(told["etag"].is_string() && told.get("value").is_none());
    put(&server, "short?ttl=1", "1").await;
    assert_eq!(events.told().await.0, "set");
    server.clock.advance(Duration::from_secs(2));
    let (name, told) = events.told().await;
    assert_eq!((&*name, &told["key"]), ("expire", &json!("short")));
}

#[tokio::test]
async fn first_line_says_when_to_connect_again_and_every_change_has_an_id() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    connection
        .send(b"GET /v1/watch HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    assert_eq!(connection.reply("GET").await.status, 200);
    let text = String::from_utf8(connection.chunk().await.unwrap()).unwrap();
    assert!(
        text.starts_with("retry: 2000\nid: ") && text.ends_with("\n\n"),
        "{text}"
    );
    let etag = put(&server, "a", "1").await;
    let text = String::from_utf8(connection.chunk().await.unwrap()).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("id: "), "{text}");
    assert_eq!(lines[1], "event: set");
    let etag = serde_json::to_string(&etag).unwrap();
    assert_eq!(lines[2], format!(r#"data: {{"key":"a","etag":{etag}}}"#));
}

#[tokio::test]
async fn only_what_is_asked_for_is_told() {
    let server = Server::start().await;
    let mut few = watch(&server, "?prefix=user:&events=delete,expire").await;
    let mut all = watch(&server, "").await;
    put(&server, "user:1", "1").await;
    put(&server, "team:1", "1").await;
    delete(&server, "team:1").await;
    delete(&server, "user:1").await;
    let event = few.next().await.unwrap();
    assert_eq!((&*event.name, &*event.key()), ("delete", "user:1"));
    let mut told = Vec::new();
    for _ in 0..4 {
        let (name, data) = all.told().await;
        assert_eq!(data.get("value"), None);
        told.push((name, data["key"].as_str().unwrap().to_owned()));
    }
    let expected = [
        ("set", "user:1"),
        ("set", "team:1"),
        ("delete", "team:1"),
        ("delete", "user:1"),
    ];
    assert_eq!(told, expected.map(|(name, key)| (name.into(), key.into())));
}

#[tokio::test]
async fn snapshot_comes_first_and_then_the_changes() {
    let server = Server::start().await;
    let mut tags = BTreeMap::new();
    for number in 0..250 {
        let key = format!("user:{number:03}");
        tags.insert(key.clone(), put(&server, &key, &number.to_string()).await);
    }
    put(&server, "other", "0").await;
    let mut events = watch(&server, "?prefix=user:&snapshot=1&include=value").await;
    for (number, (key, tag)) in tags.iter().enumerate() {
        let event = events.next().await.unwrap();
        assert_eq!((&*event.name, &event.id), ("set", &None));
        assert_eq!(
            event.json(),
            json!({"key": key, "etag": tag, "value": number})
        );
    }
    let synced = events.next().await.unwrap();
    assert_eq!((&*synced.name, &*synced.data), ("synced", "{}"));
    assert!(synced.id.is_some());
    put(&server, "user:000", "7").await;
    assert_eq!(events.told().await.1["value"], 7);
}

#[tokio::test]
async fn watch_goes_on_behind_the_last_event_and_misses_nothing() {
    let server = Server::start().await;
    let mut events = watch(&server, "").await;
    put(&server, "a", "1").await;
    assert_eq!(events.told().await.1["key"], "a");
    let id = events.last_id.clone();
    drop(events);
    put(&server, "b", "1").await;
    delete(&server, "a").await;

    let by_header =
        request("GET", "/v1/watch?snapshot=1&since=nonsense").header("last-event-id", &id);
    let by_query = request("GET", &format!("/v1/watch?since={id}"));
    for again in [by_header, by_query] {
        let mut events = Events::open(server.address, &again).await;
        assert_eq!(events.told().await.1["key"], "b");
        assert_eq!(events.told().await.0, "delete");
    }
    // Also from the very beginning of a watch, before any event.
    let mut idle = watch(&server, "").await;
    idle.block().await.unwrap();
    let id = idle.last_id.clone();
    drop(idle);
    put(&server, "c", "1").await;
    let mut events = watch(&server, &format!("?since={id}")).await;
    assert_eq!(events.told().await.1["key"], "c");
}

#[tokio::test]
async fn history_that_is_gone_is_410() {
    let server = Server::start().await;
    let mut events = watch(&server, "").await;
    events.block().await.unwrap();
    let id = events.last_id.clone();
    drop(events);
    for number in 0..=CHANGES_MAX {
        server.put("a", &number.to_string()).await;
    }
    let reply = server
        .ask(&request("GET", &format!("/v1/watch?since={id}")))
        .await;
    assert_eq!(reply.status, 410);
    assert_eq!(reply.json()["type"], "/problems/history-compacted");

    // A browser's `EventSource` sends this header and gives up permanently on a 410.
    let accepts = |query: &str| {
        let watch = request("GET", &format!("/v1/watch?{query}")).header("last-event-id", &id);
        watch.header("accept", "text/html;q=0.5, Text/Event-Stream;q=1")
    };
    let mut live = Events::open(server.address, &accepts("")).await;
    let (name, told) = live.told().await;
    assert_eq!((&*name, told["reason"].is_string()), ("reset", true));
    let resumed = live.last_id.clone();
    server.put("b", "1").await;
    assert_eq!(live.told().await.1["key"], "b");
    let mut again = watch(&server, &format!("?since={resumed}")).await;
    assert_eq!(again.told().await.1["key"], "b");

    let mut whole = Events::open(server.address, &accepts("snapshot=1")).await;
    assert_eq!(whole.told().await.0, "reset");
    // A client that is cut off here would receive the reset again.
    assert_eq!(whole.last_id, "");
    for expected in ["set", "set", "synced"] {
        assert_eq!(whole.told().await.0, expected);
    }
    server.put("c", "1").await;
    assert_eq!(whole.told().await.1["key"], "c");

    // An id from an unknown history.
    let foreign = request("GET", "/v1/watch?since=nonsense").header("accept", "text/event-stream");
    let mut foreign = Events::open(server.address, &foreign).await;
    assert_eq!(foreign.told().await.0, "reset");
}

#[tokio::test]
async fn bad_parameters_are_refused_by_name() {
    let server = Server::start().await;
    for (query, name) in [
        ("events=set,gone", "events"),
        ("events=set,", "events"),
        ("include=all", "include"),
        ("snapshot=maybe", "snapshot"),
    ] {
        let reply = server
            .ask(&request("GET", &format!("/v1/watch?{query}")))
            .await;
        assert_eq!(reply.status, 422, "{query}: {}", reply.text());
        assert!(reply.text().contains(name), "{query}: {}", reply.text());
    }
    let reply = server
        .ask(&request("GET", "/v1/watch?since=nonsense"))
        .await;
    assert!(matches!(reply.status, 400 | 410), "{reply:?}");
}

/// Updates the knowledge of a client that follows a watch.
fn follow(known: &mut BTreeMap<String, Value>, name: &str, data: &Value) {
    let key = data["key"].as_str().expect("a key").to_owned();
    match name {
        "set" => {
            // An event omits a value that has already been replaced; the event of its replacement
            // follows.
            if let Some(value) = data.get("value") {
                known.insert(key, value.clone());
            }
        }
        _ => {
            known.remove(&key);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_follows_a_snapshot_and_changes_knows_what_is_there() {
    const ROUNDS: usize = 150;
    let server = Server::start().await;
    for number in 0..300 {
        server.put(&format!("key:{number:03}"), "0").await;
    }
    let address = server.address;
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                for round in 1..=ROUNDS {
                    let key = (round * 7 + writer * 75) % 300;
                    let target = format!("/v1/kv/key:{key:03}");
                    let write = match round % 5 {
                        0 => request("DELETE", &target),
                        _ => request("PUT", &target).body(format!("[{writer},{round}]")),
                    };
                    let reply = connection.ask(&write).await;
                    assert!(matches!(reply.status, 200 | 201), "{reply:?}");
                }
            })
        })
        .collect();
    // The watchers start during writes, and sometimes disconnect and resume.
    let watchers: Vec<_> = (0..6_u64)
        .map(|watcher| {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(20 * watcher)).await;
                let target = "/v1/watch?snapshot=1&include=value";
                let mut known = BTreeMap::new();
                let mut events = Events::open(address, &request("GET", target)).await;
                let mut is_synced = false;
                for told in 1_usize.. {
                    let (name, data) = events.told().await;
                    match &*name {
                        "synced" => is_synced = true,
                        _ if data["key"] == "last" => break,
                        _ => follow(&mut known, &name, &data),
                    }
                    if is_synced && told.is_multiple_of(40) {
                        let again = request("GET", target).header("last-event-id", &events.last_id);
                        events = Events::open(address, &again).await;
                    }
                }
                assert!(is_synced);
                known
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    put(&server, "last", "1").await;
    let mut there = BTreeMap::new();
    for number in 0..300 {
        let key = format!("key:{number:03}");
        let reply = server.ask(&request("GET", &format!("/v1/kv/{key}"))).await;
        if reply.status == 200 {
            there.insert(key, reply.json());
        }
    }
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), there);
    }
}

#[tokio::test]
async fn heartbeat_keeps_a_silent_watch_open_and_moves_its_id() {
    let options = Options {
        watch_heartbeat: Duration::from_millis(50),
        head_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(200),
        write_timeout: Duration::from_millis(200),
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    let mut events = watch(&server, "?prefix=user:").await;
    events.block().await.unwrap();
    let begin = events.last_id.clone();
    put(&server, "team:1", "1").await;
    let begun = Instant::now();
    let mut beats = 0;
    while begun.elapsed() < Duration::from_millis(600) {
        let block = events.block().await.unwrap();
        assert_eq!(block.comment, "heartbeat", "{block:?}");
        beats += 1;
    }
    assert!(beats >= 3, "{beats}");
    assert_ne!(events.last_id, begin);
    put(&server, "user:1", "1").await;
    loop {
        let event = events.block().await.unwrap();
        if event.comment.is_empty() {
            assert_eq!(event.key(), "user:1");
            break;
        }
    }
}

#[tokio::test]
async fn so_many_watch_and_no_more_until_one_leaves() {
    let options = Options {
        watchers_max: 2,
        watch_heartbeat: Duration::from_millis(20),
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    let tag = put(&server, "a", "1").await;
    let first = watch(&server, "").await;
    let _second = watch(&server, "").await;
    let long_poll = request("GET", "/v1/kv/a")
        .header("if-none-match", &tag)
        .header("prefer", "wait=5");
    for another in [request("GET", "/v1/watch"), long_poll.clone()] {
        let reply = server.ask(&another).await;
        assert_eq!((reply.status, reply.retry_after()), (503, Some("1")));
        assert_eq!(reply.json()["type"], "/problems/overloaded");
    }
    // Other requests are served, and so are reads that do not wait.
    assert_eq!(server.ask(&request("GET", "/v1/kv/a")).await.status, 200);
    drop(first);
    let begun = Instant::now();
    while server.ask(&request("HEAD", "/v1/watch")).await.status != 200 {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "no place is free"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn reader_that_takes_nothing_is_disconnected() {
    let options = Options {
        write_timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    let mut slow = server.connect().await;
    slow.send(b"GET /v1/watch?include=value HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    assert_eq!(slow.reply("GET").await.status, 200);
    let value = format!("\"{}\"", "x".repeat(500_000));
    let mut quick = watch(&server, "").await;
    // More than the sockets' buffers hold.
    for _ in 0..40 {
        server.put("large", &value).await;
        assert_eq!(quick.told().await.1["key"], "large");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    let mut chunks = 0;
    while slow.chunk().await.is_some() {
        chunks += 1;
    }
    assert!(chunks < 40, "it received everything, and so was not slow");
    server.put("after", "1").await;
    assert_eq!(quick.told().await.1["key"], "after");
}

#[tokio::test]
async fn watches_end_when_the_server_is_told_to_stop() {
    let options = Options {
        drain_delay: Duration::from_secs(60),
        ..Options::default()
    };
    let mut server = Server::start_with(with(options)).await;
    let tag = put(&server, "a", "1").await;
    let mut events = watch(&server, "?snapshot=1").await;
    while events.told().await.0 != "synced" {}
    let mut waiting = server.connect().await;
    let poll = format!(
        "GET /v1/kv/a HTTP/1.1\r\nhost: localhost\r\nif-none-match: {tag}\r\nprefer: wait=60\r\n\r\n"
    );
    waiting.send(poll.as_bytes()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop();
    assert_eq!(events.next().await, None);
    assert_eq!(waiting.reply("GET").await.status, 304);
}

fn poll(key: &str, tag: &str, wait: u64) -> Request {
    request("GET", &format!("/v1/kv/{key}"))
        .header("if-none-match", tag)
        .header("prefer", &format!("wait={wait}"))
}

#[tokio::test]
async fn one_key_can_be_waited_for() {
    let server = Server::start().await;
    let tag = put(&server, "a", "1").await;
    let reply = server.ask(&poll("a", &tag, 1)).await;
    assert_eq!(
        (reply.status, reply.header("preference-applied")),
        (304, Some("wait"))
    );
    assert_eq!(reply.header("etag"), Some(&*tag));

    let waits = |tag: &str, wait| {
        let (address, poll) = (server.address, poll("a", tag, wait));
        tokio::spawn(async move { Connection::open(address).await.ask(&poll).await })
    };
    let waiting = waits(&tag, 10);
    tokio::time::sleep(Duration::from_millis(100)).await;
    put(&server, "b", "1").await;
    assert!(!waiting.is_finished());
    let tag = put(&server, "a", "2").await;
    let reply = waiting.await.unwrap();
    assert_eq!((reply.status, reply.text()), (200, "2"));
    assert_eq!(reply.header("etag"), Some(&*tag));

    let waiting = waits(&tag, 10);
    tokio::time::sleep(Duration::from_millis(100)).await;
    delete(&server, "a").await;
    assert_eq!(waiting.await.unwrap().status, 404);
    // An outdated tag is answered at once, and so is an absent key.
    let begun = Instant::now();
    put(&server, "a", "3").await;
    assert_eq!(server.ask(&poll("a", &tag, 10)).await.status, 200);
    assert_eq!(server.ask(&poll("absent", &tag, 10)).await.status, 404);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn one_key_that_expires_is_404_to_who_waits() {
    let server = Server::start().await;
    let tag = put(&server, "a?ttl=1", "1").await;
    let address = server.address;
    let waiting = tokio::spawn(async move {
        Connection::open(address)
            .await
            .ask(&poll("a", &tag, 10))
            .await
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.clock.advance(Duration::from_secs(2));
    assert_eq!(waiting.await.unwrap().status, 404);
}

#[tokio::test]
async fn client_that_left_frees_its_place_at_once() {
    let options = Options {
        watchers_max: 2,
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    let tag = put(&server, "a", "1").await;
    let watch = "GET /v1/watch HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned();
    let poll = format!(
        "GET /v1/kv/a HTTP/1.1\r\nhost: localhost\r\nif-none-match: {tag}\r\nprefer: wait=60\r\n\r\n"
    );
    for waits in [watch, poll] {
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut client = server.connect().await;
            client.send(waits.as_bytes()).await;
            clients.push(client);
        }
        while server.ask(&request("HEAD", "/v1/watch")).await.status == 200 {
            tokio::task::yield_now().await;
        }
        drop(clients);
        let freed = async {
            while server.ask(&request("HEAD", "/v1/watch")).await.status != 200 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Much sooner than a heartbeat would notice that they are gone.
        let freed = tokio::time::timeout(Duration::from_secs(8), freed).await;
        assert!(freed.is_ok(), "{waits}");
    }
}

#[tokio::test]
async fn key_that_is_missing_can_be_waited_for() {
    let server = Server::start().await;
    let ask = |target: &str, wait: &str| {
        let asks = request("GET", target).header("prefer", wait);
        let address = server.address;
        tokio::spawn(async move { Connection::open(address).await.ask(&asks).await })
    };
    let waiting = ["/v1/kv/late", "/v1/kv/late?meta=1", "/get/late"].map(|it| ask(it, "wait=30"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    put(&server, "later", "0").await;
    assert!(waiting.iter().all(|waits| !waits.is_finished()));
    let tag = put(&server, "late", "1").await;
    for waits in waiting {
        let reply = waits.await.unwrap();
        assert_eq!((reply.status, reply.header("etag")), (200, Some(&*tag)));
        assert_eq!(reply.header("preference-applied"), Some("wait"));
    }
    let never = ask("/v1/kv/never", "wait=1").await.unwrap();
    assert_eq!(never.status, 404);
    assert_eq!(never.header("preference-applied"), Some("wait"));
    // A client that sends a tag knows an entry that is now gone.
    let asked = Instant::now();
    let gone = request("GET", "/v1/kv/never").header("prefer", "wait=30");
    let gone = server.ask(&gone.header("if-none-match", &tag)).await;
    assert_eq!(
        (gone.status, gone.header("preference-applied")),
        (404, None)
    );
    assert!(asked.elapsed() < Duration::from_secs(20));
}
