//! Store and queue on a Redis server, for many servers and workers.
//!
//! All keys of a partition share one hash tag `{t}`, and so one slot: one script changes them
//! atomically. With the prefix `kv`:
//!
//! ```text
//! kv:meta                 hash    format, partitions, id of the queue, and whose jobs it holds
//!                                 (`here`, or a folder's id); active queue, and how often one
//!                                 was adopted
//! kv:{t}:v:KEY            string  "VERSION DEADLINE JSON", deadline in ms or 0; no time to live
//!                                 of Redis' own
//! kv:{t}:state            hash    version, time and how far it is ahead of the clock, queue;
//!                                 applied:QUEUE, pruned:QUEUE, lost:QUEUE, kept:QUEUE (bytes of
//!                                 outcomes), letters (bytes of them); the run of the server that
//!                                 changed it last, and the gaps in the versions that it and the
//!                                 one before began with
//! kv:{t}:keys             zset    the keys, all with score 0, so in byte order
//! kv:{t}:deadlines        zset    the keys that expire, by deadline
//! kv:{t}:changes          stream  what watchers hear; an entry's id is the last version in it
//! kv:{t}:outcomes:QUEUE   stream  outcomes that a position cannot tell; an entry's id is the job's
//!                                 position
//! kv:{t}:letters          hash    dead letters
//! kv:{t}:letter-index     zset    their order
//! kv:{t}:jobs             stream  the log of jobs, those that came together in one entry; its id
//!                                 is the position of the last
//! kv:{t}:queue            hash    the last position, what was ever accepted and completed,
//!                                 attempts of the head; the run, too, and where earlier
//!                                 numberings ended
//! kv:{t}:requests         hash    idempotency keys
//! kv:{t}:request-deadlines zset   when they end
//! kv:{t}:request-guarantees zset  until when they make no room for others
//! kv:{t}:sender:NAME      string  the last change that a server or program sent, by number, and
//!                                 the answer to it; for ten minutes
//! kv:{t}:claim            hash    the worker on it, and until when
//! kv:{t}:barrier          string  written to wait for replicas behind what was read; for a second
//! kv:workers              zset    who shares the partitions, and until when
//! ```
//!
//! Time is the server's, and a partition's time never moves backwards. Each operation is a script
//! in `scripts/` that checks everything before its first write, since Redis does not roll back.
//!
//! What is not here: durability, which is the server's; `run/look.rs` refuses a server that
//! is not set up for it.

mod address;
mod keys;
mod link;
mod log;
mod options;
mod per_partition;
mod queue;
mod run;
mod scripts;
mod session;
mod store;
mod text;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::id::QueueId;
use crate::queue::WorkQueue;
use crate::store::Store;

pub use address::Address;
pub use options::{ClientCertificate, Options, PARTITIONS_DEFAULT, PARTITIONS_MAX};
use queue::RedisQueue;
use scripts::{Call, Script};
use session::Session;
use store::RedisStore;

/// What `kv:meta` holds in place of a folder's id where the store is on Redis, too.
const HERE: &str = "here";

/// A store and its queue on a Redis server, open.
#[derive(Clone, Debug)]
pub struct Redis {
    store: Arc<RedisStore>,
    queue: Arc<RedisQueue>,
}

impl Redis {
    /// Connects to `url` (`redis://[:password@]host[:port][/database]`, `redis+unix:///path`, or
    /// `redis+cluster://[:password@]host[:port],host[:port]` with some of the servers of a cluster;
    /// `rediss` in place of `redis` for TLS), creates the store if it does not exist, and checks
    /// that the server keeps what it acknowledges.
    ///
    /// # Errors
    /// [`Error::Config`] for a URL of another form, a number of
    /// partitions other than the store's, or a server whose settings lose data: the message says
    /// which setting to change, and to what.
    /// [`Error::Unavailable`] if the server cannot be reached.
    pub async fn open(url: &str, options: Options) -> Result<Self> {
        Self::open_at(&url.parse()?, options, true).await
    }

    /// Opens like [`Redis::open`]. If not `store_is_beside`, the queue is in front of a folder, to
    /// which [`Redis::bind`] binds it, and the store stays empty.
    pub(crate) async fn open_at(
        address: &Address,
        options: Options,
        store_is_beside: bool,
    ) -> Result<Self> {
        let session = Session::open(address, options).await?;
        let redis = Self {
            queue: Arc::new(RedisQueue::new(Arc::clone(&session), store_is_beside)),
            store: Arc::new(RedisStore::new(session)),
        };
        if store_is_beside {
            redis.bind(None).await?;
        }
        Ok(redis)
    }

    /// Binds the queue permanently to `folder`, or to the store on the same server, so that no
    /// other store takes its jobs.
    ///
    /// # Errors
    /// [`Error::Config`] if it belongs to another store; the message says what to do.
    pub(crate) async fn bind(&self, folder: Option<QueueId>) -> Result<()> {
        let session = &self.store.session;
        let meta = &session.meta;
        let wanted = folder.map_or_else(|| HERE.to_owned(), |folder| folder.to_string());
        let call = Call::new(Script::Bind).key(meta).arg(&wanted);
        let what = "the queue was taken for its store";
        let owner: String = session.change(what, &call).await?;
        if owner == wanted {
            return Ok(());
        }
        Err(Error::Config(match folder {
            None => format!(
                "under {meta} there is no store, only a queue in front of the folder with id {owner}: name that folder as the store and this \
                 as the queue, or use another prefix"
            ),
            Some(_) if owner == HERE => format!(
                "under {meta} there is a whole store, and its queue is for that one: use another prefix for one in front of a folder"
            ),
            Some(folder) => format!(
                "the queue under {meta} is for another folder, with id {owner}, and this one's is {folder}: use another prefix, since \
                 each folder needs a queue of its own; if that folder is gone for good and this one takes its place, first \
                 run redis-cli HDEL {meta} store"
            ),
        }))
    }

    /// Returns the store.
    pub fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// Returns the queue in front of the store.
    pub fn queue(&self) -> Arc<dyn WorkQueue> {
        self.queue.clone()
    }

    /// Closes the connection. Later calls fail with
    /// [`Error::Unavailable`].
    pub fn close(&self) {
        self.queue.stop();
        self.store.session.close();
    }
}
