//! A store that fails on demand over time that the test controls, and short words for jobs.

use std::sync::Arc;
use std::time::Duration;

use kvstore_core::clock::Clock;
use kvstore_core::memory::{MemoryQueue, MemoryStore};
use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::commit::Commit;
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::id::{JobId, PartitionCount};
use kvstore_core::model::job::NewJob;
use kvstore_core::queue::QueueOptions;
use kvstore_core::{JobQueue, Key, Value};
use kvstore_testing::faulty::{Fault, Faulty};
use tokio::time::Instant;

/// Returns a store in memory whose commits fail as `judge` decides.
pub(crate) fn faulty(
    judge: impl Fn(&Commit) -> Option<Fault> + Send + Sync + 'static,
) -> Arc<Faulty<MemoryStore>> {
    let store = MemoryStore::new(Arc::new(TokioClock::new()));
    Arc::new(Faulty::judging(store, judge))
}

/// The time of day by tokio's clock, so that claims and deadlines follow paused time.
#[derive(Debug)]
pub(crate) struct TokioClock(Instant);

impl TokioClock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_000_000_000_000).after(self.0.elapsed())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Creates a queue in memory with `partitions`, whose claims last for `claim_period`.
pub(crate) fn queue(partitions: u16, claim_period: Duration) -> Arc<MemoryQueue> {
    let options = QueueOptions {
        partitions: PartitionCount::new(partitions).unwrap(),
        claim_period,
        ..QueueOptions::default()
    };
    Arc::new(MemoryQueue::new(options, Arc::new(TokioClock::new())))
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

pub(crate) fn set(key: &Key, number: u64) -> NewJob {
    let value = Value::from_serialize(&number).unwrap();
    NewJob::new(Command::One(Operation::set(key.clone(), value)))
}

/// Enqueues one job, which must be accepted.
pub(crate) async fn enqueue(queue: &dyn JobQueue, job: NewJob) -> JobId {
    let accepted = queue.enqueue(vec![job]).await.pop().unwrap();
    accepted.unwrap().id
}

/// Waits until everything accepted is applied and the queue knows it. For tests with paused time,
/// hence the generous limit.
pub(crate) async fn drained(queue: &dyn JobQueue) {
    let is_empty = async {
        while queue.depth().await.unwrap().jobs > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(600), is_empty).await;
    waited.expect("what waits is applied some time");
}
