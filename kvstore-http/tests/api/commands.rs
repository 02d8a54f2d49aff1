//! §4: additions, merges, touches, checks, and deletes by prefix.

use std::time::Duration;

use serde_json::json;

use crate::support::server::{Server, Setup};
use kvstore_testing::client::{Reply, Request, request};

fn add(key: &str, by: &str) -> Request {
    request("POST", &format!("/v1/kv/{key}?add={by}"))
}

fn merge(key: &str, patch: &str) -> Request {
    request("PATCH", &format!("/v1/kv/{key}"))
        .header("content-type", "application/merge-patch+json")
        .body(patch)
}

async fn got(server: &Server, key: &str) -> Reply {
    server.ask(&request("GET", &format!("/v1/kv/{key}"))).await
}

fn assert_problem(reply: &Reply, status: u16, name: &str) {
    assert_eq!(reply.status, status, "{}", reply.text());
    let kind = format!("/problems/{name}");
    assert_eq!(reply.json()["type"], json!(kind), "{}", reply.text());
}

#[tokio::test]
async fn an_addition_answers_the_sum() {
    let server = Server::start().await;
    for (by, status, sum) in [("5", 201, 5), ("-7", 200, -2), ("0", 200, -2)] {
        let reply = server.ask(&add("n", by)).await;
        assert_eq!(reply.status, status, "{}", reply.text());
        let entry = got(&server, "n").await;
        assert_eq!(entry.text(), sum.to_string());
        let answer = reply.json();
        let expected = json!({
            "key": "n", "value": sum, "etag": entry.header("etag"), "created": status == 201,
            "job_id": reply.header("sync-token"),
        });
        assert_eq!(answer, expected);
        assert_eq!(reply.header("etag"), entry.header("etag"));
        let job = format!("/v1/jobs/{}", answer["job_id"].as_str().unwrap());
        let job = server.ask(&request("GET", &job)).await.json();
        assert_eq!(
            (&job["op"], &job["result"]["value"]),
            (&json!("add"), &json!(sum))
        );
    }
}

#[tokio::test]
async fn what_is_no_integer_is_not_added_to() {
    let server = Server::start().await;
    for text in ["1.0", "\"1\"", "null", "9223372036854775807"] {
        server.put("n", text).await;
        let before = got(&server, "n").await;
        let reply = server.ask(&add("n", "1")).await;
        assert_problem(&reply, 422, "not-an-integer");
        assert_eq!(reply.json()["key"], "n");
        let after = got(&server, "n").await;
        assert_eq!(
            (after.text(), after.header("etag")),
            (text, before.header("etag"))
        );
    }
    for by in ["", "x", "1.0", "9223372036854775808"] {
        let reply = server.ask(&add("n", by)).await;
        assert_problem(&reply, 422, "invalid");
        assert_eq!(reply.json()["errors"][0]["loc"], json!(["query", "add"]));
    }
    let with_body = add("n", "1").body("1");
    assert_problem(&server.ask(&with_body).await, 422, "invalid");
    // A page of another site could send this without a preflight request.
    let from_page = add("n", "1").header("origin", "http://other.test");
    assert_eq!(server.ask(&from_page).await.status, 415);
}

#[tokio::test]
async fn the_bounds_of_64_bits_can_be_reached_and_not_passed() {
    let server = Server::start().await;
    for (key, bound, beyond) in [("least", i64::MIN, "-1"), ("most", i64::MAX, "1")] {
        let reply = server.ask(&add(key, &bound.to_string())).await;
        assert_eq!(reply.json()["value"], json!(bound));
        let reply = server.ask(&add(key, beyond)).await;
        assert_problem(&reply, 422, "not-an-integer");
        assert_eq!(got(&server, key).await.text(), bound.to_string());
    }
}

#[tokio::test]
async fn a_rate_limiter_is_one_request() {
    let server = Server::start().await;
    let hit = || add("hits", "1&ttl=60");
    assert_eq!(server.ask(&hit()).await.json()["value"], 1);
    server.clock.advance(Duration::from_secs(40));
    assert_eq!(server.ask(&hit()).await.json()["value"], 2);
    // The deadline is that of the first write.
    server.clock.advance(Duration::from_secs(20));
    assert_eq!(server.ask(&hit()).await.json()["value"], 1);
}

#[tokio::test]
async fn a_retried_addition_counts_once() {
    let server = Server::start().await;
    let request = || add("n", "1").header("idempotency-key", "k");
    let first = server.ask(&request()).await;
    let again = server.ask(&request()).await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!((first.status, first.json()), (again.status, again.json()));
    assert_eq!(got(&server, "n").await.text(), "1");
    let other = add("n", "2").header("idempotency-key", "k");
    assert_problem(&server.ask(&other).await, 422, "idempotency-key-reused");
}

#[tokio::test]
async fn a_merge_keeps_every_byte_that_it_does_not_name() {
    let server = Server::start().await;
    let created = server.ask(&merge("m", r#"{"a":1,"b":null}"#)).await;
    assert_eq!(
        (created.status, &created.json()["created"]),
        (201, &json!(true))
    );
    assert_eq!(got(&server, "m").await.text(), r#"{"a":1}"#);
    let text = r#"{"x":1.0,"a":1,"x":1e400,"\u00e9":"\u0000"}"#;
    let put = request("PUT", "/v1/kv/m?ttl=60").body(text);
    assert_eq!(server.ask(&put).await.status, 200);
    let merged = server.ask(&merge("m", r#"{"a":{"b":2}}"#)).await;
    assert_eq!(merged.status, 200);
    let entry = got(&server, "m").await;
    assert_eq!(
        entry.text(),
        r#"{"x":1.0,"a":{"b":2},"x":1e400,"\u00e9":"\u0000"}"#
    );
    assert_eq!(entry.header("x-ttl"), Some("60"), "it keeps its deadline");
    assert_eq!(entry.header("etag"), merged.header("etag"));
    let stale = merge("m", "{}").header("if-match", "\"1\"");
    assert_problem(&server.ask(&stale).await, 412, "precondition-failed");
    assert_problem(&server.ask(&merge("m", "{")).await, 422, "invalid");
}

#[tokio::test]
async fn the_limit_on_values_holds_for_what_a_merge_comes_to() {
    let mut setup = Setup::default();
    setup.service.value_bytes_max = 20;
    let server = Server::start_with(setup).await;
    server.put("m", r#"{"a":"12345678"}"#).await;
    let reply = server.ask(&merge("m", r#"{"b":"12345678"}"#)).await;
    assert_problem(&reply, 413, "too-large");
    assert_eq!(reply.json()["limit_bytes"], 20);
    assert_eq!(got(&server, "m").await.text(), r#"{"a":"12345678"}"#);
}

#[tokio::test]
async fn only_a_merge_patch_is_a_patch_and_the_answer_says_so() {
    let server = Server::start().await;
    let other = request("PATCH", "/v1/kv/m")
        .header("content-type", "application/json-patch+json")
        .body("[]");
    let reply = server.ask(&other).await;
    assert_problem(&reply, 415, "unsupported-media-type");
    let options = server.ask(&request("OPTIONS", "/v1/kv/m")).await;
    for reply in [reply, options] {
        let accepted = reply.header("accept-patch");
        assert_eq!(accepted, Some("application/merge-patch+json"));
    }
}

#[tokio::test]
async fn a_touch_changes_the_deadline_alone() {
    let server = Server::start().await;
    let touch = |ttl: &str| request("PATCH", &format!("/v1/kv/t{ttl}"));
    assert_problem(&server.ask(&touch("?ttl=60")).await, 404, "not-found");
    server.put("t", "1.0").await;
    let before = got(&server, "t").await;
    let reply = server.ask(&touch("?ttl=60")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let entry = got(&server, "t").await;
    assert_eq!((entry.text(), entry.header("x-ttl")), ("1.0", Some("60")));
    assert_ne!(entry.header("etag"), before.header("etag"));
    let meta = server.ask(&request("GET", "/v1/kv/t?meta=1")).await.json();
    let expected = json!({
        "key": "t", "etag": entry.header("etag"), "expires_at": meta["expires_at"],
        "job_id": reply.header("sync-token"),
    });
    assert_eq!(reply.json(), expected);
    for ttl in ["", "?ttl=keep", "?ttl=0"] {
        assert_problem(&server.ask(&touch(ttl)).await, 422, "invalid");
    }
}

#[tokio::test]
async fn a_batch_has_all_of_them() {
    let server = Server::start().await;
    server.put("t", "\"x\"").await;
    server.put("lock", "1").await;
    let lock = got(&server, "lock")
        .await
        .header("etag")
        .unwrap()
        .to_owned();
    let batch = |tag: &str| {
        let ops = json!([
            {"op": "check", "key": "lock", "if_match": tag},
            {"op": "add", "key": "n", "by": -3.0, "ttl": 60},
            {"op": "merge", "key": "m", "patch": {"a": null, "b": 1}},
            {"op": "touch", "key": "t", "ttl": 60},
            {"op": "check", "key": "none", "if_none_match": "*"},
            {"op": "set", "key": "s", "value": null},
        ]);
        request("POST", "/v1/batch").body(json!({ "ops": ops }).to_string())
    };
    let stale = server.ask(&batch("\"1\"")).await;
    assert_problem(&stale, 412, "precondition-failed");
    assert_eq!(stale.json()["failed_op"], 0);
    assert_eq!(got(&server, "n").await.status, 404);

    let reply = server.ask(&batch(&lock)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let results = reply.json()["results"].clone();
    let names: Vec<_> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["op"])
        .collect();
    assert_eq!(names, ["check", "add", "merge", "touch", "check", "set"]);
    assert_eq!(results[0], json!({"op": "check", "key": "lock"}));
    assert_eq!(
        (&results[1]["value"], &results[1]["created"]),
        (&json!(-3), &json!(true))
    );
    for (index, key) in [(1, "n"), (2, "m"), (3, "t"), (5, "s")] {
        let etag = got(&server, key).await.header("etag").unwrap().to_owned();
        assert_eq!(results[index]["etag"], json!(etag), "{key}");
    }
    assert_eq!(got(&server, "m").await.text(), r#"{"b":1}"#);
    assert!(results[3]["expires_at"].is_string());
    assert_eq!(got(&server, "lock").await.header("etag"), Some(&*lock));
}

#[tokio::test]
async fn an_operation_of_a_batch_has_its_own_members() {
    let server = Server::start().await;
    for op in [
        json!({"op": "add", "key": "a"}),
        json!({"op": "add", "key": "a", "by": 1.5}),
        json!({"op": "add", "key": "a", "by": 1e30}),
        json!({"op": "add", "key": "a", "by": 1, "value": 1}),
        json!({"op": "merge", "key": "a"}),
        json!({"op": "merge", "key": "a", "patch": {}, "by": 1}),
        json!({"op": "touch", "key": "a"}),
        json!({"op": "touch", "key": "a", "ttl": "keep"}),
        json!({"op": "check", "key": "a"}),
        json!({"op": "check", "key": "a", "if_match": "*", "ttl": 1}),
        json!({"op": "set", "key": "a", "value": 1, "patch": {}}),
    ] {
        let body = json!({"ops": [{"op": "delete", "key": "b"}, op]}).to_string();
        let reply = server.ask(&request("POST", "/v1/batch").body(body)).await;
        assert_problem(&reply, 422, "invalid");
        assert_eq!(
            reply.json()["errors"][0]["loc"],
            json!(["body", "ops", 1]),
            "{op}"
        );
    }
}

#[tokio::test]
async fn keys_are_deleted_by_prefix() {
    let server = Server::start().await;
    for number in 0..1005 {
        server.put(&format!("a/{number}"), "1").await;
    }
    server.put("b", "1").await;
    let delete = |query: &str| request("DELETE", &format!("/v1/kv{query}"));
    for query in ["", "?prefix=", "?prefix=&all=0"] {
        assert_problem(&server.ask(&delete(query)).await, 422, "invalid");
    }
    let reply = server.ask(&delete("?prefix=a/")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    assert_eq!(
        (&answer["prefix"], &answer["deleted"]),
        (&json!("a/"), &json!(1005))
    );
    let jobs = answer["job_ids"].as_array().unwrap();
    assert_eq!(jobs.len(), 2, "at most a thousand keys each");
    for job in jobs {
        let job = format!("/v1/jobs/{}", job.as_str().unwrap());
        assert_eq!(
            server.ask(&request("GET", &job)).await.json()["status"],
            "succeeded"
        );
    }
    assert_eq!(got(&server, "a/7").await.status, 404);
    assert_eq!(got(&server, "b").await.status, 200);
    let none = server.ask(&delete("?prefix=a/")).await.json();
    assert_eq!(none, json!({"prefix": "a/", "deleted": 0, "job_ids": []}));
    let keyed = delete("?prefix=b").header("idempotency-key", "k");
    assert_problem(&server.ask(&keyed).await, 400, "malformed");
    let all = server.ask(&delete("?all=1")).await.json();
    assert_eq!(all["deleted"], 1);
}

#[tokio::test]
async fn a_delete_by_prefix_that_is_not_waited_for_is_accepted() {
    let server = Server::start().await;
    server.put("a", "1").await;
    let delete = request("DELETE", "/v1/kv?prefix=a").header("prefer", "respond-async");
    let reply = server.ask(&delete).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.header("preference-applied"), Some("respond-async"));
    let jobs = reply.json()["job_ids"].clone();
    let job = format!("/v1/jobs/{}?wait=30", jobs[0].as_str().unwrap());
    assert_eq!(
        server.ask(&request("GET", &job)).await.json()["status"],
        "succeeded"
    );
    assert_eq!(got(&server, "a").await.status, 404);
}
