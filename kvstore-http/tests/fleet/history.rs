//! What the clients of a fleet asked and were answered: one operation for each request, with all of its attempts.

use kvstore_core::model::id::JobId;

/// Nanoseconds since the run began, by this process' own monotonic clock.
pub(crate) type Moment = u64;

/// Of what was not seen to happen: it may at any later time.
pub(crate) const NEVER: Moment = Moment::MAX;

/// The number of a value. No value is written twice, so it tells the write that it comes from.
pub(crate) type ValueId = u64;

/// One request of a client, and what it knows of it.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) key: usize,
    /// Before its first attempt was sent.
    pub(crate) invoked: Moment,
    /// After the answer that promised it a place in the order of its key.
    pub(crate) accepted: Moment,
    /// After the answer that said it was done.
    pub(crate) done: Moment,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Read(Read),
    Write(Write),
}

/// A read that was answered. One that was not says nothing.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    /// The sync token that came with it: it must show what this job did.
    pub(crate) after: Option<JobId>,
    /// Value and version; `None` if the key is absent.
    pub(crate) seen: Option<(ValueId, u64)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// What it leaves; `None` of a delete.
    pub(crate) value: Option<ValueId>,
    pub(crate) condition: Condition,
    /// Every job that an attempt was told of. More than one is one too many.
    pub(crate) jobs: Vec<JobId>,
    pub(crate) verdict: Verdict,
}

/// What must be true of the entry for a write to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Condition {
    Any,
    Absent,
    Present,
    Version(u64),
}

/// What became of a write, as far as its client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Applied {
        version: Option<u64>,
        existed: Option<bool>,
    },
    /// Its condition did not hold, and this was the version then.
    Failed { current: Option<u64> },
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
    pub(crate) fn write(&self) -> Option<&Write> {
        match &self.what {
            What::Write(write) => Some(write),
            What::Read(_) => None,
        }
    }

    /// The versions that its answers gave to values.
    pub(crate) fn version(&self) -> Option<(ValueId, u64)> {
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
    pub(crate) fn job(&self) -> Option<JobId> {
        self.jobs.first().copied()
    }
}
