//! Jobs in a partition's log. Jobs that arrived together form one entry, which costs the server
//! half as much as an entry each.
//!
//! The fields of an entry are the time of acceptance, how many jobs were ever accepted before it,
//! how many bytes those had, and how many bytes it has; then the size and the text of each job. Its
//! id is the position of the last job; the earlier jobs have the preceding numbers.

use crate::error::{Error, Result, Subject};
use crate::model::command::Command;
use crate::model::entry::Timestamp;
use crate::model::id::{JobId, Partition, Position, QueueId};
use crate::model::job::{Job, NewJob};
use crate::redis::link::wake::News;
use crate::redis::log::LogEntry;
use crate::redis::text::{number, position, stream_id, unexpected};

/// Encodes a job as text.
pub(crate) fn text(job: &NewJob) -> Result<String> {
    let keep_outcome = job.keep_outcome || job.idempotency.is_some();
    serde_json::to_string(&(keep_outcome, &job.traceparent, &job.command))
        .map_err(|error| Error::invalid(Subject::Job, error.to_string()))
}

/// Returns the entry that `news` of a log carries, if its first job is the one after `after`.
pub(crate) fn carried(news: &News, after: Position) -> Option<Vec<LogEntry>> {
    let jobs = news.carried.len().checked_sub(4)? as u64 / 2;
    let follows = news.position.major == after.major && news.position.minor == after.minor + jobs;
    (jobs > 0 && follows).then(|| vec![(stream_id(news.position), news.carried.clone())])
}

/// Returns the jobs of entries behind a position, in order and at most `max`.
pub(crate) fn unpack(
    entries: &[LogEntry],
    queue: QueueId,
    partition: Partition,
    after: Position,
    max: usize,
) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for (id, fields) in entries {
        let [at, _, _, _, packed @ ..] = &fields[..] else {
            return Err(unexpected());
        };
        let (accepted_at, last) = (Timestamp(number(at)?), position(id)?);
        let packed = packed.chunks_exact(2);
        let before = last.minor.saturating_sub(packed.len() as u64);
        for (pair, minor) in packed.zip(before..) {
            let minor = minor + 1;
            let position = Position { minor, ..last };
            if position <= after {
                continue;
            }
            let (keep_outcome, traceparent, command): (bool, Option<String>, Command) =
                serde_json::from_str(&pair[1]).map_err(|_| unexpected())?;
            jobs.push(Job {
                id: JobId {
                    queue,
                    partition,
                    position,
                },
                command,
                keep_outcome,
                accepted_at,
                traceparent,
            });
        }
    }
    jobs.truncate(max);
    Ok(jobs)
}
