//! How the suite reaches a folder that one handle writes and another only follows.

use std::sync::Arc;

use async_trait::async_trait;
use kvstore_core::conformance::StoreHarness;
use kvstore_core::json_file::{JsonReader, JsonStore};
use kvstore_core::model::commit::{Commit, Committed};
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::id::{JobId, Partition, QueueId};
use kvstore_core::{Result, Store};

use crate::support::Folder;

/// A folder written by one handle and read by another that only follows it.
pub(crate) struct Followed {
    written: Folder,
    reader: tokio::sync::Mutex<Option<JsonReader>>,
}

impl Followed {
    pub(crate) fn new() -> Self {
        Self {
            written: Folder::new(),
            reader: tokio::sync::Mutex::new(None),
        }
    }
}

#[async_trait]
impl StoreHarness for Followed {
    async fn store(&self) -> Arc<dyn Store> {
        let writer = self.written.open(None).await.store();
        let mut reader = self.reader.lock().await;
        if reader.is_none() {
            let clock = Arc::new(self.written.clock.clone());
            *reader = Some(
                JsonReader::open(self.written.folder.path(), clock)
                    .await
                    .unwrap(),
            );
        }
        Arc::new(Beside {
            writer,
            reader: reader.clone().unwrap(),
        })
    }

    async fn restart(&self) {
        if let Some(reader) = self.reader.lock().await.take() {
            reader.close().await.unwrap();
        }
        self.written.restart().await;
    }

    async fn now(&self) -> Timestamp {
        self.written.now().await
    }

    async fn set_clock(&self, to: Timestamp) {
        self.written.set_clock(to).await;
    }
}

/// Writes to one, and reads from the other.
#[derive(Debug)]
struct Beside {
    writer: Arc<JsonStore>,
    reader: JsonReader,
}

#[async_trait]
impl Store for Beside {
    async fn commit(&self, commit: Commit) -> Result<Committed> {
        self.writer.commit(commit).await
    }
    async fn adopt_queue(&self, queue: QueueId) -> Result<()> {
        self.writer.adopt_queue(queue).await
    }
    async fn expire(&self, partition: Partition) -> Result<usize> {
        self.writer.expire(partition).await
    }
    async fn forget(&self, job: &JobId) -> Result<bool> {
        self.writer.forget(job).await
    }
    async fn ping(&self) -> Result<()> {
        self.writer.ping().await?;
        self.reader.ping().await
    }
    async fn close(&self) -> Result<()> {
        self.writer.close().await?;
        self.reader.close().await
    }

    kvstore_core::forward_store!(|self| &self.reader; except commit adopt_queue expire forget ping close);
}
