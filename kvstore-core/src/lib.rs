//! The core of kvstore.
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
mod job;
mod json;
pub mod json_file;
mod key;
pub mod limits;
mod log;
pub mod memory;
#[cfg(feature = "process")]
pub mod process;
mod queue;
mod service;
mod state;
mod store;
mod store_ext;
mod value;

pub use clock::{Clock, ManualClock, SystemClock};
pub use command::{Action, Command, Evaluation, Expiry, Operation, evaluate, keys_needed};
pub use commit::{Advance, Change, Commit, Committed, Condition, Verdict, Write};
pub use config::{Opened, open};
pub use entry::{Entry, Timestamp, Version};
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
