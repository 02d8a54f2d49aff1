//! Messages from the server wake those who wait for a partition to move. A lost message costs only
//! a moment, since each waiter also asks from time to time.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::Client;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::model::id::{Partition, PartitionCount, Position};
use crate::redis::link::password::PasswordFile;
use crate::redis::text::position;

/// How long to wait before asking without having been woken.
pub(crate) const ASK_AFTER: Duration = Duration::from_millis(250);

/// The same for a worker that waits for jobs. One waits for each partition, however little there is
/// to do. A reconnection wakes all of them, so this covers only connections that break silently.
pub(crate) const ASK_FOR_JOBS_AFTER: Duration = Duration::from_secs(1);

/// What has moved: a count for all partitions together, and the last news of each.
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
        channel: String,
        partitions: PartitionCount,
    ) -> Self {
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
        let listener = tokio::spawn(listen(clients, password, channel, senders));
        Self {
            any,
            each,
            claims,
            listener: listener.abort_handle(),
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

    /// Returns a receiver that changes whenever a worker starts, ends or releases a claim.
    pub(crate) fn claims(&self) -> watch::Receiver<u64> {
        self.claims.subscribe()
    }

    /// Announces that this process has moved `partition`, to `position` if its log has changed.
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

/// Waits for a message, for at most `most`.
pub(crate) async fn woken<T>(receiver: &mut watch::Receiver<T>, most: Duration) {
    // Neither error needs handling: on an end the store is closed, and after a timeout the caller
    // looks again.
    let _ = tokio::time::timeout(most, receiver.changed()).await;
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
    let _ = tokio::time::timeout(most, reached).await;
}

async fn listen(
    clients: Vec<Client>,
    password: Option<PasswordFile>,
    channel: String,
    (any, each, claims): (
        watch::Sender<u64>,
        Vec<watch::Sender<News>>,
        watch::Sender<u64>,
    ),
) {
    // Every server of a cluster receives all messages, so the next one takes over when one is gone.
    for client in clients.iter().cycle() {
        let logged_in = match &password {
            None => Ok(client.clone()),
            Some(file) => file.log_in(client),
        };
        if let Ok(client) = logged_in
            && let Ok(mut messages) = client.get_async_pubsub().await
            && messages.subscribe(&channel).await.is_ok()
        {
            // Earlier messages may have been missed.
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

/// Parses a message that a partition has moved.
fn moved(text: &str) -> Option<(u16, Option<Position>)> {
    let (partition, to) = text.split_once(' ').unwrap_or((text, ""));
    Some((partition.parse().ok()?, position(to).ok()))
}

/// Announces news of a partition, or (`None`) that news of any partition may have been missed.
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
