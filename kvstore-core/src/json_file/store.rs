//! The store of a folder: reads from memory, changes through the journal thread.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::in_memory::state::{Record, Shared, Staging};
use crate::json_file::disk::lock::Lock;
use crate::json_file::writer::requests::{Requests, WriterRequest};
use crate::json_file::writer::{Group, Writer};
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
    /// Returns the entry under `key` without a future, for programs that know which store they
    /// have.
    pub fn read(&self, key: &Key) -> Option<Entry> {
        self.shared.get(key)
    }

    /// Lends the entry under `key` to `read` without a copy; `None` if it is absent. Writes wait
    /// meanwhile, so be brief.
    pub fn read_with<T>(&self, key: &Key, read: impl FnOnce(EntryRef<'_>) -> T) -> Option<T> {
        self.shared.with_entry(key, read)
    }

    /// Lends the entries whose keys start with `prefix` to `visit`, in byte order of their keys, as
    /// they are at one moment, until `visit` breaks. Writes wait meanwhile, so be brief, and do not
    /// use the store in `visit`; [`list`](Store::list) never blocks writes for long.
    ///
    /// ```
    /// # use tokio::runtime::Builder;
    /// # Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
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
    /// [`Error::Unavailable`](crate::error::Error::Unavailable) if it cannot be written; nothing is
    /// lost then.
    ///
    /// # Cost
    /// Writes all data; commits continue meanwhile.
    pub async fn compact(&self) -> Result<()> {
        self.requests.ask(WriterRequest::Snapshot).await?
    }

    /// Requests a change that has no space reserved.
    async fn change<T: Send + 'static>(
        &self,
        judge: impl FnOnce(&mut Staging<'_>) -> Result<(Option<Record>, T)> + Send + 'static,
    ) -> Result<T> {
        let judge = |_: &Writer, _: &mut Group, staging: &mut Staging<'_>| judge(staging);
        self.requests.change(false, judge).await
    }
}

#[async_trait]
impl Store for JsonStore {
    fn partitions(&self) -> Option<PartitionCount> {
        None
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.requests.check_open()?;
        Ok(self.shared.get(key))
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        self.requests.check_open()?;
        Ok(self.shared.get_many(keys))
    }

    async fn list(&self, request: &ListRequest) -> Result<Page> {
        self.requests.check_open()?;
        self.shared.list(request)
    }

    async fn commit(&self, commit: Commit) -> Result<Committed> {
        let commit = self.shared.take_in(commit);
        let has_room = commit.advance.is_some();
        let judge = move |writer: &Writer, group: &mut Group, staging: &mut Staging<'_>| {
            writer.check_room(&commit, group.bytes)?;
            let (record, committed) = staging.commit(commit)?;
            Ok((Some(record), committed))
        };
        self.requests.change(has_room, judge).await
    }

    async fn applied(&self, queue: QueueId, partition: Partition) -> Result<Position> {
        self.requests.check_open()?;
        Ok(self.shared.read().progress.applied(queue, partition))
    }

    async fn active_queue(&self) -> Result<Option<QueueId>> {
        self.requests.check_open()?;
        Ok(self.shared.read().progress.active)
    }

    async fn adopt_queue(&self, queue: QueueId) -> Result<()> {
        let judge = move |staging: &mut Staging<'_>| Ok((staging.adopt(queue), ()));
        self.change(judge).await
    }

    async fn outcome(&self, job: &JobId, wait: Duration) -> Result<JobState> {
        self.requests.check_open()?;
        self.shared.outcome(job, wait).await
    }

    async fn expire(&self, _: Partition) -> Result<usize> {
        // Usually nothing has expired, and that is known without asking the thread.
        if !self.shared.has_expired() {
            return self.requests.check_open().map(|()| 0);
        }
        let judge = |staging: &mut Staging<'_>| {
            let record = staging.expire();
            let count = record.as_ref().map_or(0, |record| record.expired.len());
            Ok((record, count))
        };
        self.change(judge).await
    }

    async fn dead(&self, request: &DeadRequest) -> Result<DeadPage> {
        self.requests.check_open()?;
        Ok(self.shared.dead(request))
    }

    async fn forget(&self, job: &JobId) -> Result<bool> {
        let job = *job;
        let judge = move |staging: &mut Staging<'_>| {
            let record = staging.forget(job);
            let was_there = record.is_some();
            Ok((record, was_there))
        };
        self.change(judge).await
    }

    async fn watch(&self, request: &WatchRequest) -> Result<Watch> {
        self.requests.check_open()?;
        self.shared.watch(request)
    }

    fn lag(&self) -> Option<Duration> {
        None
    }

    async fn ping(&self) -> Result<()> {
        self.requests.ask(WriterRequest::Check).await?
    }

    async fn close(&self) -> Result<()> {
        if self.requests.check_open().is_err() {
            return Ok(());
        }
        let result = match self.requests.ask(WriterRequest::Close).await {
            // Another call closed it first.
            Err(_) if self.shared.is_closed() => return Ok(()),
            answer => answer.and_then(|closed| closed),
        };
        if let Some(lock) = &self.lock {
            lock.release();
        }
        result
    }
}
