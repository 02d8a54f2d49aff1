//! How much the data may take: everything is in memory, so there can be a ceiling. It is judged when a write is accepted,
//! and what is accepted has its room, so a worker never stands before a full store.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Bytes of keys and values, those of jobs that wait included.
#[derive(Debug)]
pub(crate) struct Room {
    limit: Option<u64>,
    data: AtomicU64,
    queued: AtomicU64,
}

impl Room {
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            data: AtomicU64::new(0),
            queued: AtomicU64::new(0),
        }
    }

    pub(crate) fn set_data(&self, bytes: u64) {
        self.data.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set_queued(&self, bytes: u64) {
        self.queued.store(bytes, Ordering::Relaxed);
    }

    /// Whether `bytes` more may come. What takes no room always may, so a full store can be emptied.
    pub(crate) fn check(&self, bytes: u64) -> Result<()> {
        let Some(limit) = self.limit.filter(|_| bytes > 0) else {
            return Ok(());
        };
        let used = self.data.load(Ordering::Relaxed) + self.queued.load(Ordering::Relaxed);
        if used.saturating_add(bytes) <= limit {
            return Ok(());
        }
        Err(Error::StorageFull {
            detail: format!(
                "the data has {used} bytes of the {limit} that data_bytes allows, and this needs {bytes}"
            ),
        })
    }
}
