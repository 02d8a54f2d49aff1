//! A folder whose queue applies jobs on acceptance, as it does with a worker in the same process.

use std::sync::Arc;

use async_trait::async_trait;
use kvstore_core::conformance::{QueueBounds, QueueHarness, StoreHarness};
use kvstore_core::json_file::{JsonQueue, JsonStore};
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::job::NewJob;
use kvstore_core::queue::{Accepted, AppliedListener, WorkQueue, WorkerId};
use kvstore_core::{JobQueue, Result, Store};

use crate::support::Folder;

/// Each call is made while a worker holds the queue; the suite's own workers find it free.
#[derive(Debug)]
struct Held(Arc<JsonQueue>, Arc<JsonStore>);

#[async_trait]
impl JobQueue for Held {
    kvstore_core::forward_queue!(|self| &self.0; except enqueue);

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>> {
        if self.1.active_queue().await.unwrap().is_none() {
            self.1.adopt_queue(self.0.id()).await.unwrap();
        }
        let claims = self.0.claim(&WorkerId::new("resident")).await.unwrap();
        let accepted = self.0.enqueue(jobs).await;
        for claim in claims {
            self.0.release(claim).await.unwrap();
        }
        accepted
    }
}

impl WorkQueue for Held {
    kvstore_core::forward_work_queue!(|self| &self.0);
}

pub(crate) struct Applying(Folder);

impl Applying {
    pub(crate) fn new() -> Self {
        Self(Folder::new())
    }
}

#[async_trait]
impl StoreHarness for Applying {
    async fn store(&self) -> Arc<dyn Store> {
        self.0.store().await
    }

    async fn restart(&self) {
        self.0.restart().await;
    }

    async fn now(&self) -> Timestamp {
        self.0.now().await
    }

    async fn set_clock(&self, to: Timestamp) {
        self.0.set_clock(to).await;
    }
}

#[async_trait]
impl QueueHarness for Applying {
    async fn queue(&self, bounds: QueueBounds) -> Arc<dyn WorkQueue> {
        let file = self.0.open(Some(bounds)).await;
        let queue = file.queue();
        queue.apply_on_acceptance(AppliedListener::new(|_, _| {}));
        Arc::new(Held(queue, file.store()))
    }
}
