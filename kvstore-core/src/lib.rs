//! An embeddable key-value store for JSON values, with a durable queue of writes in front of it.
//!
//! Two traits are the contracts; everything else either implements them or builds on them:
//!
//! * [`Store`]: entries under keys, changed by atomic and durable commits, which also record how
//!   far a queue has been applied;
//! * [`JobQueue`]: a partitioned log of jobs, accepted durably and in order.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! use kvstore_core::json_file::{JsonFile, Options};
//! use kvstore_core::{Error, Store, StoreExt};
//!
//! # let folder = tempfile::tempdir().expect("a temporary folder");
//! // Or, for any backend: kvstore_core::open(&"file:database".parse()?, None)
//! let file = JsonFile::open(&folder, Options::default()).await?;
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
//! # Modules
//! * The vocabulary: [`model`]. What is stored: [`Key`], [`Value`], [`Entry`] with its [`Version`];
//!   what a client asks for: [`Command`](model::command::Command); what a store applies atomically:
//!   [`Commit`](model::commit::Commit); [`evaluate`](model::evaluate::evaluate) turns jobs into a
//!   commit. All bounds: [`limits`].
//! * The contracts: [`store`], [`queue`]. Built on both: [`service`] accepts, waits and reads,
//!   [`worker`] applies, [`store_ext`] adds convenience methods to every store.
//! * Backends: [`json_file`], a folder with a `data.json`; [`memory`], for tests and caches; and
//!   `redis` (a feature), a store and its queue on a Redis server. Only [`open`](mod@open) names
//!   the backends; it takes a URL.
//! * Import and export as text, for every store: [`portable`].
//! * `conformance` (a feature): the suite that every backend has to pass, including yours.
//! * `redis-tls` (a feature): TLS to that server.
//!
//! Not here: HTTP (`kvstore-http`) and processes (`kvstore-http`, `kvstore-worker`, and what
//! both need around the library, `kvstore-process`).
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::print_stdout))]

#[cfg(not(unix))]
compile_error!(
    "kvstore-core needs Unix (Linux, macOS, a BSD): it locks, syncs and renames files as POSIX does, \
     and Windows promises none of that; use it in WSL or a container there"
);

pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod embedded;
pub mod error;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
mod in_memory;
pub mod json_file;
pub mod limits;
pub mod machine;
pub mod memory;
pub mod model;
pub mod open;
pub mod portable;
pub mod queue;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(not(feature = "redis"))]
#[path = "redis/absent.rs"]
mod redis;
pub mod service;
pub mod store;
pub mod store_ext;
#[cfg(test)]
mod told;
pub mod worker;

pub use embedded::Embedded;
pub use error::{Error, Result};
pub use model::entry::{Entry, Version};
pub use model::key::Key;
pub use model::value::Value;
pub use open::open;
pub use queue::JobQueue;
pub use service::Service;
pub use store::Store;
pub use store_ext::StoreExt;

/// The README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
