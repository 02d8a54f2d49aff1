//! The heart of every queue that counts its jobs itself: pure data structures, without I/O, waiting or a clock of their own.
//!
//! The memory queue is these behind a lock; the file queue is these behind a journal. [`PartitionLog`] accepts in two phases,
//! because a file has to be written and synced between a job's getting its place and its becoming visible. [`Claims`] says who
//! works on what; nothing but wasted work rests on it.
//!
//! Time comes in as an argument. It is the store's time, which never goes back.

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

/// Jobs as they go out: accepted at a wall-clock time.
pub(crate) fn jobs_out(mut jobs: Vec<Job>, time: &StoreTime) -> Vec<Job> {
    time.now();
    for job in &mut jobs {
        job.accepted_at = time.to_wall(job.accepted_at);
    }
    jobs
}

/// What is known of a job, likewise.
pub(crate) fn found_out(mut found: Found, time: &StoreTime) -> Found {
    if let Found::Held { job, .. } = &mut found {
        time.now();
        job.accepted_at = time.to_wall(job.accepted_at);
    }
    found
}
