//! The heart of every queue that counts its jobs itself: pure data structures, without I/O, waiting or a clock of their own.
//!
//! The memory queue is these behind a lock; the file queue is these behind a journal. [`PartitionLog`] accepts in two phases,
//! because a file has to be written and synced between a job's getting its place and its becoming visible. [`Claims`] says who
//! works on what; nothing but wasted work rests on it.
//!
//! Time comes in as an argument and never goes back in here: the latest that was seen counts.

mod claims;
mod idempotency;
#[cfg(test)]
mod model;
mod partition;
mod recovery;

pub(crate) use claims::Claims;
pub(crate) use idempotency::Remembered;
pub(crate) use partition::{Admission, PartitionLog};
