//! A commit on its way to its script, and the answer on its way back.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use super::connection::Connection;
use super::resend::{Numbered, REMEMBERED, Senders, Tries};
use super::run::{Call, Numbering};
use super::store::{letter_name, stream_id};
use super::store_apply::apply;
use crate::error::{Error, Result};
use crate::limits::{CHANGES_MAX, DEAD_LETTERS_MAX, OUTCOME_RETENTION, OUTCOMES_MAX};
use crate::model::commit::{Advance, Commit, Committed, Verdict};
use crate::model::entry::Version;
use crate::model::id::{Partition, Position, QueueId};
use crate::model::job::{Failed, Outcome, Succeeded};
use crate::model::key::Key;
use crate::model::write::{Change, Condition};

/// How often a commit is tried again after it told its partition which queue is active. Once does; more is a race with
/// somebody who adopts another.
const ADOPTIONS_MAX: usize = 5;

/// What commits to a partition have to remember from one to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    senders: Senders,
    /// The last version there, as far as is known.
    latest: AtomicU64,
}

/// `memories` has one for each partition.
pub(super) async fn commit(
    connection: &Connection,
    memories: &[Memory],
    commit: Commit,
) -> Result<Committed> {
    let partition = partition_of(connection, &commit)?;
    let memory = &memories[usize::from(partition.0)];
    if let Some(advance) = &commit.advance {
        check_advance(connection, advance, partition, commit.writes.len())?;
    }
    // One that advances is made once, however often it is sent: the position sees to that. Whoever sends it reads that first.
    let sent_as = match &commit.advance {
        Some(_) => None,
        None => Some(memory.senders.next()),
    };
    for _ in 0..ADOPTIONS_MAX {
        let answer = match apply(connection, &memory.latest, &commit, partition).await? {
            Some(answer) => answer,
            None => send(connection, &commit, partition, sent_as.as_ref()).await?,
        };
        match (&answer[..], &commit.advance) {
            ([word, first, existed], _) if word == "ok" => {
                connection.wake.moved(partition);
                return Ok(Committed {
                    first_version: Version(number(first)?),
                    existed: existed.bytes().map(|digit| digit == b'1').collect(),
                });
            }
            ([word, check, current], _) if word == "conflict" => {
                let check = number(check)? as usize;
                let (key, _) = commit.checks.get(check).ok_or_else(unexpected)?;
                let current = match current.as_str() {
                    "" => None,
                    version => Some(Version(number(version)?)),
                };
                return Err(Error::Conflict {
                    key: key.clone(),
                    check,
                    current,
                });
            }
            ([word, applied], _) if word == "stale" => {
                return Err(Error::Stale {
                    partition,
                    applied: position(applied)?,
                });
            }
            ([word], _) if word == "full" => {
                return Err(Error::Full {
                    what: "the partition's dead letters",
                    limit: DEAD_LETTERS_MAX as u64,
                });
            }
            ([word, ..], Some(advance)) if word == "queue" || word == "unset" => {
                let (active, decision) = adopt(connection, advance.queue, true).await?;
                if active != advance.queue {
                    return Err(Error::Config(format!(
                        "the store applies queue {active}, not {}",
                        advance.queue
                    )));
                }
                activate(connection, partition, active, decision).await?;
            }
            _ => return Err(unexpected()),
        }
    }
    Err(Error::Config(
        "the store's active queue changes all the time".to_owned(),
    ))
}

/// What the general script says, by whichever try.
async fn send(
    connection: &Connection,
    commit: &Commit,
    partition: Partition,
    sent_as: Option<&Numbered<'_>>,
) -> Result<Vec<String>> {
    let script = invocation(connection, commit, partition, sent_as)?;
    let mut tries = Tries::default();
    loop {
        let answer = connection
            .number(
                "the commit took effect",
                partition,
                &script,
                sent_as.is_some(),
            )
            .await;
        if sent_as.is_none() {
            return answer;
        }
        if let Some(answer) = tries.settled(answer).await {
            return answer;
        }
    }
}

/// Makes `queue` the active one, or only if there is none; says which is, and the number of that decision.
pub(super) async fn adopt(
    connection: &Connection,
    queue: QueueId,
    only_first: bool,
) -> Result<(QueueId, u64)> {
    let scripts = &connection.scripts;
    let (active, decision): (String, u64) = connection
        .change(
            "the queue was adopted",
            scripts
                .adopt
                .key(connection.meta())
                .arg(queue.to_string())
                .arg(u8::from(only_first)),
        )
        .await?;
    Ok((active.parse()?, decision))
}

pub(super) async fn activate(
    connection: &Connection,
    partition: Partition,
    queue: QueueId,
    decision: u64,
) -> Result<()> {
    let scripts = &connection.scripts;
    connection
        .change(
            "the queue was adopted",
            scripts
                .activate
                .key(connection.keys.of(partition, "state"))
                .arg(queue.to_string())
                .arg(decision),
        )
        .await
}

/// The one partition that a commit is for.
fn partition_of(connection: &Connection, commit: &Commit) -> Result<Partition> {
    let checked = commit.checks.iter().map(|(key, _)| key);
    let written = commit.writes.iter().map(|write| &write.key);
    let mut keys = checked.chain(written);
    let Some(first) = keys.next() else {
        let advanced = commit.advance.as_ref().map(|advance| advance.partition);
        return Ok(advanced.unwrap_or_default());
    };
    let partition = connection.partitions.partition_of(first);
    match keys.find(|key| connection.partitions.partition_of(key) != partition) {
        None => Ok(partition),
        Some(other) => Err(Error::CrossPartition {
            first: first.clone(),
            other: other.clone(),
        }),
    }
}

fn check_advance(
    connection: &Connection,
    advance: &Advance,
    partition: Partition,
    writes: usize,
) -> Result<()> {
    connection.check_partition(advance.partition)?;
    if advance.partition != partition {
        return Err(Error::invalid(
            "commit",
            "it advances another partition than that of its keys",
        ));
    }
    if advance.to <= advance.from {
        return Err(Error::invalid("commit", "it must advance the partition"));
    }
    let mut last = advance.from;
    for (position, verdict) in &advance.outcomes {
        let in_order = *position > last && *position <= advance.to;
        let has_writes = match verdict {
            Verdict::Succeeded { first, count, .. } => {
                first.checked_add(*count).is_some_and(|end| end <= writes)
            }
            Verdict::Failed { .. } | Verdict::Dead(_) => true,
        };
        if !in_order || !has_writes {
            return Err(Error::invalid(
                "commit",
                "its outcomes must be in order, and of writes that it holds",
            ));
        }
        last = *position;
    }
    Ok(())
}

/// The script with its keys and arguments, in the order in which `commit.lua` takes them.
fn invocation(
    connection: &Connection,
    commit: &Commit,
    partition: Partition,
    sent_as: Option<&Numbered<'_>>,
) -> Result<Call> {
    let keys = &connection.keys;
    let mut names: Vec<&Key> = Vec::new();
    let mut places: HashMap<&Key, usize> = HashMap::new();
    let checked = commit.checks.iter().map(|(key, _)| key);
    for key in checked.chain(commit.writes.iter().map(|write| &write.key)) {
        places.entry(key).or_insert_with(|| {
            names.push(key);
            names.len()
        });
    }

    let mut script = Call::new(Numbering::Commit);
    for name in ["state", "keys", "deadlines", "changes"] {
        script.key(keys.of(partition, name));
    }
    // A commit that advances nothing has no queue; the name is then never used, but the places of the keys are fixed.
    let outcomes = match &commit.advance {
        Some(advance) => keys.outcomes(partition, advance.queue),
        None => keys.of(partition, "outcomes"),
    };
    script.key(outcomes);
    // One without a number has no record either.
    let record = sent_as.map_or("sender:", |sent_as| &sent_as.record);
    for name in ["letters", "letter-index", record] {
        script.key(keys.of(partition, name));
    }
    for name in &names {
        script.key(keys.entry(partition, name));
    }

    script
        .arg(connection.skew())
        .arg(names.len())
        .arg(commit.checks.len())
        .arg(commit.writes.len())
        .arg(CHANGES_MAX)
        .arg(keys.channel())
        .arg(partition.0)
        .arg(u8::from(commit.advance.is_some()))
        .arg(sent_as.map_or_else(String::new, |sent_as| sent_as.number.to_string()))
        .arg(REMEMBERED.as_millis() as u64);
    for name in &names {
        script.arg(name.as_str());
    }
    for (key, condition) in &commit.checks {
        script.arg(places[key]);
        match condition {
            // Every key is absent or present, so this holds without being judged.
            Condition::Any => script.arg("*").arg(""),
            Condition::Absent => script.arg("a").arg(""),
            Condition::Present => script.arg("p").arg(""),
            Condition::Version(version) => script.arg("v").arg(version.0),
        };
    }
    for write in &commit.writes {
        script.arg(places[&write.key]);
        match &write.change {
            Change::Set { value, expires_at } => script
                .arg("s")
                .arg(expires_at.map_or(0, |deadline| deadline.0.max(1)))
                .arg(value.as_bytes()),
            Change::SetFor { value, ttl } => script
                .arg("t")
                .arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
                .arg(value.as_bytes()),
            Change::Delete => script.arg("d").arg(0).arg(""),
        };
    }
    if let Some(advance) = &commit.advance {
        add_advance(&mut script, advance, partition)?;
    }
    Ok(script)
}

fn add_advance(script: &mut Call, advance: &Advance, partition: Partition) -> Result<()> {
    script
        .arg(advance.queue.to_string())
        .arg(stream_id(advance.from))
        .arg(stream_id(advance.to))
        .arg(u8::from(advance.lost))
        .arg(DEAD_LETTERS_MAX)
        .arg(OUTCOMES_MAX)
        .arg(OUTCOME_RETENTION.as_millis() as u64)
        .arg(advance.outcomes.len());
    for (at, verdict) in &advance.outcomes {
        let job = crate::model::id::JobId {
            queue: advance.queue,
            partition,
            position: *at,
        };
        let (kind, text, first, count) = verdict_text(verdict)?;
        script
            .arg(stream_id(*at))
            .arg(kind)
            .arg(text)
            .arg(first)
            .arg(count)
            .arg(letter_name(&job));
    }
    Ok(())
}

/// Its kind as the scripts know it, what they keep of it, and its first write and how many are its own.
pub(super) fn verdict_text(verdict: &Verdict) -> Result<(&'static str, String, usize, usize)> {
    Ok(match verdict {
        // The script fills in what the writes did.
        Verdict::Succeeded {
            summary,
            first,
            count,
        } => {
            let outcome = Outcome::Succeeded(Some(Succeeded {
                summary: summary.clone(),
                writes: Vec::new(),
            }));
            ("s", text(&outcome)?, *first, *count)
        }
        Verdict::Failed {
            summary,
            operation,
            current,
        } => {
            let outcome = Outcome::Failed(Failed {
                summary: summary.clone(),
                operation: *operation,
                current: *current,
            });
            ("f", text(&outcome)?, 0, 0)
        }
        Verdict::Dead(dead) => ("d", text(dead)?, 0, 0),
    })
}

fn text<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::invalid("commit", error.to_string()))
}

pub(super) fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| unexpected())
}

/// A position as it stands in Redis: both parts, always.
pub(super) fn position(text: &str) -> Result<Position> {
    let (major, minor) = text.split_once('-').ok_or_else(unexpected)?;
    Ok(Position {
        major: number(major)?,
        minor: number(minor)?,
    })
}

/// What stands under the store's keys was not written by this program.
pub(super) fn unexpected() -> Error {
    Error::Unavailable {
        what: "the Redis server holds under the store's keys what this program did not write: use another prefix, or restore the data"
            .to_owned(),
        source: None,
    }
}
