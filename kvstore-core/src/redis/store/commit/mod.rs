//! Encodes a commit for its script, and decodes the answer.

use std::collections::HashMap;
use std::time::Instant;

use crate::error::{Error, Result, Subject};
use crate::limits::{
    CHANGES_MAX, DEAD_LETTERS_BYTES_MAX, OUTCOME_RETENTION, OUTCOMES_BYTES_MAX, WORK_BATCH_BYTES,
};
use crate::model::commit::{
    Advance, Commit, Committed, Verdict, dead_letters_full, dead_letters_full_by_bytes,
};
use crate::model::entry::{Version, milliseconds};
use crate::model::id::{Partition, Position, QueueId};
use crate::model::key::Key;
use crate::model::write::{Change, Condition};
use crate::redis::log::LogEntry;
use crate::redis::run::resend::{Numbered, REMEMBERED, Senders, settled};
use crate::redis::scripts::{Call, Script};
use crate::redis::session::Session;
use crate::redis::store::RedisStore;
use crate::redis::text::{letter_name, number, position, stream_id, unexpected, verdict_text};

/// How often a commit is retried after its partition was informed which queue is active. One retry
/// suffices, unless another process is adopting a queue at the same time.
const ADOPTIONS_MAX: usize = 5;

/// What commits to a partition remember from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    senders: Senders,
    pub(crate) replicated: tokio::sync::Mutex<Replicated>,
}

/// What is known of the replicas that must have what is acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Replicated {
    /// The position of the store's own queue up to which they have all changes, and the run that
    /// made them.
    pub(crate) position: Position,
    pub(crate) run: Option<String>,
    /// When they last failed to answer in time.
    pub(crate) failed: Option<Instant>,
}

/// Applies a commit, all of whose keys are in `partition`, by [`Script::Step`]. With
/// [`Script::Expire`], its deletes concern only keys that have expired.
pub(crate) async fn apply(
    store: &RedisStore,
    script: Script,
    partition: Partition,
    commit: Commit,
) -> Result<Committed> {
    let session = &store.session;
    if let Some(advance) = &commit.advance {
        session.partitions.check(advance.partition)?;
        if advance.partition != partition {
            return Err(Error::invalid(
                Subject::Commit,
                "it advances another partition than that of its keys",
            ));
        }
        advance.check(commit.writes.len())?;
    }
    // A commit that advances takes effect once, however often it is sent: the position ensures
    // that.
    let sent_as = match &commit.advance {
        Some(_) => None,
        None => Some(store.memory(partition).senders.next()),
    };
    let log = commit
        .advance
        .as_ref()
        .filter(|it| it.queue == session.queue);
    let wanted = log.map_or(0, |it| session.logs.of(partition).wanted(it.to));
    let sender = sent_as.as_ref();
    let script = invocation(session, script, partition, &commit, sender, wanted)?;
    for _ in 0..ADOPTIONS_MAX {
        let sending = || session.number("the commit took effect", &script);
        let (word, words, following): StepAnswer = match &sent_as {
            Some(_) => settled(sending).await?,
            None => sending().await?,
        };
        match (word.as_str(), &words[..], &commit.advance) {
            ("ok", [first, existed], _) => {
                if let Some(advance) = log {
                    let following = (wanted > 0).then_some(following);
                    session.logs.of(partition).drop_up_to(advance.to, following);
                }
                session.wake.store.changed(partition);
                return Ok(Committed {
                    first_version: Version(number(first)?),
                    existed: existed.bytes().map(|digit| digit == b'1').collect(),
                });
            }
            ("conflict", [check, current], _) => {
                let check = judged(&commit).nth(number(check)? as usize);
                let (check, (key, _)) = check.ok_or_else(unexpected)?;
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
            ("stale", [applied], _) => {
                return Err(Error::Stale {
                    partition,
                    applied: position(applied)?,
                });
            }
            ("full", [what], _) => {
                return Err(match what.as_str() {
                    "bytes" => dead_letters_full_by_bytes(),
                    _ => dead_letters_full(session.options.dead_letters_max),
                });
            }
            ("queue" | "unset", _, Some(advance)) => {
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
        what: "the store's active queue keeps changing".to_owned(),
        source: None,
    })
}

/// A script's answer: a word, its details, and entries of the log.
type StepAnswer = (String, Vec<String>, Vec<LogEntry>);

/// Makes `queue` the active one; with `only_first`, only if there is none. Returns the active queue
/// and the number of that decision.
pub(crate) async fn adopt(
    session: &Session,
    queue: QueueId,
    only_first: bool,
) -> Result<(QueueId, u64)> {
    let call = Call::new(Script::Adopt).key(&session.meta);
    let call = call.arg((queue.to_string(), u8::from(only_first)));
    let adopted = session.change("the queue was adopted", &call);
    let (active, decision): (String, u64) = adopted.await?;
    let active = active.parse()?;
    session.applies(active);
    Ok((active, decision))
}

/// Informs a partition that `queue` is active, and drops what it keeps of the previous queue's
/// jobs.
pub(crate) async fn activate(
    session: &Session,
    partition: Partition,
    queue: QueueId,
    decision: u64,
) -> Result<()> {
    let mut before = String::new();
    loop {
        let outcomes = session.keys.of(partition, &format!("outcomes:{before}"));
        let call = session.call(Script::Activate, partition).key(outcomes);
        let call = call.arg((queue.to_string(), decision, before));
        let adopted = session.change("the queue was adopted", &call);
        let other: Option<String> = adopted.await?;
        match other {
            Some(other) => before = other,
            None => return Ok(()),
        }
    }
}

/// Returns the only partition of a commit's keys.
pub(crate) fn partition_of(session: &Session, commit: &Commit) -> Result<Partition> {
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

/// Returns the checks that may fail, each with its index.
fn judged(commit: &Commit) -> impl Iterator<Item = (usize, &(Key, Condition))> {
    let checks = commit.checks.iter().enumerate();
    checks.filter(|(_, (_, condition))| *condition != Condition::Any)
}

/// Returns `script` with its keys and arguments, in the order in which `step.lua` takes them. It
/// returns up to `wanted` jobs.
fn invocation(
    session: &Session,
    script: Script,
    partition: Partition,
    commit: &Commit,
    sent_as: Option<&Numbered<'_>>,
    wanted: usize,
) -> Result<Call> {
    let keys = &session.keys;
    let mut names: Vec<&Key> = Vec::new();
    let mut places: HashMap<&Key, usize> = HashMap::new();
    let mut place = |key| {
        *places.entry(key).or_insert_with(|| {
            names.push(key);
            names.len()
        })
    };
    let checks = judged(commit).map(|(_, (key, condition))| (place(key), condition));
    let checks: Vec<_> = checks.collect();
    let checked = checks.iter().map(|(place, _)| *place).max().unwrap_or(0);
    let writes = commit.writes.iter().map(|write| place(&write.key));
    let writes: Vec<_> = writes.zip(&commit.writes).collect();
    let advance = commit.advance.as_ref();
    let queue = advance.map_or(session.queue, |it| it.queue);
    let place_of = |place: fn(&Advance) -> Position| advance.map(place).map(stream_id);
    let outcomes: &[(Position, Verdict)] = advance.map_or(&[], |it| &it.outcomes);
    let is_dead = |(_, verdict): &&(Position, Verdict)| matches!(verdict, Verdict::Dead(_));

    // A commit without a number has no record, either.
    let record = sent_as.map_or("sender:", |sent_as| &sent_as.record);
    let entries = names.iter().map(|name| keys.entry(partition, name));
    let delete = match script {
        Script::Expire => "x",
        _ => "d",
    };
    let mut script = session
        .call(script, partition)
        .key(keys.outcomes(partition, queue))
        .key(keys.of(partition, record))
        .key(entries.collect::<Vec<_>>());
    script.add((
        session.skew(),
        keys.channel(),
        partition.0,
        sent_as.map_or_else(String::new, |sent_as| sent_as.number.to_string()),
        queue.to_string(),
        place_of(|it| it.from).unwrap_or_default(),
        place_of(|it| it.to).unwrap_or_default(),
        u8::from(advance.is_some_and(|it| it.lost)),
        u8::from(advance.is_some_and(|it| it.queue == session.queue)),
        REMEMBERED.as_millis() as u64,
        CHANGES_MAX,
        names.len(),
    ));
    script.add((
        checked,
        checks.len(),
        writes.len(),
        outcomes.len(),
        outcomes.iter().filter(is_dead).count(),
        session.options.dead_letters_max,
        DEAD_LETTERS_BYTES_MAX,
        session.options.outcomes_max,
        OUTCOMES_BYTES_MAX,
        OUTCOME_RETENTION.as_millis() as u64,
        wanted,
        WORK_BATCH_BYTES,
    ));
    for (at, verdict) in outcomes {
        let (kind, text, first, count) = verdict_text(verdict)?;
        let letter = letter_name(queue, *at);
        script.add((stream_id(*at), kind, text, first, count, letter));
    }
    for name in &names {
        script.add(name.as_str());
    }
    for (place, condition) in checks {
        let (kind, versions): (_, &[Version]) = match condition {
            Condition::Any => ("n", &[]),
            Condition::Absent => ("a", &[]),
            Condition::Present => ("m", &[]),
            Condition::Version(version) => ("o", std::slice::from_ref(version)),
            Condition::OneOf(versions) => ("o", versions),
            Condition::NoneOf {
                versions,
                or_absent,
            } => (if *or_absent { "n" } else { "m" }, versions),
        };
        script.add((place, kind, list(versions)));
    }
    for (place, write) in writes {
        script.add(place);
        match &write.change {
            Change::Set { value, expires_at } => {
                let deadline = expires_at.map_or(0, |deadline| deadline.0.max(1));
                script.add(("s", deadline, value.as_bytes()))
            }
            Change::SetFor { value, ttl } => {
                script.add(("t", milliseconds(*ttl), value.as_bytes()))
            }
            Change::Delete => script.add((delete, 0, "")),
        };
    }
    Ok(script)
}

/// Formats `versions` as the script takes several: with a comma before and after each.
fn list(versions: &[Version]) -> String {
    let versions = versions.iter().map(|version| format!("{version},"));
    versions.fold(",".to_owned(), |list, version| list + &version)
}
