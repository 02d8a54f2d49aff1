//! Claims keep workers from doing the same work: no partition is shared, and none is left
//! unclaimed.

use std::collections::BTreeSet;

use super::super::fixture::*;
use super::super::{QueueBounds, QueueHarness};
use crate::limits::CLAIM_PERIOD;
use crate::model::id::Partition;
use crate::queue::{JobQueue, WorkQueue, WorkerId};

async fn held(queue: &dyn WorkQueue, worker: &WorkerId) -> BTreeSet<Partition> {
    let claims = queue.claim(worker).await.unwrap();
    assert!(claims.iter().all(|claim| claim.worker == *worker));
    let held: BTreeSet<Partition> = claims.iter().map(|claim| claim.partition).collect();
    assert_eq!(held.len(), claims.len(), "none twice");
    held
}

fn all(queue: &dyn JobQueue) -> BTreeSet<Partition> {
    queue.partitions().iter().collect()
}

pub async fn a_lone_worker_has_every_partition(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let worker = WorkerId::new("a");
    for _ in 0..3 {
        assert_eq!(held(&queue, &worker).await, all(&queue));
    }
}

pub async fn workers_share_fairly_and_never_overlap(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let mut workers: Vec<(WorkerId, BTreeSet<Partition>)> = Vec::new();
    for count in 1..=4 {
        workers.push((WorkerId::new("worker"), BTreeSet::new()));
        for _ in 0..4 {
            for index in 0..workers.len() {
                let now = held(&queue, &workers[index].0).await;
                workers[index].1 = now;
                // A worker has stopped work on every partition missing from its latest answer, so
                // no other worker may hold a partition of that answer.
                let sum: usize = workers.iter().map(|(_, held)| held.len()).sum();
                let union: BTreeSet<_> = workers.iter().flat_map(|(_, held)| held).collect();
                assert_eq!(sum, union.len(), "two hold one partition: {workers:?}");
            }
        }
        let sizes: Vec<usize> = workers.iter().map(|(_, held)| held.len()).collect();
        let partitions = all(&queue).len();
        assert_eq!(
            sizes.iter().sum::<usize>(),
            partitions,
            "none is left alone"
        );
        let fair = partitions / count..=partitions.div_ceil(count);
        assert!(
            sizes.iter().all(|size| fair.contains(size)),
            "{sizes:?} of {partitions}"
        );
    }
}

pub async fn a_released_partition_is_free_at_once(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let (first, second) = (WorkerId::new("a"), WorkerId::new("b"));
    let claims = queue.claim(&first).await.unwrap();
    release_all(&queue, claims.clone()).await;
    assert_eq!(held(&queue, &second).await, all(&queue));
    release_all(&queue, claims).await;
    let still = queue.claim(&second).await.unwrap();
    assert_eq!(
        still.len(),
        all(&queue).len(),
        "giving back what one no longer has takes nothing from others"
    );
}

pub async fn a_claim_ends_unless_it_is_renewed(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let (first, second) = (WorkerId::new("a"), WorkerId::new("b"));
    let mine = held(&queue, &first).await;
    assert_eq!(mine, all(&queue));
    move_clock(harness, CLAIM_PERIOD + SHORT).await;
    assert_eq!(
        held(&queue, &second).await,
        all(&queue),
        "no other worker is left"
    );
    assert!(
        held(&queue, &first).await.is_empty(),
        "who comes back must wait for its share"
    );
}

pub async fn a_renewed_claim_does_not_end(harness: &dyn QueueHarness) {
    let queue = harness.queue(QueueBounds::default()).await;
    let (first, second) = (WorkerId::new("a"), WorkerId::new("b"));
    // After a few rounds every worker has its share.
    for _ in 0..3 {
        held(&queue, &first).await;
        held(&queue, &second).await;
    }
    let share = held(&queue, &first).await;
    for _ in 0..4 {
        move_clock(harness, CLAIM_PERIOD / 3).await;
        assert_eq!(
            held(&queue, &first).await,
            share,
            "no change while no worker comes or goes"
        );
        held(&queue, &second).await;
    }
}
