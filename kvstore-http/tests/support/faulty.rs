//! A store and a queue that break when they are told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use kvstore_core::model::job::NewJob;
use kvstore_core::queue::{Accepted, WorkQueue};
use kvstore_core::{Entry, Error, JobQueue, Key, Result, Store};

/// What happens to reads of the store, to writes into the queue, and to pings of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fault {
    /// All is well.
    None,
    /// It is known that nothing happened.
    Unavailable,
    /// It is not known.
    Unknown,
    /// The disk is full.
    StorageFull,
    /// An earlier write failed.
    Poisoned,
    /// No answer comes.
    Hang,
    /// A bug.
    Panic,
}

const ALL: [Fault; 7] = [
    Fault::None,
    Fault::Unavailable,
    Fault::Unknown,
    Fault::StorageFull,
    Fault::Poisoned,
    Fault::Hang,
    Fault::Panic,
];

/// Where the fault is set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Switch(Arc<AtomicU8>);

impl Switch {
    /// From now on this happens.
    pub(crate) fn set(&self, fault: Fault) {
        self.0.store(fault as u8, Ordering::SeqCst);
    }

    async fn pass(&self) -> Result<()> {
        let secret = || "/secret/path".to_owned();
        match ALL[usize::from(self.0.load(Ordering::SeqCst))] {
            Fault::None => Ok(()),
            Fault::Unavailable => Err(Error::Unavailable {
                what: secret(),
                source: None,
            }),
            Fault::Unknown => Err(Error::Unknown {
                what: secret(),
                source: None,
            }),
            Fault::StorageFull => Err(Error::StorageFull { detail: secret() }),
            Fault::Poisoned => Err(Error::Poisoned { reason: secret() }),
            Fault::Hang => std::future::pending().await,
            Fault::Panic => panic!("a bug that the test asked for"),
        }
    }
}

/// What breaks.
#[derive(Debug)]
pub(crate) struct Faulty<T> {
    /// What works.
    pub(crate) inner: T,
    /// Whether it does.
    pub(crate) switch: Switch,
}

#[async_trait]
impl<S: Store> Store for Faulty<S> {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.switch.pass().await?;
        self.inner.get(key).await
    }
    async fn ping(&self) -> Result<()> {
        self.switch.pass().await?;
        self.inner.ping().await
    }

    kvstore_core::forward_store!(|self| &self.inner; except get ping);
}

#[async_trait]
impl<Q: JobQueue> JobQueue for Faulty<Q> {
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>> {
        match self.switch.pass().await {
            Ok(()) => self.inner.enqueue(jobs).await,
            Err(error) => vec![Err(error)],
        }
    }
    async fn ping(&self) -> Result<()> {
        self.switch.pass().await?;
        self.inner.ping().await
    }

    kvstore_core::forward_queue!(|self| &self.inner; except enqueue ping);
}

impl<Q: WorkQueue> WorkQueue for Faulty<Q> {
    kvstore_core::forward_work_queue!(|self| &self.inner);
}
