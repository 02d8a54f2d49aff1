//! Domain types as text in Redis, encoded and decoded: the only module that knows these formats.

use bytes::Bytes;

use crate::error::{Error, Result, Subject};
use crate::model::commit::Verdict;
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::id::{JobId, Partition, Position};
use crate::model::job::{Applied, Computed, Dead, Failed, JobState, Outcome, Succeeded};
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
    Ok(match verdict {
        // The script stores versions and existence separately, and `finished` fills them in.
        Verdict::Succeeded {
            summary,
            first,
            computed,
        } => {
            let placeholder = |computed: &Computed| Applied {
                version: Version(0),
                existed: false,
                computed: *computed,
            };
            let outcome = Outcome::Succeeded(Some(Succeeded {
                summary: summary.clone(),
                writes: match computed.iter().all(|it| *it == Computed::default()) {
                    true => Vec::new(),
                    false => computed.iter().map(placeholder).collect(),
                },
            }));
            ("s", text(&outcome)?, *first, computed.len())
        }
        Verdict::Failed {
            summary,
            operation,
            reason,
            current,
        } => {
            let outcome = Outcome::Failed(Failed {
                summary: summary.clone(),
                operation: *operation,
                reason: *reason,
                current: *current,
            });
            ("f", text(&outcome)?, 0, 0)
        }
        Verdict::Dead(dead) => ("d", text(dead)?, 0, 0),
    })
}

fn text<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::invalid(Subject::Commit, error.to_string()))
}

/// Decodes a kept outcome from the fields of its stream entry.
pub(crate) fn finished(fields: &[String]) -> Result<JobState> {
    let field = |name: &str| {
        let place = fields.iter().step_by(2).position(|field| field == name);
        place
            .and_then(|place| fields.get(2 * place + 1))
            .ok_or_else(unexpected)
    };
    if field("kind")? == "d" {
        // Its letter was dropped.
        return Ok(JobState::Forgotten);
    }
    let mut outcome: Outcome = serde_json::from_str(field("text")?).map_err(|_| unexpected())?;
    if let Outcome::Succeeded(Some(succeeded)) = &mut outcome {
        let first = number(field("first")?)?;
        // Nothing is written for writes that computed nothing.
        let computed = std::mem::take(&mut succeeded.writes)
            .into_iter()
            .map(|applied| applied.computed)
            .chain(std::iter::repeat(Computed::default()));
        succeeded.writes = (first..)
            .zip(field("existed")?.bytes())
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
pub(crate) fn letter_name(job: &JobId) -> String {
    format!(
        "{}.{:020}-{:020}",
        job.queue, job.position.major, job.position.minor
    )
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
    let text = Bytes::from(text);
    let mut spaces = spaces_in(&text);
    let (Some(first), Some(second)) = (spaces.next(), spaces.next()) else {
        return Err(unexpected());
    };
    let digits = |range: std::ops::Range<usize>| {
        let text = std::str::from_utf8(&text[range]).map_err(|_| unexpected())?;
        number(text)
    };
    let version = Version(digits(0..first)?);
    let deadline = digits(first + 1..second)?;
    // Checked again: anyone with the server's password can write there.
    let value = Value::parse(&text[second + 1..]).map_err(|_| unexpected())?;
    Ok(Entry {
        value,
        version,
        expires_at: (deadline != 0).then_some(Timestamp(deadline)),
    })
}

fn spaces_in(text: &[u8]) -> impl Iterator<Item = usize> {
    text.iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b' ')
        .map(|(place, _)| place)
}
