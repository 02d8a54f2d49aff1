//! Does the server shut down in order: first not ready, then requests in progress finished, and no
//! endless waits?

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::server::{Server, Setup};
use kvstore_http::Options;
use kvstore_testing::client::{Connection, request};
use serde_json::json;
use tokio::net::TcpStream;

/// Much shorter than any default.
const NOT_LONG: Duration = Duration::from_secs(6);

fn with(options: Options) -> Setup {
    Setup {
        options,
        ..Setup::default()
    }
}

/// Sends a write that waits for a worker.
async fn waiting_write(server: &Server) -> Connection {
    let mut connection = server.connect().await;
    connection
        .send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\nprefer: wait=60\r\ncontent-length: 1\r\n\r\n1")
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
    // A client that keeps its connection learns that it should open another one.
    assert_eq!(not_ready.header("connection"), Some("close"));
    assert!(connection.is_closed().await);
    // New connections are still served.
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
        .send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\n[")
        .await;
    // The head arrives before the shutdown.
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
    // The connection has been accepted by then.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    server.stop();
    server.stopped().await;
    assert!(begun.elapsed() < NOT_LONG);
    assert!(used.is_closed().await && silent.is_closed().await);
}

#[tokio::test]
async fn waits_that_the_end_cuts_short_are_answered_as_if_they_had_run_out() {
    let options = Options {
        drain_timeout: Duration::from_secs(2),
        ..Options::default()
    };
    let mut server = Server::start_idle(with(options)).await;
    let mut write = waiting_write(&server).await;
    let queued = server
        .ask(
            &request("PUT", "/v1/kv/b")
                .header("prefer", "respond-async")
                .body("1"),
        )
        .await;
    let id = queued.header("sync-token").unwrap();
    let mut job = server.connect().await;
    let ask = format!("GET /v1/jobs/{id}?wait=60 HTTP/1.1\r\nhost: localhost\r\n\r\n");
    job.send(ask.as_bytes()).await;
    server.put("old", "1").await;
    let mut clear = server.connect().await;
    clear
        .send(b"DELETE /v1/kv?prefix=old HTTP/1.1\r\nhost: localhost\r\nprefer: wait=60\r\n\r\n")
        .await;
    while server.service.queue().depth().await.unwrap().jobs < 3 {
        tokio::task::yield_now().await;
    }
    let mut read = server.connect().await;
    let ask = format!("GET /v1/kv/b HTTP/1.1\r\nhost: localhost\r\nsync-token: {id}\r\n\r\n");
    read.send(ask.as_bytes()).await;
    server.stop();
    let reply = write.reply("PUT").await;
    assert_eq!(
        (reply.status, reply.json()["status"].as_str()),
        (202, Some("queued"))
    );
    let reply = clear.reply("DELETE").await;
    assert_eq!(
        (reply.status, reply.json()["status"].as_str()),
        (202, Some("queued"))
    );
    let reply = job.reply("GET").await;
    assert_eq!(
        (reply.status, reply.json()["status"].as_str()),
        (200, Some("queued"))
    );
    let reply = read.reply("GET").await;
    assert_eq!(
        (reply.status, reply.json()["type"].as_str()),
        (503, Some("/problems/not-yet-visible"))
    );
    server.stopped().await;
}

#[tokio::test]
async fn deadline_holds_whatever_does_not_finish() {
    let options = Options {
        drain_timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let mut server = Server::start_idle(with(options)).await;
    let mut connection = server.connect().await;
    connection
        .send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\n[")
        .await;
    // The head arrives before the shutdown.
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop();
    server.stopped().await;
    assert!(connection.is_closed().await);
}

/// Connects for one request; returns true if it was answered, and false if the connection was
/// refused.
fn ask_once(address: SocketAddr) -> Result<bool, std::io::Error> {
    let Ok(mut stream) = std::net::TcpStream::connect_timeout(&address, NOT_LONG) else {
        return Ok(false);
    };
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200 ") {
        Ok(true)
    } else {
        Err(std::io::Error::other(format!("{answer:?} is no answer")))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_in_the_backlog_are_answered_and_none_is_reset() {
    for _ in 0..5 {
        let mut server = Server::start().await;
        let address = server.address;
        let clients: Vec<_> = (0..16)
            .map(|_| {
                std::thread::spawn(move || {
                    let mut answers = 0_u32;
                    while ask_once(address)? {
                        answers += 1;
                    }
                    Ok::<_, std::io::Error>(answers)
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.stop();
        server.stopped().await;
        for client in clients {
            let ended = tokio::task::spawn_blocking(|| client.join().unwrap())
                .await
                .unwrap();
            assert!(ended.expect("an answer on every connection") > 0);
        }
    }
}
