//! The client of a kvstore server, with the names and types of `kvstore-core`: a program that moves
//! from an embedded store to a server changes only the line that opens it.
//!
//! ```no_run
//! # async fn program() -> kvstore_core::Result<()> {
//! use std::time::Duration;
//!
//! use kvstore_client::Client; // in place of kvstore_core::Embedded
//!
//! // In place of Embedded::open("file:database"):
//! let kv = Client::open("http://127.0.0.1:8000").await?;
//! kv.service().set("user:1", "Ada").if_absent().await?;
//! let hits = kv.service().add("hits", 1).expires_after(Duration::from_secs(60)).await?;
//! assert_eq!(hits.number(), Some(1));
//! assert_eq!(kv.store().get_as("user:1").await?, Some("Ada".to_owned()));
//! kv.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! * [`Client::store`] has the methods of [`StoreExt`](kvstore_core::StoreExt) and those of
//!   [`Store`](kvstore_core::Store) that a server offers; its writes return once they are applied.
//! * [`Client::service`] has the verbs of [`Service`](kvstore_core::Service), with conditions,
//!   times to live and batches, and access to jobs, dead letters and the queue.
//! * [`Client::watch`] streams live changes, and resumes by itself.
//!
//! # What is retried
//! Every write carries an idempotency key, so that a retry is the same job and has no second
//! effect. A request is therefore sent again, for up to [`Options::retry_for`], when the server
//! cannot be reached, when it answers 503 (after the time that it names), and when its answer is
//! lost or says that the outcome is unknown. A rejected request is not sent again.
//! [`Error::Unknown`] is returned only if it is still unknown at the end whether the write takes
//! effect.
//!
//! A server remembers a bounded number of idempotency keys, 100,000 for each partition. The random
//! ones of a client are remembered only for as long as it may send the write again. With the
//! default [`Options`] that is 85 seconds for a queued write, which waits for 5, and 195 for a
//! write of [`Client::store`], which waits for up to 60: enough for 1,000 and 500 writes a second
//! without a pause. A program that writes more shortens [`Options::retry_for`] and
//! [`Options::request_timeout`], or sets [`Options::idempotency_keys`] to false; then a write whose
//! answer is lost is not sent again, and is [`Error::Unknown`].
//!
//! # Features
//! `tls`: `https://`. Without it, an `https://` URL is an error.
//!
//! What is not here: the store itself, which is `kvstore-core`, and the server, which is
//! `kvstore-http`.
//!
//! [`Error::Unknown`]: kvstore_core::Error::Unknown
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::print_stdout))]

mod batch;
mod client;
mod collection;
mod error;
mod events;
mod jobs;
mod service;
mod store;
mod transport;
mod url;
mod watch;
mod wire;

pub use batch::Batch;
pub use client::{Client, Options};
pub use collection::Collection;
pub use jobs::{JobInfo, JobOutcome, JobStatus, QueueStatus};
pub use service::{RemoteService, Submission};
pub use store::RemoteStore;
pub use url::ServerUrl;
pub use watch::{Event, Watching};

/// The example of this crate's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ClientReadme;
