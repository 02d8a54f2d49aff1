//! A queue on Redis whose store is a folder. `kv:meta` names the folder, so that no second one
//! takes its jobs.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::id::QueueId;
use crate::queue::WorkQueue;
use crate::redis::address::Address;
use crate::redis::options::Options;
use crate::redis::queue::RedisQueue;
use crate::redis::scripts::{Call, Script};
use crate::redis::session::Session;

/// The value in place of a folder's id where the store is on Redis, too.
const HERE: &str = "here";

/// A queue in front of a folder, open.
#[derive(Debug)]
pub(crate) struct QueueAlone {
    session: Arc<Session>,
    queue: RedisQueue,
}

impl QueueAlone {
    /// Opens the queue as [`Redis::open`](super::Redis::open) does, without a store.
    pub(crate) async fn open(address: &Address, options: &Options) -> Result<Self> {
        let session = Session::open(address, options.clone()).await?;
        Ok(Self {
            queue: RedisQueue::new(Arc::clone(&session), false),
            session,
        })
    }

    pub(crate) fn queue(&self) -> &dyn WorkQueue {
        &self.queue
    }

    /// Binds the queue to `folder`, permanently.
    ///
    /// # Errors
    /// [`Error::Config`] if it belongs to another store; the message says what to do.
    pub(crate) async fn bind(&self, folder: QueueId) -> Result<()> {
        let owner = whose(&self.session, &folder.to_string()).await?;
        let meta = &self.session.meta;
        if owner == folder.to_string() {
            return Ok(());
        }
        Err(Error::Config(if owner == HERE {
            format!(
                "under {meta} there is a whole store, and its queue is for that one: use another prefix for one in front of a folder"
            )
        } else {
            format!(
                "the queue under {meta} is for another folder, with id {owner}, and this one's is {folder}: use another prefix, since \
                 each folder needs a queue of its own; if that folder is gone for good and this one takes its place, first \
                 run redis-cli HDEL {meta} store"
            )
        }))
    }

    pub(crate) fn close(&self) {
        self.queue.stop();
        self.session.close();
    }
}

/// Binds the queue to the store on the same server.
///
/// # Errors
/// [`Error::Config`] if it belongs to a folder.
pub(crate) async fn bind_here(session: &Session) -> Result<()> {
    let owner = whose(session, HERE).await?;
    if owner == HERE {
        return Ok(());
    }
    let meta = &session.meta;
    Err(Error::Config(format!(
        "under {meta} there is no store, only a queue in front of the folder with id {owner}: name that folder as the store and this \
         as the queue, or use another prefix"
    )))
}

async fn whose(session: &Session, owner: &str) -> Result<String> {
    let call = Call::new(Script::Bind).key(&session.meta).arg(owner);
    let what = "the queue was taken for its store";
    session.change(what, &call).await
}
