//! §10: which web pages of other origins may use the service in a browser.

use kvstore_http::{Cors, Options};

use crate::support::server::{Server, Setup};
use kvstore_testing::client::{Reply, Request, request};

const OURS: &str = "https://app.example";

async fn server(origins: Option<&str>) -> Server {
    let options = Options {
        cors: origins.map_or_else(Cors::default, |text| Cors::parse(text).unwrap()),
        ..Options::default()
    };
    Server::start_with(Setup {
        options,
        ..Setup::default()
    })
    .await
}

fn preflight(target: &str, origin: &str) -> Request {
    request("OPTIONS", target)
        .header("origin", origin)
        .header("access-control-request-method", "PUT")
        .header(
            "access-control-request-headers",
            "authorization,content-type",
        )
}

fn cors_headers(reply: &Reply) -> Vec<&str> {
    let names = reply.headers.iter().map(|(name, _)| name.as_str());
    names
        .filter(|name| name.starts_with("access-control-"))
        .collect()
}

#[tokio::test]
async fn pages_of_other_origins_are_told_nothing_unless_that_is_asked_for() {
    let server = server(None).await;
    let reply = server.ask(&preflight("/v1/kv/a", OURS)).await;
    assert_eq!((reply.status, cors_headers(&reply)), (405, vec![]));
    let read = server
        .ask(&request("GET", "/v1/kv/a").header("origin", OURS))
        .await;
    assert_eq!((cors_headers(&read), read.header("vary")), (vec![], None));
}

#[tokio::test]
async fn page_of_an_origin_that_is_named_may_ask_and_see() {
    let server = server(Some("https://other.example, https://app.example")).await;
    let reply = server.ask(&preflight("/v1/kv/a", OURS)).await;
    assert_eq!((reply.status, reply.body.len()), (204, 0));
    assert_eq!(reply.header("access-control-allow-origin"), Some(OURS));
    assert_eq!(
        reply.header("access-control-allow-methods"),
        Some("GET, HEAD, PUT, PATCH, POST, DELETE")
    );
    assert_eq!(reply.header("vary"), Some("origin"));
    assert_eq!(reply.header("access-control-max-age"), Some("600"));
    let allowed = reply.header("access-control-allow-headers").unwrap();
    for name in [
        "authorization",
        "content-type",
        "if-match",
        "if-none-match",
        "idempotency-key",
        "prefer",
        "sync-token",
    ] {
        assert!(allowed.split(", ").any(|each| each == name), "{name}");
    }
    // The page's requests: a write, a refusal, a read.
    for (asks, status) in [
        (
            request("PUT", "/v1/kv/a")
                .body("1")
                .header("content-type", "application/json"),
            201,
        ),
        (
            request("PUT", "/v1/kv/a")
                .body("{")
                .header("content-type", "application/json"),
            422,
        ),
        (request("GET", "/v1/kv/a"), 200),
        (request("GET", "/get/none"), 404),
        (request("GET", "/nothing"), 404),
    ] {
        let reply = server.ask(&asks.clone().header("origin", OURS)).await;
        assert_eq!(reply.status, status, "{asks:?}");
        assert_eq!(reply.header("access-control-allow-origin"), Some(OURS));
        assert_eq!(reply.header("access-control-allow-credentials"), None);
        assert_eq!(reply.header("vary"), Some("origin"));
        let exposed = reply.header("access-control-expose-headers").unwrap();
        for name in [
            "etag",
            "location",
            "sync-token",
            "retry-after",
            "x-ttl",
            "x-request-id",
        ] {
            assert!(exposed.split(", ").any(|each| each == name), "{name}");
        }
    }
}

#[tokio::test]
async fn page_of_any_other_origin_gets_nothing_and_no_cache_mixes_them_up() {
    let server = server(Some(OURS)).await;
    for origin in [
        "https://evil.example",
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.evil.example",
        "HTTPS://app.example",
        "null",
        "*",
    ] {
        let reply = server.ask(&preflight("/v1/kv/a", origin)).await;
        assert_eq!(
            (reply.status, cors_headers(&reply)),
            (405, vec![]),
            "{origin}"
        );
        let read = server
            .ask(&request("GET", "/v1/kv/a").header("origin", origin))
            .await;
        assert_eq!(cors_headers(&read), Vec::<&str>::new(), "{origin}");
        assert_eq!(read.header("vary"), Some("origin"), "{origin}");
    }
    let without = server.ask(&request("GET", "/v1/kv/a")).await;
    assert_eq!(
        (cors_headers(&without), without.header("vary")),
        (vec![], Some("origin"))
    );
}

#[tokio::test]
async fn any_origin_can_be_allowed() {
    let server = server(Some("*")).await;
    for asks in [
        preflight("/set", "https://a.example"),
        request("GET", "/").header("origin", "null"),
    ] {
        let reply = server.ask(&asks).await;
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    }
    // An `OPTIONS` request that is no preflight is an unsupported method.
    let plain = server
        .ask(&request("OPTIONS", "/set").header("origin", OURS))
        .await;
    assert_eq!((plain.status, plain.header("allow")), (405, Some("POST")));
    assert_eq!(server.ask(&preflight("/nothing", OURS)).await.status, 404);
}
