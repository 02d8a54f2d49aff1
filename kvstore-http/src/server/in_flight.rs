//! Limits the memory of requests and answers in progress: the sum of their bytes.

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

/// Bodies and answers up to this size are not counted: the number of connections limits them.
pub(crate) const UNCOUNTED_BYTES: usize = 16 << 10;

/// How long a request waits for free bytes before it is answered 503.
const PATIENCE: Duration = Duration::from_secs(1);

/// The divisor of the machine's memory that gives the default limit.
const PART: u64 = 4;

/// Assumed memory if the machine's cannot be determined.
const MEMORY_BYTES: u64 = 1 << 30;

/// Limits the bytes in flight.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    free: Arc<Semaphore>,
    most: usize,
}

/// Counted bytes, released on drop.
#[derive(Debug)]
pub(crate) struct Hold(OwnedSemaphorePermit);

impl InFlight {
    /// Returns the limit in effect: `wanted`, or the default for this machine.
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

    /// Waits until `bytes` are free and counts them. A request above the limit takes the whole
    /// limit.
    pub(crate) async fn wait(&self, bytes: usize) -> Hold {
        let bytes = u32::try_from(bytes.min(self.most)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.free).acquire_many_owned(bytes).await;
        Hold(room.expect("the semaphore is never closed"))
    }

    /// Counts `bytes`, waiting for them if necessary.
    ///
    /// # Errors
    /// 503 if they are not free within a second.
    pub(crate) async fn hold(&self, bytes: usize) -> Result<Hold> {
        let hold = timeout(PATIENCE, self.wait(bytes)).await;
        hold.map_err(|_| {
            let detail = "the server has no room for more bytes under way";
            Problem::unavailable(Kind::Overloaded, detail)
        })
    }

    /// Counts the bytes that `reply` sends.
    ///
    /// # Errors
    /// Those of [`InFlight::hold`].
    pub(crate) async fn hold_reply(&self, reply: Reply) -> Result<Reply> {
        let hold = self.hold(reply.body().uncounted_bytes()).await?;
        Ok(hold.carried_by(reply))
    }
}

impl Hold {
    /// Takes over the bytes that `more` holds.
    pub(crate) fn add(&mut self, more: Self) {
        self.0.merge(more.0);
    }

    /// Holds as many bytes as `bytes` has for as long as it is in memory, and releases the rest.
    pub(crate) fn carried(mut self, bytes: Bytes) -> Bytes {
        let needed = bytes.len().min(self.0.num_permits());
        let room = self.0.split(needed).unwrap_or(self.0);
        Bytes::from_owner(Carried { bytes, _room: room })
    }

    /// Does the same for the body of `reply`.
    pub(crate) fn carried_by(self, reply: Reply) -> Reply {
        reply.map(|body| match body {
            Body::Whole(bytes) => Body::Counted(self.carried(bytes)),
            other => other,
        })
    }
}

/// Bytes together with their hold.
struct Carried {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Carried {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reports the bytes in flight.
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
