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
mod alone;
mod keys;
mod link;
mod log;
mod options;
mod queue;
mod run;
mod scripts;
mod session;
mod store;
mod text;

use std::sync::Arc;

use crate::error::Result;
use crate::queue::WorkQueue;
use crate::store::Store;

pub use address::Address;
pub(crate) use alone::QueueAlone;
pub use options::{ClientCertificate, Options, PARTITIONS_DEFAULT, PARTITIONS_MAX};
use queue::RedisQueue;
use session::Session;
use store::RedisStore;

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
    /// [`Error::Config`](crate::error::Error::Config) for a URL of another form, a number of
    /// partitions other than the store's, or a server whose settings lose data: the message says
    /// which setting to change, and to what.
    /// [`Error::Unavailable`](crate::error::Error::Unavailable) if the server cannot be reached.
    pub async fn open(url: &str, options: Options) -> Result<Self> {
        Self::open_at(&url.parse()?, options).await
    }

    pub(crate) async fn open_at(address: &Address, options: Options) -> Result<Self> {
        let session = Session::open(address, options).await?;
        alone::bind_here(&session).await?;
        Ok(Self {
            queue: Arc::new(RedisQueue::new(Arc::clone(&session), true)),
            store: Arc::new(RedisStore::new(session)),
        })
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
    /// [`Error::Unavailable`](crate::error::Error::Unavailable).
    pub fn close(&self) {
        self.queue.stop();
        self.store.session.close();
    }
}
