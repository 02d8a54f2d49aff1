//! Do the probes say what a supervisor needs to know, and can no client block them?

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use kvstore_core::limits::CLAIM_PERIOD;
use kvstore_core::memory::{MemoryQueue, MemoryStore};
use kvstore_core::{JobQueue, Store};
use kvstore_worker::admin::{Health, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use kvstore_testing::faulty::{Fault, Faulty};

use crate::support::{enqueue, faulty, key, queue, set};

struct Process {
    store: Arc<Faulty<MemoryStore>>,
    queue: Arc<MemoryQueue>,
    health: Health,
}

fn process() -> Process {
    let store = faulty(|_| None);
    let queue = queue(1, CLAIM_PERIOD);
    let health = Health::new(store.clone(), queue.clone());
    Process {
        store,
        queue,
        health,
    }
}

async fn ask(health: &Health, path: &str) -> (u16, String) {
    let response = health.respond(&Method::GET, path).await.unwrap();
    let status = response.status().as_u16();
    let body = String::from_utf8(response.into_body().to_vec()).unwrap();
    (status, body.trim_end().to_owned())
}

fn said(status: u16, word: &str) -> (u16, String) {
    (status, format!("{{\"status\":\"{word}\"}}"))
}

#[tokio::test]
async fn ready_while_store_and_queue_answer_and_no_shutdown_was_requested() {
    let Process { health, .. } = process();
    assert_eq!(ask(&health, "/readyz").await, said(200, "ready"));
    health.clone().drain();
    assert_eq!(ask(&health, "/readyz").await, said(503, "draining"));
    assert_eq!(ask(&health, "/livez").await, said(200, "alive"));
}

#[tokio::test]
async fn a_process_that_stands_by_is_ready_and_one_that_starts_is_not() {
    let health = Health::starting();
    assert_eq!(ask(&health, "/readyz").await, said(503, "starting"));
    assert_eq!(ask(&health, "/livez").await, said(200, "alive"));
    assert_eq!(metric(&health, "kvstore_up").await.unwrap(), "0");
    health.wait();
    let reason = "starting: the store or its queue cannot be reached yet";
    assert_eq!(ask(&health, "/readyz").await, said(503, reason));
    assert_eq!(ask(&health, "/livez").await, said(200, "alive"));
    health.stand_by();
    assert_eq!(ask(&health, "/readyz").await, said(200, "standing by"));
    assert_eq!(metric(&health, "kvstore_up").await.unwrap(), "1");
    assert_eq!(metric(&health, "kvstore_queue_jobs").await, None);

    let Process { store, queue, .. } = process();
    store.close().await.unwrap();
    health.opened(store, queue);
    assert_eq!(ask(&health, "/readyz").await, said(503, "unavailable"));
    health.drain();
    assert_eq!(ask(&health, "/readyz").await, said(503, "draining"));
}

#[tokio::test]
async fn not_ready_but_alive_when_store_or_queue_is_down() {
    let Process { store, health, .. } = process();
    store.close().await.unwrap();
    assert_eq!(ask(&health, "/readyz").await, said(503, "unavailable"));
    assert_eq!(ask(&health, "/livez").await, said(200, "alive"));
    let Process { queue, health, .. } = process();
    queue.close().await.unwrap();
    assert_eq!(ask(&health, "/readyz").await, said(503, "unavailable"));
}

#[tokio::test(start_paused = true)]
async fn store_that_does_not_answer_counts_as_down() {
    let Process { store, health, .. } = process();
    store.switch.set(Some(Fault::Hang));
    let answer = timeout(Duration::from_secs(1), ask(&health, "/readyz")).await;
    assert_eq!(answer, Ok(said(503, "unavailable")));
}

/// Returns the lines of a metric, without help and type.
async fn metric(health: &Health, name: &str) -> Option<String> {
    let (status, text) = ask(health, "/metrics").await;
    assert_eq!(status, 200);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(str::to_owned)
}

#[tokio::test]
async fn metrics_report_waiting_jobs_as_long_as_they_are_known() {
    let Process { queue, health, .. } = process();
    for (name, value) in [
        ("kvstore_up", "1"),
        ("kvstore_queue_jobs", "0"),
        ("kvstore_queue_bytes", "0"),
        ("kvstore_queue_oldest_job_age_seconds", "0.0"),
        ("kvstore_queue_jobs_lost_total", "0"),
    ] {
        assert_eq!(
            metric(&health, name).await.as_deref(),
            Some(value),
            "{name}"
        );
    }
    // Without another writer there is no lag.
    assert_eq!(metric(&health, "kvstore_follower_lag_seconds").await, None);

    enqueue(&queue, set(&key("a"), 1)).await;
    assert_eq!(metric(&health, "kvstore_queue_jobs").await.unwrap(), "1");
    assert_ne!(metric(&health, "kvstore_queue_bytes").await.unwrap(), "0");
    queue.close().await.unwrap();
    assert_eq!(metric(&health, "kvstore_up").await.unwrap(), "0");
    assert_eq!(metric(&health, "kvstore_queue_jobs").await, None);
}

#[tokio::test]
async fn other_paths_are_not_answered_and_other_methods_not_allowed() {
    let Process { health, .. } = process();
    assert!(health.respond(&Method::GET, "/").await.is_none());
    assert!(health.respond(&Method::GET, "/readyz/").await.is_none());
    let head = health.respond(&Method::HEAD, "/livez").await.unwrap();
    assert_eq!(head.status(), 200);
    let post = health.respond(&Method::POST, "/livez").await.unwrap();
    assert_eq!(post.status(), 405);
    assert_eq!(post.headers()["allow"], "GET, HEAD");
}

async fn listen() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, process().health));
    address
}

/// Sends `request` and reads until the connection ends.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn listener_answers_what_health_says_and_404_for_the_rest() {
    let address = listen().await;
    let close = "HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = exchange(address, &format!("GET /readyz?x=1 {close}")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("{\"status\":\"ready\"}\n"), "{answer}");
    let answer = exchange(address, &format!("HEAD /livez {close}")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = exchange(address, &format!("GET / {close}")).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[tokio::test]
async fn clients_that_stay_connected_do_not_keep_a_probe_from_its_answer() {
    let address = listen().await;
    let mut staying = Vec::new();
    for number in 0..40 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if number % 2 == 0 {
            // It asks for more than the sockets in between can buffer, and reads nothing.
            let figures = "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(2_000);
            let _ = timeout(
                Duration::from_millis(100),
                stream.write_all(figures.as_bytes()),
            )
            .await;
        }
        staying.push(stream);
    }
    let probe = "GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = timeout(Duration::from_secs(20), exchange(address, probe)).await;
    assert!(answer.unwrap().contains("alive"));
    // The oldest was closed.
    let mut first = staying.swap_remove(1);
    assert!(matches!(first.read(&mut [0]).await, Ok(0) | Err(_)));
}
