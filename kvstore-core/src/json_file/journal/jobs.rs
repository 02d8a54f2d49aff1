//! What stands in a queue file: jobs, which of them was tried, and what is remembered of requests.
//!
//! A job is a line: `{"n":"1767225600000000-42","t":1767225600000,"job":{"set":"user:1","value":{"name":"Ada"}}}`.

use serde::{Deserialize, Serialize};

use crate::clock::StoreTime;
use crate::error::Result;
use crate::in_memory::log::{PartitionLog, Remembered};
use crate::json_file::PARTITION;
use crate::json_file::disk::Disk;
use crate::json_file::error::corrupt;
use crate::json_file::journal::End;
use crate::json_file::journal::chain::{Files, Kind};
use crate::json_file::journal::record::push_json;
use crate::model::command::Command;
use crate::model::entry::Timestamp;
use crate::model::id::{JobId, Position, QueueId};
use crate::model::job::Job;

/// What the header of a file says besides.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct QueueHeader {
    pub(crate) queue: QueueId,
    /// The last position given out.
    pub(crate) last: Position,
    /// Jobs up to here are gone.
    pub(crate) trimmed: Position,
    pub(crate) time: Timestamp,
}

/// Any line but a header.
#[derive(Deserialize)]
pub(crate) struct LineText {
    /// The position of the job.
    pub(crate) n: Option<Position>,
    #[serde(default)]
    pub(crate) t: Timestamp,
    pub(crate) job: Option<Command>,
    #[serde(default)]
    pub(crate) keep: bool,
    pub(crate) trace: Option<String>,
    /// What is remembered of a request: that of `job`, or of one that is gone.
    pub(crate) idem: Option<Remembered>,
    /// Which job was tried, and how often.
    pub(crate) tried: Option<(Position, u32)>,
    /// Numbering goes on behind this.
    pub(crate) last: Option<Position>,
    /// The queue was opened: positions follow this one.
    pub(crate) opened: Option<Position>,
    /// Jobs up to here are applied, as far as was known at a clean stop. The store knows better.
    pub(crate) done: Option<Position>,
}

/// The line of a job.
#[derive(Serialize)]
struct JobText<'a> {
    n: Position,
    t: Timestamp,
    job: &'a Command,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    keep: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idem: Option<&'a Remembered>,
}

pub(crate) fn job_line(job: &Job, remembered: Option<&Remembered>) -> Vec<u8> {
    line(&JobText {
        n: job.id.position,
        t: job.accepted_at,
        job: &job.command,
        keep: job.keep_outcome,
        trace: job.traceparent.as_deref(),
        idem: remembered,
    })
}

pub(crate) fn member_line(name: &str, value: &impl Serialize) -> Vec<u8> {
    let mut line = format!("{{\"{name}\":").into_bytes();
    push_json(&mut line, value);
    line
}

/// An object without its closing brace.
fn line(object: &impl Serialize) -> Vec<u8> {
    let mut line = Vec::new();
    push_json(&mut line, object);
    line.pop();
    line
}

/// The lines that a file starts with.
pub(crate) fn first_lines(
    number: u64,
    previous: Option<End>,
    queue: QueueId,
    log: &PartitionLog,
    now: Timestamp,
) -> Vec<Vec<u8>> {
    let own = QueueHeader {
        queue,
        last: log.last(),
        trimmed: log.trimmed(),
        time: now,
    };
    let remembered = log
        .remembered(now)
        .map(|remembered| member_line("idem", remembered));
    let tried = log.attempts().map(|tried| member_line("tried", &tried));
    std::iter::once(Kind::Queue.header_line(number, previous, &own))
        .chain(remembered)
        .chain(tried)
        .collect()
}

/// What goes over from the files that are there into the next one.
pub(crate) struct Restored {
    pub(crate) previous: Option<End>,
    /// Lines that may be in the page cache only.
    pub(crate) carried: Vec<Vec<u8>>,
    /// The files, and the last job in each.
    pub(crate) older: Vec<(u64, Position)>,
}

pub(crate) fn restore(
    disk: &dyn Disk,
    files: &Files,
    id: QueueId,
    log: &mut PartitionLog,
    time: &StoreTime,
) -> Result<Restored> {
    let mut tried = None;
    let mut carried = Vec::new();
    let mut older = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let header: QueueHeader = files.own_header(disk, file)?;
        if header.queue != id {
            let detail = format!(
                "it is of queue {}, and this folder's is {id}: it was put here from elsewhere",
                header.queue
            );
            return Err(corrupt(
                disk,
                &Kind::Queue.name(file.number),
                Some(1),
                detail,
            ));
        }
        time.observe(header.time);
        if index == 0 {
            log.restore_numbering(header.last, header.trimmed)?;
        }
        older.push((file.number, Position::START));
    }
    for (file, line) in files.lines() {
        let bad = |detail: String| files.nonsense(disk, file, line.number, detail);
        let text: LineText =
            serde_json::from_slice(line.text).map_err(|error| bad(error.to_string()))?;
        if line.offset >= file.contents.durable.length {
            carried.push(line.body());
        }
        tried = text.tried.or(tried);
        if let Some(last) = text.last {
            log.start_after(last);
        }
        if let Some(opened) = text.opened {
            log.start_numbering_after(opened);
        }
        if let Some(done) = text.done {
            log.complete(done);
        }
        match (text.n, text.job) {
            (Some(position), Some(command)) => {
                let job = Job {
                    id: JobId {
                        queue: id,
                        partition: PARTITION,
                        position,
                    },
                    command,
                    keep_outcome: text.keep,
                    accepted_at: text.t,
                    traceparent: text.trace,
                };
                if let Some((_, last)) = older.iter_mut().find(|(other, _)| *other == file.number) {
                    *last = job.id.position;
                }
                time.observe(job.accepted_at);
                log.restore_job(job, text.idem)
                    .map_err(|error| bad(error.to_string()))?;
            }
            _ => text
                .idem
                .into_iter()
                .for_each(|remembered| log.restore_idempotency(remembered)),
        }
    }
    if let Some((head, count)) = tried {
        log.restore_attempts(head, count);
    }
    Ok(Restored {
        previous: files.durable_end(),
        carried,
        older,
    })
}
