//! What stands in a journal behind its header, a line each.
//!
//! * A commit, `{"v":41,"t":1767225600000,"w":[["user:1",{"name":"Ada"}],["b",1,1767225700000],["c"]]}`: behind version 41, at
//!   that time, a set, a set with a deadline, and a delete. `x` are keys that expired, `q` is how far a queue is applied, `adopt`
//!   and `forget` are an operator's, and `opened` is the version behind which an opening numbers; it numbers jobs behind `jobs`.
//!   `idem` is what is remembered of the request of a job that was applied when it was accepted.
//! * A job that waits: `{"n":"1767225600000000-42","t":1767225600000,"job":{"set":"user:1","value":{"name":"Ada"}}}`.
//! * An attempt, `{"tried":["1767225600000000-42",1]}`: how often the first job was tried.

use std::borrow::Cow;
use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::in_memory::log::{PartitionLog, Remembered};
use crate::in_memory::state::{Advanced, Record, State};
use crate::json_file::PARTITION;
use crate::model::command::Command;
use crate::model::entry::{Timestamp, Version};
use crate::model::id::{JobId, Position, QueueId};
use crate::model::job::Job;
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::{Change, Write};

/// A line, read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A commit, with what is remembered of the request of a job that was applied when it was accepted.
    Commit(Record, Option<Remembered>),
    /// The folder was opened: jobs are numbered behind this position.
    Opened(Record, Position),
    /// A job that waits, with what is remembered of its request.
    Job(Box<Job>, Option<Remembered>),
    /// How often a job was tried.
    Tried(Position, u32),
}

impl Line {
    /// The latest version before it, if it says so.
    pub(crate) fn before(&self) -> Option<Version> {
        match self {
            Self::Commit(record, _) | Self::Opened(record, _) => Some(record.before),
            Self::Job(..) | Self::Tried(..) => None,
        }
    }

    /// Returns true if it changes what stands under a key.
    pub(crate) fn changes_entries(&self) -> bool {
        match self {
            Self::Commit(record, _) => !record.writes.is_empty() || !record.expired.is_empty(),
            Self::Opened(..) | Self::Job(..) | Self::Tried(..) => false,
        }
    }

    /// Makes true what the line says; fails, and says why, for one that does not follow from what came before.
    pub(crate) fn apply(self, state: &mut State, log: &mut PartitionLog) -> Result<(), String> {
        if let Some(before) = self.before().filter(|before| *before != state.version) {
            return Err(format!(
                "it follows version {before}, and should follow {}",
                state.version
            ));
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
            Self::Commit(record, remembered) => {
                if let Some(remembered) = remembered {
                    log.restore_idempotency(remembered);
                }
                if let Some(applied) = applied_of(&record, log.id()) {
                    log.apply(applied);
                }
                Ok(Some(record))
            }
            Self::Opened(record, jobs) => {
                log.start_numbering_after(jobs);
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

/// Returns how far the jobs of `queue` are applied by `record`, if it says so.
pub(crate) fn applied_of(record: &Record, queue: QueueId) -> Option<Position> {
    let advance = record.advance.as_ref()?;
    (advance.queue == queue && advance.partition == PARTITION).then_some(advance.to)
}

/// The line of `record`, without its closing brace and its CRC.
pub(crate) fn encode(record: &Record) -> Vec<u8> {
    let mut line = format!("{{\"v\":{},\"t\":{}", record.before, record.at.0).into_bytes();
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
                    line.extend_from_slice(format!(",{}", deadline.0).as_bytes());
                }
            }
            line.push(b']');
        }
        line.push(b']');
    }
    if !record.expired.is_empty() {
        push_member(&mut line, "x", &record.expired);
    }
    if let Some(advance) = &record.advance {
        push_member(&mut line, "q", advance);
    }
    if let Some(queue) = &record.adopt {
        push_member(&mut line, "adopt", queue);
    }
    if let Some(job) = &record.forget {
        push_member(&mut line, "forget", job);
    }
    if let Some(version) = &record.opened {
        push_member(&mut line, "opened", version);
    }
    line
}

pub(crate) fn push_member(line: &mut Vec<u8>, name: &str, value: &impl Serialize) {
    line.extend_from_slice(format!(",\"{name}\":").as_bytes());
    push_json(line, value);
}

pub(crate) fn push_json(line: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(line, value).expect("what is kept has JSON, and memory takes it");
}

/// As [`encode`], of a job that was applied when it was accepted, with what is remembered of its request.
pub(crate) fn encode_applied(record: &Record, remembered: Option<Remembered>) -> Vec<u8> {
    let mut line = encode(record);
    if let Some(remembered) = remembered {
        push_member(&mut line, "idem", &remembered);
    }
    line
}

/// The line of an opening: `record`, and the position behind which jobs are numbered.
pub(crate) fn encode_opening(record: &Record, jobs: Position) -> Vec<u8> {
    let mut line = encode(record);
    push_member(&mut line, "jobs", &jobs);
    line
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

    pub(crate) fn into_owned(self) -> JobText<'static> {
        JobText {
            n: self.n,
            t: self.t,
            job: Cow::Owned(self.job.into_owned()),
            keep: self.keep,
            trace: self.trace.map(|trace| Cow::Owned(trace.into_owned())),
            idem: self.idem,
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
    let mut line = Vec::new();
    push_json(&mut line, &JobText::of(job, remembered));
    line.pop();
    line
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
    let text: RecordText = serde_json::from_slice(line)?;
    let writes = text.writes.into_iter().map(|WriteText(write)| write);
    let record = Record {
        before: text.before,
        at: text.at,
        writes: writes.collect(),
        expired: text.expired,
        advance: text.advance,
        adopt: text.adopt,
        forget: text.forget,
        opened: text.opened,
    };
    Ok(match text.jobs {
        Some(jobs) => Line::Opened(record, jobs),
        None => Line::Commit(record, text.idem),
    })
}

#[derive(Deserialize)]
struct RecordText {
    #[serde(rename = "v")]
    before: Version,
    #[serde(rename = "t")]
    at: Timestamp,
    #[serde(rename = "w", default)]
    writes: Vec<WriteText>,
    #[serde(rename = "x", default)]
    expired: Vec<Key>,
    #[serde(rename = "q")]
    advance: Option<Advanced>,
    adopt: Option<QueueId>,
    forget: Option<JobId>,
    opened: Option<Version>,
    jobs: Option<Position>,
    idem: Option<Remembered>,
}

struct WriteText(Write);

impl<'de> Deserialize<'de> for WriteText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneToThree;

        impl<'de> Visitor<'de> for OneToThree {
            type Value = WriteText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key, perhaps a value, perhaps a deadline")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<WriteText, A::Error> {
                let key = members
                    .next_element()?
                    .ok_or_else(|| serde::de::Error::invalid_length(0, &self))?;
                let change = match members.next_element::<&RawValue>()? {
                    None => Change::Delete,
                    Some(value) => Change::Set {
                        value: Value::trusted(value.get().to_owned().into()),
                        expires_at: members.next_element()?,
                    },
                };
                Ok(WriteText(Write { key, change }))
            }
        }

        deserializer.deserialize_seq(OneToThree)
    }
}
