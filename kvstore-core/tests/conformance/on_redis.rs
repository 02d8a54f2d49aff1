//! A store and a queue on a Redis server.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use kvstore_core::Store;
use kvstore_core::conformance::{QueueBounds, QueueHarness, StoreHarness};
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::id::{PartitionCount, QueueId};
use kvstore_core::queue::WorkQueue;
use kvstore_core::redis::{Options, Redis};
use kvstore_testing::redis::{RedisServer, rights};

/// A store under a prefix of its own. Each handle is a connection of its own.
pub(crate) struct OnRedis {
    url: String,
    prefix: String,
    /// Runs while this value lives.
    _server: Box<dyn Any + Send + Sync>,
    partitions: PartitionCount,
    skew_ms: Arc<AtomicI64>,
    /// To be closed at a restart.
    opened: std::sync::Mutex<Vec<Redis>>,
}

impl OnRedis {
    /// Creates one on a server of its own, with exactly the rights in docs/configuration.md.
    pub(crate) fn new(partitions: u16) -> Self {
        let server = RedisServer::start();
        let user = ["acl", "setuser", "default", "reset", "on", "nopass"].map(str::to_owned);
        let new = Self::at(server.url(), (), partitions);
        let user = [&user[..], &rights(&new.prefix)].concat();
        server.ask(&user.iter().map(String::as_str).collect::<Vec<_>>());
        Self {
            _server: Box::new(server),
            ..new
        }
    }

    /// Creates one on `server`, which is at `url`.
    pub(crate) fn at(url: String, server: impl Any + Send + Sync, partitions: u16) -> Self {
        Self {
            url,
            prefix: QueueId::random().to_string(),
            _server: Box::new(server),
            partitions: PartitionCount::new(partitions).unwrap(),
            skew_ms: Arc::default(),
            opened: std::sync::Mutex::default(),
        }
    }

    async fn open(&self, bounds: QueueBounds) -> Redis {
        let options = Options {
            prefix: self.prefix.clone(),
            partitions: Some(self.partitions),
            jobs_max: bounds.jobs,
            bytes_max: bounds.bytes,
            idempotency_keys_max: bounds.idempotency_keys,
            skew_ms: Arc::clone(&self.skew_ms),
            ..Options::default()
        };
        let redis = Redis::open(&self.url, options).await.unwrap();
        self.opened.lock().unwrap().push(redis.clone());
        redis
    }
}

/// The server's time: it runs on this machine.
#[allow(
    clippy::disallowed_methods,
    reason = "the server asks the machine, too"
)]
fn server_now() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since_epoch.as_millis()).unwrap()
}

#[async_trait]
impl StoreHarness for OnRedis {
    async fn store(&self) -> Arc<dyn Store> {
        self.open(QueueBounds::default()).await.store()
    }

    async fn restart(&self) {
        let opened = std::mem::take(&mut *self.opened.lock().unwrap());
        for redis in opened {
            redis.close();
        }
    }

    async fn now(&self) -> Timestamp {
        let now = server_now() + self.skew_ms.load(Ordering::SeqCst);
        Timestamp(u64::try_from(now).unwrap())
    }

    async fn set_clock(&self, to: Timestamp) {
        let to = i64::try_from(to.0).unwrap();
        self.skew_ms.store(to - server_now(), Ordering::SeqCst);
    }
}

#[async_trait]
impl QueueHarness for OnRedis {
    async fn queue(&self, bounds: QueueBounds) -> Arc<dyn WorkQueue> {
        self.open(bounds).await.queue()
    }
}
