//! Who waits for a partition to move on is woken by a message from the server. One that is lost costs a moment, since
//! everybody also asks now and then.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::Client;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::model::id::{Partition, PartitionCount, Position};
use crate::redis::text::position;

/// How long to wait before asking without having been woken.
pub(crate) const ASK_AFTER: Duration = Duration::from_millis(250);

/// The same for a worker that waits for jobs, of which there is one for each partition however little there is to do. Whoever listens
/// is woken when a connection that broke is back, so this is for one that breaks without a word.
pub(crate) const ASK_FOR_JOBS_AFTER: Duration = Duration::from_secs(1);

/// What has moved: counted for all partitions together, with the last news of each.
pub(crate) struct Wake {
    any: watch::Sender<u64>,
    each: Vec<watch::Sender<News>>,
    claims: watch::Sender<u64>,
    listener: AbortHandle,
}

/// The last news of a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct News {
    /// When it came.
    pub(crate) at: Instant,
    /// How far the partition is; further than any position while that is not known.
    pub(crate) position: Position,
}

/// A message may have been missed.
const ANYWHERE: Position = Position {
    major: u64::MAX,
    minor: u64::MAX,
};

/// The message that another worker's partition may be free. Any other message is the number of a
/// partition, and how far it is if that has changed.
const CLAIMS: &str = "claims";

impl Wake {
    pub(crate) fn new(clients: Vec<Client>, channel: String, partitions: PartitionCount) -> Self {
        let any = watch::Sender::new(0);
        let each: Vec<_> = partitions
            .iter()
            .map(|_| {
                watch::Sender::new(News {
                    at: Instant::now(),
                    position: ANYWHERE,
                })
            })
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
    pub(crate) fn of(&self, partition: Partition) -> watch::Receiver<News> {
        self.each[usize::from(partition.0)].subscribe()
    }

    /// Returns the last news of `partition`.
    pub(crate) fn news(&self, partition: Partition) -> News {
        *self.each[usize::from(partition.0)].borrow()
    }

    /// Changes whenever a worker comes, goes or gives something up.
    pub(crate) fn claims(&self) -> watch::Receiver<u64> {
        self.claims.subscribe()
    }

    /// Passes on that this process has moved `partition`, to `position` if its log is concerned.
    pub(crate) fn moved(&self, partition: Partition, position: Option<Position>) {
        wake(&self.any, &self.each, Some((partition.0, position)));
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

/// Waits for news that a partition is as far as `is_far` wants it, but no longer than `most`.
pub(crate) async fn reached(
    receiver: &mut watch::Receiver<News>,
    is_far: impl Fn(Position) -> bool,
    most: Duration,
) {
    let reached = async {
        while receiver.changed().await.is_ok() && !is_far(receiver.borrow_and_update().position) {}
    };
    let _ = tokio::time::timeout(most, reached).await;
}

async fn listen(
    clients: Vec<Client>,
    channel: String,
    (any, each, claims): (
        watch::Sender<u64>,
        Vec<watch::Sender<News>>,
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
                    wake(&any, &each, moved(&text));
                }
            }
        }
        tokio::time::sleep(ASK_AFTER).await;
    }
}

/// Parses the message that a partition has moved.
fn moved(text: &str) -> Option<(u16, Option<Position>)> {
    let (partition, to) = text.split_once(' ').unwrap_or((text, ""));
    Some((partition.parse().ok()?, position(to).ok()))
}

/// Passes on news of a partition, or (`None`) that some may have been missed of all of them.
fn wake(
    any: &watch::Sender<u64>,
    each: &[watch::Sender<News>],
    moved: Option<(u16, Option<Position>)>,
) {
    let pass_on = |sender: &watch::Sender<News>, position: Option<Position>| {
        sender.send_modify(|news| {
            news.at = Instant::now();
            news.position = position.unwrap_or(news.position);
        });
    };
    match moved {
        Some((partition, position)) => {
            let sender = each.get(usize::from(partition)).into_iter();
            sender.for_each(|sender| pass_on(sender, position));
        }
        None => each
            .iter()
            .for_each(|sender| pass_on(sender, Some(ANYWHERE))),
    }
    any.send_modify(|count| *count += 1);
}
