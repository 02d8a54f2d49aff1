//! Messages from the server wake those who wait for a partition to move. A lost message costs only
//! a moment, since each waiter also asks from time to time.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::Client;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::model::id::{Partition, PartitionCount, Position};
use crate::redis::keys::Keys;
use crate::redis::link::password::PasswordFile;
use crate::redis::text::position;

/// How long to wait before asking without having been woken.
pub(crate) const ASK_AFTER: Duration = Duration::from_millis(250);

/// The same for a worker that waits for jobs. One waits for each partition, however little there is
/// to do. A reconnection wakes all of them, so this covers only connections that break silently.
pub(crate) const ASK_FOR_JOBS_AFTER: Duration = Duration::from_secs(1);

/// What has moved in the store and in the queue, and the messages about it.
pub(crate) struct Wake {
    pub(crate) store: Board,
    pub(crate) queue: Board,
    claims: watch::Sender<u64>,
    listener: AbortHandle,
}

/// What has moved: a count for all partitions together, and the last news of each.
#[derive(Clone)]
pub(crate) struct Board {
    any: watch::Sender<u64>,
    each: Vec<watch::Sender<News>>,
}

/// The last news of a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct News {
    /// When it came.
    pub(crate) at: Instant,
    /// The position that the partition has reached; above every position while that is unknown.
    pub(crate) position: Position,
}

/// The position after a message may have been missed.
const ANYWHERE: Position = Position {
    major: u64::MAX,
    minor: u64::MAX,
};

/// The message that another worker's partition may be free. Any other message is the number of a
/// partition, and its position if that has changed.
const CLAIMS: &str = "claims";

impl Wake {
    pub(crate) fn new(
        clients: Vec<Client>,
        password: Option<PasswordFile>,
        keys: &Keys,
        partitions: PartitionCount,
    ) -> Self {
        let (store, queue) = (Board::new(partitions), Board::new(partitions));
        let claims = watch::Sender::new(0);
        let channels = [
            (keys.channel(), store.clone()),
            (keys.jobs_channel(), queue.clone()),
        ];
        let listener = tokio::spawn(listen(clients, password, channels, claims.clone()));
        Self {
            store,
            queue,
            claims,
            listener: listener.abort_handle(),
        }
    }

    /// Returns a receiver that changes whenever a worker starts, ends or releases a claim.
    pub(crate) fn claims(&self) -> watch::Receiver<u64> {
        self.claims.subscribe()
    }

    pub(crate) fn close(&self) {
        self.listener.abort();
        self.store.missed();
        self.queue.missed();
    }
}

impl Board {
    fn new(partitions: PartitionCount) -> Self {
        let unknown = News {
            at: Instant::now(),
            position: ANYWHERE,
        };
        let each = partitions.iter().map(|_| watch::Sender::new(unknown));
        Self {
            any: watch::Sender::new(0),
            each: each.collect(),
        }
    }

    /// Returns a receiver that changes whenever a partition moves or the store closes.
    pub(crate) fn any(&self) -> watch::Receiver<u64> {
        self.any.subscribe()
    }

    /// Returns a receiver that changes whenever `partition` moves or the store closes.
    pub(crate) fn of(&self, partition: Partition) -> watch::Receiver<News> {
        self.each[usize::from(partition.0)].subscribe()
    }

    /// Returns the last news of `partition`.
    pub(crate) fn news(&self, partition: Partition) -> News {
        *self.each[usize::from(partition.0)].borrow()
    }

    /// Announces that `partition` has moved, to `position` if its log has changed.
    pub(crate) fn moved(&self, partition: Partition, position: Option<Position>) {
        let sender = self.each.get(usize::from(partition.0));
        self.announce(sender.into_iter(), position);
    }

    /// Announces that news of any partition may have been missed.
    pub(crate) fn missed(&self) {
        self.announce(self.each.iter(), Some(ANYWHERE));
    }

    fn announce<'s>(
        &self,
        senders: impl Iterator<Item = &'s watch::Sender<News>>,
        position: Option<Position>,
    ) {
        for sender in senders {
            sender.send_modify(|news| {
                news.at = Instant::now();
                news.position = position.unwrap_or(news.position);
            });
        }
        self.any.send_modify(|count| *count += 1);
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Waits for news that satisfies `is_far`, for at most `most`.
pub(crate) async fn reached(
    receiver: &mut watch::Receiver<News>,
    is_far: impl Fn(Position) -> bool,
    most: Duration,
) {
    let reached = async {
        while receiver.changed().await.is_ok() && !is_far(receiver.borrow_and_update().position) {}
    };
    // Neither error needs handling: on an end the store is closed, and after a timeout the caller
    // looks again.
    let _ = tokio::time::timeout(most, reached).await;
}

/// Passes the messages of the store's channel and of the queue's on.
async fn listen(
    clients: Vec<Client>,
    password: Option<PasswordFile>,
    channels: [(String, Board); 2],
    claims: watch::Sender<u64>,
) {
    let names = channels.each_ref().map(|(name, _)| name);
    // Every server of a cluster receives all messages, so the next one takes over when one is gone.
    for client in clients.iter().cycle() {
        let logged_in = match &password {
            None => Ok(client.clone()),
            Some(file) => file.log_in(client),
        };
        if let Ok(client) = logged_in
            && let Ok(mut messages) = client.get_async_pubsub().await
            && messages.subscribe(&names).await.is_ok()
        {
            // Earlier messages may have been missed.
            channels.iter().for_each(|(_, board)| board.missed());
            claims.send_modify(|count| *count += 1);
            let mut messages = messages.into_on_message();
            while let Some(message) = messages.next().await {
                let text = message.get_payload::<String>().unwrap_or_default();
                let name = message.get_channel_name();
                if text == CLAIMS {
                    claims.send_modify(|count| *count += 1);
                } else if let Some((_, board)) = channels.iter().find(|(own, _)| own == name) {
                    let (partition, to) = text.split_once(' ').unwrap_or((&text, ""));
                    match partition.parse() {
                        Ok(partition) => board.moved(Partition(partition), position(to).ok()),
                        Err(_) => board.missed(),
                    }
                }
            }
        }
        tokio::time::sleep(ASK_AFTER).await;
    }
}
