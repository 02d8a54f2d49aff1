//! A folder with a queue on a Redis server in front of it.

use std::sync::Arc;

use async_trait::async_trait;
use kvstore_core::Store;
use kvstore_core::conformance::{QueueBounds, QueueHarness, StoreHarness};
use kvstore_core::model::entry::Timestamp;
use kvstore_core::queue::WorkQueue;
use tokio::sync::OnceCell;

use crate::on_redis::OnRedis;
use crate::support::Folder;

/// Both. The folder's clock is stopped at the time of Redis's clock, at first and whenever it is
/// set.
pub(crate) struct Behind {
    folder: Folder,
    redis: OnRedis,
    clock_is_set: OnceCell<()>,
}

impl Behind {
    pub(crate) fn new() -> Self {
        Self {
            folder: Folder::new(),
            redis: OnRedis::new(4),
            clock_is_set: OnceCell::new(),
        }
    }
}

#[async_trait]
impl StoreHarness for Behind {
    async fn store(&self) -> Arc<dyn Store> {
        let set = async || self.folder.set_clock(self.redis.now().await).await;
        self.clock_is_set.get_or_init(set).await;
        self.folder.store().await
    }

    async fn restart(&self) {
        self.folder.restart().await;
        self.redis.restart().await;
    }

    async fn now(&self) -> Timestamp {
        self.redis.now().await
    }

    async fn set_clock(&self, to: Timestamp) {
        self.folder.set_clock(to).await;
        self.redis.set_clock(to).await;
    }
}

#[async_trait]
impl QueueHarness for Behind {
    async fn queue(&self, bounds: QueueBounds) -> Arc<dyn WorkQueue> {
        self.redis.queue(bounds).await
    }
}
