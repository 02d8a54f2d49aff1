//! §8: the shapes of errors.

use kvstore_core::queue::QueueOptions;
use serde_json::json;

use crate::support::server::{Server, Setup};
use kvstore_testing::client::request;

#[tokio::test]
async fn problem_has_the_members_of_the_rfc() {
    let server = Server::start().await;
    let reply = server.ask(&request("GET", "/v1/kv/a%22b")).await;
    assert_eq!(reply.status, 404);
    assert_eq!(
        reply.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(
        reply.text(),
        r#"{"type":"/problems/not-found","title":"Not Found","status":404,"detail":"Key not found","key":"a\"b"}"#
    );
}

#[tokio::test]
async fn unknown_routes_are_not_found_in_the_way_of_their_face() {
    let server = Server::start().await;
    for target in [
        "/nothing",
        "/get",
        "/get?x",
        "/set/a",
        "/v1x",
        "/V1/kv/a",
        "//get/a",
        "/livez/",
        "/openapi.json/",
        "/v2/kv/a",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let reply = server.ask(&request(method, target)).await;
            assert_eq!(
                (reply.status, reply.json()),
                (404, json!({"detail": "Not Found"})),
                "{method} {target}"
            );
            assert_eq!(reply.header("content-type"), Some("application/json"));
        }
    }
    for target in ["/v1", "/v1/", "/v1/kvs", "/v1/nothing"] {
        let reply = server.ask(&request("GET", target)).await;
        assert_eq!(
            (reply.status, reply.json()["type"].as_str()),
            (404, Some("/problems/not-found")),
            "{target}"
        );
        assert_eq!(
            reply.header("content-type"),
            Some("application/problem+json")
        );
    }
}

#[tokio::test]
async fn invalid_request_lists_what_is_wrong_and_echoes_nothing() {
    let server = Server::start().await;
    let reply = server
        .ask(&request("PUT", "/v1/kv/a?ttl=%3Cscript%3E").body("1"))
        .await;
    assert_eq!(reply.status, 422);
    let message = "Input should be a valid integer, unable to parse string as an integer";
    assert_eq!(
        reply.json(),
        json!({
            "type": "/problems/invalid", "title": "Unprocessable Entity", "status": 422, "detail": format!("query.ttl: {message}"),
            "errors": [{"type": "int_parsing", "loc": ["query", "ttl"], "msg": message}],
        })
    );
}

#[tokio::test]
async fn full_queue_is_overloaded_and_never_202() {
    let queue = QueueOptions {
        jobs_max: 1,
        ..QueueOptions::default()
    };
    let server = Server::start_idle(Setup {
        queue,
        ..Setup::default()
    })
    .await;
    let put = request("PUT", "/v1/kv/a")
        .body("1")
        .header("prefer", "respond-async");
    assert_eq!(server.ask(&put).await.status, 202);
    let full = server.ask(&put).await;
    assert_eq!((full.status, full.retry_after()), (503, Some("1")));
    assert_eq!(full.json()["type"], "/problems/overloaded");
    let full = server
        .ask(&request("POST", "/set").body(r#"{"key":"a","value":1}"#))
        .await;
    assert_eq!((full.status, full.retry_after()), (503, Some("1")));
    assert!(full.json()["detail"].is_string());
}

#[tokio::test]
async fn every_problem_has_a_page_for_a_person() {
    let server = Server::start().await;
    let index = server.ask(&request("GET", "/problems")).await;
    assert_eq!(
        index.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let rows = include_str!("../../../docs/http-api.md")
        .lines()
        .filter_map(|line| {
            let (status, rest) = line.strip_prefix("| ")?.split_once(" | `")?;
            Some((rest.split_once('`')?.0, status.parse::<u16>().ok()?))
        });
    let rows: Vec<_> = rows.collect();
    let listed = index.text().matches("/problems/").count();
    assert_eq!(rows.len(), listed, "docs/http-api.md §8: {rows:?}");
    for (name, status) in rows {
        let path = format!("/problems/{name}");
        let page = server.ask(&request("GET", &path)).await;
        assert_eq!(page.status, 200, "{name}");
        assert_eq!(
            page.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert_eq!(
            page.header("content-security-policy"),
            Some("default-src 'none'")
        );
        assert!(page.text().contains(&format!("<h1>{name}</h1>")), "{name}");
        assert!(page.text().contains(&format!("Status {status} ")), "{name}");
        assert!(
            index.text().contains(&format!("<a href=\"{path}\">")),
            "{name}"
        );
    }
    for none in [
        "/problems/",
        "/problems/nothing",
        "/problems/not-found/",
        "/problems/%3Cscript%3E",
    ] {
        let reply = server.ask(&request("GET", none)).await;
        assert_eq!(
            (reply.status, reply.json()),
            (404, json!({"detail": "Not Found"})),
            "{none}"
        );
    }
}

#[tokio::test]
async fn type_of_an_answer_leads_to_its_page() {
    let server = Server::start().await;
    for asks in [
        request("GET", "/v1/kv/none"),
        request("GET", "/v1/kv/a?after=x"),
        request("PATCH", "/v1/kv/a"),
        request("PUT", "/v1/kv/a").body("{"),
        request("PUT", "/v1/kv/a").body("1").header("if-match", "*"),
        request("PUT", "/v1/kv/a")
            .body("1")
            .header("content-type", "text/xml"),
        request("PUT", "/v1/kv/a").body(" ".repeat(2 << 20)),
    ] {
        let problem = server.ask(&asks).await.json();
        let page = server
            .ask(&request("GET", problem["type"].as_str().unwrap()))
            .await;
        let status = format!("Status {} ", problem["status"]);
        assert!(page.text().contains(&status), "{problem}");
    }
}
