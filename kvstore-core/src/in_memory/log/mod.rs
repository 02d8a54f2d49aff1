//! The core of every queue that numbers its own jobs: pure data structures, without I/O, waiting or
//! a clock of their own.
//!
//! The memory queue is these structures behind a lock; the file queue is these structures behind a
//! journal. [`PartitionLog`] accepts jobs in two phases, because a file has to be written and
//! synced after a job gets its position and before it becomes visible. [`Claims`] decides which
//! worker works on what; a wrong decision only wastes work.
//!
//! Time is passed in. It is the store's time, which never goes back.

mod claims;
mod idempotency;
#[cfg(test)]
mod model;
mod partition;
mod recovery;

pub(crate) use claims::Claims;
pub(crate) use idempotency::Remembered;
pub(crate) use partition::{Admission, PartitionLog};

use crate::clock::StoreTime;
use crate::model::job::Job;
use crate::queue::Found;

/// Converts the times of jobs from store time to wall-clock time.
pub(crate) fn jobs_out(mut jobs: Vec<Job>, time: &StoreTime) -> Vec<Job> {
    time.now();
    for job in &mut jobs {
        job.accepted_at = time.to_wall(job.accepted_at);
    }
    jobs
}

/// Converts the times in a look-up's answer likewise.
pub(crate) fn found_out(mut found: Found, time: &StoreTime) -> Found {
    if let Found::Held { job, .. } = &mut found {
        time.now();
        job.accepted_at = time.to_wall(job.accepted_at);
    }
    found
}
