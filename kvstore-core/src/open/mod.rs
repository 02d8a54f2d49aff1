//! Opens a backend by its URL. The only module that names all backends.
//!
//! What is not here: flags and variables (`process`), and what a backend does with its options.

mod folder_queue;
#[cfg(test)]
mod tests;
pub(crate) mod url;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::SystemClock;
use crate::error::{Error, Result};
use crate::json_file::{self, JsonFile, JsonReader};
use crate::memory::{MemoryQueue, MemoryStore};
use crate::open::folder_queue::{FolderQueue, Holder};
use crate::open::url::{RedisTarget, Target};
use crate::queue::{JobQueue, WorkQueue};
use crate::redis::Redis;
use crate::store::Store;

pub use crate::open::url::{StoreUrl, bytes};

/// How often a standby worker tries to lock the folder.
const STAND_BY_PERIOD: Duration = Duration::from_millis(50);

/// The pause between attempts to reach a Redis server.
const REACH_PERIOD: Duration = Duration::from_millis(500);

/// Decides whether to wait and retry after a transient error.
type Retry<'a> = &'a mut (dyn FnMut(&Error) -> bool + Send);

/// A store and the queue in front of it, open.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The queue; its jobs are for this store.
    pub queue: Arc<dyn WorkQueue>,
}

impl Opened {
    /// Closes both, as [`Followed::close`] does.
    ///
    /// # Errors
    /// Those of [`JobQueue::close`] and [`Store::close`].
    pub async fn close(&self) -> Result<()> {
        Followed::from(self.clone()).close().await
    }
}

/// A store that another process writes, open for reading, and the queue in front of it.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The queue; its jobs are for this store. No worker can run on it here.
    pub queue: Arc<dyn JobQueue>,
}

impl Followed {
    /// Closes both: the queue first, so that nothing more is accepted. Both are tried, the first
    /// failure is the answer.
    ///
    /// # Errors
    /// Those of [`JobQueue::close`] and [`Store::close`].
    pub async fn close(&self) -> Result<()> {
        let queue = self.queue.close().await;
        let store = self.store.close().await;
        queue.and(store)
    }
}

impl From<Opened> for Followed {
    /// Gives up the ability to run a worker on the queue.
    fn from(opened: Opened) -> Self {
        Self {
            store: opened.store,
            queue: opened.queue,
        }
    }
}

/// Opens `store` and the queue in front of it: `queue`, or else the store's own.
///
/// A folder may have a queue on Redis in front of it: then any number of processes accept writes
/// and [`follow`] the folder, while the one that opens it here applies them. The bounds of the
/// queue are in its own URL then, and the folder can have no `data_bytes`, since a process that
/// accepts a write does not know how much space is left. Otherwise a folder without `data_bytes` in
/// its URL takes half of the memory of the machine or container.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let opened = kvstore_core::open(&"memory:".parse()?, None).await?;
/// # opened.close().await
/// # }).unwrap();
/// ```
///
/// # Errors
/// [`Error::Config`] if the two cannot be combined; otherwise the backend's: [`Error::Locked`],
/// [`Error::Corrupt`], [`Error::Unavailable`].
pub async fn open(store: &StoreUrl, queue: Option<&StoreUrl>) -> Result<Opened> {
    open_with(store, queue, &mut |_| false).await
}

/// Opens like [`open`], and waits out transient errors: [`Error::Unavailable`] if a Redis server
/// cannot be reached yet, and [`Error::Locked`] if another process holds a folder whose queue is on
/// Redis. `retry` is called with each such error, and returns true to retry. Dropping the future
/// ends the wait.
///
/// # Errors
/// Those of [`open`] that are not transient, and those for which `retry` returned false. A folder
/// with a queue of its own, to which no other process can add jobs, is not waited for.
pub async fn stand_by(
    store: &StoreUrl,
    queue: Option<&StoreUrl>,
    mut retry: impl FnMut(&Error) -> bool + Send,
) -> Result<Opened> {
    open_with(store, queue, &mut retry).await
}

/// Opens what is on Redis, a store with its queue or a queue alone. After a transient error for
/// which `retry` returns true, waits and tries again.
async fn open_when_reached(
    target: &RedisTarget,
    store_is_beside: bool,
    retry: Retry<'_>,
) -> Result<Redis> {
    loop {
        match Redis::open_at(&target.address, target.options()?, store_is_beside).await {
            // Opening again is harmless even if part of the first attempt took effect.
            Err(error @ (Error::Unavailable { .. } | Error::Unknown { .. })) if retry(&error) => {}
            opened => return opened,
        }
        tokio::time::sleep(REACH_PERIOD).await;
    }
}

async fn open_with(store: &StoreUrl, queue: Option<&StoreUrl>, retry: Retry<'_>) -> Result<Opened> {
    if let Some(queue) = queue {
        store.check_queue(queue)?;
    }
    match &store.target {
        Target::Memory {
            partitions,
            queue,
            retention,
        } => Ok(Opened {
            store: Arc::new(MemoryStore::keeping(Arc::new(SystemClock), *retention)),
            queue: Arc::new(MemoryQueue::new(
                queue.options(*partitions),
                Arc::new(SystemClock),
            )),
        }),
        Target::File(target) => {
            let options = target.options(store.memory(queue));
            // First, so that a wrong setting fails before the wait.
            let redis = open_queue(queue, retry).await?;
            let file = match &redis {
                Some(redis) => open_when_free(&target.folder, &options, redis, retry).await,
                None => JsonFile::open(&target.folder, options).await,
            }?;
            match redis {
                Some(redis) => with_redis_queue(&file, redis).await,
                None => Ok(Opened {
                    store: file.store(),
                    queue: file.queue(),
                }),
            }
        }
        Target::Redis(target) => {
            let redis = open_when_reached(target, true, retry).await?;
            Ok(Opened {
                store: redis.store(),
                queue: redis.queue(),
            })
        }
    }
}

/// Opens the queue at `url`, if it is a Redis URL.
async fn open_queue(url: Option<&StoreUrl>, retry: Retry<'_>) -> Result<Option<Redis>> {
    match url.map(|url| &url.target) {
        Some(Target::Redis(target)) => open_when_reached(target, false, retry).await.map(Some),
        _ => Ok(None),
    }
}

/// Opens the folder once it is free, waiting for its queue if that has become unreachable
/// meanwhile.
async fn open_when_free(
    folder: &Path,
    options: &json_file::Options,
    redis: &Redis,
    retry: Retry<'_>,
) -> Result<JsonFile> {
    let mut waited = false;
    let file = loop {
        match JsonFile::open(folder, options.clone()).await {
            Err(error @ Error::Locked { .. }) if retry(&error) => waited = true,
            opened => break opened?,
        }
        tokio::time::sleep(STAND_BY_PERIOD).await;
    };
    if !waited {
        return Ok(file);
    }
    let mut was_logged = false;
    while let Err(error) = redis.queue().ping().await {
        if !was_logged {
            tracing::warn!(%error, "the folder is free; waiting for its queue");
        }
        was_logged = true;
        tokio::time::sleep(STAND_BY_PERIOD).await;
    }
    Ok(file)
}

/// Puts a queue on Redis in front of a folder, in place of the folder's own queue.
async fn with_redis_queue(file: &JsonFile, redis: Redis) -> Result<Opened> {
    let (store, own) = (file.store(), file.queue());
    // Record the folder's own queue as active: otherwise the folder would take the new queue at
    // once, and jobs that its own has accepted would be skipped.
    if store.active_queue().await?.is_none() && own.depth().await?.jobs > 0 {
        store.adopt_queue(own.id()).await?;
    }
    let role = Holder(own.id());
    own.close().await?;
    Ok(Opened {
        queue: Arc::new(FolderQueue::new(redis, store.clone(), role)),
        store,
    })
}

/// Opens `store` for reading while another process writes it: a folder of JSON files, which may be
/// created later ([`JsonReader`] describes what holds then). The folder's own queue accepts
/// nothing; one on Redis does once the folder is readable and applies it.
/// [`Service::reading`](crate::service::Service::reading) reads from both.
///
/// # Errors
/// [`Error::Config`] if the URLs are wrong, or no other process can read the store while it is
/// open; [`Error::Unavailable`] if a thread cannot be started or the queue is unreachable.
pub async fn follow(store: &StoreUrl, queue: Option<&StoreUrl>) -> Result<Followed> {
    follow_with(store, queue, &mut |_| false).await
}

/// Opens like [`follow`], and waits for a queue that cannot be reached yet, as [`stand_by`] does.
///
/// # Errors
/// Those of [`follow`], except for those after which `retry` returned true.
pub async fn follow_when_reached(
    store: &StoreUrl,
    queue: Option<&StoreUrl>,
    mut retry: impl FnMut(&Error) -> bool + Send,
) -> Result<Followed> {
    follow_with(store, queue, &mut retry).await
}

async fn follow_with(
    store: &StoreUrl,
    queue: Option<&StoreUrl>,
    retry: Retry<'_>,
) -> Result<Followed> {
    if let Some(queue) = queue {
        store.check_queue(queue)?;
    }
    let folder = store.folder_to_follow()?;
    let redis = open_queue(queue, retry).await?;
    let reader = JsonReader::open(folder, Arc::new(SystemClock)).await?;
    let store: Arc<dyn Store> = Arc::new(reader.clone());
    let queue: Arc<dyn JobQueue> = match redis {
        Some(redis) => Arc::new(FolderQueue::new(redis, store.clone(), reader)),
        None => reader.queue(),
    };
    Ok(Followed { store, queue })
}
