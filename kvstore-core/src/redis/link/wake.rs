//! Who waits for a partition to move on is woken by a message from the server. One that is lost costs a moment, since
//! everybody also asks now and then.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::Client;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::model::id::{Partition, PartitionCount};

/// How long to wait before asking without having been woken.
pub(crate) const ASK_AFTER: Duration = Duration::from_millis(250);

/// The same for a worker that waits for jobs, of which there is one for each partition however little there is to do. Whoever listens
/// is woken when a connection that broke is back, so this is for one that breaks without a word.
pub(crate) const ASK_FOR_JOBS_AFTER: Duration = Duration::from_secs(1);

/// What has moved: counted for all partitions together, with the time of the last news for each.
pub(crate) struct Wake {
    any: watch::Sender<u64>,
    each: Vec<watch::Sender<Instant>>,
    claims: watch::Sender<u64>,
    listener: AbortHandle,
}

/// The message that somebody may claim something that another worker had. Any other one is the number of a partition.
const CLAIMS: &str = "claims";

impl Wake {
    pub(crate) fn new(clients: Vec<Client>, channel: String, partitions: PartitionCount) -> Self {
        let any = watch::Sender::new(0);
        let each: Vec<_> = partitions
            .iter()
            .map(|_| watch::Sender::new(Instant::now()))
            .collect();
        let claims = watch::Sender::new(0);
        let senders = (any.clone(), each.clone(), claims.clone());
        let listener = tokio::spawn(listen(clients, channel, senders));
        Self {
            any,
            each,
            claims,
            listener: listener.abort_handle(),
        }
    }

    /// Changes whenever some partition moves, or the store is closed.
    pub(crate) fn any(&self) -> watch::Receiver<u64> {
        self.any.subscribe()
    }

    /// Changes whenever `partition` moves, or the store is closed.
    pub(crate) fn of(&self, partition: Partition) -> watch::Receiver<Instant> {
        self.each[usize::from(partition.0)].subscribe()
    }

    /// Returns when `partition` was last heard to have moved.
    pub(crate) fn moved_at(&self, partition: Partition) -> Instant {
        *self.each[usize::from(partition.0)].borrow()
    }

    /// Changes whenever a worker comes, goes or gives something up.
    pub(crate) fn claims(&self) -> watch::Receiver<u64> {
        self.claims.subscribe()
    }

    /// `partition` has moved by this process' own doing.
    pub(crate) fn moved(&self, partition: Partition) {
        wake(&self.any, &self.each, Some(partition.0));
    }

    pub(crate) fn close(&self) {
        self.listener.abort();
        wake(&self.any, &self.each, None);
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Waits for a message, but no longer than `most`.
pub(crate) async fn woken<T>(receiver: &mut watch::Receiver<T>, most: Duration) {
    // An end is told by the store being closed, and a time that has passed by the caller's next look.
    let _ = tokio::time::timeout(most, receiver.changed()).await;
}

async fn listen(
    clients: Vec<Client>,
    channel: String,
    (any, each, claims): (
        watch::Sender<u64>,
        Vec<watch::Sender<Instant>>,
        watch::Sender<u64>,
    ),
) {
    // In a cluster any of its servers hears of everything, so the next one is tried when one is gone.
    for client in clients.iter().cycle() {
        if let Ok(mut messages) = client.get_async_pubsub().await
            && messages.subscribe(&channel).await.is_ok()
        {
            // Whatever was said before may have been missed.
            wake(&any, &each, None);
            claims.send_modify(|count| *count += 1);
            let mut messages = messages.into_on_message();
            while let Some(message) = messages.next().await {
                let text = message.get_payload::<String>().unwrap_or_default();
                if text == CLAIMS {
                    claims.send_modify(|count| *count += 1);
                } else {
                    wake(&any, &each, text.parse().ok());
                }
            }
        }
        tokio::time::sleep(ASK_AFTER).await;
    }
}

/// `None`: all of them.
fn wake(any: &watch::Sender<u64>, each: &[watch::Sender<Instant>], partition: Option<u16>) {
    let moved = |sender: &watch::Sender<Instant>| {
        sender.send_replace(Instant::now());
    };
    match partition {
        Some(partition) => each.get(usize::from(partition)).into_iter().for_each(moved),
        None => each.iter().for_each(moved),
    }
    any.send_modify(|count| *count += 1);
}
