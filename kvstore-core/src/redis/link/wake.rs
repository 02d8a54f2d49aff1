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
#[derive(Debug)]
pub(crate) struct News {
    /// When it came, or when this process last changed the partition.
    pub(crate) at: Instant,
    /// The position that the partition has reached; above every position while that is unknown.
    pub(crate) position: Position,
    /// What the message carried: the entry of the log up to that position, without its id, or the
    /// outcomes of a commit. Empty if that would have been too large.
    pub(crate) carried: Vec<String>,
}

/// The position after a message may have been missed.
const ANYWHERE: Position = Position {
    major: u64::MAX,
    minor: u64::MAX,
};

/// The message that another worker's partition may be free. Any other message is the number of a
/// partition and, if that has changed, its position, followed by lines that it carries.
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
        let unknown = || News {
            at: Instant::now(),
            position: ANYWHERE,
            carried: Vec::new(),
        };
        let each = partitions.iter().map(|_| watch::Sender::new(unknown()));
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

    /// Records that this process has changed `partition`. The message about it wakes the waiters.
    pub(crate) fn changed(&self, partition: Partition) {
        self.each[usize::from(partition.0)].send_if_modified(|news| {
            news.at = Instant::now();
            false
        });
    }

    /// Returns when the last news of `partition` came.
    pub(crate) fn moved_at(&self, partition: Partition) -> Instant {
        self.each[usize::from(partition.0)].borrow().at
    }

    /// Announces what a message says of its partition.
    fn announce(&self, message: &str) {
        let mut lines = message.split('\n');
        let head = lines.next().unwrap_or_default();
        let (partition, to) = head.split_once(' ').unwrap_or((head, ""));
        let sender = partition.parse().ok();
        match sender.and_then(|partition: usize| self.each.get(partition)) {
            Some(sender) => {
                let carried = lines.map(str::to_owned).collect();
                self.tell(std::slice::from_ref(sender), position(to).ok(), carried);
            }
            None => self.missed(),
        }
    }

    /// Announces that news of any partition may have been missed.
    pub(crate) fn missed(&self) {
        self.tell(&self.each, Some(ANYWHERE), Vec::new());
    }

    fn tell(
        &self,
        senders: &[watch::Sender<News>],
        position: Option<Position>,
        carried: Vec<String>,
    ) {
        for sender in senders {
            sender.send_modify(|news| {
                *news = News {
                    at: Instant::now(),
                    position: position.unwrap_or(news.position),
                    carried: carried.clone(),
                };
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

/// Waits for news that satisfies `is_far`, for at most `most`. Returns true if it came.
pub(crate) async fn reached(
    receiver: &mut watch::Receiver<News>,
    is_far: impl Fn(Position) -> bool,
    most: Duration,
) -> bool {
    let reached = async {
        while receiver.changed().await.is_ok() {
            if is_far(receiver.borrow_and_update().position) {
                return true;
            }
        }
        // The store is closed.
        false
    };
    tokio::time::timeout(most, reached).await.unwrap_or(false)
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
                    board.announce(&text);
                }
            }
        }
        tokio::time::sleep(ASK_AFTER).await;
    }
}
