//! §1 and §8: the answers while the store or the queue fails, none of which leaks internal details.

use std::time::{Duration, Instant};

use kvstore_http::Options;

use crate::support::server::{Server, Setup};
use kvstore_testing::client::{Request, request};
use kvstore_testing::faulty::{Fault, poisoned, storage_full, unavailable, unknown};

fn read() -> Request {
    request("GET", "/v1/kv/a")
}

fn write() -> Request {
    request("PUT", "/v1/kv/a")
        .body("1")
        .header("prefer", "respond-async")
}

#[tokio::test]
async fn each_fault_has_its_answer_on_both_faces() {
    let server = Server::start_idle(Setup::default()).await;
    let set = request("POST", "/set").body(r#"{"key":"a","value":1}"#);
    for (fault, status, name, retry) in [
        (Fault::Before(unavailable), 503, "unavailable", Some("1")),
        (Fault::Before(unknown), 504, "outcome-unknown", None),
        (Fault::Before(storage_full), 507, "storage-full", Some("10")),
        (Fault::Before(poisoned), 503, "unavailable", Some("1")),
        (Fault::Panic, 500, "internal", None),
    ] {
        server.faults.set(Some(fault.clone()));
        for request in [
            write(),
            read(),
            set.clone(),
            request("GET", "/get/a"),
            request("DELETE", "/delete/a"),
        ] {
            let reply = server.ask(&request).await;
            assert_eq!(
                (reply.status, reply.retry_after()),
                (status, retry),
                "{fault:?} {request:?}"
            );
            assert!(!reply.text().contains("secret"), "{}", reply.text());
            assert!(reply.json()["detail"].is_string());
        }
        assert_eq!(
            server.ask(&write()).await.json()["type"],
            format!("/problems/{name}")
        );
    }
    server.faults.set(None);
    assert_eq!(server.ask(&write()).await.status, 202);
}

#[tokio::test]
async fn panic_is_a_500_and_ends_neither_server_nor_connection() {
    let server = Server::start_idle(Setup::default()).await;
    let mut connection = server.connect().await;
    server.faults.set(Some(Fault::Panic));
    let reply = connection
        .ask(&read().header("x-request-id", "my-id"))
        .await;
    assert_eq!(
        (reply.status, reply.json()["request_id"].as_str()),
        (500, Some("my-id"))
    );
    assert!(!reply.text().contains("under test"), "{}", reply.text());
    server.faults.set(None);
    assert_eq!(connection.ask(&read()).await.status, 404);
    let metrics = connection.ask(&request("GET", "/metrics")).await;
    assert!(
        metrics.text().contains("\nkvstore_http_panics_total 1\n"),
        "{}",
        metrics.text()
    );
}

#[tokio::test]
async fn request_that_takes_too_long_is_given_up() {
    let options = Options {
        wait_max: Duration::from_millis(100),
        resource_wait: Duration::from_millis(100),
        body_timeout: Duration::from_millis(100),
        request_timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let server = Server::start_idle(Setup {
        options,
        ..Setup::default()
    })
    .await;
    server.faults.set(Some(Fault::Hang));
    let asked = Instant::now();
    let reply = server.ask(&read()).await;
    assert_eq!((reply.status, reply.retry_after()), (503, Some("1")));
    assert_eq!(reply.json()["type"], "/problems/unavailable");
    // The token of another queue, about which the queue is asked first.
    const FOREIGN: &str = "00000000000000aa.0.1-1";
    let mget = request("POST", "/v1/mget").header("sync-token", FOREIGN);
    let reply = server.ask(&mget.body(r#"{"keys":["a"]}"#)).await;
    assert_eq!((reply.status, reply.retry_after()), (503, Some("1")));
    // A browser's `EventSource` gives up permanently on a 503.
    let watch = request("GET", &format!("/v1/watch?after={FOREIGN}"));
    let reply = server
        .ask(&watch.header("accept", "text/event-stream"))
        .await;
    assert_eq!((reply.status, reply.text()), (200, "retry: 10000\n\n"));
    let reply = server.ask(&write()).await;
    assert_eq!(
        (reply.status, reply.json()["type"].as_str()),
        (504, Some("/problems/outcome-unknown"))
    );
    assert!(asked.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn server_that_cannot_serve_is_not_ready_but_alive() {
    let server = Server::start_idle(Setup::default()).await;
    assert_eq!(server.ask(&request("GET", "/readyz")).await.status, 200);
    for fault in [Fault::Before(unavailable), Fault::Hang] {
        server.faults.set(Some(fault.clone()));
        let reply = server.ask(&request("GET", "/readyz")).await;
        assert_eq!(
            (reply.status, reply.retry_after()),
            (503, Some("1")),
            "{fault:?}"
        );
        assert_eq!(server.ask(&request("GET", "/livez")).await.status, 200);
    }
}
