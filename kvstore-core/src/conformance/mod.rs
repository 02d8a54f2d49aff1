//! The suite that every backend must pass, ours and yours (feature `conformance`).
//!
//! It checks each sentence of the contracts in [`Store`], [`JobQueue`](crate::queue::JobQueue) and
//! [`WorkQueue`]. There are no switches: the traits hold nothing that some backend cannot do. To
//! run it, tell it how to reach your backend (a [`StoreHarness`], and for a queue a
//! [`QueueHarness`]), and call the macros in a test file; each case becomes a test with its own
//! name and its own harness:
//!
//! ```
//! # #[cfg(any())]
//! mod my_store {
//!     use super::*;
//!     // my_store::store::expired_entry_is_absent … ok
//!     kvstore_core::store_conformance!(MyHarness::new());
//!     // my_store::{queue, together, commands}::…
//!     kvstore_core::queue_conformance!(MyHarness::new());
//! }
//! ```
//!
//! What is not here: crashes. A restart closes the backend properly; only a test that knows the
//! backend can check what survives a kill or a power loss.
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

/// How the suite reaches a store. One value represents one set of data, empty at first and gone
/// when it is dropped.
#[async_trait]
pub trait StoreHarness: Send + Sync {
    /// Returns a handle to the store, opening it if it is not open. Each call returns a handle to
    /// the same data: another connection if the backend has connections, otherwise a clone of the
    /// same `Arc`.
    async fn store(&self) -> Arc<dyn Store>;

    /// Closes the store, so that the next call of [`StoreHarness::store`] opens the data again, as
    /// a restarted process would. A backend that keeps its data only while its handles live does
    /// nothing here.
    async fn restart(&self);

    /// Returns the time by the backend's clock.
    async fn now(&self) -> Timestamp;

    /// Sets the backend's clock to `to`, which may be earlier than now. The clock may stop there or
    /// run on. If it cannot be set, wait until then; a clock that cannot be set back is left alone.
    async fn set_clock(&self, to: Timestamp);
}

/// How the suite reaches a queue and the store that applies it.
#[async_trait]
pub trait QueueHarness: StoreHarness {
    /// Returns a handle to the queue, like [`StoreHarness::store`]; [`StoreHarness::restart`] and
    /// the clock apply to both. `bounds` are the same in all calls on one harness.
    async fn queue(&self, bounds: QueueBounds) -> Arc<dyn WorkQueue>;
}

/// The bounds that a queue is opened with, for each of its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
    /// The maximum number of jobs accepted and not completed.
    pub jobs: usize,
    /// The maximum size of those jobs, in bytes.
    pub bytes: usize,
    /// The maximum number of idempotency keys remembered.
    pub idempotency_keys: usize,
}

impl Default for QueueBounds {
    /// Returns the defaults of [`crate::limits`].
    fn default() -> Self {
        Self {
            jobs: QUEUE_JOBS_DEFAULT,
            bytes: QUEUE_BYTES_DEFAULT,
            idempotency_keys: IDEMPOTENCY_KEYS_MAX,
        }
    }
}

/// The longest that a case may take. A case that waits longer waits for something that never comes,
/// and should fail by name.
const CASE_MAX: Duration = Duration::from_secs(120);

/// Runs one case on a multi-threaded runtime, since many of the faults it looks for only show
/// there.
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

            /// Runs every case in sequence, for a program without a test harness. Panics at the
            /// first failure.
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
    /// Compares the lists with the sources: a case missing from its list would never run.
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
                    // Its list is next to the queue's.
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
                assert_eq!(listed, 1, "{case} is listed {listed} times");
            }
        }
    }
}
