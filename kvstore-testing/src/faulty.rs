//! A store or a queue that fails on demand, and a store that records what really happened.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kvstore_core::model::commit::{Commit, Committed};
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::job::NewJob;
use kvstore_core::queue::{Accepted, WorkQueue};
use kvstore_core::{Entry, Error, JobQueue, Key, Result, Store, Value, Version};

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It fails with this error, and nothing happens.
    Before(fn() -> Error),
    /// It takes effect, but the answer is this error.
    After(fn() -> Error),
    /// It panics, and nothing happens.
    Panic,
    /// It is never answered, and nothing happens.
    Hang,
    /// It takes effect after this time.
    Late(Duration),
    /// Another commit comes first. For commits, and for reads of several entries, alone.
    Preceded(Commit),
}

/// Returns an error that means that nothing happened.
///
/// Like the other errors here it contains a path, which clients must not see.
pub fn unavailable() -> Error {
    Error::Unavailable {
        what: "the store under test, at /secret/path, is down".to_owned(),
        source: None,
    }
}

/// Returns an error that leaves the result unknown.
pub fn unknown() -> Error {
    Error::Unknown {
        what: "the call to /secret/path took effect".to_owned(),
        source: None,
    }
}

/// Returns the error of a full disk.
pub fn storage_full() -> Error {
    Error::StorageFull {
        detail: "/secret/path".to_owned(),
    }
}

/// Returns the error of a store after a failed write.
pub fn poisoned() -> Error {
    Error::Poisoned {
        reason: "/secret/path".to_owned(),
    }
}

/// The fault of all calls except commits, until it is set again. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Switch(Arc<Mutex<Option<Fault>>>);

impl Switch {
    /// Sets what happens to each call from now on.
    pub fn set(&self, fault: Option<Fault>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn fault(&self) -> Option<Fault> {
        let fault = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fault.clone()
    }
}

type Judge = Box<dyn Fn(&Commit) -> Option<Fault> + Send + Sync>;

/// A store or queue whose reads, acceptances and pings fail as its [`Switch`] says, and whose
/// commits fail as its judge decides.
pub struct Faulty<T> {
    inner: T,
    /// The fault of calls other than commits.
    pub switch: Switch,
    judge: Judge,
    applied: Mutex<Vec<(Version, Key, Value)>>,
}

impl<T> Faulty<T> {
    /// Wraps `inner`; no commit fails.
    pub fn new(inner: T, switch: Switch) -> Self {
        Self {
            inner,
            switch,
            judge: Box::new(|_| None),
            applied: Mutex::default(),
        }
    }

    /// Wraps `inner`; `judge` decides about each commit.
    pub fn judging(
        inner: T,
        judge: impl Fn(&Commit) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        Self {
            judge: Box::new(judge),
            ..Self::new(inner, Switch::default())
        }
    }
}

impl<S: Store> Faulty<S> {
    /// Returns the numbers that commits have really given to `key`, in the order of their versions.
    pub fn history(&self, key: &Key) -> Vec<u64> {
        let mut applied = self.applied.lock().unwrap().clone();
        applied.sort_by_key(|(version, ..)| *version);
        applied
            .into_iter()
            .filter(|(_, applied, _)| applied == key)
            .map(|(.., value)| value.to().unwrap())
            .collect()
    }

    /// Commits and records the applied writes. No lock is held and nothing is awaited between the
    /// commit and its record, so aborting a worker cannot separate them.
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

/// Makes a call with the given `fault`.
async fn make<R>(fault: Option<Fault>, call: impl Future<Output = Result<R>>) -> Result<R> {
    match fault {
        None => call.await,
        Some(Fault::Before(error)) => Err(error()),
        Some(Fault::After(error)) => {
            call.await?;
            Err(error())
        }
        Some(Fault::Panic) => panic!("the store under test panics"),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Late(delay)) => {
            tokio::time::sleep(delay).await;
            call.await
        }
        Some(Fault::Preceded(_)) => unreachable!("no other call can be preceded by a commit"),
    }
}

impl<T> fmt::Debug for Faulty<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").finish_non_exhaustive()
    }
}

#[async_trait]
impl<S: Store> Store for Faulty<S> {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        make(self.switch.fault(), self.inner.get(key)).await
    }
    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        if let Some(Fault::Preceded(first)) = self.switch.fault() {
            self.inner.commit(first).await?;
        }
        self.inner.get_many(keys).await
    }
    async fn commit(&self, commit: Commit) -> Result<Committed> {
        match (self.judge)(&commit) {
            Some(Fault::Preceded(first)) => {
                self.inner.commit(first).await?;
                self.commit_noted(commit).await
            }
            fault => make(fault, self.commit_noted(commit)).await,
        }
    }
    async fn ping(&self) -> Result<()> {
        make(self.switch.fault(), self.inner.ping()).await
    }

    kvstore_core::forward_store!(|self| &self.inner; except get get_many commit ping);
}

#[async_trait]
impl<Q: JobQueue> JobQueue for Faulty<Q> {
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>> {
        let count = jobs.len();
        let call = async { Ok(self.inner.enqueue(jobs).await) };
        let accepted = make(self.switch.fault(), call).await;
        accepted.unwrap_or_else(|error| vec![Err(error); count])
    }
    async fn ping(&self) -> Result<()> {
        make(self.switch.fault(), self.inner.ping()).await
    }

    kvstore_core::forward_queue!(|self| &self.inner; except enqueue ping);
}

impl<Q: WorkQueue> WorkQueue for Faulty<Q> {
    kvstore_core::forward_work_queue!(|self| &self.inner);
}
