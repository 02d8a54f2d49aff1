//! §4: `/v1/kv/{key}`.

use serde_json::json;

use crate::support::server::{Server, Setup};
use kvstore_testing::client::request;

#[tokio::test]
async fn get_sends_the_raw_value_with_its_tag() {
    let server = Server::start().await;
    let put = server
        .ask(&request("PUT", "/v1/kv/a").body(r#"{ "b" : 1.0 }"#))
        .await;
    let read = server.ask(&request("GET", "/v1/kv/a")).await;
    assert_eq!((read.status, read.text()), (200, r#"{"b":1.0}"#));
    assert_eq!(read.header("content-type"), Some("application/json"));
    assert_eq!(read.header("cache-control"), Some("no-cache"));
    assert_eq!(read.header("etag"), put.header("etag"));
    assert_eq!(read.header("x-ttl"), None);
}

#[tokio::test]
async fn head_has_the_headers_of_get() {
    let server = Server::start().await;
    server
        .ask(&request("PUT", "/v1/kv/a?ttl=60").body("[1,2]"))
        .await;
    let mut connection = server.connect().await;
    let mut get = connection.ask(&request("GET", "/v1/kv/a")).await;
    let mut head = connection.ask(&request("HEAD", "/v1/kv/a")).await;
    assert_eq!(head.header("content-length"), Some("5"));
    assert_eq!((head.status, head.body.len()), (200, 0));
    for reply in [&mut get, &mut head] {
        reply
            .headers
            .retain(|(name, _)| !["date", "x-request-id", "x-ttl"].contains(&name.as_str()));
    }
    assert_eq!(get.headers, head.headers);
    assert_eq!(
        connection.ask(&request("HEAD", "/v1/kv/none")).await.status,
        404
    );
    assert_eq!(connection.ask(&request("HEAD", "/get/a")).await.status, 200);
}

#[tokio::test]
async fn put_creates_and_replaces() {
    let server = Server::start().await;
    let put = request("PUT", "/v1/kv/a").body("1");
    let created = server.ask(&put).await;
    assert_eq!(created.status, 201);
    let (etag, job) = (
        created.json()["etag"].clone(),
        created.json()["job_id"].clone(),
    );
    assert_eq!(
        created.json(),
        json!({"key": "a", "etag": etag, "created": true, "job_id": job})
    );
    assert_eq!(created.header("etag"), etag.as_str());
    assert_eq!(created.header("sync-token"), job.as_str());
    let replaced = server.ask(&put).await;
    assert_eq!(replaced.status, 200);
    assert_eq!(replaced.json()["created"], false);
    assert_ne!(replaced.json()["etag"], etag);
}

#[tokio::test]
async fn put_takes_json_or_no_content_type() {
    let server = Server::start().await;
    let put = request("PUT", "/v1/kv/a").body("1");
    for content_type in ["application/json", "Application/JSON; charset=utf-8"] {
        let reply = server
            .ask(&put.clone().header("content-type", content_type))
            .await;
        assert!([200, 201].contains(&reply.status), "{content_type}");
    }
    for content_type in ["application/jsonp", "multipart/form-data", ""] {
        let reply = server
            .ask(&put.clone().header("content-type", content_type))
            .await;
        assert_eq!(reply.status, 415, "{content_type}");
        assert_eq!(reply.json()["type"], "/problems/unsupported-media-type");
    }
    let packed = server
        .ask(&put.clone().header("content-encoding", "gzip"))
        .await;
    assert_eq!(packed.status, 415);
}

#[tokio::test]
async fn delete_is_idempotent() {
    let server = Server::start().await;
    server.put("a", "1").await;
    let get = server.ask(&request("GET", "/v1/kv/a")).await;
    let number = |etag: &str| etag.trim_matches('"').parse::<u64>().unwrap();
    let mut last = number(get.header("etag").unwrap());
    for deleted in [true, false] {
        let reply = server.ask(&request("DELETE", "/v1/kv/a")).await;
        assert_eq!(reply.status, 200);
        let job = reply.json()["job_id"].clone();
        assert_eq!(
            reply.json(),
            json!({"key": "a", "etag": reply.json()["etag"], "deleted": deleted, "job_id": job})
        );
        let version = number(reply.json()["etag"].as_str().unwrap());
        assert!(version > last, "a delete is a change, too");
        last = version;
        assert_eq!(reply.header("sync-token"), job.as_str());
    }
    assert_eq!(
        server
            .ask(&request("DELETE", "/v1/kv/a").header("if-match", "*"))
            .await
            .status,
        412
    );
}

#[tokio::test]
async fn meta_tells_what_is_known_of_an_entry() {
    let server = Server::start().await;
    let put = server
        .ask(&request("PUT", "/v1/kv/a%22b").body("1.0"))
        .await;
    let etag = put.json()["etag"].to_string();
    let read = server.ask(&request("GET", "/v1/kv/a%22b?meta=1")).await;
    assert_eq!(
        read.text(),
        format!(r#"{{"key":"a\"b","value":1.0,"etag":{etag},"expires_at":null}}"#)
    );
    assert_eq!(read.header("etag"), put.header("etag"));

    server
        .ask(&request("PUT", "/v1/kv/b?ttl=60").body("1"))
        .await;
    let read = server.ask(&request("GET", "/v1/kv/b?meta=1")).await;
    let expires_at = read.json()["expires_at"].as_str().unwrap().to_owned();
    let form: String = expires_at
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(form, "0000-00-00T00:00:00.000Z");
    assert_eq!(
        server.ask(&request("GET", "/v1/kv/b?meta=0")).await.text(),
        "1"
    );
    assert_eq!(
        server
            .ask(&request("GET", "/v1/kv/b?meta=maybe"))
            .await
            .status,
        422
    );
}

#[tokio::test]
async fn waiting_is_the_default_and_a_wait_that_runs_out_answers_202() {
    let server = Server::start_idle(Setup::default()).await;
    let asked = std::time::Instant::now();
    let put = request("PUT", "/v1/kv/a")
        .body("1")
        .header("prefer", "wait=1");
    let reply = server.ask(&put).await;
    assert!(asked.elapsed() >= std::time::Duration::from_secs(1));
    assert_eq!(reply.status, 202);
    let job = reply.json()["job_id"].as_str().unwrap().to_owned();
    assert_eq!(
        reply.json(),
        json!({"key": "a", "job_id": job, "status": "queued"})
    );
    assert_eq!(reply.header("location"), Some(&*format!("/v1/jobs/{job}")));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.header("sync-token"), Some(&*job));
    assert_eq!(reply.header("preference-applied"), Some("wait"));
    // Nothing is lost: the job remains queued and is applied.
    let mut server = server;
    server.work();
    let done = server
        .ask(&request("GET", &format!("/v1/jobs/{job}?wait=5")))
        .await;
    assert_eq!(done.json()["status"], "succeeded");
}

#[tokio::test]
async fn respond_async_is_answered_at_once() {
    let server = Server::start_idle(Setup::default()).await;
    let asked = std::time::Instant::now();
    for target in [
        request("PUT", "/v1/kv/a").body("1"),
        request("DELETE", "/v1/kv/a"),
    ] {
        let reply = server.ask(&target.header("prefer", "respond-async")).await;
        assert_eq!(reply.status, 202);
        assert_eq!(reply.header("preference-applied"), Some("respond-async"));
    }
    assert!(asked.elapsed() < std::time::Duration::from_secs(4));
}

#[tokio::test]
async fn client_that_goes_away_changes_nothing() {
    let mut server = Server::start_idle(Setup::default()).await;
    let mut connection = server.connect().await;
    connection
        .send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\nprefer: wait=60\r\ncontent-length: 1\r\n\r\n7")
        .await;
    while server.service.queue().depth().await.unwrap().jobs == 0 {
        tokio::task::yield_now().await;
    }
    drop(connection);
    server.work();
    let mut read = server.ask(&request("GET", "/v1/kv/a")).await;
    while read.status == 404 {
        read = server.ask(&request("GET", "/v1/kv/a")).await;
    }
    assert_eq!(read.text(), "7");
}

#[tokio::test]
async fn expired_entry_is_absent_and_a_plain_write_makes_it_permanent() {
    let server = Server::start().await;
    assert_eq!(
        server
            .ask(&request("PUT", "/v1/kv/a?ttl=60").body("1"))
            .await
            .status,
        201
    );
    let left: u64 = server
        .ask(&request("GET", "/v1/kv/a"))
        .await
        .header("x-ttl")
        .unwrap()
        .parse()
        .unwrap();
    assert!((58..=60).contains(&left), "{left}");
    assert_eq!(
        server
            .ask(&request("PUT", "/v1/kv/a?ttl=keep").body("2"))
            .await
            .status,
        200
    );
    assert!(
        server
            .ask(&request("GET", "/v1/kv/a"))
            .await
            .header("x-ttl")
            .is_some()
    );
    server.clock.advance(std::time::Duration::from_secs(61));
    assert_eq!(server.ask(&request("GET", "/v1/kv/a")).await.status, 404);

    server
        .ask(&request("PUT", "/v1/kv/b?ttl=60").body("1"))
        .await;
    server.ask(&request("PUT", "/v1/kv/b").body("1")).await;
    server.clock.advance(std::time::Duration::from_secs(61));
    let read = server.ask(&request("GET", "/v1/kv/b")).await;
    assert_eq!((read.status, read.header("x-ttl")), (200, None));
}

#[tokio::test]
async fn time_to_live_counts_from_acceptance() {
    let mut server = Server::start_idle(Setup::default()).await;
    let put = request("PUT", "/v1/kv/a?ttl=60").body("1");
    let late = request("PUT", "/v1/kv/late?ttl=30").body("1");
    server.ask(&put.header("prefer", "respond-async")).await;
    let last = server.ask(&late.header("prefer", "respond-async")).await;
    server.clock.advance(std::time::Duration::from_secs(40));
    server.work();
    let token = last.header("sync-token").unwrap();
    let read = |key: &str| request("GET", &format!("/v1/kv/{key}")).header("sync-token", token);
    assert_eq!(server.ask(&read("late")).await.status, 404);
    assert_eq!(server.ask(&read("a")).await.status, 200);
    server.clock.advance(std::time::Duration::from_secs(21));
    assert_eq!(server.ask(&read("a")).await.status, 404);
}

#[tokio::test]
async fn ttl_outside_its_bounds_is_refused() {
    let server = Server::start().await;
    for (ttl, kind) in [
        ("0", "greater_than_equal"),
        ("-1", "greater_than_equal"),
        ("315360001", "less_than_equal"),
        ("99999999999999999999", "less_than_equal"),
        ("soon", "int_parsing"),
        ("", "int_parsing"),
    ] {
        let reply = server
            .ask(&request("PUT", &format!("/v1/kv/a?ttl={ttl}")).body("1"))
            .await;
        assert_eq!(reply.status, 422, "{ttl}");
        assert_eq!(reply.json()["errors"][0]["type"], kind, "{ttl}");
        assert_eq!(
            reply.json()["errors"][0]["loc"],
            json!(["query", "ttl"]),
            "{ttl}"
        );
    }
    for ttl in ["1", "315360000"] {
        let reply = server
            .ask(&request("PUT", &format!("/v1/kv/{ttl}?ttl={ttl}")).body("1"))
            .await;
        assert_eq!(reply.status, 201, "{ttl}");
    }
}
