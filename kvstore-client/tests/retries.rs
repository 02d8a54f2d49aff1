//! What is sent again, and does it ever have a second effect?

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use kvstore_client::{Client, Options};
use kvstore_core::{Error, Key};
use rand::Rng;
use support::{Scripted, Server, answer, problem, relay_losing_answers};

const CLIENTS: usize = 8;
const KILLS: usize = 6;

/// Each addition to a counter is another power of two, so the sum tells which of them count, and none
/// can count twice unseen.
const ADDITIONS: u32 = 62;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_server_loses_no_addition_and_makes_none_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::in_folder(folder.path());
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
                    // A server that was killed while this one waited has it queued, perhaps.
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
        // Under load, and at a random moment of it.
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
    let server = Server::in_folder(folder.path());
    server.client().service().ping().await.unwrap();
    let (address, lost) = relay_losing_answers(server.address).await;
    let url = format!("http://{address}");
    let mut losses = 0;
    for bit in 0..8 {
        // A connection of its own each time, and its first answer is lost.
        let client = Client::open(&url).await.unwrap();
        let added = client.service().add("counter", 1 << bit).await.unwrap();
        assert_eq!(added.number(), Some((2 << bit) - 1));
        assert!(added.replayed, "the server had it from the first time");
        losses += 1;
        assert_eq!(lost.load(Ordering::SeqCst), losses);
    }
    // Without a key of its own a write is not sent again, and the error says why.
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
    // A read is sent again in any case.
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
async fn refusal_that_passes_is_tried_again_with_the_same_key() {
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
    }
}

#[tokio::test]
async fn verdict_is_not_asked_for_twice() {
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
async fn what_stays_unreachable_is_unavailable_and_never_unknown() {
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
    // One that does not wait is content with the first.
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
