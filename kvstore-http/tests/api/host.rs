//! §2: no web page reaches the store by pointing its own name at this machine.

use std::sync::Arc;

use kvstore_http::{Hosts, Options, Tokens, token_line};

use crate::support::server::{Server, Setup};
use kvstore_testing::client::request;

fn with(options: Options) -> Setup {
    Setup {
        options,
        ..Setup::default()
    }
}

#[tokio::test]
async fn request_for_another_host_is_421_and_changes_nothing() {
    let server = Server::start().await;
    let put = request("PUT", "/v1/kv/a")
        .header("host", "evil.example:8000")
        .body("1");
    let reply = server
        .ask(&put.header("sec-fetch-site", "same-origin"))
        .await;
    assert_eq!(reply.status, 421);
    assert_eq!(reply.json()["type"], "/problems/misdirected");
    assert_eq!(reply.json()["host"], "evil.example");
    assert_eq!(server.ask(&request("GET", "/v1/kv/a")).await.status, 404);
    for target in [
        "/get/a",
        "/v1/watch",
        "/",
        "/livez",
        "/metrics",
        "/nothing",
        "http://evil.example/v1/kv",
    ] {
        let get = request("GET", target).header("host", "evil.example");
        assert_eq!(server.ask(&get).await.status, 421, "{target}");
    }
    let port = server.address.port();
    for host in [
        "localhost".to_owned(),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
        "LOCALHOST:1".to_owned(),
    ] {
        let get = request("GET", "/livez").header("host", &host);
        assert_eq!(server.ask(&get).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn names_can_be_added_and_tokens_do_without() {
    let hosts = Hosts::parse("kv.example").unwrap();
    let line = token_line("ada", "secret", "rw", "").unwrap();
    let tokens = || Some(Arc::new(Tokens::parse(&line).unwrap()));
    for (hosts, tokens, named, other) in [
        (hosts.clone(), None, 200, 421),
        (hosts, tokens(), 200, 421),
        (Hosts::default(), tokens(), 200, 200),
    ] {
        let server = Server::start_with(with(Options {
            hosts,
            tokens,
            ..Options::default()
        }))
        .await;
        for (host, status) in [
            ("kv.example:80", named),
            ("other.example", other),
            ("localhost", 200),
        ] {
            let get = request("GET", "/livez").header("host", host);
            assert_eq!(server.ask(&get).await.status, status, "{host}");
        }
    }
}

#[tokio::test]
async fn invalid_host_is_400() {
    let server = Server::start().await;
    for host in ["a b", "a/b", "user@host", "a:b:c", "a,b", "[::1"] {
        let reply = server
            .ask(&request("GET", "/v1/kv").header("host", host))
            .await;
        assert_eq!(reply.status, 400, "{host}");
        assert_eq!(reply.json()["type"], "/problems/malformed", "{host}");
    }
}
