//! [`Breakers`]: while a server does not answer, calls fail at once instead of each waiting for it.
//!
//! What is not here: servers that refuse connections. Calls to those fail at once anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::Pipeline;
use tokio::time::{sleep, timeout};

use crate::error::{Error, Result};
use crate::model::id::{Partition, PartitionCount};
use crate::redis::link::Servers;

/// How long a server may take to answer before it counts as silent. A read then fails.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The pause between two probes of a silent server.
const PROBE_PERIOD: Duration = Duration::from_millis(200);

/// The result of a call that is not answered within [`SILENCE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// It fails: it only reads, so nothing has happened.
    Fails,
    /// It keeps waiting: it may have changed something, which only its answer can tell.
    Waits,
}

/// A flag for each server that may fall silent, true while it is silent. In a cluster each
/// partition has one, for the server that has the partition.
#[derive(Debug)]
pub(crate) struct Breakers(Vec<Arc<AtomicBool>>);

impl Breakers {
    pub(crate) fn new(link: &Servers, partitions: PartitionCount) -> Self {
        let count = match link {
            Servers::One(_) => 1,
            Servers::Cluster(_) => partitions.get(),
        };
        Self((0..count).map(|_| Arc::default()).collect())
    }

    /// Waits for the answer of `call`, which concerns `partition`, over `link`; `slot` is the slot
    /// of the partition.
    ///
    /// # Errors
    /// Those of `call`; [`Error::Unavailable`], without sending anything, if the server is silent.
    pub(crate) async fn pass<T>(
        &self,
        partition: Option<Partition>,
        (link, slot): (&Servers, u16),
        unanswered: Unanswered,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let flag = match (&self.0[..], partition) {
            ([flag], _) => Some(flag),
            (flags, Some(partition)) => flags.get(usize::from(partition.0)),
            // Any server of a cluster may answer.
            (_, None) => None,
        };
        if flag.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Err(silent());
        }
        let mut call = std::pin::pin!(call);
        if let Ok(answer) = timeout(SILENCE_MAX, &mut call).await {
            return answer;
        }
        if let Some(flag) = flag
            && !flag.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("the Redis server does not answer: calls fail until it does");
            tokio::spawn(probe(Arc::downgrade(flag), link.clone(), slot));
        }
        match unanswered {
            Unanswered::Fails => Err(silent()),
            Unanswered::Waits => call.await,
        }
    }
}

fn silent() -> Error {
    Error::Unavailable {
        what: "the Redis server does not answer".to_owned(),
        source: None,
    }
}

/// Asks the server that has `slot` until it answers. An error is an answer, too: the next call
/// interprets it.
async fn probe(flag: std::sync::Weak<AtomicBool>, mut link: Servers, slot: u16) {
    let mut ping = Pipeline::new();
    ping.cmd("PING");
    while let Some(is_silent) = flag.upgrade() {
        match timeout(SILENCE_MAX, link.ask(slot, &ping)).await {
            Err(_) => {}
            Ok(Err(error)) if error.is_timeout() => {}
            Ok(_) => {
                is_silent.store(false, Ordering::Relaxed);
                tracing::info!("the Redis server answers again");
                return;
            }
        }
        drop(is_silent);
        sleep(PROBE_PERIOD).await;
    }
}
