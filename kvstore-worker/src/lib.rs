//! The worker: it claims partitions of a queue and applies what waits in them to a store, exactly once in effect.
//!
//! [`run`] is all of it, for this crate's binary, for the server that has a worker inside, and for a program that embeds both.
//! [`admin`] answers what a supervisor asks: probes and metrics.
//!
//! ```no_run
//! # async fn example() -> kvstore_core::Result<()> {
//! let opened = kvstore_core::open("file:database", None).await?;
//! let until_ctrl_c = async {
//!     let _ = tokio::signal::ctrl_c().await;
//! };
//! kvstore_worker::run(opened.store, opened.queue, kvstore_worker::Options::default(), until_ctrl_c).await
//! # }
//! ```
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::print_stdout))]

pub mod admin;
mod backoff;
mod figures;
mod metrics;
mod partition;
mod worker;

pub use metrics::Metrics;
pub use worker::{Options, run};
