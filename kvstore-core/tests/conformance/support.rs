//! How the suite and the model reach this crate's backends.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use kvstore_core::Store;
use kvstore_core::clock::{Clock, ManualClock};
use kvstore_core::conformance::{QueueBounds, QueueHarness, StoreHarness};
use kvstore_core::json_file::{JsonFile, Options};
use kvstore_core::memory::{MemoryQueue, MemoryStore};
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::id::PartitionCount;
use kvstore_core::queue::{QueueOptions, WorkQueue};

/// The time at which each test starts; the value does not matter.
const START: Timestamp = Timestamp(1_763_000_000_000);

/// Its data lives as long as its handles, so a restart changes nothing.
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
    async fn queue(&self, bounds: QueueBounds) -> Arc<dyn WorkQueue> {
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

/// A folder, opened at first use.
pub(crate) struct Folder {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: ManualClock,
    opened: tokio::sync::Mutex<Option<(JsonFile, QueueBounds)>>,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: ManualClock::new(START),
            opened: tokio::sync::Mutex::new(None),
        }
    }

    /// Opens it; reopens it if it is open with other bounds.
    pub(crate) async fn open(&self, bounds: Option<QueueBounds>) -> JsonFile {
        let mut opened = self.opened.lock().await;
        if let Some((file, open_with)) = &*opened {
            if bounds.is_none_or(|bounds| bounds == *open_with) {
                return file.clone();
            }
            file.close().await.unwrap();
        }
        let bounds = bounds.unwrap_or_default();
        let queue = QueueOptions {
            jobs_max: bounds.jobs,
            bytes_max: bounds.bytes,
            idempotency_keys_max: bounds.idempotency_keys,
            ..QueueOptions::default()
        };
        let options = Options {
            queue,
            clock: Arc::new(self.clock.clone()),
            ..Options::default()
        };
        let file = JsonFile::open(self.folder.path(), options).await.unwrap();
        *opened = Some((file.clone(), bounds));
        file
    }
}

#[async_trait]
impl StoreHarness for Folder {
    async fn store(&self) -> Arc<dyn Store> {
        self.open(None).await.store()
    }

    async fn restart(&self) {
        if let Some((file, _)) = self.opened.lock().await.take() {
            file.close().await.unwrap();
        }
    }

    async fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn set_clock(&self, to: Timestamp) {
        self.clock.set(to);
    }
}

#[async_trait]
impl QueueHarness for Folder {
    async fn queue(&self, bounds: QueueBounds) -> Arc<dyn WorkQueue> {
        self.open(Some(bounds)).await.queue()
    }
}
