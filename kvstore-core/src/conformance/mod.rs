//! The suite that every backend has to pass, ours and yours (feature `conformance`).
//!
//! It checks each sentence of the contracts in [`Store`], [`JobQueue`](crate::queue::JobQueue) and
//! [`WorkQueue`]. There are no switches: what one backend cannot do is not in the traits. To run
//! it, tell it how to reach your backend (a [`StoreHarness`], and for a queue a [`QueueHarness`]),
//! and call the macros in a test file; each case becomes a test of its own, reported by name, each
//! with a harness of its own:
//!
//! ```
//! # #[cfg(any())]
//! mod my_store {
//!     use super::*;
//!     kvstore_core::store_conformance!(MyHarness::new()); // my_store::store::expired_entry_is_absent … ok
//!     kvstore_core::queue_conformance!(MyHarness::new()); // my_store::{queue, together, commands}::…
//! }
//! ```
//!
//! What is not here: crashes. A restart closes what was open; what survives a process that is killed, or loss of power, only
//! a test that knows the backend can find out.
#![expect(
    clippy::unwrap_used,
    reason = "a case fails by a panic that names its line"
)]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::limits::{IDEMPOTENCY_KEYS_MAX, QUEUE_BYTES_DEFAULT, QUEUE_JOBS_DEFAULT};
use crate::model::entry::Timestamp;
use crate::queue::WorkQueue;
use crate::store::Store;

#[doc(hidden)]
pub mod commands;
mod fixture;
#[doc(hidden)]
pub mod queue;
#[doc(hidden)]
pub mod store;
#[doc(hidden)]
pub mod together;
mod worker;

pub use worker::Worker;

/// How the suite reaches a store. One value stands for one set of data, empty at first and gone when it is dropped.
#[async_trait]
pub trait StoreHarness: Send + Sync {
    /// A handle on the store, opened if it is not open. Each call gives a handle on the same data: another connection where the
    /// backend has such a thing, a clone of the same `Arc` where it has not.
    async fn store(&self) -> Arc<dyn Store>;

    /// Closes what is open, so that the next call of [`StoreHarness::store`] opens the data again, as a restarted process would.
    /// A backend that keeps its data for as long as its handles live, and promises no more, does nothing here.
    async fn restart(&self);

    /// The time by the backend's clock.
    async fn now(&self) -> Timestamp;

    /// Makes the backend's clock show `to`, which may be earlier than now. It stands still or goes on from there. Where it
    /// can't be set, wait until then; a clock that nobody can set back is left alone.
    async fn set_clock(&self, to: Timestamp);
}

/// How the suite reaches a queue, and a store that applies it.
#[async_trait]
pub trait QueueHarness: StoreHarness {
    /// A handle on the queue, as with [`StoreHarness::store`]; [`StoreHarness::restart`] and the clock are for both.
    /// `bounds` are the same in all calls on one harness.
    async fn queue(&self, bounds: QueueBounds) -> Arc<dyn WorkQueue>;
}

/// The bounds that a queue is opened with, each for every partition of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
    /// Most jobs accepted and not completed.
    pub jobs: usize,
    /// Most bytes of those.
    pub bytes: usize,
    /// Most idempotency keys remembered.
    pub idempotency_keys: usize,
}

impl Default for QueueBounds {
    /// The defaults of [`crate::limits`].
    fn default() -> Self {
        Self {
            jobs: QUEUE_JOBS_DEFAULT,
            bytes: QUEUE_BYTES_DEFAULT,
            idempotency_keys: IDEMPOTENCY_KEYS_MAX,
        }
    }
}

/// Longest that a case may take. What waits longer waits for something that never comes, and should fail by name.
const CASE_MAX: Duration = Duration::from_secs(120);

/// Runs one case on a runtime with several threads, since much of what it checks only goes wrong there.
#[doc(hidden)]
pub fn run(case: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime can be made")
        .block_on(async { tokio::time::timeout(CASE_MAX, case).await })
        .expect("the case took too long: something waits for what never comes");
}

/// A module of tests, one for each case.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_cases {
    ($harness:expr, $module:ident: $($case:ident)*) => {
        mod $module {
            #[allow(unused_imports, reason = "the expression may need names of the module around, or none")]
            use super::*;
            $(
                #[test]
                fn $case() {
                    $crate::conformance::run(async {
                        let harness = $harness;
                        $crate::conformance::$module::$case(&harness).await;
                    });
                }
            )*

            /// Runs every case, one after another, for a program without a test harness. It panics at the first that fails.
            #[allow(dead_code, reason = "most have one")]
            pub(crate) fn run_all() {
                $(
                    println!("{}", concat!(stringify!($module), "::", stringify!($case)));
                    $crate::conformance::run(async {
                        let harness = $harness;
                        $crate::conformance::$module::$case(&harness).await;
                    });
                )*
            }
        }
    };
}

#[cfg(test)]
mod tests {
    /// A case that is in no list would never run.
    #[test]
    fn every_case_is_listed() {
        let sources = [
            (
                include_str!("queue/mod.rs"),
                &[
                    include_str!("queue/accepting.rs"),
                    include_str!("queue/attempts.rs"),
                    include_str!("queue/bounds.rs"),
                    include_str!("queue/claims.rs"),
                    include_str!("queue/idempotency.rs"),
                    include_str!("queue/reading.rs"),
                    // Its list stands beside that of the queue.
                    include_str!("together.rs"),
                ] as &[&str],
            ),
            (
                include_str!("store/mod.rs"),
                &[
                    include_str!("store/advances.rs"),
                    include_str!("store/commits.rs"),
                    include_str!("store/dead_letters.rs"),
                    include_str!("store/entries.rs"),
                    include_str!("store/expiry.rs"),
                    include_str!("store/listing.rs"),
                    include_str!("store/outcomes.rs"),
                    include_str!("store/watching.rs"),
                ] as &[&str],
            ),
        ];
        for (list, files) in sources {
            let cases = files
                .iter()
                .flat_map(|file| file.lines())
                .filter_map(|line| line.strip_prefix("pub async fn ")?.split_once('('));
            for (case, _) in cases {
                let listed = list.lines().filter(|line| line.trim() == case).count();
                assert_eq!(listed, 1, "{case} stands {listed} times in its list");
            }
        }
    }
}
