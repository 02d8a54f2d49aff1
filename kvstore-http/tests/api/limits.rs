//! §2 and §10: every limit, and the answer at it.

use std::time::{Duration, Instant};

use kvstore_core::service::ServiceOptions;
use kvstore_http::Options;
use serde_json::json;

use crate::support::server::{Server, Setup};
use kvstore_testing::client::{Connection, request};
use kvstore_testing::events::Events;

fn with(options: Options) -> Setup {
    Setup {
        options,
        ..Setup::default()
    }
}

const SHORT: Duration = Duration::from_millis(300);

/// Much longer than [`SHORT`], and much shorter than any default.
const NOT_LONG: Duration = Duration::from_secs(6);

#[tokio::test]
async fn longest_key_and_largest_batch_are_settings() {
    let service = ServiceOptions {
        key_chars_max: 3,
        batch_operations_max: 2,
        ..ServiceOptions::default()
    };
    let server = Server::start_with(Setup {
        service,
        ..Setup::default()
    })
    .await;
    let put = |key: &str| request("PUT", &format!("/v1/kv/{key}")).body("1");
    for key in ["abc", "%C3%A4%C3%B6%C3%BC"] {
        assert_eq!(server.ask(&put(key)).await.status, 201, "{key}");
    }
    let refused = server.ask(&put("abcd")).await;
    assert_eq!(refused.status, 422);
    assert!(
        refused.text().contains("at most 3 characters"),
        "{refused:?}"
    );
    let absent = server.ask(&request("GET", "/v1/kv/abcd")).await;
    assert_eq!(absent.status, 404);
    let batch = |count: u32| {
        let ops = (0..count).map(|key| json!({"op": "set", "key": key.to_string(), "value": 1}));
        let body = json!({ "ops": ops.collect::<Vec<_>>() });
        request("POST", "/v1/batch").body(body.to_string())
    };
    assert_eq!(server.ask(&batch(2)).await.status, 200);
    let refused = server.ask(&batch(3)).await;
    assert_eq!((refused.status, &refused.json()["limit"]), (422, &json!(2)));
    // The server keeps to it, too.
    let cleared = server.ask(&request("DELETE", "/v1/kv?all=1")).await.json();
    assert_eq!(cleared["deleted"], 4);
    assert_eq!(cleared["job_ids"].as_array().unwrap().len(), 2);
    let limits = &server.ask(&request("GET", "/openapi.json")).await.json()["x-limits"];
    let limits = (&limits["key_characters"], &limits["batch_operations"]);
    assert_eq!(limits, (&json!(3), &json!(2)));
}

#[tokio::test]
async fn most_keys_of_an_mget_and_items_of_a_page_are_settings() {
    let server = Server::start_with(with(Options {
        mget_keys_max: 2,
        page_items_max: 3,
        ..Options::default()
    }))
    .await;
    for key in 0..5 {
        let put = request("PUT", &format!("/v1/kv/{key}")).body("1");
        assert_eq!(server.ask(&put).await.status, 201);
    }
    let mget = |keys: &[&str]| {
        let body = json!({ "keys": keys }).to_string();
        request("POST", "/v1/mget").body(body)
    };
    assert_eq!(server.ask(&mget(&["1", "2"])).await.status, 200);
    let refused = server.ask(&mget(&["1", "2", "3"])).await;
    assert_eq!((refused.status, &refused.json()["limit"]), (422, &json!(2)));
    for query in ["", "?limit=1000"] {
        let page = server
            .ask(&request("GET", &format!("/v1/kv{query}")))
            .await
            .json();
        assert_eq!(page["keys"].as_array().unwrap().len(), 3, "{query}");
        let cursor = page["cursor"].as_str().unwrap();
        let next = format!("/v1/kv?limit=1000&cursor={cursor}");
        let rest = server.ask(&request("GET", &next)).await.json();
        assert_eq!(rest["keys"].as_array().unwrap().len(), 2, "{query}");
    }
}

#[tokio::test]
async fn largest_value_is_taken_and_a_larger_one_refused() {
    let service = ServiceOptions {
        value_bytes_max: 100,
        ..ServiceOptions::default()
    };
    let server = Server::start_with(Setup {
        service,
        ..Setup::default()
    })
    .await;
    let text = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
    let put = |body: String| request("PUT", "/v1/kv/a").body(body);
    assert_eq!(server.ask(&put(text(100))).await.status, 201);
    // White space does not count.
    assert_eq!(
        server.ask(&put(format!("  {}  ", text(100)))).await.status,
        200
    );
    let large = server.ask(&put(text(101))).await;
    assert_eq!(large.status, 413);
    assert_eq!(
        (&large.json()["type"], &large.json()["limit_bytes"]),
        (&json!("/problems/too-large"), &json!(100))
    );
    let set = |length: usize| {
        request("POST", "/set")
            .body(format!(r#"{{"key":"a","value":{}}}"#, text(length)))
            .header("prefer", "wait=5")
    };
    assert_eq!(server.ask(&set(100)).await.status, 200);
    let large = server.ask(&set(101)).await;
    assert_eq!(
        (large.status, &large.json()["limit_bytes"]),
        (413, &json!(100))
    );
    assert!(large.json()["detail"].is_string());
}

#[tokio::test]
async fn default_limits_are_a_value_of_one_mebibyte_and_room_around_it() {
    let server = Server::start().await;
    let text = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
    let put = |length| request("PUT", "/v1/kv/a").body(text(length));
    assert_eq!(server.ask(&put(1 << 20)).await.status, 201);
    assert_eq!(
        server.ask(&put((1 << 20) + 1)).await.json()["limit_bytes"],
        1 << 20
    );
    let body = format!(
        r#"{{"key":"{}","value":{}}}"#,
        "\\u00e9".repeat(512),
        text(1 << 20)
    );
    assert_eq!(
        server.ask(&request("POST", "/set").body(body)).await.status,
        202
    );
}

#[tokio::test]
async fn announced_body_over_the_limit_is_refused_before_it_is_read() {
    let options = Options {
        body_bytes_max: Some(1000),
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    for (target, method) in [("/v1/kv/a", "PUT"), ("/set", "POST")] {
        let mut connection = server.connect().await;
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n\r\n"
        );
        connection.send(head.as_bytes()).await;
        let reply = connection.reply(method).await;
        assert_eq!(
            (reply.status, &reply.json()["limit_bytes"]),
            (413, &json!(1000))
        );
        assert_eq!(reply.header("connection"), Some("close"));
        assert!(connection.is_closed().await);
    }
    // A body within the limit is requested.
    let mut connection = server.connect().await;
    connection.send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n").await;
    assert_eq!(connection.reply("PUT").await.status, 100);
    connection.send(b"1").await;
    assert_eq!(connection.reply("PUT").await.status, 201);
}

#[tokio::test]
async fn client_that_sends_a_large_body_all_the_same_gets_its_answer() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    connection
        .send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 20000000\r\n\r\n")
        .await;
    // More than all buffers on the way hold: unless the server keeps reading, this would block or
    // be reset.
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..19 {
        connection
            .try_send(&piece)
            .await
            .expect("a server that still reads");
    }
    assert_eq!(connection.reply("PUT").await.status, 413);
}

#[tokio::test]
async fn chunked_body_is_refused_as_soon_as_it_is_too_large() {
    let options = Options {
        body_bytes_max: Some(1000),
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    let mut connection = server.connect().await;
    connection
        .send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let chunk = format!("12c\r\n{}\r\n", " ".repeat(300));
    for _ in 0..4 {
        connection.send(chunk.as_bytes()).await;
    }
    let reply = connection.reply("PUT").await;
    assert_eq!(
        (reply.status, &reply.json()["limit_bytes"]),
        (413, &json!(1000))
    );
    let mut connection = server.connect().await;
    connection
        .send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[1\r\n3\r\n,2]\r\n0\r\nx: y\r\n\r\n")
        .await;
    assert_eq!(connection.reply("PUT").await.status, 201);
    assert_eq!(
        server.ask(&request("GET", "/v1/kv/a")).await.text(),
        "[1,2]"
    );
}

/// Checks that a body of `most` bytes is taken and a larger one gets `refusal`, whether its length
/// is announced or not.
async fn bodies_are_taken_up_to(server: &Server, most: usize, refusal: u16) {
    for (length, first, second) in [(most, 201, 200), (most + 1, refusal, refusal)] {
        let body = format!("{}1", " ".repeat(length - 1));
        let put = request("PUT", "/v1/kv/a").body(body.as_str());
        assert_eq!(server.ask(&put).await.status, first, "{length}");
        let chunked = format!(
            "PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
        );
        let mut connection = server.connect().await;
        connection.send(chunked.as_bytes()).await;
        let reply = connection.reply("PUT").await;
        assert_eq!(reply.status, second, "{length}");
    }
}

#[tokio::test]
async fn largest_body_is_taken_whether_its_length_is_announced_or_not() {
    let options = Options {
        body_bytes_max: Some(1000),
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    bodies_are_taken_up_to(&server, 1000, 413).await;
}

#[tokio::test]
async fn head_that_is_too_large_is_431() {
    let server = Server::start().await;
    let large = request("GET", "/v1/kv/a").header("x-large", &"x".repeat(40 << 10));
    assert_eq!(server.ask(&large).await.status, 431);
    let mut many = request("GET", "/v1/kv/a");
    for number in 0..100 {
        many = many.header(&format!("x-{number}"), "x");
    }
    assert_eq!(server.ask(&many).await.status, 431);

    let options = Options {
        headers_max: 3,
        head_bytes_max: 200,
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    let read = request("GET", "/livez").header("a", "1");
    assert_eq!(server.ask(&read.clone().header("b", "2")).await.status, 200);
    assert_eq!(
        server
            .ask(&read.clone().header("b", "2").header("c", "3"))
            .await
            .status,
        431
    );
    assert_eq!(
        server.ask(&read.header("b", &"x".repeat(200))).await.status,
        431
    );
}

#[tokio::test]
async fn head_that_does_not_end_is_given_up() {
    let options = Options {
        head_timeout: SHORT,
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    // The second connection has already served a request.
    for requests_before in [0, 1] {
        let mut connection = server.connect().await;
        for _ in 0..requests_before {
            assert_eq!(connection.ask(&request("GET", "/livez")).await.status, 200);
        }
        let begun = Instant::now();
        for byte in b"GET / HTTP/1.1\r\nx: y\r\n" {
            if connection.try_send(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        assert!(connection.is_closed().await);
        assert!(begun.elapsed() < NOT_LONG, "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn idle_connection_is_kept_as_long_as_set_whatever_a_head_may_take() {
    let options = Options {
        head_timeout: Duration::from_millis(50),
        idle_timeout: Duration::from_millis(1500),
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    let mut silent = server.connect().await;
    let mut connection = server.connect().await;
    for _ in 0..3 {
        assert_eq!(connection.ask(&request("GET", "/livez")).await.status, 200);
        tokio::time::sleep(SHORT).await;
    }
    let begun = Instant::now();
    assert!(connection.is_closed().await);
    assert!(silent.is_closed().await);
    assert!(begun.elapsed() < NOT_LONG);
}

#[tokio::test]
async fn body_that_does_not_come_is_408() {
    let options = Options {
        body_timeout: SHORT,
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    let mut connection = server.connect().await;
    connection
        .send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n12345")
        .await;
    let reply = connection.reply("PUT").await;
    assert_eq!(
        (reply.status, reply.header("connection")),
        (408, Some("close"))
    );
    assert_eq!(reply.json()["type"], "/problems/request-timeout");
    assert!(connection.is_closed().await);
    assert_eq!(server.ask(&request("GET", "/v1/kv/a")).await.status, 404);
}

#[tokio::test]
async fn answer_that_nobody_takes_is_given_up() {
    let options = Options {
        write_timeout: SHORT,
        connections_max: 1,
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    server
        .put("a", &format!("\"{}\"", "x".repeat(1 << 20)))
        .await;
    let mut connection = server.connect().await;
    // Far more than the sockets' buffers hold.
    let mut requests = 0;
    while requests < 64
        && connection
            .try_send(b"GET /v1/kv/a HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .is_ok()
    {
        requests += 1;
    }
    // Its place is free once the server gives it up.
    let begun = Instant::now();
    while server.ask(&request("GET", "/livez")).await.status != 200 {
        assert!(begun.elapsed() < NOT_LONG);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn connection_too_many_is_told_so() {
    let options = Options {
        connections_max: 2,
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    let mut served = Vec::<Connection>::new();
    for _ in 0..2 {
        let mut connection = server.connect().await;
        // Idle connections would make room.
        connection
            .send(b"GET /v1/watch HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await;
        assert_eq!(connection.reply("GET").await.status, 200);
        served.push(connection);
    }
    for asks in [
        request("GET", "/v1/kv/a"),
        request("GET", "/get/a"),
        request("PUT", "/v1/kv/a").body("x".repeat(500_000)),
    ] {
        let mut refused = server.connect().await;
        let reply = refused.ask(&asks).await;
        assert_eq!(
            (
                reply.status,
                reply.retry_after(),
                reply.header("connection")
            ),
            (503, Some("1"), Some("close"))
        );
        // It has the headers and, on each face, the form of every other problem.
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert!(reply.header("x-request-id").is_some());
        assert!(reply.json()["detail"].is_string());
        let kind = asks
            .line()
            .contains("/v1/")
            .then(|| json!("/problems/overloaded"));
        assert_eq!(reply.json().get("type"), kind.as_ref());
        assert!(refused.is_closed().await);
    }
    // A browser's `EventSource` gives up permanently on a 503.
    let browser = request("GET", "/v1/watch").header("accept", "text/event-stream");
    let reply = server.ask(&browser).await;
    assert_eq!((reply.status, reply.text()), (200, "retry: 10000\n\n"));
    served.pop();
    let begun = Instant::now();
    while server.ask(&request("GET", "/livez")).await.status != 200 {
        assert!(begun.elapsed() < NOT_LONG);
    }
}

#[tokio::test]
async fn nobody_waits_longer_than_allowed() {
    let options = Options {
        wait_max: SHORT,
        resource_wait: SHORT,
        ..Options::default()
    };
    let server = Server::start_idle(with(options)).await;
    let begun = Instant::now();
    let put = request("PUT", "/v1/kv/a")
        .body("1")
        .header("prefer", "wait=60");
    let reply = server.ask(&put).await;
    assert_eq!(reply.status, 202);
    let job = reply.header("location").unwrap().to_owned() + "?wait=60";
    assert_eq!(
        server.ask(&request("GET", &job)).await.json()["status"],
        "queued"
    );
    assert!(begun.elapsed() < NOT_LONG, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn default_waits_are_settings() {
    let options = Options {
        simple_wait: Duration::from_secs(10),
        resource_wait: Duration::ZERO,
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    assert_eq!(
        server
            .ask(&request("POST", "/set").body(r#"{"key":"a","value":1}"#))
            .await
            .status,
        200
    );
    assert_eq!(
        server.ask(&request("DELETE", "/delete/a")).await.status,
        200
    );
    assert_eq!(
        server
            .ask(&request("PUT", "/v1/kv/a").body("1"))
            .await
            .status,
        202
    );
    assert_eq!(server.ask(&request("DELETE", "/v1/kv/a")).await.status, 202);
}

#[tokio::test]
async fn options_that_contradict_each_other_are_refused() {
    let short = Options {
        request_timeout: Duration::from_secs(60),
        ..Options::default()
    };
    let none = Options {
        connections_max: 0,
        ..Options::default()
    };
    for options in [short, none] {
        let mut server = Server::start_idle(with(options)).await;
        let error = server.failed().await;
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[tokio::test]
async fn request_that_is_not_http_is_400_and_the_connection_ends() {
    let server = Server::start().await;
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET  / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\n folded: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\na: \x00\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: localhost\r\n\r\n",
        b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: +1\r\n\r\n1",
        b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n1",
        b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n1",
        b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut connection = server.connect().await;
        connection.send(bytes).await;
        let reply = connection.try_reply("GET").await.expect("an answer");
        assert_eq!(reply.status, 400, "{}", bytes.escape_ascii());
    }
    assert_eq!(server.ask(&request("GET", "/v1/kv/a")).await.status, 404);
}

#[tokio::test]
async fn silent_connections_make_room_and_get_no_longer_than_a_head() {
    let options = Options {
        connections_max: 2,
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    assert_eq!(second.ask(&request("GET", "/livez")).await.status, 200);
    // The first connection has been idle longest.
    let mut third = server.connect().await;
    assert_eq!(third.ask(&request("GET", "/livez")).await.status, 200);
    assert!(first.is_closed().await);
    assert_eq!(second.ask(&request("GET", "/livez")).await.status, 200);
    let mut fourth = server.connect().await;
    assert_eq!(fourth.ask(&request("GET", "/livez")).await.status, 200);
    assert!(third.is_closed().await);

    let options = Options {
        head_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    let mut used = server.connect().await;
    assert_eq!(used.ask(&request("GET", "/livez")).await.status, 200);
    let mut silent = server.connect().await;
    assert!(silent.is_closed().await);
    assert_eq!(used.ask(&request("GET", "/livez")).await.status, 200);
}

/// A page larger than the buffers of sockets, so that it stays with the server while the client
/// does not read.
const PAGE: &str = "/v1/kv?include=value&limit=1000";

async fn with_large_values(in_flight: usize) -> Server {
    let options = Options {
        in_flight_bytes_max: Some(in_flight),
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    let value = format!("\"{}\"", "x".repeat((1 << 20) - 100));
    for key in 0..8 {
        server.put(&format!("key-{key}"), &value).await;
    }
    server
}

#[tokio::test]
async fn answers_that_nobody_takes_leave_room_for_small_ones_and_refuse_large_ones() {
    let server = with_large_values(12 << 20).await;
    let mut slow = server.connect().await;
    let line = format!("GET {PAGE} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    slow.send(line.as_bytes()).await;
    assert!(slow.has_begun().await);
    let page = request("GET", PAGE);
    let refused = server.ask(&page).await;
    assert_eq!((refused.status, refused.retry_after()), (503, Some("1")));
    assert_eq!(refused.json()["type"], "/problems/overloaded");
    for target in ["/v1/kv/key-0", "/v1/kv", "/get/key-1"] {
        assert_eq!(server.ask(&request("GET", target)).await.status, 200);
    }
    drop(slow);
    let begun = Instant::now();
    while server.ask(&page).await.status != 200 {
        assert!(begun.elapsed() < NOT_LONG);
    }
}

#[tokio::test]
async fn bodies_that_do_not_come_leave_room_for_small_ones_and_refuse_large_ones() {
    let server = with_large_values(3 << 19).await;
    let head = "PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n";
    let mut slow = server.connect().await;
    slow.send(head.as_bytes()).await;
    assert_eq!(slow.reply("PUT").await.status, 100);
    let put = |bytes: usize| request("PUT", "/v1/kv/b").body(format!("{}1", " ".repeat(bytes)));
    let refused = server.ask(&put(1_000_000)).await;
    assert_eq!(
        (refused.status, refused.header("connection")),
        (503, Some("close"))
    );
    // The same for a body without an announced length.
    let mut chunked = server.connect().await;
    chunked
        .send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let chunk = format!("{:x}\r\n{}\r\n", 1_000_000, " ".repeat(1_000_000));
    // The answer may precede the end of the body.
    let _ = chunked.try_send(chunk.as_bytes()).await;
    assert_eq!(chunked.reply("PUT").await.status, 503);
    assert_eq!(server.ask(&put(1000)).await.status, 201);
    slow.send(" ".repeat(999_999).as_bytes()).await;
    slow.send(b"1").await;
    assert_eq!(slow.reply("PUT").await.status, 201);
    assert_eq!(server.ask(&put(1_000_000)).await.status, 200);
}

#[tokio::test]
async fn body_of_sixteen_kibibytes_is_taken_even_if_there_is_no_room_for_more() {
    let options = Options {
        in_flight_bytes_max: Some(1),
        ..Options::default()
    };
    let server = Server::start_with(with(options)).await;
    let head = "PUT /v1/kv/b HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n";
    let mut slow = server.connect().await;
    slow.send(head.as_bytes()).await;
    assert_eq!(slow.reply("PUT").await.status, 100);
    bodies_are_taken_up_to(&server, 16 << 10, 503).await;
}

#[tokio::test]
async fn snapshots_that_nobody_reads_take_no_more_than_the_bytes_in_flight() {
    const MOST: u64 = 4 << 20;
    let server = with_large_values(MOST as usize).await;
    let target = "/v1/watch?snapshot=1&include=value";
    let line = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut connection = server.connect().await;
        connection.send(line.as_bytes()).await;
        slow.push(connection);
    }
    let taken = async || {
        let metrics = server.ask(&request("GET", "/metrics")).await;
        let text = metrics.text().to_owned();
        let line = text.lines().find_map(|line| {
            let figure = line.strip_prefix("kvstore_http_bytes_in_flight ")?;
            figure.parse::<u64>().ok()
        });
        line.expect("a gauge")
    };
    let begun = Instant::now();
    while taken().await < 3 << 20 {
        assert!(begun.elapsed() < NOT_LONG, "they are sent nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(taken().await <= MOST);
    drop(slow);
    let mut events = Events::open(server.address, &request("GET", target)).await;
    for _ in 0..8 {
        assert_eq!(events.told().await.0, "set");
    }
    assert_eq!(events.told().await.0, "synced");
    let begun = Instant::now();
    while taken().await > 0 {
        assert!(begun.elapsed() < NOT_LONG, "bytes stay counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
