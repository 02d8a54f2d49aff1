//! How the suite and the model reach this crate's backends.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use kvstore_core::conformance::{QueueBounds, QueueHarness, StoreHarness};
use kvstore_core::memory::{MemoryQueue, MemoryStore};
use kvstore_core::{Clock, JobQueue, ManualClock, PartitionCount, QueueOptions, Store, Timestamp};

/// The time at which each test starts: any will do.
const START: Timestamp = Timestamp(1_763_000_000_000);

/// It keeps its data for as long as its handles live, so a restart leaves it as it is.
pub(crate) struct Memory {
    clock: ManualClock,
    partitions: PartitionCount,
    store: Arc<MemoryStore>,
    queue: OnceLock<Arc<MemoryQueue>>,
}

impl Memory {
    pub(crate) fn new(partitions: u16) -> Self {
        let clock = ManualClock::new(START);
        Self {
            partitions: PartitionCount::new(partitions).unwrap(),
            store: Arc::new(MemoryStore::new(Arc::new(clock.clone()))),
            queue: OnceLock::new(),
            clock,
        }
    }
}

#[async_trait]
impl StoreHarness for Memory {
    async fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn restart(&self) {}

    async fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn set_clock(&self, to: Timestamp) {
        self.clock.set(to);
    }
}

#[async_trait]
impl QueueHarness for Memory {
    async fn queue(&self, bounds: QueueBounds) -> Arc<dyn JobQueue> {
        let open = || {
            let options = QueueOptions {
                partitions: self.partitions,
                jobs_max: bounds.jobs,
                bytes_max: bounds.bytes,
                idempotency_keys_max: bounds.idempotency_keys,
                ..QueueOptions::default()
            };
            Arc::new(MemoryQueue::new(options, Arc::new(self.clock.clone())))
        };
        self.queue.get_or_init(open).clone()
    }
}
