//! The requests and answers of many clients, and a check that they are consistent.
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

/// The time of an event that was not observed: it may happen at any later time.
pub const NEVER: Moment = Moment::MAX;

/// The number of a value. No value is written twice, so it identifies the write that it comes from.
pub type ValueId = u64;

/// One request of a client, and what the client knows of it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The number of its key.
    pub key: usize,
    /// Before its first attempt was sent.
    pub invoked: Moment,
    /// After the answer that promised it a place in the order of its key.
    pub accepted: Moment,
    /// After the answer that reported it done.
    pub done: Moment,
    /// The request and the answer.
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

/// A read that was answered. An unanswered read carries no information.
#[derive(Clone, Debug)]
pub struct Read {
    /// The sync token that came with it: it must show what this job did.
    pub after: Option<JobId>,
    /// Value and version; `None` if the key is absent.
    pub seen: Option<(ValueId, u64)>,
}

/// A write, and its known result.
#[derive(Clone, Debug)]
pub struct Write {
    /// The value that it leaves; `None` for a delete.
    pub value: Option<ValueId>,
    /// The condition under which it takes effect.
    pub condition: Condition,
    /// The ids of its job that attempts have received. More than one is a violation.
    pub jobs: Vec<JobId>,
    /// The result.
    pub verdict: Verdict,
}

/// A condition on the entry, under which a write takes effect.
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

/// The result of a write, as far as its client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It took effect.
    Applied {
        /// Its version, if the client received it.
        version: Option<u64>,
        /// True if the key was present before; `None` if the client does not know.
        existed: Option<bool>,
    },
    /// Its condition did not hold.
    Failed {
        /// The version of the entry then; `None` if it was absent.
        current: Option<u64>,
    },
    /// It is in the queue. At the end of a history this is a violation.
    Accepted,
    /// It may be in the queue or not.
    Unknown,
    /// It is not in the queue.
    Refused,
    /// It was accepted, and then the service reported this about its job.
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
    /// Returns the id of its job, if an attempt received it.
    pub fn job(&self) -> Option<JobId> {
        self.jobs.first().copied()
    }
}
