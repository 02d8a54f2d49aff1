//! Which requests are sent again, and does any of them ever take effect twice?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use kvstore_client::{Client, Event, JobOutcome, JobStatus, Options};
use kvstore_core::{Error, Key};
use kvstore_testing::server::Server;
use rand::Rng;

use crate::support::{Clients as _, Scripted, answer, problem, relay_losing_answers};

const CLIENTS: usize = 8;
const KILLS: usize = 6;

/// Each addition to a counter is a different power of two, so the sum shows which of them counted,
/// and none can count twice unnoticed.
const ADDITIONS: u32 = 62;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_server_loses_no_addition_and_makes_none_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::in_folder(folder.path(), &[]);
    let client = server.client_with(Options {
        retry_for: Duration::from_secs(60),
        ..Options::default()
    });
    client.service().ping().await.unwrap();
    let (over, added) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let count_up = |number: usize| {
        let (client, over, added) = (client.clone(), Arc::clone(&over), Arc::clone(&added));
        tokio::spawn(async move {
            let mut counters = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let counter = format!("counter/{number}/{}", counters.len());
                for bit in 0..ADDITIONS {
                    let sum = client.service().add(&counter, 1 << bit).await.unwrap();
                    // If a server was killed while this one waited, it may still be queued.
                    if let Some(sum) = sum.number() {
                        assert_eq!(sum, (2 << bit) - 1, "{counter}: {sum:b}");
                    }
                    added.fetch_add(1, Ordering::SeqCst);
                }
                counters.push(counter);
            }
            counters
        })
    };
    let tasks: Vec<_> = (0..CLIENTS).map(count_up).collect();
    for _ in 0..KILLS {
        // Under load, at a random moment of it.
        let before = added.load(Ordering::SeqCst);
        while added.load(Ordering::SeqCst) < before + 100 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_micros(rand::rng().random_range(0..20_000))).await;
        server.kill_and_restart();
    }
    over.store(true, Ordering::SeqCst);
    let mut counters = Vec::new();
    for task in tasks {
        counters.extend(task.await.unwrap());
    }
    assert!(counters.len() >= CLIENTS);
    for counter in counters {
        let sum = client.store().get_as::<i64>(&counter).await.unwrap();
        assert_eq!(sum, Some((1 << ADDITIONS) - 1), "{counter}");
    }
}

#[tokio::test]
async fn write_whose_answer_is_lost_is_sent_again_and_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::in_folder(folder.path(), &[]);
    server.client().service().ping().await.unwrap();
    let (address, lost) = relay_losing_answers(server.address).await;
    let url = format!("http://{address}");
    let mut losses = 0;
    for bit in 0..8 {
        // A new connection each time, and its first answer is lost.
        let client = Client::open(&url).await.unwrap();
        let added = client.service().add("counter", 1 << bit).await.unwrap();
        assert_eq!(added.number(), Some((2 << bit) - 1));
        assert!(added.replayed, "the server had it from the first time");
        losses += 1;
        assert_eq!(lost.load(Ordering::SeqCst), losses);
    }
    // Without an idempotency key a write is not sent again, and the error says why.
    let options = Options {
        idempotency_keys: false,
        ..Options::default()
    };
    let client = Client::open_with(&url.parse().unwrap(), options).unwrap();
    let error = client.service().add("counter", 1 << 8).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    assert_eq!(lost.load(Ordering::SeqCst), losses + 1);
    let sum = server
        .client()
        .store()
        .get_as::<i64>("counter")
        .await
        .unwrap();
    assert_eq!(sum, Some(511), "it took effect once");
    // A read is always sent again.
    let client = Client::open(&url).await.unwrap();
    client.service().ping().await.unwrap();
    assert_eq!(client.store().get_as("counter").await.unwrap(), Some(511));
}

const APPLIED: &str =
    r#"{"key":"a","etag":"\"7\"","created":true,"job_id":"0123456789abcdef.0.1"}"#;

fn quick() -> Options {
    Options {
        retry_for: Duration::from_secs(20),
        ..Options::default()
    }
}

#[tokio::test]
async fn transient_refusal_is_retried_with_the_same_key() {
    for refusal in [
        problem(503, "unavailable"),
        problem(503, "overloaded"),
        problem(503, "draining"),
        problem(504, "outcome-unknown"),
        answer(502, "", "<html>"),
        answer(503, "", "<html>"),
        String::new(),
    ] {
        let answers = [refusal.clone(), refusal.clone(), answer(201, "", APPLIED)];
        let server = Scripted::start(&answers).await;
        let set = server.client(quick()).service().set("a", &1).await;
        assert_eq!(set.unwrap().version().unwrap().0, 7, "{refusal}");
        let requests = server.requests();
        let key = |request: &String| {
            let line = request
                .lines()
                .find(|line| line.starts_with("idempotency-key: "));
            line.expect("a key").to_owned()
        };
        assert_eq!(requests.len(), 3);
        assert_eq!(key(&requests[0]), key(&requests[1]));
        assert_eq!(key(&requests[0]), key(&requests[2]));
        // 20 s of retries, 5 s and 30 s for the last one, twice the wait of 5 s, and a margin.
        assert!(key(&requests[0]).ends_with("\";window=75"), "{requests:?}");
    }
}

#[tokio::test]
async fn verdict_is_not_requested_twice() {
    for (verdict, is_it) in [
        (
            problem(507, "storage-full"),
            (|error| matches!(error, Error::StorageFull { .. })) as fn(&Error) -> bool,
        ),
        (problem(401, "unauthorized"), |error| {
            matches!(error, Error::Denied { .. })
        }),
        (problem(403, "forbidden"), |error| {
            matches!(error, Error::Denied { .. })
        }),
        (problem(412, "precondition-failed"), |error| {
            matches!(error, Error::Conflict { .. })
        }),
        (problem(413, "too-large"), |error| {
            matches!(error, Error::TooLarge { .. })
        }),
        (problem(421, "misdirected"), |error| {
            matches!(error, Error::Config(_))
        }),
        (problem(422, "invalid"), |error| {
            matches!(error, Error::Invalid { .. })
        }),
        (problem(422, "idempotency-key-reused"), |error| {
            matches!(error, Error::KeyReused)
        }),
        (problem(500, "internal"), |error| {
            matches!(error, Error::Unknown { .. })
        }),
        (answer(404, "", "<html>"), |error| {
            matches!(error, Error::Config(_))
        }),
        (answer(200, "", "<html>"), |error| {
            matches!(error, Error::Unknown { .. })
        }),
    ] {
        let server = Scripted::start(std::slice::from_ref(&verdict)).await;
        let error = server
            .client(quick())
            .service()
            .set("a", &1)
            .await
            .unwrap_err();
        assert!(is_it(&error), "{verdict}: {error:?}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn write_without_a_key_is_sent_again_only_if_nothing_was_done() {
    let options = || Options {
        idempotency_keys: false,
        ..quick()
    };
    for may_have_happened in [
        problem(504, "outcome-unknown"),
        answer(502, "", ""),
        answer(503, "", "of a proxy"),
        String::new(),
    ] {
        let server = Scripted::start(&[may_have_happened]).await;
        let error = server
            .client(options())
            .service()
            .set("a", &1)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
        assert_eq!(server.requests().len(), 1);
    }
    let answers = [problem(503, "unavailable"), answer(201, "", APPLIED)];
    let server = Scripted::start(&answers).await;
    server
        .client(options())
        .service()
        .set("a", &1)
        .await
        .unwrap();
}

#[tokio::test]
async fn unreachable_server_is_unavailable_and_never_unknown() {
    let server = Scripted::start(&[]).await;
    let options = Options {
        retry_for: Duration::from_millis(300),
        ..Options::default()
    };
    // The listener is gone with its task, so connections are refused.
    let client = server.client(options);
    let error = client.service().set("a", &1).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let error = client
        .store()
        .get(&Key::new("a").unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn server_that_is_asked_to_wait_longer_than_it_lives_is_asked_again() {
    let queued = answer(
        202,
        "",
        r#"{"key":"a","job_id":"0123456789abcdef.0.1","status":"queued"}"#,
    );
    let server = Scripted::start(&[
        queued.clone(),
        queued.clone(),
        answer(201, "Idempotency-Replayed: true\r\n", APPLIED),
    ])
    .await;
    let set = server.client(quick()).service().set("a", &1).await.unwrap();
    assert!(set.version().is_some());
    assert!(!set.replayed, "it was this call that began it");
    // A call that does not wait accepts the first answer.
    let server = Scripted::start(&[queued]).await;
    let set = server
        .client(quick())
        .service()
        .set("a", &1)
        .wait(Duration::ZERO)
        .await
        .unwrap();
    assert!(set.version().is_none());
    assert!(server.requests()[0].contains("prefer: respond-async"));
}

#[tokio::test]
async fn server_that_does_not_answer_in_time_leaves_a_write_unknown() {
    // It accepts connections and never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let options = Options {
        request_timeout: Duration::from_millis(50),
        retry_for: Duration::from_millis(200),
        ..Options::default()
    };
    let client = Client::open_with(&url.parse().unwrap(), options).unwrap();
    let set = client.service().set("a", &1).wait(Duration::ZERO).await;
    assert!(matches!(set, Err(Error::Unknown { .. })), "{set:?}");
    let get = client.store().get_as::<u8>("a").await;
    assert!(matches!(get, Err(Error::Unavailable { .. })), "{get:?}");
}

/// Returns an answer of events, which ends when the connection does.
fn events(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n{text}")
}

#[tokio::test]
async fn interrupted_watch_continues_after_the_last_event() {
    let set = |id: &str, key: &str| {
        format!("id: {id}\nevent: set\ndata: {{\"key\":\"{key}\",\"etag\":\"\\\"7\\\"\"}}\n\n")
    };
    let present = "event: set\ndata: {\"key\":\"a\",\"etag\":\"\\\"7\\\"\"}\n\n";
    let synced = "id: 1\nevent: synced\ndata: {}\n\n";
    let half = set("4", "d");
    let server = Scripted::start(&[
        // An interrupted snapshot is discarded.
        events(present),
        problem(503, "draining"),
        events(&format!("{present}{synced}")),
        // A change, half of one, and the rest of it once more.
        events(&format!(
            "{}: heartbeat\nid: 3\n\n{}",
            set("2", "b"),
            &half[..half.len() - 9]
        )),
        events(&half),
        problem(410, "history-compacted"),
        events(&format!("{present}{synced}")),
        problem(403, "forbidden"),
    ])
    .await;
    let seen: Vec<_> = server
        .client(quick())
        .watch("")
        .snapshot()
        .stream()
        .collect()
        .await;
    let names: Vec<String> = seen
        .iter()
        .map(|event| match event {
            Ok(Event::Present { key, .. }) => format!("present {key}"),
            Ok(Event::Changed(change)) => format!("set {}", change.key),
            Ok(event) => format!("{event:?}"),
            Err(Error::Denied { .. }) => "denied".to_owned(),
            Err(error) => format!("{error:?}"),
        })
        .collect();
    let expected = [
        "present a",
        "Reset",
        "present a",
        "Synced",
        "set b",
        "set d",
        "Reset",
        "present a",
        "Synced",
        "denied",
    ];
    assert_eq!(names, expected);
    let since = |request: &String| {
        let line = request
            .lines()
            .find_map(|line| line.strip_prefix("last-event-id: "));
        line.unwrap_or("").to_owned()
    };
    let since: Vec<String> = server.requests().iter().map(since).collect();
    assert_eq!(since, ["", "", "", "1", "3", "4", "", "1"]);
}

const ID: &str = "0123456789abcdef.0.1";

#[tokio::test]
async fn dead_letters_are_listed_retried_and_dropped() {
    let letter = format!(
        r#"{{"id":"{ID}","op":"set","key":"a","status":"dead","attempts":12,"result":null,"error":{{"type":"/problems/dead-lettered","detail":"no"}},"dead_at":"2026-01-01T00:00:00.000Z"}}"#
    );
    let page = |cursor: &str| answer(200, "", &format!(r#"{{"jobs":[{letter}]{cursor}}}"#));
    let server = Scripted::start(&[
        page(&format!(r#","cursor":"{ID}""#)),
        page(""),
        answer(
            200,
            "",
            &format!(r#"{{"id":"{ID}","job_id":"0123456789abcdef.0.2","status":"queued"}}"#),
        ),
        problem(404, "not-found"),
        answer(200, "", &format!(r#"{{"id":"{ID}","forgotten":true}}"#)),
        problem(404, "not-found"),
        answer(200, "", r#"{"retried":3}"#),
        answer(200, "", r#"{"forgotten":4}"#),
        answer(
            200,
            "",
            r#"{"jobs":1,"bytes":2,"oldest_age_seconds":0.5,"dead":3,"partitions":64,"limits":{}}"#,
        ),
    ])
    .await;
    let client = server.client(quick());
    let service = client.service();
    let letters: Vec<_> = service.jobs(JobStatus::Dead).try_collect().await.unwrap();
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0].attempts, Some(12));
    assert!(matches!(&letters[0].outcome, JobOutcome::Dead { reason } if reason == "no"));
    assert!(letters[0].dead_at.is_some());
    let id = ID.parse().unwrap();
    assert_eq!(service.retry(&id).await.unwrap().position.minor, 2);
    assert!(matches!(
        service.retry(&id).await,
        Err(Error::NotFound { .. })
    ));
    assert!(service.forget(&id).await.unwrap());
    assert!(!service.forget(&id).await.unwrap());
    assert_eq!(service.retry_dead().await.unwrap(), 3);
    assert_eq!(service.forget_dead().await.unwrap(), 4);
    let queue = service.queue_status().await.unwrap();
    assert_eq!(
        (queue.jobs, queue.dead, queue.oldest_age_seconds),
        (1, 3, Some(0.5))
    );
    let lines: Vec<String> = server
        .requests()
        .iter()
        .map(|request| request.lines().next().unwrap().to_owned())
        .collect();
    assert_eq!(
        lines[1],
        format!("GET /v1/jobs?status=dead&limit=1000&cursor={ID} HTTP/1.1")
    );
    assert_eq!(lines[6], "POST /v1/jobs/retry?status=dead HTTP/1.1");
    assert_eq!(lines[7], "DELETE /v1/jobs?status=dead HTTP/1.1");
}
