//! Computes which partitions a worker should hold. All workers compute this alike from the list of
//! workers, so they need neither a table nor messages.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::model::id::{Fingerprint, Partition, PartitionCount};

/// Returns the share of `worker` among `workers`, by rendezvous hashing with a cap. Shares differ
/// in size by one at most, and few partitions move when a worker starts or ends.
pub(crate) fn share(
    workers: &[String],
    worker: &str,
    partitions: PartitionCount,
) -> BTreeSet<Partition> {
    let (count, among) = (usize::from(partitions.get()), workers.len().max(1));
    let (least, mut with_one_more) = (count / among, count % among);
    let pairs = workers.iter().flat_map(|name| {
        partitions.iter().map(move |partition| {
            let number = partition.0.to_be_bytes();
            let score = Fingerprint::of(&[name.as_bytes(), &number]);
            (Reverse(score), name.as_str(), partition)
        })
    });
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_unstable();
    let mut taken = BTreeSet::new();
    let mut shares: BTreeMap<&str, BTreeSet<Partition>> = BTreeMap::new();
    for (_, name, partition) in pairs {
        let share = shares.entry(name).or_default();
        let is_one_more = share.len() == least;
        let has_room = share.len() < least || (is_one_more && with_one_more > 0);
        if has_room && taken.insert(partition) {
            with_one_more -= usize::from(is_one_more);
            share.insert(partition);
        }
    }
    shares.remove(worker).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count)
            .map(|number| format!("worker-{number}"))
            .collect()
    }

    fn shares(workers: &[String], count: PartitionCount) -> Vec<BTreeSet<Partition>> {
        workers
            .iter()
            .map(|name| share(workers, name, count))
            .collect()
    }

    #[test]
    fn every_partition_is_in_one_share_and_shares_are_even() {
        for partitions in [1, 5, 64] {
            let count = PartitionCount::new(partitions).unwrap();
            for workers in 1..10 {
                let shares = shares(&names(workers), count);
                let union: BTreeSet<_> = shares.iter().flatten().collect();
                assert_eq!(union.len(), usize::from(partitions), "none is left out");
                let sum: usize = shares.iter().map(BTreeSet::len).sum();
                assert_eq!(sum, usize::from(partitions), "none is in two");
                let sizes = shares.iter().map(BTreeSet::len);
                assert!(sizes.clone().max().unwrap() <= sizes.min().unwrap() + 1);
            }
        }
    }

    #[test]
    fn few_partitions_move_when_a_worker_goes() {
        let count = PartitionCount::new(64).unwrap();
        let (before, after) = (shares(&names(8), count), shares(&names(7), count));
        let stayed: usize = before
            .iter()
            .zip(&after)
            .map(|(before, after)| before.intersection(after).count())
            .sum();
        // Eight have to move, and a few more to keep the shares even.
        assert!(stayed >= 40, "{stayed} of 64 stayed");
    }

    #[test]
    fn an_absent_worker_has_no_share() {
        let count = PartitionCount::new(64).unwrap();
        assert!(share(&names(3), "stranger", count).is_empty());
        assert!(share(&[], "stranger", count).is_empty());
    }
}
