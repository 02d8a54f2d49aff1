//! Reading removes nothing; completing removes nothing that still has to be read.

use std::time::{Duration, Instant};

use super::super::fixture::*;
use super::super::{QueueBounds, QueueHarness};
use crate::error::Error;
use crate::model::id::{JobId, Partition, Position};
use crate::model::job::Job;
use crate::queue::{Found, JobQueue};

async fn ten_jobs(queue: &dyn JobQueue) -> Vec<JobId> {
    let jobs = (0..10).map(|number| set_job(&key("a"), &number.to_string()));
    accept_all(queue, jobs.collect()).await
}

fn ids(jobs: &[Job]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

pub async fn read_follows_a_position(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let accepted = ten_jobs(&queue).await;
    let claim = claim(&queue).await;
    let read = async |after, max| {
        let wait = Duration::from_millis(20);
        ids(&queue.read(&claim, after, max, wait).await.unwrap())
    };
    assert_eq!(read(Position::START, 100).await, accepted);
    assert_eq!(read(Position::START, 3).await, accepted[..3]);
    assert_eq!(read(accepted[2].position, 3).await, accepted[3..6]);
    assert_eq!(read(accepted[8].position, 3).await, accepted[9..]);
    assert_eq!(read(accepted[9].position, 3).await, []);
    // No job lies between the positions of two consecutive jobs, so this reads the same as from the
    // first one.
    assert_eq!(read(accepted[4].position, 1).await, accepted[5..6]);
}

pub async fn read_takes_nothing_away(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let accepted = ten_jobs(&queue).await;
    for _ in 0..3 {
        assert_eq!(ids(&read_all(&queue).await), accepted);
    }
    assert_eq!(queue.depth().await.unwrap().jobs, 10);
}

pub async fn peek_needs_no_claim_and_takes_nothing_away(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let accepted = ten_jobs(&queue).await;
    let partition = accepted[0].partition;
    let peek = async |after, max| ids(&queue.peek(partition, after, max).await.unwrap());
    // Another worker holds it and has tried the first job.
    let claim = claim(&queue).await;
    queue
        .begin_attempt(&claim, accepted[0].position)
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(peek(Position::START, 100).await, accepted);
        assert_eq!(peek(Position::START, 3).await, accepted[..3]);
        assert_eq!(peek(accepted[2].position, 3).await, accepted[3..6]);
        assert_eq!(peek(accepted[9].position, 3).await, []);
        assert_eq!(peek(Position::START, 0).await, []);
    }
    assert_eq!(
        ids(&read_from(&queue, &claim, Position::START).await),
        accepted
    );
    let found = queue.find(&accepted[0]).await.unwrap();
    assert!(
        matches!(found, Found::Held { attempts: 1, .. }),
        "{found:?}"
    );

    // Dropped jobs are no gap to a reader without a position of its own.
    queue.complete(&claim, accepted[6].position).await.unwrap();
    assert_eq!(peek(Position::START, 100).await, accepted[7..]);
    assert_eq!(peek(accepted[3].position, 2).await, accepted[7..9]);
    let found = queue.peek(partition, accepted[7].position, 1).await;
    assert_eq!(text_of(&found.unwrap()[0].command), "8");
    for other in queue.partitions().iter().filter(|it| *it != partition) {
        assert_eq!(queue.peek(other, Position::START, 9).await.unwrap(), []);
    }
    let beyond = Partition(queue.partitions().get());
    let refused = queue.peek(beyond, Position::START, 1).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
}

pub async fn read_waits_for_a_job(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let claims = claim_all(&queue).await;
    let keys = key_for_each_partition(queue.partitions());
    let mut readers = Vec::new();
    for claim in claims {
        let queue = harness.queue(QueueBounds::default()).await;
        readers.push(tokio::spawn(async move {
            let mut after = Position::START;
            for round in 0..10 {
                let jobs = queue.read(&claim, after, 10, 4 * SOON).await.unwrap();
                assert_eq!(jobs.len(), 1, "it comes as soon as there is one");
                assert_eq!(text_of(&jobs[0].command), round.to_string());
                after = jobs[0].id.position;
            }
        }));
    }
    for round in 0..10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        for (key, reader) in keys.iter().zip(&readers) {
            accept(&queue, set_job(key, &round.to_string())).await;
            assert!(round == 9 || !reader.is_finished());
        }
        // The next job only after this one was read, so that the reader waits for each.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    tokio::time::timeout(SOON, join_all(readers))
        .await
        .expect("waiters are woken");
}

pub async fn read_waits_no_longer_than_asked(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let claim = claim(&queue).await;
    let wait = Duration::from_millis(200);
    let start = Instant::now();
    assert_eq!(
        queue.read(&claim, Position::START, 1, wait).await.unwrap(),
        []
    );
    assert!(start.elapsed() >= wait && start.elapsed() < SOON);
}

pub async fn complete_drops_nothing_unread(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let accepted = ten_jobs(&queue).await;
    for done in [0, 0, 3, 8, 9] {
        let queue = harness.queue(QueueBounds::default()).await;
        let claims = claim_all(&queue).await;
        let claim = &claims[usize::from(accepted[0].partition.0)];
        let up_to = accepted[done].position;
        queue.complete(claim, up_to).await.unwrap();
        queue
            .complete(claim, accepted[0].position)
            .await
            .expect("what is complete stays so");
        assert_eq!(
            ids(&read_from(&queue, claim, up_to).await),
            accepted[done + 1..]
        );
        assert_eq!(queue.depth().await.unwrap().jobs, 9 - done as u64);
        for id in &accepted[done + 1..] {
            assert!(
                matches!(queue.find(id).await.unwrap(), Found::Held { .. }),
                "{id}"
            );
        }
        release_all(&queue, claims).await;
        harness.restart().await;
    }
}

pub async fn a_completed_job_is_remembered_as_accepted(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let accepted = ten_jobs(&queue).await;
    let claim = claim(&queue).await;
    queue.complete(&claim, accepted[9].position).await.unwrap();
    for _ in 0..2 {
        let queue = harness.queue(QueueBounds::default()).await;
        for id in &accepted {
            assert_ne!(queue.find(id).await.unwrap(), Found::Unknown, "{id}");
        }
        harness.restart().await;
    }
}

pub async fn read_never_passes_over_a_job_in_silence(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let accepted = ten_jobs(&queue).await;
    let claims = claim_all(&queue).await;
    let partition = usize::from(accepted[0].partition.0);
    queue
        .complete(&claims[partition], accepted[4].position)
        .await
        .unwrap();
    release_all(&queue, claims).await;
    for _ in 0..2 {
        let queue = harness.queue(QueueBounds::default()).await;
        let claims = claim_all(&queue).await;
        for (seen, after) in [(0, Position::START), (3, accepted[2].position)] {
            // Completed jobs may be dropped, which the read then reports; until then they are still
            // there.
            match queue
                .read(&claims[partition], after, 100, Duration::ZERO)
                .await
            {
                Ok(jobs) => assert_eq!(ids(&jobs), accepted[seen..]),
                Err(Error::Gap {
                    after: named,
                    trimmed,
                    ..
                }) => {
                    assert_eq!(named, after);
                    assert!(trimmed > after && trimmed <= accepted[4].position);
                    let rest = read_from(&queue, &claims[partition], trimmed).await;
                    assert_eq!(rest.last().unwrap().id, accepted[9]);
                }
                Err(error) => panic!("{error}"),
            }
        }
        release_all(&queue, claims).await;
        harness.restart().await;
    }
}

pub async fn a_waiting_read_ends_when_the_queue_is_closed(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let claim = claim(&queue).await;
    let reader = tokio::spawn({
        let queue = harness.queue(QueueBounds::default()).await;
        async move { queue.read(&claim, Position::START, 1, 4 * SOON).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    harness.restart().await;
    queue.close().await.unwrap();
    let answer = tokio::time::timeout(SOON, reader)
        .await
        .expect("no call waits forever")
        .unwrap();
    assert!(
        matches!(answer, Err(Error::Unavailable { .. })),
        "{answer:?}"
    );
}
