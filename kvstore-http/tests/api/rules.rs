//! §2: keys, unknown things, methods, and the headers of every answer.

use serde_json::json;

use crate::support::server::{Server, Setup};
use kvstore_testing::client::request;

#[tokio::test]
async fn key_is_the_rest_of_the_path_decoded_once() {
    let server = Server::start().await;
    for (path, key) in [
        ("a", "a"),
        ("a/b/c", "a/b/c"),
        ("a%2Fb%2fc", "a/b/c"),
        ("%252F", "%2F"),
        ("a+b", "a+b"),
        ("a%20b", "a b"),
        ("a%3Fb%23c", "a?b#c"),
        ("%C3%A9", "é"),
        ("e%CC%81", "e\u{301}"),
        ("%F0%9F%92%A1", "💡"),
        ("...", "..."),
        ("%7Btag%7D", "{tag}"),
        ("v1/kv/x", "v1/kv/x"),
    ] {
        let put = server
            .ask(&request("PUT", &format!("/v1/kv/{path}")).body("1"))
            .await;
        assert!([200, 201].contains(&put.status), "{path}: {put:?}");
        assert_eq!(put.json()["key"], key, "{path}");
        assert_eq!(
            server
                .ask(&request("GET", &format!("/get/{path}")))
                .await
                .json()["key"],
            key,
            "{path}"
        );
        let delete = request("DELETE", &format!("/delete/{path}")).header("prefer", "wait=5");
        let deleted = server.ask(&delete).await;
        assert_eq!(
            (&deleted.json()["key"], &deleted.json()["deleted"]),
            (&json!(key), &json!(true)),
            "{path}"
        );
    }
}

#[tokio::test]
async fn keys_are_compared_byte_for_byte() {
    let server = Server::start().await;
    server.put("é", "1").await;
    assert_eq!(
        server.ask(&request("GET", "/v1/kv/%C3%A9")).await.status,
        200
    );
    assert_eq!(
        server.ask(&request("GET", "/v1/kv/e%CC%81")).await.status,
        404
    );
}

#[tokio::test]
async fn key_that_breaks_a_rule_is_refused_on_every_route() {
    let server = Server::start().await;
    let long = "k".repeat(513);
    for path in [
        "", ".", "..", "a/../b", "a//b", "/a", "a/", "a%00", "a%0A", "%7F", "%C2%85", "%ZZ", "%2",
        "%", "%C0%AF", "%FF", &long,
    ] {
        for (method, target) in [
            ("GET", format!("/v1/kv/{path}")),
            ("HEAD", format!("/v1/kv/{path}")),
            ("PUT", format!("/v1/kv/{path}")),
            ("DELETE", format!("/v1/kv/{path}")),
            ("GET", format!("/get/{path}")),
            ("DELETE", format!("/delete/{path}")),
        ] {
            let reply = server.ask(&request(method, &target).body("1")).await;
            assert_eq!(reply.status, 422, "{method} {target}");
            if method == "GET" && target.starts_with("/v1") {
                assert_eq!(
                    reply.json()["errors"][0]["loc"],
                    json!(["path", "key"]),
                    "{target}"
                );
            } else if method == "GET" {
                assert_eq!(
                    reply.json()["detail"][0]["loc"],
                    json!(["path", "key"]),
                    "{target}"
                );
            }
        }
    }
    let longest = "%F0%9F%92%A1".repeat(512);
    assert_eq!(
        server
            .ask(&request("PUT", &format!("/v1/kv/{longest}")).body("1"))
            .await
            .status,
        201
    );
}

#[tokio::test]
async fn versions_grow_also_after_a_delete() {
    let server = Server::start().await;
    let mut last = 0;
    for _ in 0..3 {
        let put = server.ask(&request("PUT", "/v1/kv/a").body("1")).await;
        let version: u64 = put
            .header("etag")
            .unwrap()
            .trim_matches('"')
            .parse()
            .unwrap();
        assert!(version > last);
        last = version;
        server.ask(&request("DELETE", "/v1/kv/a")).await;
    }
}

#[tokio::test]
async fn unknown_preferences_and_parameters_of_reads_are_ignored() {
    let server = Server::start().await;
    let put = request("PUT", "/v1/kv/a?&ttl=60&")
        .body("1")
        .header("prefer", "handling=strict, foo; bar=1");
    let reply = server.ask(&put).await;
    assert_eq!(
        (reply.status, reply.header("preference-applied")),
        (201, None)
    );
    let read = server
        .ask(&request("GET", "/v1/kv/a?%6Deta=1&y&%ZZ&=&"))
        .await;
    assert_eq!(read.json()["key"], "a");
}

#[tokio::test]
async fn unknown_methods_are_answered_with_those_that_there_are() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    for (target, allow) in [
        ("/", "GET, HEAD"),
        ("/livez", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/problems", "GET, HEAD"),
        ("/problems/not-found", "GET, HEAD"),
        ("/readyz", "GET, HEAD"),
        ("/set", "POST"),
        ("/get/a", "GET, HEAD"),
        ("/delete/a", "DELETE"),
        ("/v1/kv/a", "GET, HEAD, PUT, PATCH, POST, DELETE"),
        ("/v1/jobs", "GET, HEAD, DELETE"),
        ("/v1/jobs/a", "GET, HEAD, DELETE"),
        ("/v1/jobs/a/retry", "POST"),
        ("/v1/jobs/retry", "POST"),
        ("/v1/queue", "GET, HEAD"),
    ] {
        for method in ["OPTIONS", "PATCH", "TRACE", "POST", "BREW"] {
            if allow.split(", ").any(|allowed| allowed == method) {
                continue;
            }
            let reply = connection.ask(&request(method, target)).await;
            assert_eq!(
                (reply.status, reply.header("allow")),
                (405, Some(allow)),
                "{method} {target}"
            );
            if target.starts_with("/v1") {
                assert_eq!(reply.json()["type"], "/problems/method-not-allowed");
            } else {
                assert_eq!(reply.json(), json!({"detail": "Method Not Allowed"}));
            }
        }
    }
}

#[tokio::test]
async fn request_id_is_echoed_or_made() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    let read = request("GET", "/v1/kv/none");
    let echoed = connection
        .ask(&read.clone().header("x-request-id", "my-id.1"))
        .await;
    assert_eq!(echoed.header("x-request-id"), Some("my-id.1"));
    let (first, second) = (connection.ask(&read).await, connection.ask(&read).await);
    assert!(
        first
            .header("x-request-id")
            .is_some_and(|id| id.len() == 16)
    );
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
    for useless in [" ", "a b", &"x".repeat(129)] {
        let reply = connection
            .ask(&read.clone().header("x-request-id", useless))
            .await;
        assert!(
            reply
                .header("x-request-id")
                .is_some_and(|id| id.len() == 16),
            "{useless}"
        );
    }
}

#[tokio::test]
async fn trace_travels_with_the_job() {
    use kvstore_core::JobQueue;
    use kvstore_core::model::id::JobId;

    let server = Server::start_idle(Setup::default()).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (sent, kept) in [(trace, Some(trace.to_owned())), ("nonsense", None)] {
        let put = request("PUT", "/v1/kv/a")
            .body("1")
            .header("prefer", "respond-async")
            .header("traceparent", sent);
        let job: JobId = server.ask(&put).await.json()["job_id"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let kvstore_core::queue::Found::Held { job, .. } =
            server.service.queue().find(&job).await.unwrap()
        else {
            panic!("the queue does not hold {job}");
        };
        assert_eq!(job.traceparent, kept);
    }
}
