//! Messages from the server wake those who wait for a partition to move. A lost message costs only
//! a moment, since each waiter also asks from time to time.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::watch;

use crate::model::id::{Partition, PartitionCount, Position};
use crate::redis::link::connect::Connector;
use crate::redis::text::position;

/// How long to wait before asking without having been woken.
pub(crate) const ASK_AFTER: Duration = Duration::from_millis(250);

/// The same for a worker that waits for jobs. One waits for each partition, however little there is
/// to do. A reconnection wakes all of them, so this covers only connections that break silently.
pub(crate) const ASK_FOR_JOBS_AFTER: Duration = Duration::from_secs(1);

/// What has moved in the store and in the queue. All clones share it.
#[derive(Clone)]
pub(crate) struct Wake {
    pub(crate) store: Board,
    pub(crate) queue: Board,
    claims: watch::Sender<u64>,
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

impl News {
    /// Returns the news after a message may have been missed.
    fn unknown() -> Self {
        Self {
            at: Instant::now(),
            position: Position {
                major: u64::MAX,
                minor: u64::MAX,
            },
            carried: Vec::new(),
        }
    }
}

/// The message that another worker's partition may be free. Any other message is the number of a
/// partition and, if that has changed, its position, followed by lines that it carries.
const CLAIMS: &str = "claims";

impl Wake {
    pub(crate) fn new(partitions: PartitionCount) -> Self {
        Self {
            store: Board::new(partitions),
            queue: Board::new(partitions),
            claims: watch::Sender::new(0),
        }
    }

    /// Receives the messages of the channels of the store and of the queue, forever.
    pub(crate) async fn listen(self, connector: Connector, channels: [String; 2]) {
        // Every server of a cluster receives all messages, so the next one takes over when one is
        // gone.
        for turn in 0.. {
            if let Ok(messages) = connector.subscribe(&channels, turn).await {
                // Earlier messages may have been missed.
                self.missed();
                self.claims.send_modify(|count| *count += 1);
                let mut messages = messages.into_on_message();
                while let Some(message) = messages.next().await {
                    let text = message.get_payload::<String>().unwrap_or_default();
                    if text == CLAIMS {
                        self.claims.send_modify(|count| *count += 1);
                    } else if message.get_channel_name() == channels[0] {
                        self.store.announce(&text);
                    } else {
                        self.queue.announce(&text);
                    }
                }
            }
            tokio::time::sleep(ASK_AFTER).await;
        }
    }

    /// Returns a receiver that changes whenever a worker starts, ends or releases a claim.
    pub(crate) fn claims(&self) -> watch::Receiver<u64> {
        self.claims.subscribe()
    }

    /// Announces that news of any partition may have been missed.
    pub(crate) fn missed(&self) {
        self.store.missed();
        self.queue.missed();
    }
}

impl Board {
    fn new(partitions: PartitionCount) -> Self {
        let each = partitions.iter();
        Self {
            any: watch::Sender::new(0),
            each: each.map(|_| watch::Sender::new(News::unknown())).collect(),
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
        let place = partition.parse().ok();
        let Some(sender) = place.and_then(|place: usize| self.each.get(place)) else {
            return self.missed();
        };
        sender.send_modify(|news| {
            news.at = Instant::now();
            news.position = position(to).unwrap_or(news.position);
            news.carried = lines.map(str::to_owned).collect();
        });
        self.any.send_modify(|count| *count += 1);
    }

    /// Announces that news of any partition may have been missed.
    pub(crate) fn missed(&self) {
        for sender in &self.each {
            sender.send_replace(News::unknown());
        }
        self.any.send_modify(|count| *count += 1);
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
