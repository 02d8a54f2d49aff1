//! The names of the keys, and the hash tags that spread the partitions evenly over the slots of a
//! cluster.

use crate::model::id::{Partition, PartitionCount, QueueId};
use crate::model::key::Key;

/// Slots of a Redis Cluster.
const SLOTS: u32 = 16384;

/// The names of a store's keys.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
    /// What the keys of each partition start with: `kv:{tag}:`.
    starts: Vec<String>,
}

impl Keys {
    pub(crate) fn new(prefix: &str, count: PartitionCount) -> Self {
        let starts = tags(count)
            .into_iter()
            .map(|tag| format!("{prefix}:{{{tag}}}:"))
            .collect();
        Self {
            prefix: prefix.to_owned(),
            starts,
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

    /// Returns the cluster slot that holds all keys of a partition.
    pub(crate) fn slot(&self, partition: Partition) -> u16 {
        let count = self.starts.len() as u32;
        u16::try_from(first_slot(u32::from(partition.0), count)).unwrap_or(0)
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
fn first_slot(partition: u32, count: u32) -> u32 {
    partition * SLOTS / count
}

/// Returns the tag of each partition: the smallest number whose slot is the first of its even
/// share.
fn tags(count: PartitionCount) -> Vec<String> {
    let count = u32::from(count.get());
    let mut tags: Vec<Option<String>> = vec![None; count as usize];
    let mut missing = count;
    for number in 0_u32.. {
        if missing == 0 {
            break;
        }
        let tag = number.to_string();
        let slot = u32::from(crc16(tag.as_bytes())) % SLOTS;
        let index = (slot * count).div_ceil(SLOTS);
        if index < count && first_slot(index, count) == slot && tags[index as usize].is_none() {
            tags[index as usize] = Some(tag);
            missing -= 1;
        }
    }
    tags.into_iter().flatten().collect()
}

/// Computes CRC-16/XMODEM, by which a cluster maps keys to slots.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_that_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
    }

    #[test]
    fn partitions_are_spread_evenly_over_the_slots() {
        for count in [1, 2, 3, 64, 100, 256, crate::redis::options::PARTITIONS_MAX] {
            let tags = tags(PartitionCount::new(count).unwrap());
            let slots: Vec<u32> = tags
                .iter()
                .map(|tag| u32::from(crc16(tag.as_bytes())) % SLOTS)
                .collect();
            let even: Vec<u32> = (0..u32::from(count))
                .map(|index| index * SLOTS / u32::from(count))
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
