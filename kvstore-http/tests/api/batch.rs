//! §4: `/v1/batch`.

use serde_json::{Value, json};

use crate::support::server::{Server, Setup};
use kvstore_testing::client::{Reply, Request, request};

fn batch(ops: &Value) -> Request {
    request("POST", "/v1/batch").body(json!({ "ops": ops }).to_string())
}

async fn value_of(server: &Server, key: &str) -> Option<String> {
    let reply = server.ask(&request("GET", &format!("/v1/kv/{key}"))).await;
    (reply.status == 200).then(|| reply.text().to_owned())
}

async fn etag_of(server: &Server, key: &str) -> String {
    let reply = server.ask(&request("GET", &format!("/v1/kv/{key}"))).await;
    reply.header("etag").unwrap().to_owned()
}

fn assert_invalid(reply: &Reply, place: &Value, what: &impl std::fmt::Debug) {
    assert_eq!(reply.status, 422, "{what:?}: {}", reply.text());
    assert_eq!(reply.json()["type"], "/problems/invalid", "{what:?}");
    assert_eq!(&reply.json()["errors"][0]["loc"], place, "{what:?}");
}

#[tokio::test]
async fn several_writes_are_one_job() {
    let server = Server::start().await;
    server.put("old", "1").await;
    let reply = server
        .ask(&batch(&json!([
            {"op": "set", "key": "a", "value": null},
            {"op": "set", "key": "old", "value": {"x": 1}},
            {"op": "delete", "key": "none"},
        ])))
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let job = reply.json()["job_id"].clone();
    let deleted = reply.json()["results"][2]["etag"].clone();
    assert!(deleted.is_string(), "{}", reply.text());
    assert_eq!(
        reply.json(),
        json!({"job_id": job, "results": [
            {"op": "set", "key": "a", "etag": etag_of(&server, "a").await, "created": true},
            {"op": "set", "key": "old", "etag": etag_of(&server, "old").await, "created": false},
            {"op": "delete", "key": "none", "etag": deleted, "deleted": false},
        ]})
    );
    assert_eq!(reply.header("sync-token"), job.as_str());
    assert_eq!(value_of(&server, "a").await.as_deref(), Some("null"));
    let job = job.as_str().unwrap();
    let report = server
        .ask(&request("GET", &format!("/v1/jobs/{job}")))
        .await;
    assert_eq!(
        (&report.json()["op"], &report.json()["status"]),
        (&json!("batch"), &json!("succeeded"))
    );
}

#[tokio::test]
async fn values_of_a_batch_are_byte_exact() {
    let server = Server::start().await;
    let body = r#"{"ops":[{"op":"set","key":"a","value":{ "x":1.0, "x":1e400 }}]}"#;
    let reply = server.ask(&request("POST", "/v1/batch").body(body)).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        value_of(&server, "a").await.as_deref(),
        Some(r#"{"x":1.0,"x":1e400}"#)
    );
}

#[tokio::test]
async fn all_or_nothing_and_the_condition_that_failed_is_named() {
    let server = Server::start().await;
    server.put("a", "1").await;
    let tag = etag_of(&server, "a").await;
    for (condition, op) in [
        (
            json!({"op": "set", "key": "a", "value": 3, "if_none_match": "*"}),
            1,
        ),
        (
            json!({"op": "set", "key": "a", "value": 3, "if_match": "\"9999\""}),
            1,
        ),
        (json!({"op": "delete", "key": "none", "if_match": "*"}), 1),
    ] {
        let ops = json!([{"op": "set", "key": "b", "value": 2}, condition]);
        let reply = server.ask(&batch(&ops)).await;
        assert_eq!(reply.status, 412, "{condition}: {}", reply.text());
        assert_eq!(reply.json()["type"], "/problems/precondition-failed");
        assert_eq!(reply.json()["failed_op"], op);
        let expected = if condition["key"] == "a" {
            json!(tag)
        } else {
            Value::Null
        };
        assert_eq!(reply.json()["current_etag"], expected);
        assert_eq!(value_of(&server, "b").await, None, "{condition}");
        assert_eq!(value_of(&server, "a").await.as_deref(), Some("1"));
    }
    let told = batch(&json!([{"op": "delete", "key": "b"}, {"op": "delete", "key": "a", "if_match": "\"9999\""}]))
        .header("prefer", "return=representation");
    let reply = server.ask(&told).await;
    assert_eq!(
        (reply.status, &reply.json()["current_value"]),
        (412, &json!(1))
    );
    let held = json!([
        {"op": "set", "key": "a", "value": 5, "if_match": tag},
        {"op": "set", "key": "b", "value": 6, "if_none_match": "*"},
    ]);
    assert_eq!(server.ask(&batch(&held)).await.status, 200);
    assert_eq!(value_of(&server, "b").await.as_deref(), Some("6"));
}

#[tokio::test]
async fn batch_is_accepted_and_its_failure_told_by_the_job() {
    let server = Server::start().await;
    let ops = json!([{"op": "set", "key": "b", "value": 2}, {"op": "delete", "key": "a", "if_match": "*"}]);
    let reply = server
        .ask(&batch(&ops).header("prefer", "respond-async"))
        .await;
    assert_eq!(reply.status, 202);
    let location = reply.header("location").unwrap().to_owned();
    assert_eq!(
        reply.json(),
        json!({"job_id": reply.json()["job_id"], "status": "queued"})
    );
    let job = server
        .ask(&request("GET", &format!("{location}?wait=10")))
        .await;
    assert_eq!(job.json()["status"], "failed");
    assert_eq!(job.json()["error"]["failed_op"], 1);
}

#[tokio::test]
async fn a_batch_is_repeated_safely_under_its_idempotency_key() {
    let server = Server::start().await;
    let ops = json!([{"op": "set", "key": "a", "value": 1, "if_none_match": "*"}, {"op": "set", "key": "b", "value": 1}]);
    let asks = batch(&ops).header("idempotency-key", "\"x\"");
    let first = server.ask(&asks).await;
    let again = server.ask(&asks).await;
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!(first.json(), again.json());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let other = json!([{"op": "set", "key": "a", "value": 1, "if_none_match": "*"}, {"op": "set", "key": "b", "value": 2}]);
    let reply = server
        .ask(&batch(&other).header("idempotency-key", "\"x\""))
        .await;
    assert_eq!(
        (reply.status, &reply.json()["type"]),
        (422, &json!("/problems/idempotency-key-reused"))
    );
}

#[tokio::test]
async fn time_to_live_holds_in_a_batch() {
    let server = Server::start().await;
    let ops = json!([{"op": "set", "key": "a", "value": 1, "ttl": 60}]);
    assert_eq!(server.ask(&batch(&ops)).await.status, 200);
    let keep = json!([{"op": "set", "key": "a", "value": 2, "ttl": "keep"}]);
    assert_eq!(server.ask(&batch(&keep)).await.status, 200);
    let reply = server.ask(&request("GET", "/v1/kv/a")).await;
    assert!(reply.header("x-ttl").is_some());
    server.clock.advance(std::time::Duration::from_secs(61));
    assert_eq!(value_of(&server, "a").await, None);
}

#[tokio::test]
async fn what_is_wrong_is_named_by_its_place_and_nothing_happens() {
    let server = Server::start().await;
    for op in [
        json!({"op": "set", "key": "a"}),
        json!({"op": "set", "key": "", "value": 1}),
        json!({"op": "set", "key": 5, "value": 1}),
        json!({"op": "set", "value": 1}),
        json!({"op": "add", "key": "a", "value": 1}),
        json!({"key": "a", "value": 1}),
        json!({"op": "set", "key": "a", "value": 1, "ttl": 0}),
        json!({"op": "set", "key": "a", "value": 1, "ttl": "soon"}),
        json!({"op": "set", "key": "a", "value": 1, "if_match": "42"}),
        json!({"op": "set", "key": "a", "value": 1, "if_match": "\u{0}"}),
        json!({"op": "delete", "key": "a", "value": 1}),
        json!({"op": "delete", "key": "a", "ttl": 1}),
        json!({"op": "delete", "key": "a", "if_none_match": "*"}),
        json!(1),
    ] {
        let ops = json!([{"op": "set", "key": "b", "value": 2}, op]);
        assert_invalid(
            &server.ask(&batch(&ops)).await,
            &json!(["body", "ops", 1]),
            &op,
        );
    }
    for body in [
        "",
        "{}",
        "[]",
        r#"{"ops":1}"#,
        r#"{"ops":[]"#,
        r#"{"ops":[],"ops":[]}"#,
    ] {
        let reply = server.ask(&request("POST", "/v1/batch").body(body)).await;
        assert_invalid(&reply, &json!(["body"]), &body);
    }
    let none = server.ask(&batch(&json!([]))).await;
    assert_eq!(
        (none.status, none.json()),
        (200, json!({"job_id": null, "results": []}))
    );
    let twice = json!([{"op": "set", "key": "b", "value": 2}, {"op": "delete", "key": "b"}]);
    assert_eq!(server.ask(&batch(&twice)).await.status, 422);
    let asks = batch(&json!([{"op": "set", "key": "b", "value": 2}])).header("if-match", "*");
    assert_eq!(server.ask(&asks).await.status, 400);
    assert_eq!(value_of(&server, "b").await, None);
}

#[tokio::test]
async fn batch_is_bounded_in_operations_and_bytes() {
    let server = Server::start().await;
    let ops = |count: usize| {
        let ops =
            (0..count).map(|number| json!({"op": "set", "key": format!("{number}"), "value": 1}));
        Value::from(ops.collect::<Vec<_>>())
    };
    assert_eq!(server.ask(&batch(&ops(1000))).await.status, 200);
    assert_eq!(server.ask(&batch(&ops(1001))).await.status, 422);
    let value = "x".repeat(1 << 20);
    let large = json!([{"op": "set", "key": "a", "value": value}]);
    assert_eq!(
        server.ask(&batch(&large)).await.status,
        413,
        "a value over the limit"
    );
    let value = "x".repeat((1 << 20) - 2);
    let many = |count: usize| {
        let ops = (0..count)
            .map(|number| json!({"op": "set", "key": format!("{number}"), "value": value}));
        Value::from(ops.collect::<Vec<_>>())
    };
    assert_eq!(server.ask(&batch(&many(7))).await.status, 200);
    let reply = server.ask(&batch(&many(8))).await;
    assert_eq!(
        (reply.status, &reply.json()["limit_bytes"]),
        (413, &json!(8 << 20))
    );
}

#[tokio::test]
async fn keys_of_a_batch_share_a_partition() {
    let setup = Setup {
        queue: kvstore_core::queue::QueueOptions {
            partitions: kvstore_core::model::id::PartitionCount::new(64).unwrap(),
            ..kvstore_core::queue::QueueOptions::default()
        },
        ..Setup::default()
    };
    let server = Server::start_with(setup).await;
    let apart =
        json!([{"op": "set", "key": "a", "value": 1}, {"op": "set", "key": "b", "value": 1}]);
    let reply = server.ask(&batch(&apart)).await;
    assert_eq!(
        (reply.status, &reply.json()["type"]),
        (422, &json!("/problems/cross-partition"))
    );
    let together =
        json!([{"op": "set", "key": "{t}a", "value": 1}, {"op": "set", "key": "{t}b", "value": 1}]);
    assert_eq!(server.ask(&batch(&together)).await.status, 200);
}
