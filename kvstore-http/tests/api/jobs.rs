//! §4: `/v1/jobs/{id}`.

use serde_json::json;

use crate::support::server::{Server, Setup};
use kvstore_testing::client::{Reply, request};

async fn job_of(server: &Server, write: &Reply) -> Reply {
    let id = write.json()["job_id"].as_str().unwrap().to_owned();
    server.ask(&request("GET", &format!("/v1/jobs/{id}"))).await
}

#[tokio::test]
async fn job_that_waits_says_so() {
    let server = Server::start_idle(Setup::default()).await;
    let write = server
        .ask(
            &request("PUT", "/v1/kv/a")
                .body("1")
                .header("prefer", "respond-async"),
        )
        .await;
    let job = job_of(&server, &write).await;
    assert_eq!(job.status, 200);
    assert_eq!(
        job.json(),
        json!({
            "id": write.json()["job_id"], "op": "set", "key": "a", "status": "queued", "attempts": 0, "result": null, "error": null,
        })
    );
    assert_eq!(
        (job.header("retry-after"), job.header("cache-control")),
        (Some("1"), Some("no-store"))
    );
}

#[tokio::test]
async fn job_that_is_done_says_what_it_did() {
    let server = Server::start().await;
    let put = server.ask(&request("PUT", "/v1/kv/a").body("1")).await;
    let job = job_of(&server, &put).await;
    let expected = json!({"etag": put.json()["etag"], "created": true});
    assert_eq!(
        (&job.json()["status"], &job.json()["result"]),
        (&json!("succeeded"), &expected)
    );
    assert_eq!(
        (&job.json()["op"], &job.json()["key"], &job.json()["error"]),
        (&json!("set"), &json!("a"), &json!(null))
    );
    assert_eq!(job.header("retry-after"), None);
    let delete = server.ask(&request("DELETE", "/v1/kv/a")).await;
    assert_eq!(
        job_of(&server, &delete).await.json()["result"],
        json!({"etag": delete.json()["etag"], "deleted": true})
    );
}

#[tokio::test]
async fn job_of_a_write_that_was_not_waited_for_on_request_says_what_it_did() {
    let server = Server::start().await;
    let write = request("PUT", "/v1/kv/a")
        .body("1")
        .header("prefer", "respond-async");
    let write = server.ask(&write).await;
    assert_eq!(write.status, 202);
    let id = write.json()["job_id"].as_str().unwrap().to_owned();
    let job = server
        .ask(&request("GET", &format!("/v1/jobs/{id}?wait=10")))
        .await;
    let etag = server
        .ask(&request("GET", "/v1/kv/a"))
        .await
        .header("etag")
        .unwrap()
        .to_owned();
    assert_eq!(job.json()["result"], json!({"etag": etag, "created": true}));
    assert_eq!(
        (&job.json()["op"], &job.json()["key"]),
        (&json!("set"), &json!("a"))
    );
}

#[tokio::test]
async fn job_that_failed_is_a_200() {
    let server = Server::start().await;
    let created = server.ask(&request("PUT", "/v1/kv/a").body("1")).await;
    let write = request("PUT", "/v1/kv/a")
        .body("1")
        .header("if-none-match", "*")
        .header("prefer", "respond-async");
    let write = server.ask(&write).await;
    let id = write.json()["job_id"].as_str().unwrap().to_owned();
    let job = server
        .ask(&request("GET", &format!("/v1/jobs/{id}?wait=10")))
        .await;
    assert_eq!((job.status, &job.json()["status"]), (200, &json!("failed")));
    assert_eq!(job.json()["error"]["type"], "/problems/precondition-failed");
    assert_eq!(job.json()["error"]["current_etag"], created.json()["etag"]);
    assert_eq!(job.json()["result"], json!(null));
}

#[tokio::test]
async fn job_that_was_given_up_says_why_and_its_waiter_gets_500() {
    let server = Server::start_idle(Setup::default()).await;
    let mut connection = server.connect().await;
    let waiting = tokio::spawn(async move {
        connection
            .ask(
                &request("PUT", "/v1/kv/buried")
                    .body("1")
                    .header("prefer", "wait=20"),
            )
            .await
    });
    let same = request("PUT", "/v1/kv/other")
        .body("1")
        .header("prefer", "respond-async");
    let id = loop {
        if server.service.queue().depth().await.unwrap().jobs == 1 {
            // The previous job in the queue.
            let next = server.ask(&same).await.json()["job_id"]
                .as_str()
                .unwrap()
                .to_owned();
            let (head, position) = next.rsplit_once('-').unwrap();
            break format!("{head}-{}", position.parse::<u64>().unwrap() - 1);
        }
        tokio::task::yield_now().await;
    };
    server.bury(&id).await;
    let waited = waiting.await.unwrap();
    assert_eq!(
        (waited.status, waited.json()["type"].as_str()),
        (500, Some("/problems/dead-lettered"))
    );
    assert_eq!(waited.json()["job_id"], id.as_str());
    assert!(!waited.text().contains("refused"), "{}", waited.text());
    let job = server.ask(&request("GET", &format!("/v1/jobs/{id}"))).await;
    assert_eq!(
        (job.status, &job.json()["status"], &job.json()["attempts"]),
        (200, &json!("dead"), &json!(3))
    );
    assert_eq!(job.json()["error"]["detail"], "it was refused");
}

#[tokio::test]
async fn unknown_job_is_not_found() {
    let server = Server::start().await;
    let put = server.ask(&request("PUT", "/v1/kv/a").body("1")).await;
    let id = put.json()["job_id"].as_str().unwrap().to_owned();
    for unknown in [
        "x",
        "",
        "%00",
        &format!("{id}9"),
        &id.replace('.', ".0"),
        &format!("0000000000000000{}", &id[16..]),
    ] {
        let reply = server
            .ask(&request("GET", &format!("/v1/jobs/{unknown}")))
            .await;
        assert_eq!(
            (reply.status, reply.json()["type"].as_str()),
            (404, Some("/problems/not-found")),
            "{unknown}"
        );
    }
    for bad in ["-1", "x", "1.5"] {
        let reply = server
            .ask(&request("GET", &format!("/v1/jobs/{id}?wait={bad}")))
            .await;
        assert_eq!(
            reply.json()["errors"][0]["loc"],
            json!(["query", "wait"]),
            "{bad}"
        );
    }
    // A wait above the maximum is no error: the job is done, so the answer is immediate.
    let reply = server
        .ask(&request(
            "GET",
            &format!("/v1/jobs/{id}?wait=99999999999999999999999"),
        ))
        .await;
    assert_eq!(reply.status, 200);
}
