//! Bounds what requests and answers under way take of memory: their bytes, all of them together.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvstore_core::machine;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::answer::error::{Problem, Result};
use crate::answer::problems::Kind;
use crate::answer::reply::{Body, Reply};

/// Bodies and answers up to this size are not counted: the number of connections bounds them.
pub(crate) const UNCOUNTED_BYTES: usize = 16 << 10;

/// How long a request waits for room before it is answered 503.
const PATIENCE: Duration = Duration::from_secs(1);

/// A part of the memory of the machine that those may take.
const PART: u64 = 4;

/// Taken where it cannot be found out how much memory there is.
const MEMORY_BYTES: u64 = 1 << 30;

/// Room for bytes that are under way.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    free: Arc<Semaphore>,
    most: usize,
}

/// Some of it, which is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Hold(OwnedSemaphorePermit);

impl InFlight {
    /// Returns the bound that `wanted` stands for.
    pub(crate) fn bytes_max(wanted: Option<usize>) -> usize {
        let part = || machine::memory_bytes().unwrap_or(MEMORY_BYTES) / PART;
        wanted.unwrap_or_else(|| usize::try_from(part()).unwrap_or(usize::MAX))
    }

    pub(crate) fn new(bytes_max: usize) -> Self {
        let most = bytes_max.min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(most)),
            most,
        }
    }

    /// Waits for room for `bytes`. What is larger than all of it takes all of it.
    pub(crate) async fn wait(&self, bytes: usize) -> Hold {
        let bytes = u32::try_from(bytes.min(self.most)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.free).acquire_many_owned(bytes).await;
        Hold(room.expect("a semaphore that is never closed"))
    }

    /// Takes room for `bytes`.
    ///
    /// # Errors
    /// 503 if there is none for a second.
    pub(crate) async fn hold(&self, bytes: usize) -> Result<Hold> {
        let hold = timeout(PATIENCE, self.wait(bytes)).await;
        hold.map_err(|_| {
            let detail = "the server has no room for more bytes under way";
            Problem::unavailable(Kind::Overloaded, detail)
        })
    }

    /// Takes room for what `reply` sends.
    ///
    /// # Errors
    /// Those of [`InFlight::hold`].
    pub(crate) async fn hold_reply(&self, reply: Reply) -> Result<Reply> {
        let hold = self.hold(reply.body().uncounted_bytes()).await?;
        Ok(hold.carried_by(reply))
    }
}

impl Hold {
    /// Takes over what `more` holds.
    pub(crate) fn add(&mut self, more: Self) {
        self.0.merge(more.0);
    }

    /// Keeps as much of it as `bytes` need, for as long as they are in memory.
    pub(crate) fn carried(mut self, bytes: Bytes) -> Bytes {
        let needed = bytes.len().min(self.0.num_permits());
        let room = self.0.split(needed).unwrap_or(self.0);
        Bytes::from_owner(Carried { bytes, _room: room })
    }

    /// The same for what `reply` sends.
    pub(crate) fn carried_by(self, reply: Reply) -> Reply {
        reply.map(|body| match body {
            Body::Whole(bytes) => Body::Counted(self.carried(bytes)),
            other => other,
        })
    }
}

/// Bytes and the room for them.
struct Carried {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Carried {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Counts what is taken.
impl Collector for InFlight {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let taken = self.most - self.free.available_permits();
        let gauge = ConstGauge::new(i64::try_from(taken).unwrap_or(i64::MAX));
        let help = "Bytes of larger bodies, pages and events that are under way";
        let encoder =
            encoder.encode_descriptor("bytes_in_flight", help, None, gauge.metric_type())?;
        gauge.encode(encoder)
    }
}
