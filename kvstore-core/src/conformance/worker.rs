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

/// The smallest worker, for tests: no backoff, attempts or dead letters, but it keeps every promise
/// about order and effect.
#[derive(Clone, Debug)]
pub struct Worker {
    store: Arc<dyn Store>,
    queue: Arc<dyn WorkQueue>,
    id: WorkerId,
}

impl Worker {
    /// Creates a worker that holds no claims.
    pub fn new(store: Arc<dyn Store>, queue: Arc<dyn WorkQueue>) -> Self {
        let id = WorkerId::new("conformance");
        Self { store, queue, id }
    }

    /// Renews and acquires claims.
    ///
    /// # Errors
    /// Those of [`WorkQueue::claim`].
    pub async fn claim(&self) -> Result<Vec<Claim>> {
        self.queue.claim(&self.id).await
    }

    /// Evaluates the next jobs of a partition without committing; `None` if there are none.
    /// Stopping after this simulates a worker that dies between reading and committing.
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

    /// Applies the next jobs of a partition and returns their number; 0 if there are none.
    ///
    /// # Errors
    /// Those of the calls that it makes, except `Conflict` and `Stale`, after which it reads again.
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

    /// Applies all waiting jobs of the partitions that it can claim, releases these, and returns
    /// the number of jobs.
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
