//! An accepted job has a permanent place in the order.

use std::time::Duration;

use super::super::fixture::*;
use super::super::{QueueBounds, QueueHarness};
use crate::error::Error;
use crate::model::command::{Command, Expiry, Operation};
use crate::model::entry::Version;
use crate::model::id::{JobId, Partition, Position, QueueId};
use crate::model::job::NewJob;
use crate::model::write::Condition;
use crate::queue::{Claim, Depth, Found, JobQueue, WorkerId};

pub async fn a_new_queue_is_empty(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    assert_eq!(queue.depth().await.unwrap(), Depth::default());
    assert_eq!(read_all(&queue).await, []);
    queue.ping().await.unwrap();
}

pub async fn ids_are_unique_and_ordered(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let keys = key_for_each_partition(queue.partitions());
    let mut latest = vec![Position::START; keys.len()];
    for round in 0..20 {
        for (index, key) in keys.iter().enumerate() {
            let count = 1 + (round + index) % 3;
            for id in accept_all(&queue, vec![set_job(key, "1"); count]).await {
                assert_eq!(id.queue, queue.id());
                assert_eq!(id.partition, queue.partitions().partition_of(key));
                assert!(id.position > latest[index], "{id} after {}", latest[index]);
                latest[index] = id.position;
            }
        }
    }
}

pub async fn jobs_of_one_call_keep_their_order(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let keys = key_for_each_partition(queue.partitions());
    let jobs: Vec<NewJob> = (0..100)
        .map(|number| set_job(&keys[number % keys.len()], &number.to_string()))
        .collect();
    let ids = accept_all(&queue, jobs).await;
    let mut read = read_all(&queue).await;
    read.sort_by_key(|job| text_of(&job.command).parse::<u64>().unwrap());
    let read: Vec<JobId> = read.iter().map(|job| job.id).collect();
    assert_eq!(read, ids);
}

pub async fn many_producers_keep_the_order_of_each(harness: &dyn QueueHarness) {
    const PRODUCERS: usize = 6;
    const ROUNDS: usize = 30;
    let queue = harness.queue(QueueBounds::default()).await;
    let keys = key_for_each_partition(queue.partitions());
    let mut producers = Vec::new();
    for producer in 0..PRODUCERS {
        let (queue, keys) = (harness.queue(QueueBounds::default()).await, keys.clone());
        producers.push(tokio::spawn(async move {
            for round in 0..ROUNDS {
                let jobs = keys
                    .iter()
                    .map(|key| set_job(key, &format!("[{producer},{round}]")));
                accept_all(&queue, jobs.collect()).await;
            }
        }));
    }
    join_all(producers).await;
    for claim in claim_all(&queue).await {
        let jobs = read_from(&queue, &claim, Position::START).await;
        assert_eq!(jobs.len(), PRODUCERS * ROUNDS);
        assert!(jobs.is_sorted_by(|a, b| a.id.position < b.id.position));
        let mut rounds = [0; PRODUCERS];
        for job in jobs {
            let [producer, round]: [usize; 2] =
                serde_json::from_str(text_of(&job.command)).unwrap();
            assert_eq!(round, rounds[producer], "of producer {producer}");
            rounds[producer] += 1;
        }
    }
}

/// Returns every form of command.
fn commands() -> Vec<Command> {
    let set = |text, condition, expiry| {
        Command::One(Operation {
            expiry,
            ..Operation::set(key("a/\u{e9} \"b\""), value(text)).under(condition)
        })
    };
    let delete = |condition| Operation::delete(key("b")).under(condition);
    let patch = || value(r#"{"a":null,"b":[1.0],"\u0062":1e400}"#);
    vec![
        set("1.0", Condition::Any, Expiry::Never),
        set(
            r#"{"a":1e400,"a":"\u0000"}"#,
            Condition::Absent,
            Expiry::After(Duration::from_secs(1)),
        ),
        set("null", Condition::Present, Expiry::Keep),
        set(
            "[]",
            Condition::Version(Version(u64::MAX)),
            Expiry::After(crate::limits::TTL_MAX),
        ),
        Command::One(delete(Condition::Any)),
        Command::One(delete(Condition::Version(Version(7)))),
        Command::Batch(vec![
            delete(Condition::Present),
            Operation::set(key("c"), value("\"\\n\"")),
        ]),
        Command::Batch(vec![Operation::delete(key("d"))]),
        Operation::add(key("n"), i64::MIN).into(),
        Operation::add(key("n"), 1)
            .expires_after(Duration::from_secs(1))
            .into(),
        Operation::merge(key("m"), patch()).into(),
        Operation::merge(key("m"), value("null"))
            .expires_after(Duration::from_secs(1))
            .if_present()
            .into(),
        Operation::touch(key("t"), crate::limits::TTL_MAX).into(),
        Operation::check(key("c")).if_absent().into(),
        Command::Batch(vec![
            Operation::add(key("n"), i64::MAX).if_version(Version(1)),
            Operation::merge(key("m"), patch()),
            Operation::touch(key("t"), Duration::from_secs(1)),
            Operation::check(key("c")).if_present(),
        ]),
    ]
}

pub async fn read_returns_what_was_accepted(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let before = harness.now().await;
    let jobs: Vec<NewJob> = commands()
        .into_iter()
        .enumerate()
        .map(|(number, command)| NewJob {
            keep_outcome: number % 2 == 0,
            traceparent: (number % 3 == 0)
                .then(|| "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            ..NewJob::new(command)
        })
        .collect();
    let ids = accept_all(&queue, jobs.clone()).await;
    for _ in 0..2 {
        let read = read_all(&harness.queue(QueueBounds::default()).await).await;
        assert_eq!(read.len(), jobs.len());
        for ((job, new), id) in read.into_iter().zip(&jobs).zip(&ids) {
            assert_eq!((&job.id, &job.command), (id, &new.command));
            assert_eq!(
                (job.keep_outcome, &job.traceparent),
                (new.keep_outcome, &new.traceparent)
            );
            assert!(job.accepted_at >= before && job.accepted_at <= harness.now().await);
        }
        harness.restart().await;
    }
}

pub async fn accepted_jobs_survive_a_restart(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let keys = key_for_each_partition(queue.partitions());
    let id = queue.id();
    let mut ids = Vec::new();
    for round in 0..3 {
        let queue = harness.queue(QueueBounds::default()).await;
        assert_eq!(queue.id(), id, "it is the same queue");
        ids.extend(
            accept_all(
                &queue,
                keys.iter()
                    .map(|key| set_job(key, &round.to_string()))
                    .collect(),
            )
            .await,
        );
        harness.restart().await;
    }
    let queue = harness.queue(QueueBounds::default()).await;
    let read: Vec<JobId> = read_all(&queue)
        .await
        .into_iter()
        .map(|job| job.id)
        .collect();
    ids.sort();
    assert_eq!(read, ids);
    assert_eq!(queue.depth().await.unwrap().jobs, ids.len() as u64);
}

pub async fn an_id_is_never_used_again(harness: &dyn QueueHarness) {
    let mut latest = Position::START;
    for _ in 0..3 {
        let queue = harness.queue(QueueBounds::default()).await;
        let id = *accept_all(&queue, vec![set_job(&key("a"), "1"); 3])
            .await
            .last()
            .unwrap();
        assert!(id.position > latest);
        latest = id.position;
        let claims = claim_all(&queue).await;
        queue
            .complete(&claims[usize::from(id.partition.0)], latest)
            .await
            .unwrap();
        release_all(&queue, claims).await;
        harness.restart().await;
    }
}

pub async fn a_job_that_breaks_a_rule_is_refused_alone(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let twice = Command::Batch(vec![
        Operation::delete(key("a")),
        Operation::delete(key("a")),
    ]);
    let short_lived = Operation::set(key("a"), value("1"))
        .expires_after(Duration::from_millis(999))
        .into();
    let jobs = vec![
        set_job(&key("a"), "1"),
        NewJob::new(twice),
        NewJob::new(Command::Batch(vec![])),
        NewJob::new(short_lived),
        set_job(&key("a"), "2"),
    ];
    let answers = queue.enqueue(jobs).await;
    let accepted: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(accepted, [true, false, false, false, true]);
    for refused in answers.into_iter().filter_map(Result::err) {
        assert!(matches!(refused, Error::Invalid { .. }), "{refused}");
    }
    if let [first, second, ..] = &key_for_each_partition(queue.partitions())[..] {
        let batch = Command::Batch(vec![
            Operation::delete(first.clone()),
            Operation::delete(second.clone()),
        ]);
        let error = queue
            .enqueue(vec![NewJob::new(batch)])
            .await
            .pop()
            .unwrap()
            .unwrap_err();
        assert!(matches!(error, Error::CrossPartition { .. }), "{error}");
    }
    assert_eq!(read_all(&queue).await.len(), 2);
    assert_eq!(queue.enqueue(vec![]).await.len(), 0);
}

pub async fn start_after_moves_the_numbering(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let keys = key_for_each_partition(queue.partitions());
    let mut far = Vec::new();
    for key in &keys {
        let first = accept(&queue, set_job(key, "1")).await;
        let claim = Claim {
            worker: WorkerId::new("test"),
            partition: first.partition,
        };
        queue.complete(&claim, first.position).await.unwrap();
        let behind = Position {
            minor: first.position.minor + (1 << 40),
            ..first.position
        };
        queue.start_after(first.partition, behind).await.unwrap();
        far.push(behind);
    }
    drop(queue);
    harness.restart().await;
    let queue = harness.queue(QueueBounds::default()).await;
    let claims = claim_all(&queue).await;
    for ((key, claim), far) in keys.iter().zip(&claims).zip(far) {
        let id = accept(&queue, set_job(key, "1")).await;
        assert!(id.position > far, "{id}");
        let jobs = read_from(&queue, claim, far).await;
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0].id, id);
        // It may have been accepted before the files were lost.
        let skipped = JobId {
            position: Position {
                minor: far.minor - 7,
                ..far
            },
            ..id
        };
        assert_eq!(queue.find(&skipped).await.unwrap(), Found::Dropped);
    }
}

pub async fn start_after_what_lies_behind_changes_nothing(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let first = accept(&queue, set_job(&key("a"), "1")).await;
    let second = accept(&queue, set_job(&key("a"), "2")).await;
    for position in [Position::START, first.position, second.position] {
        queue.start_after(first.partition, position).await.unwrap();
    }
    let third = accept(&queue, set_job(&key("a"), "3")).await;
    assert!(third.position > second.position);
    let read: Vec<JobId> = read_all(&queue)
        .await
        .into_iter()
        .map(|job| job.id)
        .collect();
    assert_eq!(read, [first, second, third]);
}

pub async fn find_knows_what_is_held(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let id = accept(&queue, set_job(&key("a"), "[1.0]")).await;
    for _ in 0..2 {
        let queue = harness.queue(QueueBounds::default()).await;
        let Found::Held { job, attempts } = queue.find(&id).await.unwrap() else {
            panic!("{id} is held");
        };
        assert_eq!((job.id, attempts), (id, 0));
        assert_eq!(job.command, set_command(&key("a"), "[1.0]"));
        harness.restart().await;
    }
}

pub async fn find_knows_what_never_was(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let id = accept(&queue, set_job(&key("a"), "1")).await;
    let ahead = Position {
        major: id.position.major,
        minor: id.position.minor + 1,
    };
    for never in [
        JobId {
            queue: QueueId::random(),
            ..id
        },
        JobId {
            position: ahead,
            ..id
        },
        JobId {
            position: Position {
                major: u64::MAX,
                minor: u64::MAX,
            },
            ..id
        },
        JobId {
            position: Position::START,
            ..id
        },
        JobId {
            partition: Partition(u16::MAX),
            ..id
        },
    ] {
        assert_eq!(queue.find(&never).await.unwrap(), Found::Unknown, "{never}");
    }
}

pub async fn depth_counts_jobs_bytes_and_age(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let jobs = [
        set_job(&key("a"), "1"),
        set_job(&key("b"), "\"long\""),
        NewJob::new(Command::One(Operation::delete(key("c")))),
    ];
    let sizes = jobs.each_ref().map(|job| job.size_bytes() as u64);
    let [first, second, third] = jobs;
    let first = accept(&queue, first).await;
    move_clock(harness, SHORT).await;
    accept(&queue, second).await;
    move_clock(harness, SHORT).await;
    accept(&queue, third).await;
    let expect = async |queue: &dyn JobQueue, jobs, bytes, age: Duration| {
        let depth = queue.depth().await.unwrap();
        assert_eq!((depth.jobs, depth.bytes), (jobs, bytes));
        let oldest = depth.oldest_age.unwrap();
        assert!(
            oldest >= age && oldest < age + SOON,
            "{oldest:?}, not {age:?}"
        );
    };
    expect(&queue, 3, sizes.iter().sum(), 2 * SHORT).await;
    let claim = claim(&queue).await;
    queue.complete(&claim, first.position).await.unwrap();
    for _ in 0..2 {
        let queue = harness.queue(QueueBounds::default()).await;
        expect(&queue, 2, sizes[1] + sizes[2], SHORT).await;
        harness.restart().await;
    }
}

pub async fn an_enqueue_that_nobody_waits_for_happens_or_not(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    for number in 0..30 {
        give_up_after_one_poll(queue.enqueue(vec![set_job(&key("a"), &number.to_string())])).await;
    }
    let last = accept(&queue, set_job(&key("a"), "30")).await;
    harness.restart().await;
    let read = read_all(&harness.queue(QueueBounds::default()).await).await;
    let numbers: Vec<u64> = read
        .iter()
        .map(|job| text_of(&job.command).parse().unwrap())
        .collect();
    assert!(
        numbers.is_sorted_by(|a, b| a < b),
        "each at most once, in order: {numbers:?}"
    );
    assert_eq!(read.last().unwrap().id, last);
}

pub async fn a_closed_queue_refuses(harness: &dyn QueueHarness) {
    use Error::Unavailable;
    let queue = harness.queue(QueueBounds::default()).await;
    let id = accept(&queue, set_job(&key("a"), "1")).await;
    let claim = claim(&queue).await;
    queue.close().await.unwrap();
    queue.close().await.expect("closing twice is no error");
    let answers = queue
        .enqueue(vec![set_job(&key("a"), "1"), set_job(&key("b"), "1")])
        .await;
    assert_eq!(answers.len(), 2);
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer, Err(Unavailable { .. })))
    );
    assert!(matches!(
        queue.claim(&claim.worker).await,
        Err(Unavailable { .. })
    ));
    assert!(matches!(
        queue.read(&claim, Position::START, 1, SHORT).await,
        Err(Unavailable { .. })
    ));
    assert!(matches!(
        queue.begin_attempt(&claim, id.position).await,
        Err(Unavailable { .. })
    ));
    assert!(matches!(
        queue.complete(&claim, id.position).await,
        Err(Unavailable { .. })
    ));
    assert!(matches!(queue.find(&id).await, Err(Unavailable { .. })));
    assert!(matches!(queue.depth().await, Err(Unavailable { .. })));
    assert!(matches!(queue.ping().await, Err(Unavailable { .. })));
}
