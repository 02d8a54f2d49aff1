//! What many clients asked and were answered, and whether it makes sense.
//!
//! A history is one [`Operation`] for each request of a client, with all of its attempts. [`check`]
//! finds every promise that it breaks.

mod checker;
mod linear;
#[cfg(test)]
mod tests;

pub use checker::{Kind, Violation, check};
use kvstore_core::model::id::JobId;

/// Nanoseconds since the run began, by this process' own monotonic clock.
pub type Moment = u64;

/// Of what was not seen to happen: it may at any later time.
pub const NEVER: Moment = Moment::MAX;

/// The number of a value. No value is written twice, so it tells the write that it comes from.
pub type ValueId = u64;

/// One request of a client, and what it knows of it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The number of its key.
    pub key: usize,
    /// Before its first attempt was sent.
    pub invoked: Moment,
    /// After the answer that promised it a place in the order of its key.
    pub accepted: Moment,
    /// After the answer that said it was done.
    pub done: Moment,
    /// What it asked, and was answered.
    pub what: What,
}

/// The kinds of operations.
#[derive(Clone, Debug)]
pub enum What {
    /// It changes nothing.
    Read(Read),
    /// It may change its key.
    Write(Write),
}

/// A read that was answered. One that was not says nothing.
#[derive(Clone, Debug)]
pub struct Read {
    /// The sync token that came with it: it must show what this job did.
    pub after: Option<JobId>,
    /// Value and version; `None` if the key is absent.
    pub seen: Option<(ValueId, u64)>,
}

/// A write, and what is known of it.
#[derive(Clone, Debug)]
pub struct Write {
    /// What it leaves; `None` of a delete.
    pub value: Option<ValueId>,
    /// What must be true for it to take effect.
    pub condition: Condition,
    /// Every job that an attempt was told of. More than one is one too many.
    pub jobs: Vec<JobId>,
    /// What became of it.
    pub verdict: Verdict,
}

/// What must be true of the entry for a write to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Nothing.
    Any,
    /// The key is absent.
    Absent,
    /// The key is present.
    Present,
    /// The entry has this version.
    Version(u64),
}

/// What became of a write, as far as its client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It took effect.
    Applied {
        /// Its version, if the client was told.
        version: Option<u64>,
        /// Whether the key was present before, if the client was told.
        existed: Option<bool>,
    },
    /// Its condition did not hold.
    Failed {
        /// The version of the entry then; `None` if it was absent.
        current: Option<u64>,
    },
    /// It is in the queue. At the end of a history this is one verdict too few.
    Accepted,
    /// It may be in the queue or not.
    Unknown,
    /// It is not in the queue.
    Refused,
    /// It was accepted, and then the service said this of its job.
    Lost(String),
}

impl Operation {
    /// Returns the write, if it is one.
    pub fn write(&self) -> Option<&Write> {
        match &self.what {
            What::Write(write) => Some(write),
            What::Read(_) => None,
        }
    }

    /// Returns the version that its answers gave to a value.
    pub fn version(&self) -> Option<(ValueId, u64)> {
        match &self.what {
            What::Read(read) => read.seen,
            What::Write(write) => match (write.value, &write.verdict) {
                (Some(value), Verdict::Applied { version, .. }) => Some((value, (*version)?)),
                _ => None,
            },
        }
    }
}

impl Write {
    /// Returns the job that it is, if an attempt was told.
    pub fn job(&self) -> Option<JobId> {
        self.jobs.first().copied()
    }
}
