//! §2: unknown parts of a write are refused, so that a misspelt word does not become a write
//! without it.

use std::time::Duration;

use kvstore_core::service::ServiceOptions;
use serde_json::json;

use crate::support::server::{Server, Setup};
use kvstore_testing::client::{Request, request};

/// Sends a request, expects a refusal that contains `words`, and checks that the key is unchanged.
async fn is_refused(server: &Server, asked: &Request, status: u16, words: &str) {
    let reply = server.ask(asked).await;
    let line = asked.line();
    assert_eq!(reply.status, status, "{line}: {}", reply.text());
    assert!(reply.text().contains(words), "{line}: {}", reply.text());
    let key = server.ask(&request("GET", "/v1/kv/k")).await;
    assert_eq!((key.status, key.text()), (200, "1"), "{line}");
}

async fn server_with_a_key() -> Server {
    let server = Server::start().await;
    let put = server.ask(&request("PUT", "/v1/kv/k").body("1")).await;
    assert_eq!(put.status, 201);
    server
}

#[tokio::test]
async fn unknown_parameter_of_a_write_is_named_with_the_nearest_known_one() {
    let server = server_with_a_key().await;
    let merge = "application/merge-patch+json";
    for (asked, words) in [
        (
            request("PUT", "/v1/kv/k?tll=5").body("2"),
            "tll is unknown; did you mean ttl?",
        ),
        (
            request("PUT", "/v1/kv/k?TTL=5").body("2"),
            "did you mean ttl?",
        ),
        (
            request("PUT", "/v1/kv/k?ttl=5&colour=red").body("2"),
            "colour is unknown",
        ),
        (request("PUT", "/v1/kv/k?%ZZ=5").body("2"), "%ZZ is unknown"),
        (
            request("PATCH", "/v1/kv/k?tl=5")
                .header("content-type", merge)
                .body("{}"),
            "did you mean ttl?",
        ),
        (request("POST", "/v1/kv/k?ad=5"), "did you mean add?"),
        (
            request("DELETE", "/v1/kv/k?if-match=1"),
            "if-match is unknown",
        ),
        (request("DELETE", "/v1/kv?prefx=k"), "did you mean prefix?"),
        (
            request("POST", "/v1/batch?atomic=1").body(r#"{"ops":[{"op":"delete","key":"k"}]}"#),
            "atomic is unknown",
        ),
    ] {
        is_refused(&server, &asked, 422, words).await;
    }
    // An unknown parameter of a read is harmless and ignored.
    let read = server.ask(&request("GET", "/v1/kv/k?tll=5")).await;
    assert_eq!(read.status, 200);
}

#[tokio::test]
async fn unknown_member_of_a_batch_is_named() {
    let server = server_with_a_key().await;
    for (body, words) in [
        (
            json!({"ops": [{"op": "set", "key": "k", "value": 2, "tll": 5}]}),
            "tll is unknown; did you mean ttl?",
        ),
        (
            json!({"ops": [{"op": "delete", "key": "k", "ifMatch": "*"}]}),
            "ifMatch is unknown; did you mean if_match?",
        ),
        (
            json!({"ops": [{"op": "delete", "key": "k"}], "atomic": false}),
            "atomic is unknown",
        ),
    ] {
        let batch = request("POST", "/v1/batch").body(body.to_string());
        is_refused(&server, &batch, 422, words).await;
    }
}

#[tokio::test]
async fn array_of_the_members_is_not_the_object() {
    let server = server_with_a_key().await;
    let delete = json!({"op": "delete", "key": "k"});
    for (path, body) in [
        ("/v1/batch", json!([[delete]])),
        (
            "/v1/batch",
            json!({"ops": [["delete", "k", 1, 1, 1, 1, null, null]]}),
        ),
        ("/v1/batch", json!(5)),
        ("/v1/batch", json!({"ops": [null]})),
        ("/v1/mget", json!([["k"]])),
        ("/v1/mget", json!("k")),
    ] {
        let asked = request("POST", path).body(body.to_string());
        is_refused(&server, &asked, 422, "it must be an object").await;
    }
    // White space before it is allowed.
    for (path, body) in [
        ("/v1/mget", " \n{\"keys\": []}"),
        ("/v1/batch", "\t{\"ops\": []}"),
    ] {
        let reply = server.ask(&request("POST", path).body(body)).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
}

#[tokio::test]
async fn condition_of_a_check_that_is_null_is_refused() {
    let server = server_with_a_key().await;
    for condition in ["if_match", "if_none_match"] {
        let mut operation = json!({"op": "check", "key": "k", "if_match": "*"});
        operation[condition] = json!(null);
        let set = json!({"op": "set", "key": "k", "value": 2});
        let body = json!({"ops": [set, operation]}).to_string();
        let batch = request("POST", "/v1/batch").body(body);
        is_refused(&server, &batch, 422, "must not be null").await;
    }
}

#[tokio::test]
async fn parameter_that_is_given_twice_is_refused() {
    let server = server_with_a_key().await;
    for asked in [
        request("PUT", "/v1/kv/k?ttl=5&ttl=6").body("2"),
        request("POST", "/v1/kv/k?add=1&add=1"),
        request("DELETE", "/v1/kv?prefix=k&prefix=j"),
        request("GET", "/v1/kv?prefix=k&prefix=j"),
        request("GET", "/v1/kv?limit=1&%6Cimit=1"),
        request("GET", "/v1/kv?limit=&limit=1"),
        request("GET", "/v1/watch?prefix=a&prefix=b"),
    ] {
        is_refused(&server, &asked, 422, "given once").await;
    }
}

#[tokio::test]
async fn empty_parameter_of_a_read_is_none_and_an_empty_ttl_or_add_is_refused() {
    let server = server_with_a_key().await;
    for target in [
        "/v1/kv/k?meta=&after=",
        "/v1/kv?prefix=&limit=&cursor=&include=&delimiter=&count=&after=",
        "/v1/jobs?status=dead&limit=&cursor=",
        "/v1/watch?prefix=&events=&include=&snapshot=&since=&after=",
    ] {
        let reply = server.ask(&request("HEAD", target)).await;
        assert_eq!(reply.status, 200, "{target}: {reply:?}");
    }
    for asked in [
        request("PUT", "/v1/kv/k?ttl=").body("2"),
        request("PATCH", "/v1/kv/k?ttl=").body("2"),
        request("POST", "/v1/kv/k?add="),
        request("POST", "/v1/kv/k?add=1&ttl="),
        request("DELETE", "/v1/kv?prefix="),
    ] {
        is_refused(&server, &asked, 422, "query").await;
    }
}

#[tokio::test]
async fn part_of_a_value_does_not_replace_it() {
    let server = server_with_a_key().await;
    for method in ["PUT", "PATCH", "POST"] {
        let part = request(method, "/v1/kv/k?ttl=5")
            .header("content-range", "bytes 0-2/10")
            .body("123");
        is_refused(&server, &part, 400, "Content-Range").await;
    }
}

#[tokio::test]
async fn body_of_a_type_that_programs_send_by_default_is_taken_unless_a_browser_sends_it() {
    let server = server_with_a_key().await;
    let defaults = [
        "application/x-www-form-urlencoded",
        "text/plain;charset=UTF-8",
    ];
    for content_type in defaults {
        let put = request("PUT", "/v1/kv/k").header("content-type", content_type);
        for mark in [
            ("origin", "https://a.example"),
            ("sec-fetch-site", "cross-site"),
        ] {
            let marked = put.clone().header(mark.0, mark.1).body("2");
            is_refused(&server, &marked, 415, content_type).await;
            is_refused(&server, &marked, 415, "application/json").await;
        }
        let taken = server.ask(&put.body("1")).await;
        assert_eq!(taken.status, 200, "{content_type}: {}", taken.text());
    }
    let packed = request("PUT", "/v1/kv/k").header("content-encoding", "gzip");
    let reply = server.ask(&packed.body("2")).await;
    assert_eq!(
        (reply.status, reply.header("accept-encoding")),
        (415, Some("identity"))
    );
    let xml = request("PUT", "/v1/kv/k")
        .header("content-type", "text/xml")
        .body("2");
    is_refused(&server, &xml, 415, "the body is text/xml").await;
}

#[tokio::test]
async fn read_waits_for_every_sync_token() {
    let server = Server::start_idle(Setup {
        service: ServiceOptions {
            visible_wait: Duration::from_millis(50),
            ..ServiceOptions::default()
        },
        ..Setup::default()
    })
    .await;
    let mut server = server;
    let mut tokens = Vec::new();
    for number in 0..17 {
        let put = request("PUT", &format!("/v1/kv/k{number}")).header("prefer", "respond-async");
        let reply = server.ask(&put.body("1")).await;
        tokens.push(reply.header("sync-token").unwrap().to_owned());
    }
    let (lines, commas, parameters) = (
        &tokens[..2],
        tokens[..16].join(", "),
        tokens[..16].join("&after="),
    );
    let by_lines = lines
        .iter()
        .fold(request("GET", "/v1/kv/k0"), |get, token| {
            get.header("sync-token", token)
        });
    let ways = [
        by_lines,
        request("GET", "/v1/kv/k0").header("sync-token", &commas),
        request("GET", &format!("/v1/kv/k0?after={parameters}")),
        request(
            "GET",
            &format!("/v1/kv/k0?after={}", tokens[..16].join(",")),
        ),
    ];
    for get in &ways {
        let reply = server.ask(get).await;
        assert_eq!(reply.status, 503, "{}: {}", get.line(), reply.text());
    }
    server.work();
    for get in &ways {
        let reply = server.ask(get).await;
        assert_eq!(reply.status, 200, "{}: {}", get.line(), reply.text());
    }
    // Each token counts, wherever it appears.
    let foreign = format!("{}, 00000000000000aa.0.1-1", tokens[0]);
    for get in [
        request("GET", "/v1/kv/k0").header("sync-token", &tokens.join(",")),
        request("GET", "/v1/kv/k0").header("sync-token", &format!("{}, x", tokens[0])),
        request("GET", "/v1/kv/k0").header("sync-token", &foreign),
    ] {
        let reply = server.ask(&get).await;
        assert_eq!(reply.status, 400, "{}: {}", get.line(), reply.text());
    }
}
