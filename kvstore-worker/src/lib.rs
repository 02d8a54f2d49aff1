//! The process around the worker of [`kvstore_core::worker`]: its probes and its metrics.
//!
//! [`admin`] answers probes and serves metrics, for the worker's process and for a server;
//! [`Metrics`] counts what a worker reports.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::print_stdout))]

pub mod admin;
mod figures;
mod metrics;

pub use metrics::Metrics;
