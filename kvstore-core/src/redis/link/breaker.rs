//! [`Breakers`]: while a server does not answer, calls fail at once instead of each waiting for it.
//!
//! What is not here: servers that refuse connections. Calls to those fail at once anyway.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::Pipeline;
use redis::cluster_routing::Route;
use tokio::time::{sleep, timeout};

use crate::error::{Error, Result};
use crate::model::id::{Partition, PartitionCount};
use crate::redis::keys::Keys;
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

/// What is known of each server that may fall silent. In a cluster each partition has a breaker,
/// for the server that has the partition.
pub(crate) struct Breakers(Vec<Arc<Breaker>>);

struct Breaker {
    link: Servers,
    route: Route,
    is_silent: AtomicBool,
}

impl Breakers {
    pub(crate) fn new(link: &Servers, keys: &Keys, partitions: PartitionCount) -> Self {
        let partitions = match link {
            Servers::One(_) => PartitionCount::ONE,
            Servers::Cluster(_) => partitions,
        };
        let breaker = |partition| Breaker {
            link: link.clone(),
            route: keys.route(partition),
            is_silent: AtomicBool::new(false),
        };
        Self(partitions.iter().map(breaker).map(Arc::new).collect())
    }

    /// Waits for the answer of `call`, which concerns `partition`.
    ///
    /// # Errors
    /// Those of `call`; [`Error::Unavailable`], without sending anything, if the server is silent.
    pub(crate) async fn pass<T>(
        &self,
        partition: Option<Partition>,
        unanswered: Unanswered,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let breaker = match (&self.0[..], partition) {
            ([breaker], _) => Some(breaker),
            (breakers, Some(partition)) => breakers.get(usize::from(partition.0)),
            // Any server of a cluster may answer.
            (_, None) => None,
        };
        if breaker.is_some_and(|breaker| breaker.is_silent.load(Ordering::Relaxed)) {
            return Err(silent());
        }
        let mut call = std::pin::pin!(call);
        if let Ok(answer) = timeout(SILENCE_MAX, &mut call).await {
            return answer;
        }
        if let Some(breaker) = breaker
            && !breaker.is_silent.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("the Redis server does not answer: calls fail until it does");
            tokio::spawn(probe(Arc::downgrade(breaker)));
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

/// Asks the breaker's server until it answers. An error is an answer, too: the next call interprets
/// it.
async fn probe(breaker: Weak<Breaker>) {
    let mut ping = Pipeline::new();
    ping.cmd("PING");
    while let Some(breaker) = breaker.upgrade() {
        match timeout(SILENCE_MAX, breaker.link.ask(breaker.route, &ping)).await {
            Err(_) => {}
            Ok(Err(error)) if error.is_timeout() => {}
            Ok(_) => {
                breaker.is_silent.store(false, Ordering::Relaxed);
                tracing::info!("the Redis server answers again");
                return;
            }
        }
        drop(breaker);
        sleep(PROBE_PERIOD).await;
    }
}
