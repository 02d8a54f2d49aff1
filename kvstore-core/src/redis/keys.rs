//! The names of the keys, and the hash tags that spread the partitions evenly over the slots of a
//! cluster.

use std::collections::HashMap;

use redis::cluster_routing::{Route, Slot, SlotAddr};

use crate::model::id::{Partition, PartitionCount, QueueId};
use crate::model::key::Key;

/// Slots of a Redis Cluster.
const SLOTS: usize = 16384;

/// The names of a store's keys.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
    /// What the keys of each partition start with: `kv:{tag}:`.
    starts: Vec<String>,
}

impl Keys {
    pub(crate) fn new(prefix: &str, count: PartitionCount) -> Self {
        let start = |tag| format!("{prefix}:{{{tag}}}:");
        Self {
            prefix: prefix.to_owned(),
            starts: tags(count).into_iter().map(start).collect(),
        }
    }

    pub(crate) fn meta(prefix: &str) -> String {
        format!("{prefix}:meta")
    }

    /// Returns the name of the channel that announces which partition moved.
    pub(crate) fn channel(&self) -> String {
        format!("{}:moved", self.prefix)
    }

    /// Returns the name of the channel that announces which partition received jobs.
    pub(crate) fn jobs_channel(&self) -> String {
        format!("{}:accepted", self.prefix)
    }

    pub(crate) fn workers(&self) -> String {
        format!("{}:workers", self.prefix)
    }

    /// Returns the route to the server of a cluster that has all keys of a partition.
    pub(crate) fn route(&self, partition: Partition) -> Route {
        Route::new(first_slot(partition, self.starts.len()), SlotAddr::Master)
    }

    pub(crate) fn of(&self, partition: Partition, name: &str) -> String {
        format!("{}{name}", self.starts[usize::from(partition.0)])
    }

    pub(crate) fn entry(&self, partition: Partition, key: &Key) -> String {
        self.of(partition, &format!("v:{}", key.as_str()))
    }

    pub(crate) fn outcomes(&self, partition: Partition, queue: QueueId) -> String {
        self.of(partition, &format!("outcomes:{queue}"))
    }
}

/// Returns the first slot of a partition's even share.
fn first_slot(partition: Partition, count: usize) -> u16 {
    (usize::from(partition.0) * SLOTS / count) as u16
}

/// Returns the tag of each partition: the smallest number whose slot is the first of its even
/// share.
fn tags(count: PartitionCount) -> Vec<String> {
    let mut tags = vec![String::new(); usize::from(count.get())];
    let first = |partition| Slot::new(first_slot(partition, tags.len()));
    let shares = count.iter().map(|partition| (first(partition), partition));
    let mut missing: HashMap<_, _> = shares.collect();
    for number in 0_u32.. {
        if missing.is_empty() {
            break;
        }
        let tag = number.to_string();
        if let Some(partition) = missing.remove(&Some(Slot::for_key(&tag))) {
            tags[usize::from(partition.0)] = tag;
        }
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_spread_evenly_over_the_slots() {
        for count in [1, 2, 3, 64, 100, 256, crate::redis::options::PARTITIONS_MAX] {
            let tags = tags(PartitionCount::new(count).unwrap());
            let slots: Vec<_> = tags.iter().map(Slot::for_key).collect();
            let even: Vec<_> = (0..usize::from(count))
                .map(|index| Slot::new((index * SLOTS / usize::from(count)) as u16).unwrap())
                .collect();
            assert_eq!(slots, even, "{count} partitions");
        }
    }

    #[test]
    fn tags_never_change() {
        // They are part of the format: with other tags, a store would seem empty.
        let tags = tags(PartitionCount::new(4).unwrap());
        assert_eq!(tags, TAGS_OF_FOUR);
    }

    const TAGS_OF_FOUR: [&str; 4] = ["3560", "4129", "8209", "356"];
}
