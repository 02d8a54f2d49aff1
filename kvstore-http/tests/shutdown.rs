//! Does the server end in order: not ready first, requests under way finished, nothing waited for without end?

mod support;

use std::time::{Duration, Instant};

use kvstore_http::Options;
use serde_json::json;
use support::client::{Connection, request};
use support::server::{Server, Setup};
use tokio::net::TcpStream;

/// Much shorter than any default.
const NOT_LONG: Duration = Duration::from_secs(6);

fn with(options: Options) -> Setup {
    Setup {
        options,
        ..Setup::default()
    }
}

/// A write that waits for a worker, on its way.
async fn waiting_write(server: &Server) -> Connection {
    let mut connection = server.connect().await;
    connection
        .send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\nprefer: wait=60\r\ncontent-length: 1\r\n\r\n1")
        .await;
    while server.service.queue().depth().await.unwrap().jobs == 0 {
        tokio::task::yield_now().await;
    }
    connection
}

async fn is_refused(server: &Server) -> bool {
    TcpStream::connect(server.address).await.is_err()
}

#[tokio::test]
async fn readiness_fails_first_and_everything_else_goes_on() {
    let options = Options {
        drain_delay: Duration::from_secs(1),
        ..Options::default()
    };
    let mut server = Server::start_with(with(options)).await;
    let mut connection = server.connect().await;
    assert_eq!(connection.ask(&request("GET", "/readyz")).await.status, 200);
    server.stop();
    let begun = Instant::now();
    let not_ready = loop {
        let reply = connection.ask(&request("GET", "/readyz")).await;
        if reply.status != 200 {
            break reply;
        }
    };
    assert_eq!(
        (not_ready.status, not_ready.header("retry-after")),
        (503, Some("1"))
    );
    assert_eq!(not_ready.json(), json!({"status": "draining"}));
    // Who keeps its connection learns that it should get another one.
    assert_eq!(not_ready.header("connection"), Some("close"));
    assert!(connection.is_closed().await);
    // On new connections, too.
    assert_eq!(server.ask(&request("GET", "/livez")).await.status, 200);
    assert_eq!(
        server
            .ask(&request("PUT", "/v1/kv/a").body("1"))
            .await
            .status,
        201
    );
    server.stopped().await;
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    assert!(is_refused(&server).await);
}

#[tokio::test]
async fn request_under_way_finishes_and_new_ones_are_refused() {
    let mut server = Server::start_idle(Setup::default()).await;
    let mut connection = waiting_write(&server).await;
    server.stop();
    while !is_refused(&server).await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!server.is_stopped());
    server.work();
    let reply = connection.reply("PUT").await;
    assert_eq!(
        (reply.status, reply.header("connection")),
        (201, Some("close"))
    );
    assert!(connection.is_closed().await);
    server.stopped().await;
}

#[tokio::test]
async fn body_under_way_is_still_taken() {
    let mut server = Server::start().await;
    let mut connection = server.connect().await;
    connection
        .send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n[")
        .await;
    // The head is there before the end is asked for.
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop();
    while !is_refused(&server).await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    connection.send(b"1]").await;
    assert_eq!(connection.reply("PUT").await.status, 201);
    server.stopped().await;
}

#[tokio::test]
async fn idle_connections_do_not_keep_it() {
    let mut server = Server::start().await;
    let mut used = server.connect().await;
    assert_eq!(used.ask(&request("GET", "/livez")).await.status, 200);
    let mut silent = server.connect().await;
    // It is accepted.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    server.stop();
    server.stopped().await;
    assert!(begun.elapsed() < NOT_LONG);
    assert!(used.is_closed().await && silent.is_closed().await);
}

#[tokio::test]
async fn deadline_holds_whatever_does_not_finish() {
    let options = Options {
        drain_timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let mut server = Server::start_idle(with(options)).await;
    let mut connection = waiting_write(&server).await;
    let begun = Instant::now();
    server.stop();
    server.stopped().await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert!(begun.elapsed() < NOT_LONG);
    assert!(connection.is_closed().await);
    // The write was accepted all the same.
    assert_eq!(server.service.queue().depth().await.unwrap().jobs, 1);
}
