//! Domain types as text in Redis, encoded and decoded: the only module that knows these formats.

use crate::error::{Error, Result, Subject};
use crate::model::commit::Verdict;
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::id::{JobId, Partition, Position, QueueId};
use crate::model::job::{Applied, Computed, Dead, JobState, Outcome};
use crate::model::value::Value;

pub(crate) fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| unexpected())
}

/// Parses a position as Redis holds it, with both parts.
pub(crate) fn position(text: &str) -> Result<Position> {
    let (major, minor) = text.split_once('-').ok_or_else(unexpected)?;
    Ok(Position {
        major: number(major)?,
        minor: number(minor)?,
    })
}

/// Returns the error for data under the store's keys that this program did not write.
pub(crate) fn unexpected() -> Error {
    Error::Unavailable {
        what: "the store's keys on the Redis server hold data that this program did not write: use another prefix, or restore the data"
            .to_owned(),
        source: None,
    }
}

/// Returns the verdict's kind as the scripts name it, the text that they keep, the index of its
/// first write, and the number of its writes.
pub(crate) fn verdict_text(verdict: &Verdict) -> Result<(&'static str, String, usize, usize)> {
    let (first, count) = match verdict {
        Verdict::Succeeded {
            first, computed, ..
        } => (*first, computed.len()),
        Verdict::Failed { .. } | Verdict::Dead(_) => (0, 0),
    };
    // The script stores versions and existence separately, and `finished` fills them in.
    let placeholder = |_, computed| Applied {
        version: Version(0),
        existed: false,
        computed,
    };
    let mut outcome = verdict.clone().into_outcome(placeholder);
    if let Outcome::Succeeded(Some(succeeded)) = &mut outcome {
        let mut computed = succeeded.writes.iter().map(|write| write.computed);
        if computed.all(|computed| computed == Computed::default()) {
            succeeded.writes.clear();
        }
    }
    let (kind, text) = match &outcome {
        Outcome::Succeeded(_) => ("s", text(&outcome)?),
        Outcome::Failed(_) => ("f", text(&outcome)?),
        Outcome::Dead(dead) => ("d", text(dead)?),
    };
    Ok((kind, text, first, count))
}

fn text<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::invalid(Subject::Commit, error.to_string()))
}

/// Decodes a kept outcome from the fields of its stream entry.
pub(crate) fn finished(fields: &[String]) -> Result<JobState> {
    let [_, _, _, kind, _, text, _, first, _, existed] = fields else {
        return Err(unexpected());
    };
    if kind == "d" {
        // Its letter was dropped.
        return Ok(JobState::Forgotten);
    }
    outcome(text, first, existed)
}

/// Decodes the outcome of a job from the lines that a commit's message carries; `None` if they do
/// not have it.
pub(crate) fn carried(lines: &[String], job: Position) -> Option<Result<JobState>> {
    let name = stream_id(job);
    let lines = lines.chunks_exact(4).find(|lines| lines[0] == name)?;
    Some(outcome(&lines[3], &lines[1], &lines[2]))
}

/// Decodes an outcome from its text, the version of its first write, and a digit for each write.
fn outcome(text: &str, first: &str, existed: &str) -> Result<JobState> {
    let mut outcome: Outcome = serde_json::from_str(text).map_err(|_| unexpected())?;
    if let Outcome::Succeeded(Some(succeeded)) = &mut outcome {
        let first = number(first)?;
        // `verdict_text` leaves out writes that computed nothing.
        let computed = std::mem::take(&mut succeeded.writes)
            .into_iter()
            .map(|applied| applied.computed)
            .chain(std::iter::repeat(Computed::default()));
        succeeded.writes = (first..)
            .zip(existed.bytes())
            .zip(computed)
            .map(|((version, digit), computed)| Applied {
                version: Version(version),
                existed: digit == b'1',
                computed,
            })
            .collect();
    }
    Ok(JobState::Finished(outcome))
}

pub(crate) fn dead(text: &str) -> Result<(Timestamp, Dead)> {
    let (at, dead) = text.split_once(' ').ok_or_else(unexpected)?;
    let dead = serde_json::from_str(dead).map_err(|_| unexpected())?;
    Ok((Timestamp(number(at)?), dead))
}

/// Formats a position as the id of a stream entry.
pub(crate) fn stream_id(position: Position) -> String {
    format!("{}-{}", position.major, position.minor)
}

/// Returns the name of a dead letter in its partition. Names sort in the order of the ids.
pub(crate) fn letter_name(queue: QueueId, job: Position) -> String {
    format!("{queue}.{:020}-{:020}", job.major, job.minor)
}

pub(crate) fn letter_id(name: &str, partition: Partition) -> Result<JobId> {
    let (queue, place) = name.split_once('.').ok_or_else(unexpected)?;
    Ok(JobId {
        queue: queue.parse()?,
        partition,
        position: position(place)?,
    })
}

/// Decodes an entry from `VERSION DEADLINE JSON`.
pub(crate) fn entry(text: Vec<u8>) -> Result<Entry> {
    let (version, expires_at, value) = entry_parts(&text)?;
    Ok(Entry {
        // Checked again: anyone with the server's password can write there.
        value: Value::parse(value).map_err(|_| unexpected())?,
        version,
        expires_at,
    })
}

/// Splits the text of an entry into its version, its deadline and its value.
pub(crate) fn entry_parts(text: &[u8]) -> Result<(Version, Option<Timestamp>, &[u8])> {
    let mut parts = text.splitn(3, |byte| *byte == b' ');
    let mut next = || parts.next().ok_or_else(unexpected);
    let digits = |text| number(std::str::from_utf8(text).map_err(|_| unexpected())?);
    let (version, deadline, value) = (digits(next()?)?, digits(next()?)?, next()?);
    let expires_at = (deadline != 0).then_some(Timestamp(deadline));
    Ok((Version(version), expires_at, value))
}
