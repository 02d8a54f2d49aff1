//! The smallest worker: claim, read, evaluate, commit, complete.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::limits::WORK_BATCH_JOBS;
use crate::model::evaluate::{Evaluation, evaluate, keys_needed};
use crate::model::id::Position;
use crate::queue::{Claim, JobQueue, WorkQueue, WorkerId};
use crate::store::Store;

/// The smallest worker, for tests: no backoff, no attempts, no dead letters, but every promise about order and effect kept.
#[derive(Clone, Debug)]
pub struct Worker {
    store: Arc<dyn Store>,
    queue: Arc<dyn WorkQueue>,
    id: WorkerId,
}

impl Worker {
    /// A new worker, who holds nothing yet.
    pub fn new(store: Arc<dyn Store>, queue: Arc<dyn WorkQueue>) -> Self {
        let id = WorkerId::new("conformance");
        Self { store, queue, id }
    }

    /// Renews and takes claims.
    ///
    /// # Errors
    /// Those of [`WorkQueue::claim`].
    pub async fn claim(&self) -> Result<Vec<Claim>> {
        self.queue.claim(&self.id).await
    }

    /// What the next jobs of a partition come to, without doing it; `None` if there are none. Stopping here is what a worker does
    /// that dies between reading and committing.
    ///
    /// # Errors
    /// Those of the calls that it makes.
    pub async fn prepare(&self, claim: &Claim) -> Result<Option<Evaluation>> {
        let from = self.store.applied(self.queue.id(), claim.partition).await?;
        let jobs = self
            .queue
            .read(claim, from, WORK_BATCH_JOBS, Duration::ZERO)
            .await?;
        if jobs.is_empty() {
            return Ok(None);
        }
        let keys = keys_needed(&jobs);
        let entries = self.store.get_many(&keys).await?;
        let entries: HashMap<_, _> = keys
            .into_iter()
            .zip(entries)
            .filter_map(|(key, entry)| Some((key, entry?)))
            .collect();
        Ok(Some(evaluate(from, &jobs, &entries)))
    }

    /// Applies the next jobs of a partition and says how many; 0 if there are none.
    ///
    /// # Errors
    /// Those of the calls that it makes, but for `Conflict` and `Stale`: then it looks again.
    pub async fn step(&self, claim: &Claim) -> Result<usize> {
        loop {
            let Some(evaluation) = self.prepare(claim).await? else {
                return Ok(0);
            };
            let to = up_to(&evaluation);
            match self.store.commit(evaluation.commit).await {
                Ok(_) => {
                    self.queue.complete(claim, to).await?;
                    return Ok(evaluation.taken);
                }
                Err(Error::Conflict { .. } | Error::Stale { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Applies all that waits in the partitions it can have, gives those back, and says how many jobs that were.
    ///
    /// # Errors
    /// Those of [`Worker::claim`] and [`Worker::step`].
    pub async fn drain(&self) -> Result<usize> {
        let mut applied = 0;
        for claim in self.claim().await? {
            loop {
                match self.step(&claim).await? {
                    0 => break,
                    some => applied += some,
                }
            }
            self.queue.release(claim).await?;
        }
        Ok(applied)
    }
}

fn up_to(evaluation: &Evaluation) -> Position {
    let advance = evaluation.commit.advance.as_ref();
    advance.map_or(Position::START, |advance| advance.to)
}
