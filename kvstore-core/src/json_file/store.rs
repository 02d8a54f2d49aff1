//! The store of a folder: reads from memory, changes through the thread that owns the journal.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::in_memory::state::Shared;
use crate::json_file::disk::lock::Lock;
use crate::json_file::writer::{Answer, Requests, WriterRequest};
use crate::model::commit::{Commit, Committed};
use crate::model::entry::{Entry, EntryRef};
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::JobState;
use crate::model::key::Key;
use crate::store::{DeadPage, DeadRequest, ListRequest, Page, Store, Watch, WatchRequest};

/// The store of a folder. Made by [`JsonFile::open`](crate::json_file::JsonFile::open).
#[derive(Debug)]
pub struct JsonStore {
    pub(super) shared: Arc<Shared>,
    pub(super) requests: Requests,
    pub(super) lock: Option<Arc<Lock>>,
}

impl JsonStore {
    /// The entry under `key`, without a future: for programs that know what store they have.
    pub fn read(&self, key: &Key) -> Option<Entry> {
        self.shared.get(key)
    }

    /// Lends the entry under `key` to `read`, without a copy; `None` if it is absent. Writes wait meanwhile, so be brief.
    pub fn read_with<T>(&self, key: &Key, read: impl FnOnce(EntryRef<'_>) -> T) -> Option<T> {
        self.shared.with_entry(key, read)
    }

    /// Lends the entries whose keys start with `prefix` to `visit`, in byte order of their keys, as they are at one moment,
    /// until it breaks off. Writes wait meanwhile, so be brief, and use no other method of the store in it;
    /// [`list`](Store::list) makes no one wait for long.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// use std::ops::ControlFlow;
    ///
    /// use kvstore_core::StoreExt;
    /// use kvstore_core::json_file::{JsonFile, Options};
    ///
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let folder = folder.path();
    /// let file = JsonFile::open(folder, Options::default()).await?;
    /// file.store().set("user:1", &"Ada").await?;
    /// file.store().set("user:2", &"Grace").await?;
    /// let mut bytes = 0;
    /// file.store().scan_with("user:", |_, entry| {
    ///     bytes += entry.value.len();
    ///     ControlFlow::Continue(())
    /// });
    /// assert_eq!(bytes, r#""Ada""Grace""#.len());
    /// # Ok::<(), kvstore_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn scan_with(
        &self,
        prefix: &str,
        visit: impl FnMut(&str, EntryRef<'_>) -> ControlFlow<()>,
    ) {
        self.shared.with_entries(prefix, visit);
    }

    /// Brings `data.json` up to date with everything committed before this call.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it could not be written; nothing is lost then.
    ///
    /// # Cost
    /// The whole data is written; commits go on meanwhile.
    pub async fn compact(&self) -> Result<()> {
        self.ask(WriterRequest::Snapshot).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> WriterRequest) -> Result<T> {
        if let Some(reason) = self.shared.poisoned() {
            return Err(Error::Poisoned { reason });
        }
        let (sender, receiver) = oneshot::channel();
        self.requests
            .send(request(sender))
            .await
            .map_err(|_| closed())?;
        // The thread answers everything that it takes, unless it panics.
        receiver.await.unwrap_or_else(|_| {
            Err(Error::Unknown {
                what: "the write is on the disk".into(),
                source: None,
            })
        })
    }

    fn check_open(&self) -> Result<()> {
        if self.requests.is_closed() {
            Err(closed())
        } else {
            Ok(())
        }
    }
}

fn closed() -> Error {
    Error::unavailable("the store")
}

#[async_trait]
impl Store for JsonStore {
    fn partitions(&self) -> Option<PartitionCount> {
        None
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.check_open()?;
        Ok(self.shared.get(key))
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        self.check_open()?;
        Ok(self.shared.get_many(keys))
    }

    async fn list(&self, request: &ListRequest) -> Result<Page> {
        self.check_open()?;
        self.shared.list(request)
    }

    async fn commit(&self, commit: Commit) -> Result<Committed> {
        let commit = self.shared.take_in(commit);
        self.ask(|answer| WriterRequest::Commit(commit, answer))
            .await
    }

    async fn applied(&self, queue: QueueId, partition: Partition) -> Result<Position> {
        self.check_open()?;
        Ok(self.shared.read().progress.applied(queue, partition))
    }

    async fn active_queue(&self) -> Result<Option<QueueId>> {
        self.check_open()?;
        Ok(self.shared.read().progress.active)
    }

    async fn adopt_queue(&self, queue: QueueId) -> Result<()> {
        self.ask(|answer| WriterRequest::Adopt(queue, answer)).await
    }

    async fn outcome(&self, job: &JobId, wait: Duration) -> Result<JobState> {
        self.check_open()?;
        self.shared.outcome(job, wait).await
    }

    async fn expire(&self, _: Partition) -> Result<usize> {
        // Most of the time there is nothing, and that is known without the thread.
        if !self.shared.has_expired() {
            return self.check_open().map(|()| 0);
        }
        self.ask(WriterRequest::Expire).await
    }

    async fn dead(&self, request: &DeadRequest) -> Result<DeadPage> {
        self.check_open()?;
        Ok(self.shared.dead(request))
    }

    async fn forget(&self, job: &JobId) -> Result<bool> {
        self.ask(|answer| WriterRequest::Forget(*job, answer)).await
    }

    async fn watch(&self, request: &WatchRequest) -> Result<Watch> {
        self.check_open()?;
        self.shared.watch(request)
    }

    fn lag(&self) -> Option<Duration> {
        None
    }

    async fn ping(&self) -> Result<()> {
        self.ask(WriterRequest::Check).await
    }

    async fn close(&self) -> Result<()> {
        let (sender, receiver) = oneshot::channel();
        let result = match self.requests.send(WriterRequest::Close(sender)).await {
            // Closed already.
            Err(_) => return Ok(()),
            Ok(()) => match receiver.await {
                Ok(result) => result,
                // Another call was first.
                Err(_) => return Ok(()),
            },
        };
        self.shared.close();
        if let Some(lock) = &self.lock {
            lock.release();
        }
        result
    }
}
