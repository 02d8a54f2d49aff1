//! A request that is sent again is the same job, as long as its key is remembered.

use std::time::Duration;

use super::super::fixture::*;
use super::super::{QueueBounds, QueueHarness};
use crate::error::{Error, Result};
use crate::model::command::{Command, Expiry, Operation};
use crate::model::id::JobId;
use crate::model::job::{Idempotency, NewJob};
use crate::model::write::Condition;
use crate::queue::{Accepted, JobQueue};

const WINDOW: Duration = Duration::from_secs(60);

fn keyed(name: &str, command: Command) -> NewJob {
    NewJob {
        idempotency: Some(Idempotency {
            key: name.into(),
            window: WINDOW,
            minimum: WINDOW,
        }),
        keep_outcome: true,
        ..NewJob::new(command)
    }
}

fn request() -> NewJob {
    keyed("request", set_command(&key("a"), "1"))
}

async fn enqueue(queue: &dyn JobQueue, job: NewJob) -> Result<Accepted> {
    queue.enqueue(vec![job]).await.pop().unwrap()
}

async fn replayed(queue: &dyn JobQueue, job: NewJob, id: JobId) {
    let expected = Accepted::replayed(id);
    assert_eq!(enqueue(queue, job).await.unwrap(), expected);
}

pub async fn a_repeated_request_is_the_same_job(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let id = accept(&queue, request()).await;
    replayed(&queue, request(), id).await;
    let another_trace = NewJob {
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        ..request()
    };
    replayed(&queue, another_trace, id).await;
    let other = accept(&queue, keyed("another", set_command(&key("a"), "1"))).await;
    assert_ne!(other, id);
    accept(&queue, set_job(&key("a"), "1")).await;
    assert_eq!(read_all(&queue).await.len(), 3);
}

pub async fn a_request_repeated_in_one_call_is_one_job(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let answers = queue
        .enqueue(vec![
            request(),
            request(),
            set_job(&key("a"), "2"),
            request(),
        ])
        .await;
    let answers: Vec<Accepted> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(
        answers
            .iter()
            .map(|answer| answer.replayed)
            .collect::<Vec<_>>(),
        [false, true, false, true]
    );
    assert_eq!(answers[0].id, answers[1].id);
    assert_eq!(answers[0].id, answers[3].id);
    assert_eq!(read_all(&queue).await.len(), 2);
}

pub async fn a_request_repeated_at_the_same_time_is_one_job(harness: &dyn QueueHarness) {
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let queue = harness.queue(QueueBounds::default()).await;
        tasks.push(tokio::spawn(async move {
            enqueue(&queue, request()).await.unwrap()
        }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert!(answers.iter().all(|answer| answer.id == answers[0].id));
    assert_eq!(
        read_all(&harness.queue(QueueBounds::default()).await)
            .await
            .len(),
        1
    );
}

pub async fn a_key_with_another_request_is_refused(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let id = accept(&queue, request()).await;
    let set = |expiry| {
        Command::One(Operation {
            expiry,
            ..Operation::set(key("a"), value("1"))
        })
    };
    for other in [
        set_command(&key("a"), "2"),
        set_command(&key("a"), "1.0"),
        set_if_command(&key("a"), "1", Condition::Absent),
        set(Expiry::Keep),
        set(Expiry::After(WINDOW)),
        Command::One(Operation::delete(key("a"))),
        Operation::merge(key("a"), value("1")).into(),
        Operation::add(key("a"), 1).into(),
        Command::Batch(vec![Operation::set(key("a"), value("1"))]),
    ] {
        let error = enqueue(&queue, keyed("request", other.clone()))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::KeyReused), "{other:?}: {error}");
    }
    replayed(&queue, request(), id).await;
    assert_eq!(read_all(&queue).await.len(), 1);
}

pub async fn a_key_is_remembered_through_completion_and_restart(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let id = accept(&queue, request()).await;
    let claims = claim_all(&queue).await;
    queue
        .complete(&claims[usize::from(id.partition.0)], id.position)
        .await
        .unwrap();
    release_all(&queue, claims).await;
    for _ in 0..3 {
        let queue = harness.queue(QueueBounds::default()).await;
        replayed(&queue, request(), id).await;
        let error = enqueue(&queue, keyed("request", set_command(&key("a"), "2")))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::KeyReused), "{error}");
        assert_eq!(queue.depth().await.unwrap().jobs, 0);
        harness.restart().await;
    }
}

pub async fn a_key_is_forgotten_after_its_window(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let brief = |text| NewJob {
        idempotency: Some(Idempotency {
            key: "request".into(),
            window: 2 * SHORT,
            minimum: 2 * SHORT,
        }),
        ..NewJob::new(set_command(&key("a"), text))
    };
    let first = accept(&queue, brief("1")).await;
    move_clock(harness, SHORT).await;
    replayed(&queue, brief("1"), first).await;
    move_clock(harness, SHORT + SHORT).await;
    let second = accept(&queue, brief("2")).await;
    assert_ne!(first, second);
    replayed(&queue, brief("2"), second).await;
    drop(queue);
    harness.restart().await;
    replayed(
        &harness.queue(QueueBounds::default()).await,
        brief("2"),
        second,
    )
    .await;
}

pub async fn a_full_queue_still_answers_repeated_requests(harness: &dyn QueueHarness) {
    let bounds = QueueBounds {
        jobs: 1,
        ..QueueBounds::default()
    };
    let queue = harness.queue(bounds).await;
    let id = accept(&queue, request()).await;
    let error = enqueue(&queue, keyed("another", set_command(&key("a"), "1")))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    replayed(&queue, request(), id).await;
    let claim = claim(&queue).await;
    queue.complete(&claim, id.position).await.unwrap();
    accept(&queue, keyed("another", set_command(&key("a"), "1"))).await;
}

pub async fn keys_are_bounded_in_number(harness: &dyn QueueHarness) {
    let bounds = QueueBounds {
        idempotency_keys: 3,
        ..QueueBounds::default()
    };
    let queue = harness.queue(bounds).await;
    let numbered = |number: u64| {
        keyed(
            &number.to_string(),
            set_command(&key("a"), &number.to_string()),
        )
    };
    let first = accept(&queue, numbered(0)).await;
    accept_all(&queue, vec![numbered(1), numbered(2)]).await;
    for _ in 0..2 {
        let queue = harness.queue(bounds).await;
        let error = enqueue(&queue, numbered(3)).await.unwrap_err();
        let Error::Full {
            limit: 3,
            room_in: Some(room_in),
            ..
        } = error
        else {
            panic!("{error}");
        };
        assert!(!room_in.is_zero() && room_in <= WINDOW, "{room_in:?}");
        replayed(&queue, numbered(0), first).await;
        accept(&queue, set_job(&key("a"), "1")).await;
        harness.restart().await;
    }
    move_clock(harness, WINDOW + SHORT).await;
    accept(&harness.queue(bounds).await, numbered(3)).await;
}

pub async fn a_key_makes_room_for_others_after_its_minimum(harness: &dyn QueueHarness) {
    let bounds = QueueBounds {
        idempotency_keys: 2,
        ..QueueBounds::default()
    };
    let queue = harness.queue(bounds).await;
    let numbered = |number: u64, minimum| {
        let mut job = keyed(
            &number.to_string(),
            set_command(&key("a"), &number.to_string()),
        );
        if let Some(idempotency) = &mut job.idempotency {
            idempotency.minimum = minimum;
        }
        job
    };
    let guaranteed = accept(&queue, numbered(0, WINDOW)).await;
    let brief = accept(&queue, numbered(1, 2 * SHORT)).await;
    let refused = enqueue(&queue, numbered(2, WINDOW)).await.unwrap_err();
    let Error::Full {
        room_in: Some(room_in),
        ..
    } = refused
    else {
        panic!("{refused}");
    };
    assert!(
        room_in <= 2 * SHORT,
        "when the first minimum ends: {room_in:?}"
    );
    replayed(&queue, numbered(1, WINDOW), brief).await;
    harness.restart().await;
    move_clock(harness, 2 * SHORT).await;
    let queue = harness.queue(bounds).await;
    // Nothing else needs its room yet.
    replayed(&queue, numbered(1, WINDOW), brief).await;
    accept(&queue, numbered(2, WINDOW)).await;
    replayed(&queue, numbered(0, WINDOW), guaranteed).await;
    assert_eq!(queue.depth().await.unwrap().idempotency_keys, 2);
    let refused = enqueue(&queue, numbered(1, WINDOW)).await.unwrap_err();
    assert!(
        matches!(refused, Error::Full { .. }),
        "it is new: {refused}"
    );
}
