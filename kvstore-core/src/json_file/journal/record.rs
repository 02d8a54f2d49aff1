//! What stands in a journal behind its header, a line each.
//!
//! * A commit, `{"v":41,"t":1767225600000,"w":[["user:1",{"name":"Ada"}],["b",1,1767225700000],["c"]]}`: behind version 41, at
//!   that time, a set, a set with a deadline, and a delete. `x` are keys that expired, `q` is how far a queue is applied, `adopt`
//!   and `forget` are an operator's, and `opened` is the version behind which an opening numbers; it numbers jobs behind `jobs`.
//!   `idem` is what is remembered of the request of a job that was applied when it was accepted.
//! * A job that waits: `{"n":"1767225600000000-42","t":1767225600000,"job":{"set":"user:1","value":{"name":"Ada"}}}`.
//! * An attempt, `{"tried":["1767225600000000-42",1]}`: how often the first job was tried.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::in_memory::log::{PartitionLog, Remembered};
use crate::in_memory::state::{Record, State, bytes_added};
use crate::json_file::PARTITION;
use crate::json_file::journal::line::{open_object, push_json};
use crate::model::command::Command;
use crate::model::entry::{Timestamp, Version};
use crate::model::id::{JobId, Position, QueueId};
use crate::model::job::Job;

/// A line, read.
#[derive(Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "most lines are records: a box would cost each of them an allocation"
)]
pub(crate) enum Line {
    /// A commit, or an opening of the folder.
    Record(Record),
    /// A job that waits, with what is remembered of its request.
    Job(Box<Job>, Option<Remembered>),
    /// How often a job was tried.
    Tried(Position, u32),
}

impl Line {
    /// Returns the commit, if it is one.
    pub(crate) fn record(&self) -> Option<&Record> {
        match self {
            Self::Record(record) => Some(record),
            Self::Job(..) | Self::Tried(..) => None,
        }
    }

    /// Makes true what the line says; fails, and says why, for one that does not follow from what came before.
    pub(crate) fn apply(self, state: &mut State, log: &mut PartitionLog) -> Result<(), String> {
        let record = self.record();
        if let Some(record) = record.filter(|record| record.before != state.version) {
            return Err(out_of_order(record.before, state.version));
        }
        if let Self::Job(job, _) = &self {
            state.time = state.time.max(job.accepted_at);
        }
        if let Some(record) = self.apply_to_log(log)? {
            state.apply(record);
        }
        Ok(())
    }

    /// As [`apply`](Self::apply), of the queue alone. Returns what the store has to apply.
    pub(crate) fn apply_to_log(self, log: &mut PartitionLog) -> Result<Option<Record>, String> {
        match self {
            Self::Record(record) => {
                if let Some(remembered) = record.idem {
                    log.restore_idempotency(remembered);
                }
                if let Some(applied) = applied_of(&record, log.id()) {
                    log.apply(applied);
                }
                if let Some(jobs) = record.jobs {
                    log.start_numbering_after(jobs);
                }
                Ok(Some(record))
            }
            Self::Job(job, remembered) => {
                let restored = log.restore_job(*job, remembered);
                restored.map(|()| None).map_err(|error| error.to_string())
            }
            Self::Tried(head, count) => {
                log.restore_attempts(head, count);
                Ok(None)
            }
        }
    }
}

/// Says what is wrong with a line that does not follow `version`.
pub(crate) fn out_of_order(before: Version, version: Version) -> String {
    format!("it follows version {before}, and should follow {version}")
}

/// Returns how far the jobs of `queue` are applied by `record`, if it says so.
pub(crate) fn applied_of(record: &Record, queue: QueueId) -> Option<Position> {
    let advance = record.advance.as_ref()?;
    (advance.queue == queue && advance.partition == PARTITION).then_some(advance.to)
}

/// The line of `record`, without its closing brace and its CRC.
pub(crate) fn encode(record: &Record) -> Vec<u8> {
    // Enough for all but outcomes and what expired.
    let mut line = Vec::with_capacity(bytes_added(&record.writes) as usize + 128);
    line.extend_from_slice(b"{\"v\":");
    push_json(&mut line, &record.before.0);
    line.extend_from_slice(b",\"t\":");
    push_json(&mut line, &record.at.0);
    if !record.writes.is_empty() {
        line.extend_from_slice(b",\"w\":[");
        for (index, write) in record.writes.iter().enumerate() {
            line.extend_from_slice(if index == 0 { b"[" } else { b",[" });
            push_json(&mut line, &write.key);
            // The value is copied as it is: no writer of JSON could be trusted with its bytes.
            if let Some((value, expires_at)) = write.change.value_at(record.at) {
                line.push(b',');
                line.extend_from_slice(value.as_bytes());
                if let Some(deadline) = expires_at {
                    line.push(b',');
                    push_json(&mut line, &deadline.0);
                }
            }
            line.push(b']');
        }
        line.push(b']');
    }
    let expired = Some(&record.expired).filter(|expired| !expired.is_empty());
    push_member(&mut line, "x", expired);
    push_member(&mut line, "q", record.advance.as_ref());
    push_member(&mut line, "adopt", record.adopt.as_ref());
    push_member(&mut line, "forget", record.forget.as_ref());
    push_member(&mut line, "opened", record.opened.as_ref());
    push_member(&mut line, "jobs", record.jobs.as_ref());
    push_member(&mut line, "idem", record.idem.as_ref());
    line
}

fn push_member(line: &mut Vec<u8>, name: &str, value: Option<&impl Serialize>) {
    if let Some(value) = value {
        line.extend_from_slice(b",\"");
        line.extend_from_slice(name.as_bytes());
        line.extend_from_slice(b"\":");
        push_json(line, value);
    }
}

/// A job, as its line and `data.meta.json` have it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JobText<'a> {
    n: Position,
    t: Timestamp,
    job: Cow<'a, Command>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    keep: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idem: Option<Remembered>,
}

impl<'a> JobText<'a> {
    pub(crate) fn of(job: &'a Job, remembered: Option<Remembered>) -> Self {
        Self {
            n: job.id.position,
            t: job.accepted_at,
            job: Cow::Borrowed(&job.command),
            keep: job.keep_outcome,
            trace: job.traceparent.as_deref().map(Cow::Borrowed),
            idem: remembered,
        }
    }

    /// The job, in the queue with this id.
    pub(crate) fn into_job(self, queue: QueueId) -> Job {
        Job {
            id: JobId {
                queue,
                partition: PARTITION,
                position: self.n,
            },
            command: self.job.into_owned(),
            keep_outcome: self.keep,
            accepted_at: self.t,
            traceparent: self.trace.map(Cow::into_owned),
        }
    }
}

/// The line of a job that waits.
pub(crate) fn encode_job(job: &Job, remembered: Option<Remembered>) -> Vec<u8> {
    open_object(&JobText::of(job, remembered))
}

/// The line that says how often the job at `head` was tried.
pub(crate) fn encode_tried(head: Position, count: u32) -> Vec<u8> {
    let mut line = b"{\"tried\":".to_vec();
    push_json(&mut line, &(head, count));
    line
}

/// Reads a line back, from a journal of the folder that has this queue.
pub(crate) fn decode(line: &[u8], queue: QueueId) -> serde_json::Result<Line> {
    if line.starts_with(b"{\"n\"") {
        let text: JobText<'_> = serde_json::from_slice(line)?;
        let remembered = text.idem;
        return Ok(Line::Job(Box::new(text.into_job(queue)), remembered));
    }
    if line.starts_with(b"{\"tried\"") {
        #[derive(Deserialize)]
        struct TriedText {
            tried: (Position, u32),
        }
        let TriedText { tried } = serde_json::from_slice(line)?;
        return Ok(Line::Tried(tried.0, tried.1));
    }
    serde_json::from_slice(line).map(Line::Record)
}
