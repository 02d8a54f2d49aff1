//! Does each backend keep the contracts? One line a backend; the cases are in `src/conformance`.

use std::sync::Arc;

use async_trait::async_trait;
use kvstore_core::conformance::StoreHarness;
use kvstore_core::memory::MemoryStore;
use kvstore_core::{Clock, ManualClock, Store, Timestamp};

mod memory {
    use super::*;
    kvstore_core::store_conformance!(Memory::new());
}

/// The time at which each test starts: any will do.
const START: Timestamp = Timestamp(1_763_000_000_000);

/// It keeps its data for as long as its handles live, so a restart leaves it as it is.
struct Memory {
    clock: ManualClock,
    store: Arc<MemoryStore>,
}

impl Memory {
    fn new() -> Self {
        let clock = ManualClock::new(START);
        Self {
            store: Arc::new(MemoryStore::new(Arc::new(clock.clone()))),
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
