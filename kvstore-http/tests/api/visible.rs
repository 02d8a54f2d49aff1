//! §5: reading one's own writes.

use std::time::{Duration, Instant};

use kvstore_core::service::ServiceOptions;

use crate::support::server::{Server, Setup};
use kvstore_testing::client::{Request, request};

fn impatient() -> Setup {
    Setup {
        service: ServiceOptions {
            visible_wait: Duration::from_millis(100),
            ..ServiceOptions::default()
        },
        ..Setup::default()
    }
}

/// Returns reads after `token`, in each way and on each face.
fn reads(token: &str) -> Vec<Request> {
    vec![
        request("GET", "/v1/kv/a").header("sync-token", token),
        request("GET", &format!("/v1/kv/a?after={token}")),
        request("HEAD", "/v1/kv/a").header("sync-token", token),
        request("GET", "/get/a").header("sync-token", token),
        request("GET", &format!("/get/a?after={token}")),
    ]
}

async fn write(server: &Server) -> String {
    let put = request("PUT", "/v1/kv/a")
        .body("1")
        .header("prefer", "respond-async");
    server
        .ask(&put)
        .await
        .header("sync-token")
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn waited_write_is_seen_by_the_next_read() {
    let server = Server::start().await;
    for value in ["1", "2", "3"] {
        server.ask(&request("PUT", "/v1/kv/a").body(value)).await;
        assert_eq!(server.ask(&request("GET", "/v1/kv/a")).await.text(), value);
    }
}

#[tokio::test]
async fn read_with_a_sync_token_waits_for_its_write() {
    let mut server = Server::start_idle(Setup::default()).await;
    let token = write(&server).await;
    // All reads are sent before the worker starts.
    let mut waiting = Vec::new();
    for read in reads(&token) {
        let mut connection = server.connect().await;
        waiting.push(tokio::spawn(async move { connection.ask(&read).await }));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(waiting.iter().all(|asked| !asked.is_finished()));
    server.work();
    for asked in waiting {
        assert_eq!(asked.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn write_that_is_still_pending_is_said_to_be_and_never_hidden() {
    let server = Server::start_idle(impatient()).await;
    server.put("a", "\"old\"").await;
    let token = write(&server).await;
    for read in reads(&token) {
        let reply = server.ask(&read).await;
        assert_eq!(
            (reply.status, reply.header("retry-after")),
            (503, Some("1")),
            "{read:?}"
        );
    }
    let reply = server.ask(&reads(&token)[0]).await;
    assert_eq!(reply.json()["type"], "/problems/not-yet-visible");
}

#[tokio::test]
async fn token_that_was_never_handed_out_is_an_error_and_never_a_plain_read() {
    let server = Server::start().await;
    server.put("a", "1").await;
    let token = write(&server).await;
    let other = Server::start().await;
    let foreign = write(&other).await;
    let (head, _) = token.rsplit_once('.').unwrap();
    let future = format!("{head}.999999");
    for bad in ["x", &foreign, &future] {
        for read in reads(bad) {
            assert_eq!(server.ask(&read).await.status, 400, "{read:?}");
        }
    }
    for empty in ["", " , "] {
        let read = request("GET", "/v1/kv/a").header("sync-token", empty);
        assert_eq!(server.ask(&read).await.status, 400, "{read:?}");
    }
    let both = request("GET", &format!("/v1/kv/a?after={foreign}")).header("sync-token", &token);
    assert_eq!(server.ask(&both).await.status, 400);
}

#[tokio::test]
async fn a_read_waits_for_all_of_its_sync_tokens() {
    let mut server = Server::start_with(impatient()).await;
    let put = server.ask(&request("PUT", "/v1/kv/a").body("1")).await;
    let applied = put.header("sync-token").unwrap().to_owned();
    server.rest();
    let pending = write(&server).await;
    let get = |target: &str| request("GET", target);
    let plain = || get("/v1/kv/a");
    for asks in [
        plain()
            .header("sync-token", &applied)
            .header("sync-token", &pending),
        plain().header("sync-token", &format!("{applied}, {pending}")),
        plain().header("sync-token", &format!(",{applied} ,,{pending},")),
        get(&format!("/v1/kv/a?after={applied}&after={pending}")),
        get(&format!("/v1/kv/a?after={applied},{pending}")),
        get(&format!("/v1/kv/a?after={pending}")).header("sync-token", &applied),
        get(&format!("/v1/kv?after={applied}&after={pending}")),
        get(&format!("/v1/watch?after={applied}&after={pending}")),
        request("POST", &format!("/v1/mget?after={applied}&after={pending}"))
            .body(r#"{"keys":["a"]}"#),
    ] {
        let reply = server.ask(&asks).await;
        assert_eq!(reply.status, 503, "{asks:?}");
        assert_eq!(reply.json()["type"], "/problems/not-yet-visible");
    }
    // The waits run concurrently, so several tokens take no longer than one.
    let tokens = |count| vec![pending.as_str(); count].join(",");
    let asks = plain().header("sync-token", &tokens(16));
    assert_eq!(server.ask(&asks).await.status, 503);
    let more = plain().header("sync-token", &tokens(17));
    assert_eq!(server.ask(&more).await.status, 400);
    let both = get(&format!("/v1/kv/a?after={applied}")).header("sync-token", &tokens(16));
    assert_eq!(server.ask(&both).await.status, 400);
}

#[tokio::test]
async fn job_can_be_waited_for() {
    let mut server = Server::start_idle(Setup::default()).await;
    let job = write(&server).await;
    let asked = Instant::now();
    let reply = server
        .ask(&request("GET", &format!("/v1/jobs/{job}?wait=1")))
        .await;
    assert!(asked.elapsed() >= Duration::from_secs(1));
    assert_eq!(
        (reply.json()["status"].as_str(), reply.header("retry-after")),
        (Some("queued"), Some("1"))
    );
    server.work();
    let reply = server
        .ask(&request("GET", &format!("/v1/jobs/{job}?wait=10")))
        .await;
    assert_eq!(
        (reply.json()["status"].as_str(), reply.header("retry-after")),
        (Some("succeeded"), None)
    );
    assert!(asked.elapsed() < Duration::from_secs(8));
}
