//! Jobs as they stand in a partition's log: those that came together as one entry, which costs the server half as much as an entry each.
//!
//! Its fields are when it was accepted, how many jobs and bytes ever were with it, and then for each job its size and its text. Its id
//! is the position of the last; those before it have the numbers before that.

use crate::error::Result;
use crate::model::command::Command;
use crate::model::entry::Timestamp;
use crate::model::id::{JobId, Partition, Position, QueueId};
use crate::model::job::{Job, NewJob};
use crate::redis::text::{number, position, unexpected};

/// A job's text.
pub(crate) fn text(job: &NewJob) -> serde_json::Result<String> {
    let keep_outcome = job.keep_outcome || job.idempotency.is_some();
    serde_json::to_string(&(keep_outcome, &job.traceparent, &job.command))
}

/// A job, and what was ever accepted with it and before.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) job: Job,
    pub(crate) jobs: u64,
    pub(crate) bytes: u64,
}

/// An entry of the log: its id, and its fields and their values.
pub(crate) type Entry = (String, Vec<String>);

/// Returns the jobs of several entries behind a position, in order and at most `max`.
pub(crate) fn unpack_all(
    entries: &[Entry],
    queue: QueueId,
    partition: Partition,
    after: Position,
    max: usize,
) -> Result<Vec<Counted>> {
    let mut jobs = Vec::new();
    for entry in entries {
        jobs.extend(unpack(entry, queue, partition, after)?);
    }
    jobs.truncate(max);
    Ok(jobs)
}

/// The jobs of an entry behind a position, in order.
pub(crate) fn unpack(
    (id, fields): &Entry,
    queue: QueueId,
    partition: Partition,
    after: Position,
) -> Result<Vec<Counted>> {
    let [_, at, _, jobs, _, bytes, packed @ ..] = &fields[..] else {
        return Err(unexpected());
    };
    let accepted_at = Timestamp(number(at)?);
    let (mut at, mut jobs, mut bytes) = (position(id)?, number(jobs)?, number(bytes)?);
    let mut unpacked = Vec::with_capacity(packed.len() / 2);
    for pair in packed.rchunks_exact(2) {
        if at <= after {
            break;
        }
        let (keep_outcome, traceparent, command): (bool, Option<String>, Command) =
            serde_json::from_str(&pair[1]).map_err(|_| unexpected())?;
        let id = JobId {
            queue,
            partition,
            position: at,
        };
        unpacked.push(Counted {
            job: Job {
                id,
                command,
                keep_outcome,
                accepted_at,
                traceparent,
            },
            jobs,
            bytes,
        });
        at.minor = at.minor.saturating_sub(1);
        jobs = jobs.saturating_sub(1);
        bytes = bytes.saturating_sub(number(&pair[0])?);
    }
    unpacked.reverse();
    Ok(unpacked)
}
