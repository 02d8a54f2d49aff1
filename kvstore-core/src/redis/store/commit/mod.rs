//! A commit on its way to its script, and the answer on its way back.

mod plain;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::error::{Error, Result, Subject};
use crate::limits::{CHANGES_MAX, DEAD_LETTERS_MAX, OUTCOME_RETENTION, OUTCOMES_MAX};
use crate::model::commit::{Advance, Commit, Committed, dead_letters_full};
use crate::model::entry::Version;
use crate::model::id::{Partition, Position, QueueId};
use crate::model::key::Key;
use crate::model::write::{Change, Condition};
use crate::redis::run::resend::{Numbered, REMEMBERED, Senders, Tries};
use crate::redis::run::{Call, Numbering};
use crate::redis::session::Session;
use crate::redis::store::commit::plain::apply;
use crate::redis::text::{letter_name, number, position, stream_id, unexpected, verdict_text};

/// How often a commit is tried again after it told its partition which queue is active. Once does; more is a race with
/// somebody who adopts another.
const ADOPTIONS_MAX: usize = 5;

/// What commits to a partition have to remember from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    senders: Senders,
    /// The last version there, as far as is known.
    latest: AtomicU64,
    pub(crate) replicated: tokio::sync::Mutex<Replicated>,
}

/// What is known of the replicas that must have what is acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Replicated {
    /// Up to this position of the store's own queue they have what was applied.
    pub(crate) position: Position,
    /// When they last did not answer in time.
    pub(crate) failed: Option<Instant>,
}

/// `memories` has one for each partition.
pub(crate) async fn commit(
    session: &Session,
    memories: &[Memory],
    commit: Commit,
) -> Result<Committed> {
    let partition = partition_of(session, &commit)?;
    let memory = &memories[usize::from(partition.0)];
    if let Some(advance) = &commit.advance {
        check_advance(session, advance, partition, commit.writes.len())?;
    }
    // One that advances is made once, however often it is sent: the position sees to that. Whoever sends it reads that first.
    let sent_as = match &commit.advance {
        Some(_) => None,
        None => Some(memory.senders.next()),
    };
    for _ in 0..ADOPTIONS_MAX {
        let answer = match apply(session, &memory.latest, &commit, partition).await? {
            Some(answer) => answer,
            None => {
                let answer = send(session, &commit, partition, sent_as.as_ref()).await?;
                if let [word, first, _] = &answer[..]
                    && word == "ok"
                {
                    let latest = number(first)? + commit.writes.len().saturating_sub(1) as u64;
                    memory.latest.store(latest, Ordering::Relaxed);
                }
                answer
            }
        };
        match (&answer[..], &commit.advance) {
            ([word, first, existed], _) if word == "ok" => {
                session.wake.moved(partition);
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
                return Err(dead_letters_full());
            }
            ([word, ..], Some(advance)) if word == "queue" || word == "unset" => {
                let (active, decision) = adopt(session, advance.queue, true).await?;
                if active != advance.queue {
                    return Err(Error::WrongQueue {
                        active,
                        queue: advance.queue,
                    });
                }
                activate(session, partition, active, decision).await?;
            }
            _ => return Err(unexpected()),
        }
    }
    Err(Error::Unavailable {
        what: "the store's active queue changes all the time".to_owned(),
        source: None,
    })
}

/// What the general script says, by whichever try.
async fn send(
    session: &Session,
    commit: &Commit,
    partition: Partition,
    sent_as: Option<&Numbered<'_>>,
) -> Result<Vec<String>> {
    let script = invocation(session, commit, partition, sent_as)?;
    let mut tries = Tries::default();
    loop {
        let answer = session
            .number("the commit took effect", partition, &script, true)
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
pub(crate) async fn adopt(
    session: &Session,
    queue: QueueId,
    only_first: bool,
) -> Result<(QueueId, u64)> {
    let scripts = &session.scripts;
    let (active, decision): (String, u64) = session
        .change(
            "the queue was adopted",
            scripts
                .adopt
                .key(session.meta())
                .arg(queue.to_string())
                .arg(u8::from(only_first)),
        )
        .await?;
    let active = active.parse()?;
    session.applies(active);
    Ok((active, decision))
}

/// Tells a partition that `queue` is active, and drops what it keeps of the jobs of the queue
/// before.
pub(crate) async fn activate(
    session: &Session,
    partition: Partition,
    queue: QueueId,
    decision: u64,
) -> Result<()> {
    let mut before = String::new();
    loop {
        let outcomes = format!("outcomes:{before}");
        let other: Option<String> = session
            .change(
                "the queue was adopted",
                session
                    .scripts
                    .activate
                    .key(session.keys.of(partition, "state"))
                    .key(session.keys.of(partition, &outcomes))
                    .arg(queue.to_string())
                    .arg(decision)
                    .arg(before),
            )
            .await?;
        match other {
            Some(other) => before = other,
            None => return Ok(()),
        }
    }
}

/// The one partition that a commit is for.
fn partition_of(session: &Session, commit: &Commit) -> Result<Partition> {
    let checked = commit.checks.iter().map(|(key, _)| key);
    let written = commit.writes.iter().map(|write| &write.key);
    let mut keys = checked.chain(written);
    let Some(first) = keys.next() else {
        let advanced = commit.advance.as_ref().map(|advance| advance.partition);
        return Ok(advanced.unwrap_or_default());
    };
    let partition = session.partitions.partition_of(first);
    match keys.find(|key| session.partitions.partition_of(key) != partition) {
        None => Ok(partition),
        Some(other) => Err(Error::CrossPartition {
            first: first.clone(),
            other: other.clone(),
        }),
    }
}

fn check_advance(
    session: &Session,
    advance: &Advance,
    partition: Partition,
    writes: usize,
) -> Result<()> {
    session.check_partition(advance.partition)?;
    if advance.partition != partition {
        return Err(Error::invalid(
            Subject::Commit,
            "it advances another partition than that of its keys",
        ));
    }
    advance.check(writes)
}

/// The script with its keys and arguments, in the order in which `commit.lua` takes them.
fn invocation(
    session: &Session,
    commit: &Commit,
    partition: Partition,
    sent_as: Option<&Numbered<'_>>,
) -> Result<Call> {
    let keys = &session.keys;
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
        .arg(session.skew())
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
