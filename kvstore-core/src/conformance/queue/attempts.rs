//! The tries of a partition's head are counted where the death of a worker cannot lose them.

use super::super::fixture::*;
use super::super::{QueueBounds, QueueHarness};
use crate::limits::CLAIM_PERIOD;
use crate::model::id::JobId;
use crate::queue::{Found, JobQueue};

async fn attempts(queue: &dyn JobQueue, id: &JobId) -> u32 {
    match queue.find(id).await.unwrap() {
        Found::Held { attempts, .. } => attempts,
        other => panic!("{id} should be held: {other:?}"),
    }
}

pub async fn attempts_are_counted_from_one(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let ids = accept_all(&queue, vec![set_job(&key("a"), "1"); 2]).await;
    let claim = claim(&queue).await;
    for expected in 1..4 {
        assert_eq!(
            queue.begin_attempt(&claim, ids[0].position).await.unwrap(),
            expected
        );
        assert_eq!(attempts(&queue, &ids[0]).await, expected);
    }
    assert_eq!(attempts(&queue, &ids[1]).await, 0);
}

pub async fn an_attempt_can_be_withdrawn(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let id = accept(&queue, set_job(&key("a"), "1")).await;
    let claim = claim(&queue).await;
    for _ in 0..5 {
        assert_eq!(queue.begin_attempt(&claim, id.position).await.unwrap(), 1);
        queue.withdraw_attempt(&claim, id.position).await.unwrap();
        assert_eq!(attempts(&queue, &id).await, 0);
    }
    queue.begin_attempt(&claim, id.position).await.unwrap();
    assert_eq!(queue.begin_attempt(&claim, id.position).await.unwrap(), 2);
    queue.withdraw_attempt(&claim, id.position).await.unwrap();
    assert_eq!(attempts(&queue, &id).await, 1);
}

pub async fn each_head_has_its_own_attempts(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let ids = accept_all(&queue, vec![set_job(&key("a"), "1"); 2]).await;
    let claim = claim(&queue).await;
    queue.begin_attempt(&claim, ids[0].position).await.unwrap();
    queue.begin_attempt(&claim, ids[0].position).await.unwrap();
    queue.complete(&claim, ids[0].position).await.unwrap();
    assert_eq!(
        queue.begin_attempt(&claim, ids[1].position).await.unwrap(),
        1
    );
}

pub async fn attempts_survive_a_restart(harness: &dyn QueueHarness) {
    let id = accept(
        &harness.queue(QueueBounds::default()).await,
        set_job(&key("a"), "1"),
    )
    .await;
    for expected in 1..4 {
        let queue = harness.queue(QueueBounds::default()).await;
        assert_eq!(attempts(&queue, &id).await, expected - 1);
        let claims = claim_all(&queue).await;
        let claim = &claims[usize::from(id.partition.0)];
        assert_eq!(
            queue.begin_attempt(claim, id.position).await.unwrap(),
            expected
        );
        release_all(&queue, claims).await;
        harness.restart().await;
    }
}

pub async fn attempts_go_on_with_another_worker(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let id = accept(&queue, set_job(&key("a"), "1")).await;
    for expected in 1..4 {
        // Each worker dies during the attempt, without a report.
        let claim = claim(&queue).await;
        assert_eq!(
            queue.begin_attempt(&claim, id.position).await.unwrap(),
            expected
        );
        move_clock(harness, CLAIM_PERIOD + SHORT).await;
    }
}
