//! How much the data may take: everything is in memory, so there can be a ceiling. It is judged when a write is accepted,
//! and what is accepted has its room, so a worker never stands before a full store.

use crate::error::{Error, Result};
use crate::in_memory::log::PartitionLog;
use crate::limits::ENTRY_BYTES;

/// Returns the bytes of journal that the jobs in `log` need for their effects, whichever they are. (Of merges that wait for each
/// other they may be more; what finds no room then waits for it.)
pub(crate) fn reserve(log: &PartitionLog) -> u64 {
    2 * log.size_bytes() as u64 + 512 * log.len() as u64
}

/// Returns the bytes of memory that the entries of the jobs in `log` need.
pub(crate) fn memory_bytes(log: &PartitionLog) -> u64 {
    log.size_bytes() as u64 + ENTRY_BYTES * log.len() as u64
}

/// Bytes of memory that entries take, those of jobs that wait included.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) limit: Option<u64>,
    pub(crate) data: u64,
    pub(crate) queued: u64,
}

impl Room {
    /// Whether `bytes` more may come. What takes no room always may, so a full store can be emptied.
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
