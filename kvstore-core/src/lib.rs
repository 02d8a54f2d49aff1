//! A key-value store for JSON values with a durable queue of writes in front of it, to embed in a program.
//!
//! Two traits are the contracts, and everything else stands on one side of them:
//!
//! * [`Store`]: entries under keys, changed by atomic and durable commits, which also remember how far a queue has been applied;
//! * [`JobQueue`]: a partitioned log of jobs, accepted durably and in order.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! use kvstore_core::json_file::{JsonFile, Options};
//! use kvstore_core::{Error, Store, StoreExt};
//!
//! # let folder = tempfile::tempdir().expect("a temporary folder");
//! let file = JsonFile::open(&folder, Options::default()).await?; // or kvstore_core::open("file:database", None)
//! let store = file.store();
//! let first = store.set("user:1", "Ada").await?; // on the disk when it returns
//! let second = store.compare_and_set("user:1", first, "Ada Lovelace").await?;
//! assert!(second > first);
//! let late = store.compare_and_set("user:1", first, "Grace").await;
//! assert!(matches!(late, Err(Error::Conflict { .. })));
//! assert_eq!(store.get_as("user:1").await?, Some("Ada Lovelace".to_owned()));
//! file.close().await?;
//! # Ok::<(), Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The modules
//! * What is stored: [`Key`], [`Value`], [`Entry`] with its [`Version`]. What a store does at once: [`Commit`]. Every
//!   bound: [`limits`].
//! * What a client asks for: [`Command`]; [`evaluate`] turns jobs into a commit, in one place and without asking anybody.
//! * What became of it: [`JobId`], which is also the token of a read that waits for its write; [`JobState`], [`Outcome`].
//! * Store and queue as one thing: [`Service`] accepts, waits and reads. Convenience for all stores: [`StoreExt`].
//! * Backends: [`json_file`], a folder with a `data.json`; [`memory`], for tests and caches; and `redis` (a feature), a store and its
//!   queue on a Redis server. [`open`] takes a URL and alone knows them all.
//! * In and out of any store as text: [`portable`].
//! * `conformance` (a feature): the suite that every backend has to pass, yours too.
//! * `redis-tls` (a feature): TLS to that server.
//! * `process` (a feature): what a binary needs around the library.
//!
//! What is not here: applying jobs, which is `kvstore-worker`, and HTTP, which is `kvstore-http`.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::print_stdout))]

mod clock;
mod codec;
mod command;
mod commit;
mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod entry;
mod error;
mod folder_queue;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
mod job;
mod json;
pub mod json_file;
mod key;
pub mod limits;
mod log;
pub mod memory;
pub mod portable;
#[cfg(feature = "process")]
pub mod process;
mod queue;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(not(feature = "redis"))]
#[path = "redis/absent.rs"]
mod redis;
mod service;
mod state;
mod store;
mod store_ext;
mod value;

pub use clock::{Clock, ManualClock, SystemClock};
pub use command::{Action, Command, Evaluation, Expiry, Operation, evaluate, keys_needed};
pub use commit::{Advance, Change, Commit, Committed, Condition, Verdict, Write};
pub use config::{Opened, check_store, file_folder, follow, open, stand_by};
pub use entry::{Entry, EntryRef, Timestamp, Version};
pub use error::{Error, Result, Source};
pub use job::{
    Applied, Dead, DeadLetter, Failed, Fingerprint, Idempotency, Job, JobId, JobState, NewJob,
    Outcome, Partition, PartitionCount, Position, QueueId, Succeeded, Summary,
};
pub use key::Key;
pub use log::QueueOptions;
pub use queue::{Accepted, Claim, Depth, Found, JobQueue, WorkerId};
pub use service::{JobReport, Request, Service, ServiceOptions, Submitted, join};
pub use store::{
    ChangeId, ChangeKind, Changed, DeadPage, DeadRequest, ListRequest, Listed, Page, Store, Watch,
    WatchFrom,
};
pub use store_ext::StoreExt;
pub use value::Value;

/// The README's example.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
