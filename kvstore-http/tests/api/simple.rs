//! §3: the simple face, and FastAPI's shapes.

use serde_json::json;

use crate::support::server::Server;
use kvstore_testing::client::request;

#[tokio::test]
async fn set_is_accepted_into_the_queue() {
    let server = Server::start().await;
    let body = r#"{"key":"user:1","value":{"name":"Ada"}}"#;
    let reply = server.ask(&request("POST", "/set").body(body)).await;
    assert_eq!(reply.status, 202);
    let job = reply.json()["job_id"].as_str().unwrap().to_owned();
    let expected = format!(
        r#"{{"message":"Set accepted","key":"user:1","job_id":"{job}","status":"queued"}}"#
    );
    assert_eq!(reply.text(), expected);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("location"), Some(&*format!("/v1/jobs/{job}")));
    assert_eq!(reply.header("sync-token"), Some(&*job));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.header("preference-applied"), None);
}

#[tokio::test]
async fn set_that_is_waited_for_is_applied() {
    let server = Server::start().await;
    let set = request("POST", "/set")
        .body(r#"{"key":"user:1","value":1}"#)
        .header("prefer", "wait=5");
    let reply = server.ask(&set).await;
    assert_eq!(reply.status, 200);
    let (job, etag) = (reply.json()["job_id"].clone(), reply.json()["etag"].clone());
    assert_eq!(
        reply.json(),
        json!({"message": "Set applied", "key": "user:1", "job_id": job, "status": "succeeded", "etag": etag})
    );
    assert_eq!(reply.header("etag"), etag.as_str());
    assert_eq!(reply.header("sync-token"), job.as_str());
    assert_eq!(reply.header("preference-applied"), Some("wait"));
    assert_eq!(reply.header("location"), None);

    let read = server.ask(&request("GET", "/get/user:1")).await;
    assert_eq!(
        (read.status, read.text()),
        (200, r#"{"key":"user:1","value":1}"#)
    );
    assert_eq!(read.header("etag"), etag.as_str());
}

#[tokio::test]
async fn missing_key_is_not_found() {
    let server = Server::start().await;
    let reply = server.ask(&request("GET", "/get/none")).await;
    assert_eq!(reply.status, 404);
    assert_eq!(reply.json()["detail"], "Key not found");
    assert_eq!(reply.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn delete_is_accepted_and_says_what_it_did_when_waited_for() {
    let server = Server::start().await;
    server.put("a", "1").await;
    let delete = request("DELETE", "/delete/a");
    let waited = delete.clone().header("prefer", "wait=5");
    let reply = server.ask(&waited).await;
    let job = reply.json()["job_id"].clone();
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.json(),
        json!({"message": "Delete applied", "key": "a", "job_id": job, "status": "succeeded", "deleted": true})
    );
    assert_eq!(server.ask(&waited).await.json()["deleted"], false);
    let reply = server.ask(&delete).await;
    let job = reply.json()["job_id"].clone();
    assert_eq!(reply.status, 202);
    assert_eq!(
        reply.json(),
        json!({"message": "Delete accepted", "key": "a", "job_id": job, "status": "queued"})
    );
    assert_eq!(
        reply.header("location"),
        Some(&*format!("/v1/jobs/{}", job.as_str().unwrap()))
    );
}

#[tokio::test]
async fn trailing_slash_and_unknown_members_are_accepted() {
    let server = Server::start().await;
    let body = r#" { "other": [1, {"key": 2}], "key" : "a" , "value" : [ 1 , 2 ] } "#;
    let set = request("POST", "/set/")
        .body(body)
        .header("prefer", "wait=5");
    assert_eq!(server.ask(&set).await.status, 200);
    assert_eq!(
        server.ask(&request("GET", "/get/a")).await.text(),
        r#"{"key":"a","value":[1,2]}"#
    );
}

#[tokio::test]
async fn null_false_zero_and_empty_are_values() {
    let server = Server::start().await;
    for value in ["null", "false", "0", "\"\"", "[]", "{}"] {
        let body = format!(r#"{{"key":"a","value":{value}}}"#);
        let set = request("POST", "/set")
            .body(body)
            .header("prefer", "wait=5");
        assert_eq!(server.ask(&set).await.status, 200, "{value}");
        let read = server.ask(&request("GET", "/get/a")).await;
        assert_eq!(
            (read.status, read.text().to_owned()),
            (200, format!(r#"{{"key":"a","value":{value}}}"#))
        );
    }
}

#[tokio::test]
async fn body_that_breaks_rules_is_answered_as_fastapi_does() {
    let server = Server::start().await;
    let missing = |name: &str, input: serde_json::Value| json!({"type": "missing", "loc": ["body", name], "msg": "Field required", "input": input});
    for (body, detail) in [
        (
            r#"{"value":1}"#,
            json!([missing("key", json!({"value": 1}))]),
        ),
        (
            "{}",
            json!([missing("key", json!({})), missing("value", json!({}))]),
        ),
        (
            "",
            json!([{"type": "missing", "loc": ["body"], "msg": "Field required", "input": null}]),
        ),
        (
            r#"{"key":1,"value":1}"#,
            json!([{"type": "string_type", "loc": ["body", "key"], "msg": "Input should be a valid string", "input": 1}]),
        ),
        (
            "[1]",
            json!([{
                "type": "model_attributes_type", "loc": ["body"], "input": [1],
                "msg": "Input should be a valid dictionary or object to extract fields from",
            }]),
        ),
        (
            r#"{"key":"a","value":1,"ttl":0}"#,
            json!([{
                "type": "greater_than_equal", "loc": ["body", "ttl"], "input": 0, "ctx": {"ge": 1},
                "msg": "Input should be greater than or equal to 1",
            }]),
        ),
    ] {
        let reply = server.ask(&request("POST", "/set").body(body)).await;
        assert_eq!(
            (reply.status, reply.json()),
            (422, json!({ "detail": detail })),
            "{body}"
        );
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn body_that_is_not_json_says_where() {
    let server = Server::start().await;
    for (body, at) in [
        (&b"{key"[..], 1),
        (b"{\"key\":\"a\",\n \"value\":}", 21),
        (b"\"\xc3\xa9\" x", 4),
        (b"{\"key\":\"\xff\"}", 8),
        (b"\xef\xbb\xbf{}", 0),
        (b"{\"key\":\"a\",\"value\":1", 20),
        (b"{\"key\":\"a\",\"value\":01}", 20),
        (b"{\"key\":\"a\",\"value\":NaN}", 19),
    ] {
        let reply = server.ask(&request("POST", "/set").body(body)).await;
        let text = String::from_utf8_lossy(body);
        assert_eq!(reply.status, 422, "{text}");
        let problem = &reply.json()["detail"][0];
        assert_eq!(problem["type"], "json_invalid", "{text}");
        assert_eq!(problem["loc"], json!(["body", at]), "{text}: {problem}");
        assert_eq!(problem["msg"], "JSON decode error", "{text}");
        assert!(problem["ctx"]["error"].is_string(), "{text}");
    }
}

#[tokio::test]
async fn repeated_members_and_values_that_are_no_unicode_are_refused() {
    let server = Server::start().await;
    let deep = format!(
        r#"{{"key":"a","value":{}{}}}"#,
        "[".repeat(129),
        "]".repeat(129)
    );
    for (body, member) in [
        (r#"{"key":"a","key":"a","value":1}"#, "key"),
        (r#"{"key":"a","value":1,"value":1}"#, "value"),
        (r#"{"key":"a","value":1,"ttl":1,"ttl":1}"#, "ttl"),
        (r#"{"key":"\ud800","value":1}"#, "key"),
        (r#"{"key":"a","value":"\ud800"}"#, "value"),
        (r#"{"key":"a//b","value":1}"#, "key"),
        (r#"{"key":"","value":1}"#, "key"),
        (r#"{"key":"a\u0000","value":1}"#, "key"),
        (&deep, "value"),
    ] {
        let reply = server.ask(&request("POST", "/set").body(body)).await;
        assert_eq!(reply.status, 422, "{body}");
        assert_eq!(
            reply.json()["detail"][0]["loc"],
            json!(["body", member]),
            "{body}: {}",
            reply.text()
        );
    }
    assert_eq!(server.ask(&request("GET", "/get/a")).await.status, 404);
}

#[tokio::test]
async fn conditions_tokens_and_idempotency_keys_work_here_too() {
    let server = Server::start().await;
    let set = request("POST", "/set")
        .body(r#"{"key":"a","value":1}"#)
        .header("prefer", "wait=5");
    let created = server
        .ask(
            &set.clone()
                .header("if-none-match", "*")
                .header("idempotency-key", "k"),
        )
        .await;
    assert_eq!(created.status, 200);
    let replayed = server
        .ask(
            &set.clone()
                .header("if-none-match", "*")
                .header("idempotency-key", "k"),
        )
        .await;
    assert_eq!(replayed.status, 200);
    assert_eq!(replayed.header("idempotency-replayed"), Some("true"));
    assert_eq!(replayed.json()["job_id"], created.json()["job_id"]);

    let failed = server.ask(&set.clone().header("if-none-match", "*")).await;
    assert_eq!(failed.status, 412);
    assert_eq!(failed.json()["current_etag"], created.json()["etag"]);
    assert!(failed.json()["detail"].is_string());

    let etag = created.header("etag").unwrap();
    let fresh = server
        .ask(&request("GET", "/get/a").header("if-none-match", etag))
        .await;
    assert_eq!((fresh.status, fresh.body.len()), (304, 0));
    let token = created.header("sync-token").unwrap();
    assert_eq!(
        server
            .ask(&request("GET", "/get/a").header("sync-token", token))
            .await
            .status,
        200
    );
    let deleted = server
        .ask(
            &request("DELETE", "/delete/a")
                .header("if-match", etag)
                .header("prefer", "wait=5"),
        )
        .await;
    assert_eq!(
        (deleted.status, deleted.json()["deleted"].clone()),
        (200, json!(true))
    );
}

#[tokio::test]
async fn ttl_is_a_member() {
    let server = Server::start().await;
    let set = request("POST", "/set")
        .body(r#"{"key":"a","value":1,"ttl":60}"#)
        .header("prefer", "wait=5");
    assert_eq!(server.ask(&set).await.status, 200);
    let read = server.ask(&request("GET", "/get/a")).await;
    let left: u64 = read.header("x-ttl").unwrap().parse().unwrap();
    assert!((58..=60).contains(&left), "{left}");
    let keep = request("POST", "/set")
        .body(r#"{"key":"a","value":2,"ttl":"keep"}"#)
        .header("prefer", "wait=5");
    assert_eq!(server.ask(&keep).await.status, 200);
    assert!(
        server
            .ask(&request("GET", "/get/a"))
            .await
            .header("x-ttl")
            .is_some()
    );
}

#[tokio::test]
async fn page_of_another_site_cannot_make_a_browser_write() {
    let server = Server::start().await;
    let set = request("POST", "/set")
        .body(r#"{"key":"a","value":1}"#)
        .header("prefer", "wait=5");
    let from_page = set.clone().header("origin", "https://elsewhere.example");
    // Types that a browser sends without a preflight request; the last request has no type at all.
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        assert_eq!(
            server
                .ask(&from_page.clone().header("content-type", content_type))
                .await
                .status,
            415
        );
    }
    assert_eq!(server.ask(&from_page).await.status, 415);
    // For all other requests the browser sends a preflight request, which is refused.
    let asked = request("OPTIONS", "/set").header("origin", "https://elsewhere.example");
    let answer = server.ask(&asked).await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (405, None)
    );
    assert_eq!(server.ask(&request("GET", "/get/a")).await.status, 404);
    assert_eq!(
        server
            .ask(&set.header("content-type", "application/json"))
            .await
            .status,
        200
    );
}
