//! Every bound is answered with an error, and freed space can be used again.

use super::super::fixture::*;
use super::super::{QueueBounds, QueueHarness};
use crate::error::Error;
use crate::model::job::NewJob;
use crate::queue::JobQueue;

async fn refused(queue: &dyn JobQueue, job: NewJob) {
    let answer = queue.enqueue(vec![job]).await.pop().unwrap();
    assert!(matches!(answer, Err(Error::Full { .. })), "{answer:?}");
}

pub async fn a_queue_is_full_by_jobs(harness: &dyn QueueHarness) {
    let bounds = QueueBounds {
        jobs: 3,
        ..QueueBounds::default()
    };
    let queue = harness.queue(bounds).await;
    let job = || set_job(&key("a"), "1");
    let mut answers = queue.enqueue(vec![job(); 5]).await;
    for refused in answers.split_off(3) {
        assert!(
            matches!(refused, Err(Error::Full { limit: 3, .. })),
            "{refused:?}"
        );
    }
    let ids: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.unwrap().id)
        .collect();
    assert_eq!(
        read_all(&queue).await.len(),
        3,
        "what was refused is not there"
    );

    drop(queue);
    harness.restart().await;
    let queue = harness.queue(bounds).await;
    refused(&queue, job()).await;
    let claim = claim(&queue).await;
    queue.complete(&claim, ids[1].position).await.unwrap();
    accept_all(&queue, vec![job(); 2]).await;
    refused(&queue, job()).await;
}

pub async fn a_queue_is_full_by_bytes(harness: &dyn QueueHarness) {
    let job = || set_job(&key("a"), "\"0123456789\"");
    let bounds = QueueBounds {
        bytes: 2 * job().size_bytes(),
        ..QueueBounds::default()
    };
    let queue = harness.queue(bounds).await;
    let ids = accept_all(&queue, vec![job(); 2]).await;
    refused(&queue, job()).await;
    drop(queue);
    harness.restart().await;
    let queue = harness.queue(bounds).await;
    refused(&queue, job()).await;
    let claim = claim(&queue).await;
    queue.complete(&claim, ids[0].position).await.unwrap();
    accept(&queue, job()).await;
    refused(&queue, job()).await;
}

pub async fn each_partition_has_its_own_bound(harness: &dyn QueueHarness) {
    let bounds = QueueBounds {
        jobs: 2,
        ..QueueBounds::default()
    };
    let queue = harness.queue(bounds).await;
    for key in key_for_each_partition(queue.partitions()) {
        accept_all(&queue, vec![set_job(&key, "1"); 2]).await;
        refused(&queue, set_job(&key, "1")).await;
    }
}

pub async fn a_queue_filled_and_drained_often_stays_usable(harness: &dyn QueueHarness) {
    let bounds = QueueBounds {
        jobs: 10,
        ..QueueBounds::default()
    };
    for _ in 0..3 {
        let queue = harness.queue(bounds).await;
        let claims = claim_all(&queue).await;
        for _ in 0..10 {
            let ids = accept_all(&queue, vec![set_job(&key("a"), "1"); 10]).await;
            refused(&queue, set_job(&key("a"), "1")).await;
            let claim = &claims[usize::from(ids[0].partition.0)];
            queue.complete(claim, ids[9].position).await.unwrap();
        }
        assert_eq!(queue.depth().await.unwrap().jobs, 0);
        release_all(&queue, claims).await;
        harness.restart().await;
    }
}
