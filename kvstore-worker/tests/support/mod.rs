//! Shared by the tests: a store that fails on demand and remembers what it really did, and a clock
//! that follows paused time.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kvstore_core::clock::Clock;
use kvstore_core::memory::{MemoryQueue, MemoryStore};
use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::commit::{Commit, Committed};
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::id::{JobId, PartitionCount};
use kvstore_core::model::job::NewJob;
use kvstore_core::queue::QueueOptions;
use kvstore_core::{Error, JobQueue, Key, Result, Store, Value, Version};
use tokio::time::Instant;

/// What happens to a commit.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It fails with this error, and nothing happens.
    Before(fn() -> Error),
    /// It takes effect, but the answer is this error.
    After(fn() -> Error),
    /// The store panics, and nothing happens.
    Panic,
    /// It is never answered, and nothing happens.
    Hang,
    /// It takes effect after this time.
    Late(Duration),
    /// This commit comes first, bypassing the worker.
    Direct(Commit),
}

pub(crate) fn unavailable() -> Error {
    Error::Unavailable {
        what: "the store under test is down".to_owned(),
        source: None,
    }
}

pub(crate) fn unknown() -> Error {
    Error::Unknown {
        what: "the commit happened".to_owned(),
        source: None,
    }
}

type Judge = Box<dyn Fn(&Commit) -> Option<Fault> + Send + Sync>;

/// A memory store whose commits fail as the test decides.
pub(crate) struct FaultyStore {
    pub(crate) inner: MemoryStore,
    /// Whether pings are never answered.
    pub(crate) ping_hangs: AtomicBool,
    judge: Judge,
    applied: Mutex<Vec<(Version, Key, Value)>>,
}

impl FaultyStore {
    pub(crate) fn new(
        judge: impl Fn(&Commit) -> Option<Fault> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::with_inner(MemoryStore::new(Arc::new(TokioClock::new())), judge)
    }

    pub(crate) fn with_inner(
        inner: MemoryStore,
        judge: impl Fn(&Commit) -> Option<Fault> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner,
            ping_hangs: AtomicBool::new(false),
            judge: Box::new(judge),
            applied: Mutex::default(),
        })
    }

    /// Returns the values that commits have really given to `key`, in the order of their versions.
    pub(crate) fn history(&self, key: &Key) -> Vec<u64> {
        let mut applied = self.applied.lock().unwrap().clone();
        applied.sort_by_key(|(version, ..)| *version);
        applied
            .into_iter()
            .filter(|(_, applied, _)| applied == key)
            .map(|(.., value)| value.to().unwrap())
            .collect()
    }

    /// No lock is held and nothing is awaited between the commit and its record, so aborting a
    /// worker cannot separate them.
    async fn commit_noted(&self, commit: Commit) -> Result<Committed> {
        let writes = commit.writes.clone();
        let committed = self.inner.commit(commit).await?;
        let noted = writes.into_iter().enumerate().filter_map(|(index, write)| {
            let version = Version(committed.first_version.0 + index as u64);
            let value = write.change.value_at(Timestamp(0))?.0.clone();
            Some((version, write.key, value))
        });
        self.applied.lock().unwrap().extend(noted);
        Ok(committed)
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn commit(&self, commit: Commit) -> Result<Committed> {
        match (self.judge)(&commit) {
            None => self.commit_noted(commit).await,
            Some(Fault::Before(error)) => Err(error()),
            Some(Fault::After(error)) => {
                self.commit_noted(commit).await?;
                Err(error())
            }
            Some(Fault::Panic) => panic!("the store under test panics"),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Direct(first)) => {
                self.inner.commit(first).await?;
                self.commit_noted(commit).await
            }
            Some(Fault::Late(delay)) => {
                tokio::time::sleep(delay).await;
                self.commit_noted(commit).await
            }
        }
    }
    async fn ping(&self) -> Result<()> {
        if self.ping_hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.inner.ping().await
    }

    kvstore_core::forward_store!(|self| &self.inner; except commit ping);
}

/// The time of day by tokio's clock, so that claims and deadlines follow paused time.
#[derive(Debug)]
pub(crate) struct TokioClock(Instant);

impl TokioClock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_000_000_000_000).after(self.0.elapsed())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Creates a queue in memory with `partitions`, whose claims last for `claim_period`.
pub(crate) fn queue(partitions: u16, claim_period: Duration) -> Arc<MemoryQueue> {
    let options = QueueOptions {
        partitions: PartitionCount::new(partitions).unwrap(),
        claim_period,
        ..QueueOptions::default()
    };
    Arc::new(MemoryQueue::new(options, Arc::new(TokioClock::new())))
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

pub(crate) fn set(key: &Key, number: u64) -> NewJob {
    let value = Value::from_serialize(&number).unwrap();
    NewJob::new(Command::One(Operation::set(key.clone(), value)))
}

/// Enqueues one job, which must be accepted.
pub(crate) async fn enqueue(queue: &dyn JobQueue, job: NewJob) -> JobId {
    let accepted = queue.enqueue(vec![job]).await.pop().unwrap();
    accepted.unwrap().id
}

/// Waits until everything accepted is applied and the queue knows it. For tests with paused time,
/// hence the generous limit.
pub(crate) async fn drained(queue: &dyn JobQueue) {
    let is_empty = async {
        while queue.depth().await.unwrap().jobs > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(600), is_empty).await;
    waited.expect("what waits is applied some time");
}
