//! §2, *Value*: values keep their bytes on both faces.

use crate::support::server::Server;
use kvstore_testing::client::request;

/// Texts that a parser on the way would change.
const VALUES: &[&str] = &[
    "1.0",
    "-0",
    "1e400",
    "1E+2",
    "0.1000",
    "1234567890123456789012345678901234567890",
    r#"{"a":1,"a":2}"#,
    r#"{"b":1,"a":2}"#,
    r#""\u0000""#,
    r#""\u00e9 é \/ / \ud83d\ude00 😀""#,
    r#"" two  spaces ""#,
    r#""\"[{,:""#,
    "null",
    "\"\"",
    "[[],{}]",
];

#[tokio::test]
async fn every_value_comes_back_byte_for_byte() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    for value in VALUES {
        let put = connection
            .ask(&request("PUT", "/v1/kv/put").body(*value))
            .await;
        assert!([200, 201].contains(&put.status), "{value}");
        let body = format!(r#"{{"value":{value},"key":"set"}}"#);
        let set = connection
            .ask(
                &request("POST", "/set")
                    .body(body)
                    .header("prefer", "wait=5"),
            )
            .await;
        assert_eq!(set.status, 200, "{value}");
        for key in ["put", "set"] {
            let raw = connection
                .ask(&request("GET", &format!("/v1/kv/{key}")))
                .await;
            assert_eq!(raw.text(), *value);
            let wrapped = connection
                .ask(&request("GET", &format!("/get/{key}")))
                .await;
            assert_eq!(
                wrapped.text(),
                format!(r#"{{"key":"{key}","value":{value}}}"#)
            );
        }
    }
}

#[tokio::test]
async fn white_space_between_tokens_is_dropped_and_nothing_else() {
    let server = Server::start().await;
    let text = "\r\n{ \"a\" :\t[ 1.0 , \" x \" ] }\n";
    server.ask(&request("PUT", "/v1/kv/a").body(text)).await;
    assert_eq!(
        server.ask(&request("GET", "/v1/kv/a")).await.text(),
        r#"{"a":[1.0," x "]}"#
    );
    let body = format!("{{\"key\":\"b\",\"value\":{text}}}");
    server
        .ask(
            &request("POST", "/set")
                .body(body)
                .header("prefer", "wait=5"),
        )
        .await;
    assert_eq!(
        server.ask(&request("GET", "/v1/kv/b")).await.text(),
        r#"{"a":[1.0," x "]}"#
    );
}

#[tokio::test]
async fn deepest_nesting_is_the_same_on_both_faces() {
    let server = Server::start().await;
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    for (depth, allowed) in [(128, true), (129, false)] {
        let put = server
            .ask(&request("PUT", "/v1/kv/a").body(nested(depth)))
            .await;
        let body = format!(r#"{{"key":"a","value":{}}}"#, nested(depth));
        let set = server
            .ask(
                &request("POST", "/set")
                    .body(body)
                    .header("prefer", "wait=5"),
            )
            .await;
        assert_eq!(
            ([200, 201].contains(&put.status), set.status == 200),
            (allowed, allowed),
            "{depth}"
        );
    }
}

#[tokio::test]
async fn text_that_is_not_json_is_refused_with_its_place() {
    let server = Server::start().await;
    for body in [
        &b"{a:1}"[..],
        b"",
        b" ",
        b"1 2",
        b"'a'",
        b"\"\xff\"",
        b"\xef\xbb\xbf1",
        b"\"\\ud800\"",
        b"01",
        b"[1,]",
    ] {
        let reply = server.ask(&request("PUT", "/v1/kv/a").body(body)).await;
        let problem = reply.json();
        assert_eq!(reply.status, 422, "{body:?}");
        assert_eq!(problem["type"], "/problems/invalid", "{body:?}");
        assert_eq!(
            problem["errors"][0]["loc"],
            serde_json::json!(["body"]),
            "{body:?}"
        );
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("line 1 column"),
            "{problem}"
        );
    }
    assert_eq!(server.ask(&request("GET", "/v1/kv/a")).await.status, 404);
}
