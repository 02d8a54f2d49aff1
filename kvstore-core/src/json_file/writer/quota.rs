//! The ceiling on memory. All data is in memory, so it can be limited. The limit is checked when a
//! write is accepted, and an accepted job has its space reserved, so a worker never finds the store
//! full.

use crate::error::{Error, Result};
use crate::in_memory::log::PartitionLog;
use crate::limits::ENTRY_BYTES;

/// Returns the journal bytes to reserve for the effects of the jobs in `log`, whatever they turn
/// out to be. (Merges that wait for each other may need more; a write that finds no space then
/// waits for it.)
pub(crate) fn reserve(log: &PartitionLog) -> u64 {
    2 * log.size_bytes() as u64 + 512 * log.len() as u64
}

/// Returns the memory that the entries of the jobs in `log` will need, in bytes.
pub(crate) fn memory_bytes(log: &PartitionLog) -> u64 {
    log.size_bytes() as u64 + ENTRY_BYTES * log.len() as u64
}

/// The memory that entries take, in bytes, including those of waiting jobs.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) limit: Option<u64>,
    pub(crate) data: u64,
    pub(crate) queued: u64,
}

impl Room {
    /// Checks that the data may grow by `bytes`. Zero bytes are always allowed, so a full store can
    /// be emptied.
    pub(crate) fn check(&self, bytes: u64) -> Result<()> {
        let Some(limit) = self.limit.filter(|_| bytes > 0) else {
            return Ok(());
        };
        let used = self.data + self.queued;
        if used.saturating_add(bytes) <= limit {
            return Ok(());
        }
        Err(Error::StorageFull {
            detail: format!(
                "the data takes {used} of the {limit} bytes that data_bytes allows, and this needs {bytes}"
            ),
        })
    }
}
