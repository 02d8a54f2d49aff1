//! A value for each partition, behind a lock of its own.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::id::{Partition, PartitionCount};

/// A value for each partition.
#[derive(Debug)]
pub(crate) struct PerPartition<T>(Vec<Mutex<T>>);

impl<T: Default> PerPartition<T> {
    pub(crate) fn new(partitions: PartitionCount) -> Self {
        Self(partitions.iter().map(|_| Mutex::default()).collect())
    }

    pub(crate) fn of(&self, partition: Partition) -> MutexGuard<'_, T> {
        let value = &self.0[usize::from(partition.0)];
        value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
