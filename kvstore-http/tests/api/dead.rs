//! §4: dead letters, `/v1/jobs?status=dead` and `/v1/jobs/{id}/retry`.

use serde_json::json;

use crate::support::server::{Server, Setup};
use kvstore_testing::client::request;

/// Starts a server with one dead letter, which would delete the key `buried`; returns the letter's
/// job id as well.
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
async fn list_of_jobs_is_of_those_that_wait_or_dead_ones() {
    let server = Server::start().await;
    for (method, query, status) in [
        ("GET", "", 200),
        ("GET", "?status=queued", 200),
        ("GET", "?status=done", 422),
        ("GET", "?status=dead&limit=0", 422),
        ("GET", "?status=dead&cursor=x", 400),
        ("GET", "?cursor=x", 400),
        ("GET", "?status=dead", 200),
        ("DELETE", "", 422),
        ("DELETE", "?status=queued", 422),
        ("DELETE", "?status=dead&x=1", 422),
        ("POST", "/retry", 422),
        ("POST", "/retry?status=queued", 422),
    ] {
        let request = request(method, &format!("/v1/jobs{query}"));
        let reply = server.ask(&request).await;
        assert_eq!(reply.status, status, "{method} {query}");
    }
}

#[tokio::test]
async fn jobs_that_wait_are_listed_and_counted() {
    let mut server = Server::start_idle(Setup::default()).await;
    let queue = |server: &Server| {
        let asked = request("GET", "/v1/queue");
        let address = server.address;
        async move {
            let reply = kvstore_testing::client::Connection::open(address)
                .await
                .ask(&asked)
                .await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            reply.json()
        }
    };
    let empty = queue(&server).await;
    let document = server.ask(&request("GET", "/openapi.json")).await.json();
    assert_eq!(
        empty,
        json!({
            "jobs": 0, "bytes": 0, "oldest_age_seconds": null, "dead": 0, "partitions": 1,
            "limits": document["x-limits"],
        })
    );
    let mut ids = Vec::new();
    for key in ["a", "b", "c"] {
        let put = request("PUT", &format!("/v1/kv/{key}")).body("1");
        let reply = server.ask(&put.header("prefer", "respond-async")).await;
        ids.push(reply.json()["job_id"].clone());
    }
    server.clock.advance(std::time::Duration::from_secs(7));
    let full = queue(&server).await;
    assert_eq!(
        (&full["jobs"], &full["oldest_age_seconds"]),
        (&json!(3), &json!(7.0))
    );
    let first = server.ask(&request("GET", "/v1/jobs?limit=2")).await.json();
    let rest = format!(
        "/v1/jobs?status=queued&limit=2&cursor={}",
        first["cursor"].as_str().unwrap()
    );
    let rest = server.ask(&request("GET", &rest)).await.json();
    let accepted_at = &rest["jobs"][0]["accepted_at"];
    assert!(humantime::parse_rfc3339(accepted_at.as_str().unwrap()).is_ok());
    assert_eq!(
        rest,
        json!({"jobs": [{
            "id": ids[2], "op": "set", "key": "c", "status": "queued", "attempts": null, "result": null,
            "error": null, "accepted_at": accepted_at,
        }]})
    );
    let listed = |page: &serde_json::Value| {
        let jobs = page["jobs"].as_array().unwrap().iter();
        jobs.map(|job| job["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&first), ids[..2]);
    server.work();
    let last = ids[2].as_str().unwrap();
    let done = format!("/v1/jobs/{last}?wait=10");
    assert_eq!(
        server.ask(&request("GET", &done)).await.json()["status"],
        "succeeded"
    );
    assert_eq!(
        server.ask(&request("GET", "/v1/jobs")).await.json(),
        json!({"jobs": []})
    );
    assert_eq!(queue(&server).await["jobs"], 0);
}

#[tokio::test]
async fn dead_letter_is_dropped_once() {
    let (server, job) = buried().await;
    assert_eq!(
        server.ask(&request("GET", "/v1/queue")).await.json()["dead"],
        1
    );
    let drop = request("DELETE", &format!("/v1/jobs/{job}"));
    let reply = server.ask(&drop).await;
    assert_eq!(
        (reply.status, reply.json()),
        (200, json!({"id": job, "forgotten": true}))
    );
    assert_eq!(server.ask(&drop).await.status, 404);
    let letters = server.ask(&request("GET", "/v1/jobs?status=dead")).await;
    assert_eq!(letters.json(), json!({"jobs": []}));
    assert_eq!(
        server.ask(&request("GET", "/v1/kv/buried")).await.status,
        200
    );
}

#[tokio::test]
async fn all_dead_letters_are_tried_again_or_dropped() {
    let (server, _) = buried().await;
    let retry = request("POST", "/v1/jobs/retry?status=dead");
    let page = retry.clone().header("origin", "https://example.org");
    assert_eq!(server.ask(&page).await.status, 415);
    let reply = server.ask(&retry).await;
    assert_eq!((reply.status, reply.json()), (200, json!({"retried": 1})));
    assert_eq!(server.ask(&retry).await.json(), json!({"retried": 0}));
    let gone = request("GET", "/v1/kv/buried").header("prefer", "wait=10");
    let gone = gone.header("if-none-match", "*");
    assert_eq!(server.ask(&gone).await.status, 404);
    let (server, _) = buried().await;
    let drop = request("DELETE", "/v1/jobs?status=dead");
    let reply = server.ask(&drop).await;
    assert_eq!((reply.status, reply.json()), (200, json!({"forgotten": 1})));
    assert_eq!(server.ask(&drop).await.json(), json!({"forgotten": 0}));
    assert_eq!(
        server.ask(&request("GET", "/v1/kv/buried")).await.status,
        200
    );
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
    // A job that is no dead letter, and text that is no id.
    for id in [new.as_str(), "x"] {
        let reply = server
            .ask(&request("POST", &format!("/v1/jobs/{id}/retry")))
            .await;
        assert_eq!(reply.status, 404, "{id}");
    }
}

#[tokio::test]
async fn dead_letter_that_is_tried_again_comes_after_what_already_waits() {
    let (mut server, job) = buried().await;
    server.rest();
    let put = request("PUT", "/v1/kv/buried").body("2");
    let waits = server.ask(&put.header("prefer", "respond-async")).await;
    assert_eq!(waits.status, 202);
    let retry = request("POST", &format!("/v1/jobs/{job}/retry"));
    let retried = server.ask(&retry).await;
    server.work();
    let read = request("GET", "/v1/kv/buried");
    let read = read.header("sync-token", retried.header("sync-token").unwrap());
    assert_eq!(server.ask(&read).await.status, 404, "it deletes the key");
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
