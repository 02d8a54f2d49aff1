//! §4: dead letters, `/v1/jobs?status=dead` and `/v1/jobs/{id}/retry`.

use serde_json::json;

use crate::support::client::request;
use crate::support::server::{Server, Setup};

/// A server with one dead letter, which would delete the key `buried`, and the id of its job.
async fn buried() -> (Server, String) {
    let mut server = Server::start_idle(Setup::default()).await;
    server.put("buried", "1").await;
    let put = request("PUT", "/v1/kv/a")
        .body("1")
        .header("prefer", "respond-async");
    let job = server.ask(&put).await.json()["job_id"]
        .as_str()
        .unwrap()
        .to_owned();
    server.bury(&job).await;
    server.work();
    (server, job)
}

#[tokio::test]
async fn dead_letters_are_listed() {
    let (server, job) = buried().await;
    let reply = server.ask(&request("GET", "/v1/jobs?status=dead")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let at = reply.json()["jobs"][0]["dead_at"].clone();
    assert!(humantime::parse_rfc3339(at.as_str().unwrap()).is_ok());
    assert_eq!(
        reply.json(),
        json!({"jobs": [{
            "id": job, "op": "delete", "key": "buried", "status": "dead", "attempts": 3, "result": null,
            "error": {"type": "/problems/dead-lettered", "detail": "it was refused"}, "dead_at": at,
        }]})
    );
    let rest = format!("/v1/jobs?status=dead&cursor={job}");
    assert_eq!(
        server.ask(&request("GET", &rest)).await.json(),
        json!({"jobs": []})
    );
}

#[tokio::test]
async fn list_of_jobs_is_of_dead_ones() {
    let server = Server::start().await;
    for (query, status) in [
        ("", 422),
        ("?status=queued", 422),
        ("?status=dead&limit=0", 422),
        ("?status=dead&cursor=x", 400),
        ("?status=dead", 200),
    ] {
        let reply = server
            .ask(&request("GET", &format!("/v1/jobs{query}")))
            .await;
        assert_eq!(reply.status, status, "{query}");
    }
}

#[tokio::test]
async fn dead_letter_is_tried_again_once() {
    let (server, job) = buried().await;
    let path = format!("/v1/jobs/{job}/retry");
    let reply = server.ask(&request("POST", &path)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let new = reply.json()["job_id"].as_str().unwrap().to_owned();
    assert_ne!(new, job);
    assert_eq!(
        reply.json(),
        json!({"id": job, "job_id": new, "status": "queued"})
    );
    assert_eq!(reply.header("sync-token"), Some(new.as_str()));
    let location = reply.header("location").unwrap();
    let report = server
        .ask(&request("GET", &format!("{location}?wait=10")))
        .await;
    assert_eq!(report.json()["status"], "succeeded");
    assert_eq!(
        server.ask(&request("GET", "/v1/kv/buried")).await.status,
        404
    );
    let letters = server.ask(&request("GET", "/v1/jobs?status=dead")).await;
    assert_eq!(letters.json(), json!({"jobs": []}));
    let again = server.ask(&request("POST", &path)).await;
    assert_eq!(
        (again.status, &again.json()["type"]),
        (404, &json!("/problems/not-found"))
    );
    // One that is no dead letter, and what is no id.
    for id in [new.as_str(), "x"] {
        let reply = server
            .ask(&request("POST", &format!("/v1/jobs/{id}/retry")))
            .await;
        assert_eq!(reply.status, 404, "{id}");
    }
}

#[tokio::test]
async fn two_retries_are_one_job() {
    let (server, job) = buried().await;
    let id = job.parse().unwrap();
    let dead = server.service.dead_letter(&id).await.unwrap().unwrap();
    let (first, second) = tokio::join!(
        server.service.retry(&id, dead.clone()),
        server.service.retry(&id, dead)
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.id, second.id);
    assert_ne!(first.replayed, second.replayed);
}

#[tokio::test]
async fn a_page_can_not_make_a_browser_retry() {
    let (server, job) = buried().await;
    let path = format!("/v1/jobs/{job}/retry");
    let asks = request("POST", &path).header("origin", "https://example.org");
    assert_eq!(server.ask(&asks).await.status, 415);
}
