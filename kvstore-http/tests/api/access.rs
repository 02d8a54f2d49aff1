//! §10: who may do what. Each token is tried on every route.

use std::sync::Arc;
use std::time::Duration;

use kvstore_http::{Options, Tokens, token_line};

use crate::support::server::{Server, Setup};
use kvstore_testing::client::{Reply, Request, request};
use kvstore_testing::events::Events;

/// Tokens, named after their rights.
const TOKENS: [(&str, &str, &str); 4] = [
    ("writer", "rw", ""),
    ("reader", "r", ""),
    ("team", "rw", "team/"),
    ("guest", "r", "team/"),
];

fn secret(name: &str) -> String {
    format!("the-secret-of-{name}")
}

fn setup() -> Setup {
    let lines = TOKENS.map(|(name, rights, prefix)| {
        token_line(name, &secret(name), rights, prefix).unwrap() + "\n"
    });
    let options = Options {
        tokens: Some(Arc::new(Tokens::parse(&lines.concat()).unwrap())),
        ..Options::default()
    };
    Setup {
        options,
        ..Setup::default()
    }
}

trait As {
    fn by(self, name: &str) -> Self;
}

impl As for Request {
    fn by(self, name: &str) -> Self {
        self.header("authorization", &format!("Bearer {}", secret(name)))
    }
}

#[tokio::test]
async fn job_of_a_batch_is_known_to_who_reaches_all_of_its_keys() {
    let server = Server::start_with(setup()).await;
    let batch = async |keys: [&str; 2], wait: &str| {
        let ops = keys.map(|key| format!(r#"{{"op":"set","key":"{key}","value":1}}"#));
        let body = format!(r#"{{"ops":[{}]}}"#, ops.join(","));
        let post = request("POST", "/v1/batch").body(body).by("writer");
        let reply = server.ask(&post.header("prefer", wait)).await;
        let id = reply
            .header("sync-token")
            .expect("it was accepted")
            .to_owned();
        format!("/v1/jobs/{id}?wait=10")
    };
    for wait in ["wait=10", "respond-async"] {
        let within = batch(["team/a", "team/b"], wait).await;
        let beyond = batch(["team/a", "teams"], wait).await;
        for (name, known, hidden) in [
            ("team", 200, 404),
            ("guest", 200, 404),
            ("reader", 200, 200),
        ] {
            let status = async |job: &str| server.ask(&request("GET", job).by(name)).await.status;
            assert_eq!(status(&within).await, known, "{name} {wait}");
            assert_eq!(status(&beyond).await, hidden, "{name} {wait}");
        }
    }
}

/// Returns all requests that touch `key`, with true for each that writes.
fn touching(key: &str) -> Vec<(Request, bool)> {
    let entry = format!("/v1/kv/{key}");
    vec![
        (request("GET", &entry), false),
        (request("HEAD", &entry), false),
        (request("GET", &format!("{entry}?meta=1")), false),
        (request("GET", &format!("/get/{key}")), false),
        (request("GET", &format!("/v1/kv?prefix={key}")), false),
        (request("GET", &format!("/v1/watch?prefix={key}")), false),
        (
            request(
                "GET",
                &format!("/v1/kv?prefix={key}&include=value&count=1&delimiter=/"),
            ),
            false,
        ),
        (
            request("POST", "/v1/mget").body(format!("{{\"keys\":[\"{key}\"]}}")),
            false,
        ),
        (request("PUT", &entry).body("1"), true),
        (
            request("POST", "/v1/batch").body(format!(
                "{{\"ops\":[{{\"op\":\"delete\",\"key\":\"team/x\"}},{{\"op\":\"delete\",\"key\":\"{key}\"}}]}}"
            )),
            true,
        ),
        (request("DELETE", &entry), true),
        (request("DELETE", &format!("/delete/{key}")), true),
        (
            request("POST", "/set").body(format!("{{\"key\":\"{key}\",\"value\":1}}")),
            true,
        ),
    ]
}

fn assert_unauthorized(reply: &Reply, challenge: &str, what: &impl std::fmt::Debug) {
    assert_eq!(reply.status, 401, "{what:?}");
    assert_eq!(
        reply.header("www-authenticate"),
        Some(challenge),
        "{what:?}"
    );
}

#[tokio::test]
async fn without_a_token_nothing_is_shown_and_nothing_changed() {
    let server = Server::start_with(setup()).await;
    server.put("a", "\"kept\"").await;
    let mut asked: Vec<Request> = touching("a")
        .into_iter()
        .map(|(request, _)| request)
        .collect();
    asked.push(request("GET", "/v1/jobs/x"));
    asked.push(request("GET", "/metrics"));
    for asks in asked {
        let reply = server.ask(&asks).await;
        assert_unauthorized(&reply, "Bearer", &asks);
        for line in [
            "Bearer the-secret-of-nobody",
            "Bearer ",
            "Bearer",
            "Basic d3JpdGVyOng=",
            "the-secret-of-writer",
            "Bearer the-secret-of-writer, Bearer the-secret-of-reader",
        ] {
            let wrong = asks.clone().header("authorization", line);
            let reply = server.ask(&wrong).await;
            assert_unauthorized(&reply, "Bearer error=\"invalid_token\"", &wrong);
        }
        let twice = asks.clone().by("writer").by("writer");
        assert_eq!(server.ask(&twice).await.status, 401, "{twice:?}");
    }
    let problem = server.ask(&request("GET", "/v1/kv/a")).await;
    assert_eq!(problem.json()["type"], "/problems/unauthorized");
    let simple = server.ask(&request("GET", "/get/a")).await;
    assert!(simple.json()["detail"].is_string());
    let kept = server.ask(&request("GET", "/v1/kv/a").by("writer")).await;
    assert_eq!((kept.status, kept.text()), (200, "\"kept\""));
}

#[tokio::test]
async fn what_holds_no_data_needs_no_token() {
    let server = Server::start_with(setup()).await;
    for target in [
        "/",
        "/livez",
        "/readyz",
        "/problems",
        "/problems/unauthorized",
    ] {
        assert_eq!(
            server.ask(&request("GET", target)).await.status,
            200,
            "{target}"
        );
    }
    // Metrics need any token, whatever it allows.
    for (name, ..) in TOKENS {
        let reply = server.ask(&request("GET", "/metrics").by(name)).await;
        assert_eq!(reply.status, 200, "{name}");
    }
}

#[tokio::test]
async fn root_says_what_a_token_allows() {
    let server = Server::start_with(setup()).await;
    for (name, rights, prefix) in TOKENS {
        let root = server.ask(&request("GET", "/").by(name)).await;
        let allowed = serde_json::json!({ "write": rights == "rw", "prefix": prefix });
        assert_eq!(root.json()["access"], allowed, "{name}");
    }
    for unknown in [request("GET", "/"), request("GET", "/").by("nobody")] {
        let access = &server.ask(&unknown).await.json()["access"];
        assert!(access.is_null(), "{unknown:?}");
    }
}

#[tokio::test]
async fn each_token_does_on_every_route_what_it_allows_and_no_more() {
    let server = Server::start_with(setup()).await;
    for (name, rights, prefix) in TOKENS {
        for key in ["team/a", "team", "teams/a", "other", "Team/a"] {
            for (asks, writes) in touching(key) {
                let allowed = key.starts_with(prefix) && (rights == "rw" || !writes);
                // Restored each time, since an allowed request may have deleted it.
                server.put(key, "\"kept\"").await;
                let asks = asks.header("prefer", "wait=5").by(name);
                let reply = server.ask(&asks).await;
                if allowed {
                    assert!([200, 201].contains(&reply.status), "{asks:?}: {reply:?}");
                    continue;
                }
                assert_eq!(reply.status, 403, "{asks:?}");
                let challenge = reply.header("www-authenticate");
                assert_eq!(challenge, Some("Bearer error=\"insufficient_scope\""));
                assert_eq!(reply.header("etag"), None, "{asks:?}");
                assert!(!String::from_utf8_lossy(&reply.body).contains("kept"));
                let read = request("GET", &format!("/v1/kv/{key}")).by("writer");
                assert_eq!(server.ask(&read).await.text(), "\"kept\"", "{asks:?}");
            }
        }
    }
}

#[tokio::test]
async fn list_and_several_keys_are_within_reach_as_a_whole_or_refused() {
    let server = Server::start_with(setup()).await;
    for key in ["team/a", "team/b", "teams/c", "other"] {
        server.put(key, "\"kept\"").await;
    }
    let mget = |keys: &str| request("POST", "/v1/mget").body(format!("{{\"keys\":[{keys}]}}"));
    for refused in [
        request("GET", "/v1/kv"),
        request("GET", "/v1/kv?prefix="),
        request("GET", "/v1/kv?prefix=team"),
        request("GET", "/v1/kv?prefix=team&delimiter=/"),
        mget("\"team/a\",\"other\""),
        mget("\"other\",\"team/a\""),
        mget("\"team/a\",\"absent\""),
    ] {
        let reply = server.ask(&refused.clone().by("team")).await;
        assert_eq!(reply.status, 403, "{refused:?}");
        assert!(!reply.text().contains("kept") && !reply.text().contains("other"));
    }
    let list = server
        .ask(&request("GET", "/v1/kv?prefix=team/&count=1").by("guest"))
        .await;
    assert_eq!(
        (
            &list.json()["count"],
            list.json()["keys"].as_array().unwrap().len()
        ),
        (&2.into(), 2)
    );
    // The cursor of a page leads no further than its prefix, even in a listing of all keys.
    let first = server
        .ask(&request("GET", "/v1/kv?limit=1").by("reader"))
        .await;
    let cursor = first.json()["cursor"].as_str().unwrap().to_owned();
    let wider = request("GET", &format!("/v1/kv?prefix=team/&cursor={cursor}"));
    assert_eq!(server.ask(&wider.by("team")).await.status, 400);
    let both = server
        .ask(&mget("\"team/a\",\"team/none\"").by("guest"))
        .await;
    assert_eq!(
        (both.status, &both.json()["missing"]),
        (200, &serde_json::json!(["team/none"]))
    );
}

#[tokio::test]
async fn refusal_is_the_same_whether_there_is_such_a_key_or_not() {
    let server = Server::start_with(setup()).await;
    server.put("there", "1").await;
    for name in ["team", "guest"] {
        for ((there, _), (absent, _)) in touching("there").into_iter().zip(touching("absent")) {
            let there = server
                .ask(&there.by(name).header("x-request-id", "1"))
                .await;
            let absent = server
                .ask(&absent.by(name).header("x-request-id", "1"))
                .await;
            assert_eq!((there.status, &there.body), (absent.status, &absent.body));
            assert_eq!(there.status, 403);
        }
    }
    let condition = request("PUT", "/v1/kv/there")
        .body("1")
        .header("if-match", "\"99\"");
    assert_eq!(server.ask(&condition.by("team")).await.status, 403);
}

async fn job_of(server: &Server, key: &str, name: &str) -> String {
    let put = request("PUT", &format!("/v1/kv/{key}"))
        .body("1")
        .header("prefer", "respond-async")
        .by(name);
    let reply = server.ask(&put).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    reply.header("location").unwrap().to_owned()
}

#[tokio::test]
async fn job_of_a_key_out_of_reach_is_as_one_that_nobody_knows() {
    let mut server = Server::start_idle(setup()).await;
    let (own, other) = (
        job_of(&server, "team/a", "team").await,
        job_of(&server, "secret", "writer").await,
    );
    let unknown = {
        let mut digits = other.clone();
        let last = digits.pop().unwrap();
        digits.push(if last == '9' { '8' } else { '9' });
        digits + "9"
    };
    for is_applied in [false, true] {
        if is_applied {
            server.work();
            let done = request("GET", &format!("{other}?wait=10")).by("writer");
            assert_eq!(server.ask(&done).await.json()["status"], "succeeded");
        }
        for name in ["team", "guest"] {
            let reply = server.ask(&request("GET", &own).by(name)).await;
            assert_eq!(
                (reply.status, &reply.json()["key"]),
                (200, &"team/a".into())
            );
            let ask = |target: &str| request("GET", target).by(name);
            let hidden = server.ask(&ask(&other)).await;
            let missing = server.ask(&ask(&unknown)).await;
            assert_eq!((hidden.status, missing.status), (404, 404), "{name}");
            assert_eq!(hidden.body, missing.body, "{name}");
            // It is not waited for either: the time would reveal it.
            let hidden = server.ask(&ask(&format!("{other}?wait=60"))).await;
            assert_eq!((hidden.status, hidden.body), (404, missing.body), "{name}");
        }
        for name in ["writer", "reader"] {
            for job in [&own, &other] {
                assert_eq!(server.ask(&request("GET", job).by(name)).await.status, 200);
            }
        }
    }
}

#[tokio::test]
async fn token_of_some_keys_can_follow_each_of_its_own_writes() {
    let server = Server::start_with(setup()).await;
    // Without this, nothing else of an unwaited write would be kept.
    let set = request("POST", "/set")
        .body(r#"{"key":"team/a","value":1}"#)
        .by("team");
    let reply = server.ask(&set).await;
    assert_eq!(reply.status, 202);
    let job = format!("{}?wait=10", reply.header("location").unwrap());
    let told = server.ask(&request("GET", &job).by("team")).await;
    assert_eq!(
        (&told.json()["status"], &told.json()["key"]),
        (&"succeeded".into(), &"team/a".into())
    );
}

#[tokio::test]
async fn job_of_which_only_the_end_is_kept_is_known_to_who_reaches_all_keys() {
    let server = Server::start_with(setup()).await;
    let set = request("POST", "/set")
        .body(r#"{"key":"team/a","value":1}"#)
        .by("writer");
    let reply = server.ask(&set).await;
    assert_eq!(reply.status, 202);
    let job = reply.header("location").unwrap();
    let get = |name: &str| request("GET", job).by(name);
    let forgotten = async { while !server.ask(&get("writer")).await.json()["key"].is_null() {} };
    tokio::time::timeout(Duration::from_secs(10), forgotten)
        .await
        .expect("the end of the job");
    for (name, status) in [
        ("writer", 200),
        ("reader", 200),
        ("team", 404),
        ("guest", 404),
    ] {
        assert_eq!(server.ask(&get(name)).await.status, status, "{name}");
    }
}

#[tokio::test]
async fn list_of_jobs_has_only_what_a_token_reaches() {
    let server = Server::start_idle(setup()).await;
    for key in ["team/a", "other"] {
        let put = request("PUT", &format!("/v1/kv/{key}")).body("1");
        let put = put.header("prefer", "respond-async").by("writer");
        assert_eq!(server.ask(&put).await.status, 202);
    }
    let list = async |name: &str| {
        let reply = server
            .ask(&request("GET", "/v1/jobs").by(name))
            .await
            .json();
        let jobs = reply["jobs"].as_array().unwrap().iter();
        jobs.map(|job| job["key"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(list("reader").await, ["team/a", "other"]);
    assert_eq!(list("team").await, ["team/a"]);
    for (name, status) in [("reader", 200), ("team", 403), ("nobody", 401)] {
        let queue = server.ask(&request("GET", "/v1/queue").by(name)).await;
        assert_eq!(queue.status, status, "{name}");
    }
    // The letter's key is one that this token may not write and that the other may not see.
    let job = server
        .ask(&request("GET", "/v1/jobs").by("reader"))
        .await
        .json()["jobs"][0]["id"]
        .clone();
    let job = job.as_str().unwrap();
    server.bury(job).await;
    let one = format!("/v1/jobs/{job}");
    for (name, all, single) in [
        ("reader", 403, 403),
        ("team", 200, 404),
        ("writer", 200, 200),
    ] {
        let drop = server.ask(&request("DELETE", &one).by(name)).await;
        assert_eq!(drop.status, single, "{name}");
        if single != 200 {
            for (method, path) in [
                ("POST", "/v1/jobs/retry?status=dead"),
                ("DELETE", "/v1/jobs?status=dead"),
            ] {
                let reply = server.ask(&request(method, path).by(name)).await;
                assert_eq!(reply.status, all, "{name} {method}");
            }
        }
    }
}

#[tokio::test]
async fn token_that_only_reads_deals_with_no_dead_letter_even_if_there_is_none() {
    let server = Server::start_with(setup()).await;
    for (name, all, single) in [
        ("reader", 403, 403),
        ("team", 200, 404),
        ("writer", 200, 404),
    ] {
        for (method, path, status) in [
            ("POST", "/v1/jobs/retry?status=dead", all),
            ("DELETE", "/v1/jobs?status=dead", all),
            ("POST", "/v1/jobs/none/retry", single),
            ("DELETE", "/v1/jobs/none", single),
        ] {
            let reply = server.ask(&request(method, path).by(name)).await;
            assert_eq!(reply.status, status, "{name} {method} {path}");
        }
    }
}

#[tokio::test]
async fn pages_of_jobs_are_full_and_name_none_out_of_reach() {
    const KEYS: [&str; 8] = ["o", "team/a", "o", "o", "team/b", "team/c", "o", "o"];
    let server = Server::start_idle(setup()).await;
    let mut own = Vec::new();
    let mut all = Vec::new();
    for key in KEYS {
        let put = request("PUT", &format!("/v1/kv/{key}")).body("1");
        let put = put.header("prefer", "respond-async").by("writer");
        let id = server.ask(&put).await.json()["job_id"]
            .as_str()
            .unwrap()
            .to_owned();
        if key.starts_with("team/") {
            own.push(id.clone());
        }
        all.push(id);
    }
    let pages = async |status: &str, limit: usize| {
        let mut pages = Vec::new();
        let mut cursor = String::new();
        loop {
            let query = format!("/v1/jobs?status={status}&limit={limit}&cursor={cursor}");
            let page = server.ask(&request("GET", &query).by("team")).await.json();
            let jobs = page["jobs"].as_array().unwrap().iter();
            let ids = jobs.map(|job| job["id"].as_str().unwrap().to_owned());
            pages.push(ids.collect::<Vec<_>>());
            match page["cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break pages,
            }
            assert!(own.contains(&cursor), "{cursor} is another token's job");
        }
    };
    for status in ["queued", "dead"] {
        assert_eq!(pages(status, 1).await, [&own[..1], &own[1..2], &own[2..]]);
        assert_eq!(pages(status, 2).await, [&own[..2], &own[2..]]);
        assert_eq!(pages(status, 3).await, [&own[..]]);
        if status == "queued" {
            for (job, key) in all.iter().zip(KEYS) {
                server.bury_as(job, key).await;
            }
        }
    }
}

#[tokio::test]
async fn two_tokens_with_one_idempotency_key_mean_two_requests() {
    let server = Server::start_with(setup()).await;
    let put = |name: &str, value: &str| {
        request("PUT", "/v1/kv/team/a")
            .body(value)
            .header("idempotency-key", "\"one\"")
            .by(name)
    };
    let first = server.ask(&put("writer", "1")).await;
    assert_eq!(
        (first.status, first.header("idempotency-replayed")),
        (201, None)
    );
    let other = server.ask(&put("team", "2")).await;
    assert_eq!(
        (other.status, other.header("idempotency-replayed")),
        (200, None)
    );
    let again = server.ask(&put("writer", "1")).await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.json()["job_id"], first.json()["job_id"]);
}

#[tokio::test]
async fn watch_takes_its_token_in_the_address_too_and_nothing_else_does() {
    let server = Server::start_with(setup()).await;
    let ask = async |target: &str, name: &str| {
        let target = format!("{target}access_token={}", secret(name));
        server.ask(&request("HEAD", &target)).await.status
    };
    assert_eq!(ask("/v1/watch?", "reader").await, 200);
    assert_eq!(ask("/v1/watch?prefix=team/&", "guest").await, 200);
    assert_eq!(ask("/v1/watch?prefix=other&", "guest").await, 403);
    assert_eq!(ask("/v1/watch?", "nobody").await, 401);
    assert_eq!(ask("/v1/kv?", "reader").await, 401);
    // The header takes precedence.
    let both = request(
        "HEAD",
        &format!("/v1/watch?access_token={}", secret("reader")),
    );
    assert_eq!(server.ask(&both.by("nobody")).await.status, 401);
}

#[tokio::test]
async fn watch_of_a_token_that_is_revoked_ends() {
    let setup = setup();
    let tokens = setup.options.tokens.clone().unwrap();
    let server = Server::start_with(setup).await;
    let open = async |name| {
        Events::open(
            server.address,
            &request("GET", "/v1/watch?prefix=team/").by(name),
        )
        .await
    };
    let (mut revoked, mut narrowed, mut kept) = (
        open("reader").await,
        open("team").await,
        open("writer").await,
    );
    for events in [&mut revoked, &mut narrowed, &mut kept] {
        events.block().await.unwrap();
    }
    let line =
        |name, rights, prefix| token_line(name, &secret(name), rights, prefix).unwrap() + "\n";
    let lines = line("writer", "rw", "") + &line("team", "rw", "team/only/");
    tokens.replace_by(Tokens::parse(&lines).unwrap());
    assert!(revoked.block().await.is_none());
    assert!(narrowed.block().await.is_none());
    server.put("team/a", "1").await;
    assert_eq!(kept.told().await.1["key"], "team/a");
}

#[tokio::test]
async fn no_token_takes_all_places() {
    let mut setup = setup();
    setup.options.watchers_max = 4;
    setup.options.connections_max = 5;
    let server = Server::start_idle(setup).await;
    let mut watches = Vec::new();
    for status in [200, 200, 503] {
        let mut connection = server.connect().await;
        connection.send(watch_by("reader").as_bytes()).await;
        assert_eq!(connection.reply("GET").await.status, status);
        if status == 200 {
            watches.push(connection);
        }
    }
    let mut other = server.connect().await;
    other.send(watch_by("writer").as_bytes()).await;
    assert_eq!(other.reply("GET").await.status, 200);
    // A browser's `EventSource` gives up permanently on a 503.
    let mut browser = server.connect().await;
    let accepts = watch_by("reader").replace("\r\n\r\n", "\r\naccept: text/event-stream\r\n\r\n");
    browser.send(accepts.as_bytes()).await;
    let reply = browser.reply("GET").await;
    assert_eq!((reply.status, reply.text()), (200, "retry: 10000\n\n"));
    assert!(browser.is_closed().await);
    drop((watches, other));

    // Waiting requests, on as many connections as there are.
    let mut waiting = Vec::new();
    let wait = waiting_write_by("writer");
    while server.service.queue().depth().await.unwrap().jobs < 4 {
        let mut connection = server.connect().await;
        connection.send(wait.as_bytes()).await;
        waiting.push(connection);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut last = server.connect().await;
    last.send(wait.as_bytes()).await;
    let reply = last.reply("PUT").await;
    assert_eq!(
        (reply.status, reply.header("connection")),
        (503, Some("close"))
    );
    assert!(last.is_closed().await);
    drop(last);
    let place = async {
        while server
            .ask(&request("GET", "/v1/kv").by("reader"))
            .await
            .status
            != 200
        {}
    };
    tokio::time::timeout(Duration::from_secs(10), place)
        .await
        .expect("a place for others");
}

#[tokio::test]
async fn connection_counts_for_the_token_of_its_last_request() {
    let mut setup = setup();
    setup.options.connections_max = 4;
    let server = Server::start_idle(setup).await;
    let read = request("GET", "/v1/kv").by("reader");
    let mut waiting = Vec::new();
    for count in 1..=3 {
        let mut connection = server.connect().await;
        assert_eq!(connection.ask(&read).await.status, 200);
        connection.send(waiting_write_by("writer").as_bytes()).await;
        while server.service.queue().depth().await.unwrap().jobs < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        waiting.push(connection);
    }
    // No place is left and none of them is idle, but the reader has a single one.
    assert_eq!(server.ask(&read).await.status, 200);
}

#[tokio::test]
async fn tokens_that_are_read_again_keep_what_they_hold() {
    let mut setup = setup();
    setup.options.watchers_max = 4;
    let tokens = setup.options.tokens.clone().unwrap();
    let server = Server::start_idle(setup).await;
    let mut watches = Vec::new();
    for status in [200, 200, 503] {
        let mut connection = server.connect().await;
        connection.send(watch_by("reader").as_bytes()).await;
        assert_eq!(connection.reply("GET").await.status, status);
        watches.push(connection);
        let lines = ["reader", "writer"]
            .map(|name| token_line(name, &secret(name), "r", "").unwrap() + "\n");
        tokens.replace_by(Tokens::parse(&lines.concat()).unwrap());
    }
    drop(watches);
    let place = async {
        let watch = request("HEAD", "/v1/watch").by("reader");
        while server.ask(&watch).await.status != 200 {}
    };
    tokio::time::timeout(Duration::from_secs(10), place)
        .await
        .expect("a place that is free again");
}

/// Returns a write that waits to be applied.
fn waiting_write_by(name: &str) -> String {
    format!(
        "PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\nprefer: wait=60\r\ncontent-length: 1\r\n\r\n1",
        secret(name)
    )
}

fn watch_by(name: &str) -> String {
    format!(
        "GET /v1/watch HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\r\n",
        secret(name)
    )
}

#[tokio::test]
async fn a_token_changes_only_what_it_reaches_by_any_command() {
    let server = Server::start_with(setup()).await;
    for (name, within, beyond) in [
        ("writer", true, true),
        ("team", true, false),
        ("reader", false, false),
        ("guest", false, false),
    ] {
        for (prefix, may) in [("team/", within), ("teams", beyond)] {
            for (method, target) in [
                ("POST", format!("/v1/kv/{prefix}n?add=1")),
                ("PATCH", format!("/v1/kv/{prefix}n?ttl=60")),
                ("DELETE", format!("/v1/kv?prefix={prefix}")),
            ] {
                let reply = server.ask(&request(method, &target).by(name)).await;
                let is_success = (200..300).contains(&reply.status);
                assert_eq!(
                    is_success,
                    may,
                    "{name} {method} {target}: {}",
                    reply.text()
                );
                assert_eq!(reply.status == 403, !may, "{name} {method} {target}");
            }
        }
        let all = request("DELETE", "/v1/kv?all=1").by(name);
        let expected = if name == "writer" { 200 } else { 403 };
        assert_eq!(server.ask(&all).await.status, expected, "{name}");
    }
}
