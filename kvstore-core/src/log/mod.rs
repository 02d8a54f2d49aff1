//! The heart of every queue that counts its jobs itself: pure data structures, without I/O, waiting or a clock of their own.
//!
//! The memory queue is these behind a lock; the file queue is these behind a journal. [`PartitionLog`] accepts in two phases,
//! because a file has to be written and synced between a job's getting its place and its becoming visible. [`Claims`] says who
//! works on what; nothing but wasted work rests on it.
//!
//! Time comes in as an argument and never goes back in here: the latest that was seen counts.

mod claims;
mod idempotency;
#[cfg(test)]
mod model;
mod partition;
mod recovery;

use std::time::Duration;

use crate::job::PartitionCount;
use crate::limits::{CLAIM_PERIOD, IDEMPOTENCY_KEYS_MAX, QUEUE_BYTES_DEFAULT, QUEUE_JOBS_DEFAULT};

pub(crate) use claims::Claims;
pub(crate) use idempotency::Remembered;
pub(crate) use partition::{Admission, PartitionLog};

/// The shape and the bounds of a queue that is opened in this process.
///
/// ```
/// use kvstore_core::{PartitionCount, QueueOptions};
///
/// let options = QueueOptions {
///     partitions: PartitionCount::new(8)?,
///     ..QueueOptions::default()
/// };
/// assert_eq!(options.jobs_max, kvstore_core::limits::QUEUE_JOBS_DEFAULT);
/// # Ok::<(), kvstore_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// How many logs it has: the most workers that can be busy at once.
    pub partitions: PartitionCount,
    /// Most jobs that wait in one partition.
    pub jobs_max: usize,
    /// Most bytes (keys and values) of the jobs that wait in one partition.
    pub bytes_max: usize,
    /// Most idempotency keys remembered in one partition.
    pub idempotency_keys_max: usize,
    /// How long a worker keeps its claims unless it renews them.
    pub claim_period: Duration,
}

impl Default for QueueOptions {
    /// One partition, and the bounds of [`crate::limits`].
    fn default() -> Self {
        Self {
            partitions: PartitionCount::ONE,
            jobs_max: QUEUE_JOBS_DEFAULT,
            bytes_max: QUEUE_BYTES_DEFAULT,
            idempotency_keys_max: IDEMPOTENCY_KEYS_MAX,
            claim_period: CLAIM_PERIOD,
        }
    }
}
