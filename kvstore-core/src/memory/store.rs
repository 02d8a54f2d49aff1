//! The in-memory store: the shared state, with commits that take effect as soon as they are
//! evaluated.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::{Clock, StoreTime, SystemClock};
use crate::error::{Error, Result};
use crate::in_memory::state::{Record, Shared, Staging, State};
use crate::model::commit::{Commit, Committed};
use crate::model::entry::{Entry, Timestamp};
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::JobState;
use crate::model::key::Key;
use crate::store::{
    DeadPage, DeadRequest, ListRequest, Page, Retention, Store, Watch, WatchRequest,
};

/// A store in memory, for tests and caches. It keeps every promise but durability: its data ends
/// with the process.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    closed: Arc<AtomicBool>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl MemoryStore {
    /// Creates an empty store that reads the time from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::keeping(clock, Retention::default())
    }

    /// Creates an empty store like [`MemoryStore::new`] with other bounds on what it keeps besides
    /// its entries.
    pub fn keeping(clock: Arc<dyn Clock>, retention: Retention) -> Self {
        let time = Arc::new(StoreTime::new(clock, Timestamp(0)));
        let mut state = State::default().keeping(retention);
        state.apply(Record::opening(state.version, time.now(), time.wall()));
        Self {
            shared: Arc::new(Shared::new(state, time)),
            closed: Arc::default(),
        }
    }

    /// Returns the entry under `key` synchronously, for programs that know which store they have.
    pub fn read(&self, key: &Key) -> Option<Entry> {
        self.shared.get(key)
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            Err(Error::unavailable("the memory store"))
        } else {
            Ok(())
        }
    }

    /// Stages one record and makes it visible before any other call can stage.
    fn change<T>(
        &self,
        stage: impl FnOnce(&mut Staging<'_>) -> Result<(Option<Record>, T)>,
    ) -> Result<T> {
        self.check_open()?;
        self.shared.change(stage)
    }
}

#[async_trait]
impl Store for MemoryStore {
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
        self.change(|staging| {
            staging
                .commit(self.shared.take_in(commit))
                .map(|(record, committed)| (Some(record), committed))
        })
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
        self.change(|staging| Ok((staging.adopt(queue), ())))
    }

    async fn outcome(&self, job: &JobId, wait: Duration) -> Result<JobState> {
        self.check_open()?;
        self.shared.outcome(job, wait).await
    }

    async fn expire(&self, _: Partition) -> Result<usize> {
        self.change(|staging| {
            let record = staging.expire();
            let count = record.as_ref().map_or(0, |record| record.expired.len());
            Ok((record, count))
        })
    }

    async fn dead(&self, request: &DeadRequest) -> Result<DeadPage> {
        self.check_open()?;
        Ok(self.shared.dead(request))
    }

    async fn forget(&self, job: &JobId) -> Result<bool> {
        self.change(|staging| {
            let record = staging.forget(*job);
            let was_there = record.is_some();
            Ok((record, was_there))
        })
    }

    async fn watch(&self, request: &WatchRequest) -> Result<Watch> {
        self.check_open()?;
        self.shared.watch(request)
    }

    fn lag(&self) -> Option<Duration> {
        None
    }

    async fn ping(&self) -> Result<()> {
        self.check_open()
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        self.shared.close();
        Ok(())
    }
}
