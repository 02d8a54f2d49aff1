//! §6: conditions and idempotency.

use std::time::Duration;

use serde_json::json;

use crate::support::server::{Server, Setup};
use kvstore_testing::client::request;

#[tokio::test]
async fn create_only_swap_and_must_exist() {
    let server = Server::start().await;
    let put = |value: &str| request("PUT", "/v1/kv/a").body(value);
    assert_eq!(
        server.ask(&put("0").header("if-match", "*")).await.status,
        412
    );
    let created = server.ask(&put("1").header("if-none-match", "*")).await;
    assert_eq!(created.status, 201);
    let etag = created.header("etag").unwrap().to_owned();
    assert_eq!(
        server
            .ask(&put("2").header("if-none-match", "*"))
            .await
            .status,
        412
    );
    assert_eq!(
        server.ask(&put("3").header("if-match", "*")).await.status,
        200
    );
    assert_eq!(
        server.ask(&put("4").header("if-match", &etag)).await.status,
        412
    );
    let current = server.ask(&request("GET", "/v1/kv/a")).await;
    assert_eq!(current.text(), "3");
    let swapped = server
        .ask(&put("5").header("if-match", current.header("etag").unwrap()))
        .await;
    assert_eq!(swapped.status, 200);
    let stale = server
        .ask(&request("DELETE", "/v1/kv/a").header("if-match", &etag))
        .await;
    assert_eq!(stale.status, 412);
    let delete = request("DELETE", "/v1/kv/a").header("if-match", swapped.header("etag").unwrap());
    assert_eq!(server.ask(&delete).await.json()["deleted"], true);
}

#[tokio::test]
async fn failed_condition_tells_the_current_tag() {
    let server = Server::start().await;
    let put = request("PUT", "/v1/kv/a").body("1");
    let absent = server.ask(&put.clone().header("if-match", "\"7\"")).await;
    assert_eq!(absent.status, 412);
    assert_eq!(absent.json()["type"], "/problems/precondition-failed");
    assert_eq!(absent.json()["current_etag"], json!(null));
    let created = server.ask(&put).await;
    for never in ["\"0\"", "W/\"1\"", "\"some-other-server's\""] {
        let failed = server.ask(&put.clone().header("if-match", never)).await;
        assert_eq!(
            (failed.status, &failed.json()["current_etag"]),
            (412, &created.json()["etag"]),
            "{never}"
        );
        assert_eq!(failed.json().get("current_value"), None);
    }
}

#[tokio::test]
async fn representation_saves_the_second_read() {
    let server = Server::start().await;
    server.ask(&request("PUT", "/v1/kv/a").body("1.0")).await;
    let current = server.ask(&request("GET", "/v1/kv/a")).await;
    let put = request("PUT", "/v1/kv/a")
        .body("2")
        .header("if-none-match", "*")
        .header("prefer", "return=representation");
    let failed = server.ask(&put).await;
    assert_eq!(failed.status, 412);
    assert_eq!(
        failed.json()["current_etag"].as_str(),
        current.header("etag")
    );
    assert!(
        failed.text().contains(r#""current_value":1.0"#),
        "{}",
        failed.text()
    );
    assert_eq!(
        failed.header("preference-applied"),
        Some("return=representation")
    );
    let gone = request("DELETE", "/v1/kv/none")
        .header("if-match", "*")
        .header("prefer", "return=representation");
    let failed = server.ask(&gone).await;
    assert_eq!(
        (failed.status, &failed.json()["current_etag"]),
        (412, &json!(null))
    );
    assert_eq!(failed.json().get("current_value"), None);
}

#[tokio::test]
async fn condition_is_judged_when_the_write_is_applied() {
    let mut server = Server::start_idle(Setup::default()).await;
    let put = request("PUT", "/v1/kv/a")
        .body("1")
        .header("if-none-match", "*")
        .header("prefer", "respond-async");
    let (first, second) = (server.ask(&put).await, server.ask(&put).await);
    assert_eq!((first.status, second.status), (202, 202));
    server.work();
    let status = async |reply: &kvstore_testing::client::Reply| {
        let job = reply.header("location").unwrap().to_owned() + "?wait=10";
        server.ask(&request("GET", &job)).await.json()["status"].clone()
    };
    assert_eq!(
        (status(&first).await, status(&second).await),
        (json!("succeeded"), json!("failed"))
    );
}

#[tokio::test]
async fn condition_that_cannot_be_had_is_refused_and_never_ignored() {
    let server = Server::start().await;
    server.put("a", "1").await;
    for (name, value) in [
        ("if-match", "42"),
        ("if-match", "\"1\" \"2\""),
        ("if-none-match", "42"),
        ("if-match", "\"1"),
    ] {
        let put = server
            .ask(&request("PUT", "/v1/kv/a").body("2").header(name, value))
            .await;
        assert_eq!(
            (put.status, put.json()["type"].as_str()),
            (400, Some("/problems/malformed")),
            "{name}: {value}"
        );
    }
    let many = vec!["\"1\""; 17].join(",");
    let many = request("PUT", "/v1/kv/a")
        .body("2")
        .header("if-match", &many);
    assert_eq!(server.ask(&many).await.status, 400);
    assert_eq!(server.ask(&request("GET", "/v1/kv/a")).await.text(), "1");
}

#[tokio::test]
async fn lists_of_tags_and_both_headers_are_judged_together() {
    let server = Server::start().await;
    let put = |key: &str, matches: Option<&str>, others: Option<&str>| {
        let mut put = request("PUT", &format!("/v1/kv/{key}")).body("1");
        for (name, value) in [("if-match", matches), ("if-none-match", others)] {
            if let Some(value) = value {
                put = put.header(name, value);
            }
        }
        put
    };
    let old = server.ask(&put("a", None, None)).await;
    let old = old.header("etag").unwrap().to_owned();
    let mut now = old.clone();
    // `{now}` is the current tag, `{old}` a previous one.
    for (key, matches, others, status) in [
        ("a", None, Some("{now}"), 412),
        ("a", None, Some("\"7\", W/{now}"), 412),
        ("a", None, Some("\"7\""), 200),
        ("a", Some("{old}, {now}"), None, 200),
        ("a", Some("{old}, \"7\""), None, 412),
        ("a", Some("{now}"), Some("{old}"), 200),
        ("a", Some("*"), Some("{now}, {old}"), 412),
        ("a", Some("*"), Some("{old}"), 200),
        ("a", Some("*"), Some("*"), 412),
        ("absent", Some("*"), Some("\"7\""), 412),
        ("absent", Some("*"), Some("*"), 412),
        ("absent", Some("\"7\", \"8\""), None, 412),
        ("absent", None, Some("\"7\", \"8\""), 201),
    ] {
        let filled = |text: &str| text.replace("{now}", &now).replace("{old}", &old);
        let (matches, others) = (matches.map(filled), others.map(filled));
        let asks = put(key, matches.as_deref(), others.as_deref());
        let reply = server.ask(&asks).await;
        assert_eq!(reply.status, status, "{asks:?}");
        if let Some(tag) = reply.header("etag").filter(|_| key == "a") {
            now = tag.to_owned();
        }
    }
    let batch = json!({"ops": [{"op": "set", "key": "a", "value": 2, "if_match": format!("{old}, {now}")}]});
    let batch = request("POST", "/v1/batch").body(batch.to_string());
    assert_eq!(server.ask(&batch).await.status, 200);
    assert_eq!(server.ask(&batch).await.status, 412);
}

#[tokio::test]
async fn read_conditions_are_those_of_http() {
    let server = Server::start().await;
    server
        .ask(&request("PUT", "/v1/kv/a?ttl=60").body("1"))
        .await;
    let mut connection = server.connect().await;
    let current = connection.ask(&request("GET", "/v1/kv/a")).await;
    let etag = current.header("etag").unwrap();
    for (name, value, status) in [
        ("if-none-match", etag.to_owned(), 304),
        ("if-none-match", format!("W/{etag}"), 304),
        ("if-none-match", format!("\"0\", {etag}"), 304),
        ("if-none-match", "*".to_owned(), 304),
        ("if-none-match", "\"0\"".to_owned(), 200),
        ("if-none-match", "42".to_owned(), 400),
        ("if-match", etag.to_owned(), 200),
        ("if-match", "*".to_owned(), 200),
        ("if-match", "\"0\"".to_owned(), 412),
    ] {
        for method in ["GET", "HEAD"] {
            let reply = connection
                .ask(&request(method, "/v1/kv/a").header(name, &value))
                .await;
            assert_eq!(reply.status, status, "{method} {name}: {value}");
            if status == 304 {
                assert_eq!(reply.header("etag"), Some(etag));
                assert_eq!(reply.header("cache-control"), Some("no-cache"));
                assert!(reply.header("x-ttl").is_some());
                assert_eq!(
                    (reply.header("content-type"), reply.header("content-length")),
                    (None, None)
                );
            }
        }
    }
    // A missing entry fails as missing, whatever the conditions (RFC 9110 §13.2.1).
    for (name, value) in [("if-match", "*"), ("if-none-match", "*")] {
        assert_eq!(
            connection
                .ask(&request("GET", "/v1/kv/none").header(name, value))
                .await
                .status,
            404
        );
    }
}

#[tokio::test]
async fn repeated_request_under_one_key_is_the_same_job() {
    let server = Server::start().await;
    let put = request("PUT", "/v1/kv/a")
        .body("1")
        .header("idempotency-key", "\"k 1\"");
    let (first, second) = (server.ask(&put).await, server.ask(&put).await);
    assert_eq!((first.status, second.status), (201, 201));
    assert_eq!(first.json(), second.json());
    assert_eq!(
        (
            first.header("idempotency-replayed"),
            second.header("idempotency-replayed")
        ),
        (None, Some("true"))
    );
    let bare = request("PUT", "/v1/kv/a")
        .body(" 1 ")
        .header("idempotency-key", "k 1");
    assert_eq!(
        server.ask(&bare).await.header("idempotency-replayed"),
        Some("true")
    );

    for other in [
        request("PUT", "/v1/kv/a").body("2"),
        request("PUT", "/v1/kv/a?ttl=60").body("1"),
        request("PUT", "/v1/kv/a").body("1").header("if-match", "*"),
        request("DELETE", "/v1/kv/a"),
    ] {
        let reused = server.ask(&other.header("idempotency-key", "k 1")).await;
        assert_eq!(
            (reused.status, reused.json()["type"].as_str()),
            (422, Some("/problems/idempotency-key-reused"))
        );
    }
    // The same key for another entry means another request.
    let elsewhere = request("PUT", "/v1/kv/b")
        .body("1")
        .header("idempotency-key", "k 1");
    let reply = server.ask(&elsewhere).await;
    assert_eq!(
        (reply.status, reply.header("idempotency-replayed")),
        (201, None)
    );
}

#[tokio::test]
async fn a_write_that_failed_is_answered_again_as_the_first_time() {
    let server = Server::start().await;
    server.put("a", "\"text\"").await;
    let batch = r#"{"ops":[{"op":"set","key":"a","value":1,"if_none_match":"*"}]}"#;
    for (write, status) in [
        (
            request("PUT", "/v1/kv/a")
                .body("1")
                .header("if-none-match", "*"),
            412,
        ),
        (request("POST", "/v1/kv/a?add=1"), 422),
        (request("PATCH", "/v1/kv/none?ttl=60"), 404),
        (request("POST", "/v1/batch").body(batch), 412),
        (
            request("DELETE", "/delete/none")
                .header("if-match", "*")
                .header("prefer", "wait=5"),
            412,
        ),
    ] {
        let key = format!("\"{}\"", write.line());
        let write = write.header("idempotency-key", &key);
        let (first, second) = (server.ask(&write).await, server.ask(&write).await);
        assert_eq!((first.status, second.status), (status, status), "{write:?}");
        assert_eq!(first.json(), second.json(), "{write:?}");
        let job = first.json()["job_id"].as_str().unwrap().to_owned();
        for (reply, replayed) in [(&first, None), (&second, Some("true"))] {
            assert_eq!(reply.header("idempotency-replayed"), replayed, "{write:?}");
            assert_eq!(reply.header("sync-token"), Some(&*job), "{write:?}");
        }
        let job = server
            .ask(&request("GET", &format!("/v1/jobs/{job}")))
            .await;
        assert_eq!(job.json()["status"], "failed", "{write:?}");
    }
}

#[tokio::test]
async fn idempotency_key_that_is_none_is_refused() {
    let server = Server::start().await;
    let long = "k".repeat(256);
    for key in ["", "\"\"", "\"open", &long] {
        let put = request("PUT", "/v1/kv/a")
            .body("1")
            .header("idempotency-key", key);
        assert_eq!(server.ask(&put).await.status, 400, "{key}");
    }
    let put = request("PUT", "/v1/kv/a")
        .body("1")
        .header("idempotency-key", &long[1..]);
    assert_eq!(server.ask(&put).await.status, 201);
}

#[tokio::test]
async fn idempotency_key_is_forgotten_after_a_shorter_window_that_it_asks_for() {
    let server = Server::start().await;
    let add = |key: &str| request("POST", "/v1/kv/n?add=1").header("idempotency-key", key);
    let ask = async |key: &str| server.ask(&add(key)).await.json()["value"].clone();
    assert_eq!(ask("\"short\";window=60").await, 1);
    assert_eq!(ask("\"usual\"").await, 2);
    // The setting limits the window.
    assert_eq!(ask("\"long\";window=999999999").await, 3);
    server.clock.advance(Duration::from_secs(59));
    assert_eq!(ask("\"short\";window=60").await, 1, "it is the same job");
    server.clock.advance(Duration::from_secs(1));
    assert_eq!(ask("\"short\";window=60").await, 4, "it is another");
    assert_eq!(ask("\"usual\"").await, 2);
    server.clock.advance(Duration::from_secs(24 * 60 * 60 - 61));
    assert_eq!(ask("\"long\"").await, 3);
    server.clock.advance(Duration::from_secs(1));
    assert_eq!(ask("\"long\"").await, 5);
    let wrong = server.ask(&add("\"a\";window=0")).await;
    assert_eq!(wrong.status, 400);
}

#[tokio::test]
async fn idempotency_keys_make_room_for_others_after_their_minimum_and_not_before() {
    let mut setup = Setup::default();
    setup.queue.idempotency_keys_max = 1;
    setup.service.idempotency_minimum = Duration::from_secs(60);
    let server = Server::start_with(setup).await;
    let add = |key: &str| request("POST", "/v1/kv/n?add=1").header("idempotency-key", key);
    assert_eq!(server.ask(&add("first")).await.status, 201);
    let refused = server.ask(&add("second")).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.header("retry-after"), Some("60"));
    let replayed = server.ask(&add("first")).await;
    assert_eq!(replayed.header("idempotency-replayed"), Some("true"));
    server.clock.advance(Duration::from_secs(60));
    let accepted = server.ask(&add("second")).await;
    assert_eq!(
        (accepted.status, &accepted.json()["value"]),
        (200, &2.into())
    );
    let refused = server.ask(&add("first")).await;
    assert_eq!(refused.status, 503, "{refused:?}");
}
