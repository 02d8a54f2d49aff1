//! The lines of a journal after its header:
//!
//! * A commit,
//!   `{"v":41,"t":1767225600000,"w":[["user:1",{"name":"Ada"}],["b",1,1767225700000],["c"]]}`:
//!   after version 41, at that time, a set, a set with a deadline, and a delete. `x` holds keys
//!   that expired, and `q` how far a queue is applied. `adopt` and `forget` record an operator's
//!   decisions. `opened` is the version after which an opening of the folder numbers commits;
//!   `jobs` is the position after which it numbers jobs. `idem` is the remembered request of a job
//!   that was applied on acceptance.
//! * A waiting job:
//!   `{"n":"1767225600000000-42","t":1767225600000,"job":{"set":"user:1","value":{"name":"Ada"}}}`.
//! * An attempt, `{"tried":["1767225600000000-42",1]}`: how often the first job was attempted.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::in_memory::log::{PartitionLog, Remembered};
use crate::in_memory::state::{Record, State, bytes_added};
use crate::json_file::PARTITION;
use crate::json_file::journal::line::{USUAL_BYTES, open_object, push_json};
use crate::model::command::Command;
use crate::model::entry::{Timestamp, Version};
use crate::model::id::{JobId, Position, QueueId};
use crate::model::job::Job;

/// A decoded line.
#[derive(Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "most lines are records: a box would cost each of them an allocation"
)]
pub(crate) enum Line {
    /// A commit, or an opening of the folder.
    Record(Record),
    /// A waiting job, with its remembered request.
    Job(Box<Job>, Option<Remembered>),
    /// How often a job was attempted.
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

    /// Applies the line to state and log. Fails with a message if the line does not follow from
    /// those before it.
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

    /// Applies the line to the queue alone, as [`apply`](Self::apply) does. Returns the record for
    /// the store to apply.
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

/// Returns the message for a line that does not follow `version`.
pub(crate) fn out_of_order(before: Version, version: Version) -> String {
    format!("it follows version {before}, but should follow version {version}")
}

/// Returns the position up to which `record` applies the jobs of `queue`, if it states one.
pub(crate) fn applied_of(record: &Record, queue: QueueId) -> Option<Position> {
    let advance = record.advance.as_ref()?;
    (advance.queue == queue && advance.partition == PARTITION).then_some(advance.to)
}

/// Encodes `record` as a line without its closing brace and CRC.
pub(crate) fn encode(record: &Record) -> Vec<u8> {
    let mut line = Vec::with_capacity(bytes_added(&record.writes) as usize + USUAL_BYTES);
    line.extend_from_slice(b"{\"v\":");
    push_json(&mut line, &record.before.0);
    line.extend_from_slice(b",\"t\":");
    push_json(&mut line, &record.at.0);
    if !record.writes.is_empty() {
        line.extend_from_slice(b",\"w\":[");
        for (index, write) in record.writes.iter().enumerate() {
            line.extend_from_slice(if index == 0 { b"[" } else { b",[" });
            push_json(&mut line, &write.key);
            // The value is copied verbatim: a JSON writer might change its bytes.
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

/// A job, as it is stored in its line and in `data.meta.json`.
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

    /// Converts the text into a job of the queue `queue`.
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

/// Encodes a waiting job as a line.
pub(crate) fn encode_job(job: &Job, remembered: Option<Remembered>) -> Vec<u8> {
    open_object(&JobText::of(job, remembered))
}

/// Encodes how often the job at `head` was attempted as a line.
pub(crate) fn encode_tried(head: Position, count: u32) -> Vec<u8> {
    let mut line = b"{\"tried\":".to_vec();
    push_json(&mut line, &(head, count));
    line
}

/// Decodes a line from a journal of the folder with this queue.
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
