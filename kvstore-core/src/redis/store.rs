//! The store: each call a script, and what its answer means.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use super::connection::Connection;
use super::run::{Call, Numbering};
use super::store_commit::{Memory, activate, adopt, commit, number, position, unexpected};
use super::wake::{ASK_AFTER, woken};
use super::{list, watch};
use crate::error::Result;
use crate::limits::{CHANGES_MAX, EXPIRE_BATCH};
use crate::model::commit::{Commit, Committed};
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{Applied, Dead, DeadLetter, JobState, Outcome};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::store::{DeadPage, DeadRequest, ListRequest, Page, Store, Watch, WatchFrom};

/// A store on a Redis server.
#[derive(Debug)]
pub(super) struct RedisStore {
    connection: Arc<Connection>,
    /// For each partition what commits there have to remember.
    memories: Vec<Memory>,
}

impl RedisStore {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let partitions = connection.partitions.iter();
        Self {
            memories: partitions.map(|_| Memory::default()).collect(),
            connection,
        }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn state(&self, partition: Partition) -> String {
        self.connection.keys.of(partition, "state")
    }

    /// Where a job stands now.
    async fn state_of(&self, job: &JobId) -> Result<JobState> {
        let connection = &self.connection;
        if connection.check_partition(job.partition).is_err() {
            return Ok(JobState::Unknown);
        }
        let found: Found = connection
            .read(
                connection
                    .scripts
                    .outcome
                    .key(self.state(job.partition))
                    .key(connection.keys.outcomes(job.partition, job.queue))
                    .key(connection.keys.of(job.partition, "letters"))
                    .arg(job.queue.to_string())
                    .arg(stream_id(job.position))
                    .arg(letter_name(job)),
            )
            .await?;
        let (active, applied, pruned, lost, letter, outcome) = found;
        if let Some(letter) = letter {
            return Ok(JobState::Finished(Outcome::Dead(dead(&letter)?.1)));
        }
        // A partition hears of the active queue with its first commit.
        let active = match active {
            Some(active) => Some(active.parse()?),
            None => self.active_queue().await?,
        };
        if active.is_some_and(|active: QueueId| active != job.queue) {
            return Ok(JobState::Unknown);
        }
        if applied.is_none_or_before(job.position)? {
            return Ok(JobState::Queued);
        }
        for interval in lost.iter().flat_map(|lost| lost.split_terminator(';')) {
            let (after, up_to) = interval.split_once(',').ok_or_else(unexpected)?;
            if job.position > position(after)? && job.position <= position(up_to)? {
                return Ok(JobState::Unknown);
            }
        }
        if let Some(fields) = outcome {
            return finished(&fields);
        }
        Ok(if pruned.is_none_or_before(job.position)? {
            JobState::Finished(Outcome::Succeeded(None))
        } else {
            JobState::Forgotten
        })
    }
}

/// Active queue, applied, pruned, lost, letter, fields of the outcome.
type Found = (
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<Vec<String>>,
);

trait Mark {
    /// Whether there is no such mark, or it lies before `place`.
    fn is_none_or_before(&self, place: Position) -> Result<bool>;
}

impl Mark for Option<String> {
    fn is_none_or_before(&self, place: Position) -> Result<bool> {
        Ok(match self {
            None => true,
            Some(text) => position(text)? < place,
        })
    }
}

/// What a kept outcome says.
fn finished(fields: &[String]) -> Result<JobState> {
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
        succeeded.writes = (first..)
            .zip(field("existed")?.bytes())
            .map(|(version, digit)| Applied {
                version: Version(version),
                existed: digit == b'1',
            })
            .collect();
    }
    Ok(JobState::Finished(outcome))
}

fn dead(text: &str) -> Result<(Timestamp, Dead)> {
    let (at, dead) = text.split_once(' ').ok_or_else(unexpected)?;
    let dead = serde_json::from_str(dead).map_err(|_| unexpected())?;
    Ok((Timestamp(number(at)?), dead))
}

/// A position as the id of a stream's entry.
pub(super) fn stream_id(position: Position) -> String {
    format!("{}-{}", position.major, position.minor)
}

/// The name of a dead letter in its partition: names are in the order of the ids.
pub(super) fn letter_name(job: &JobId) -> String {
    format!(
        "{}.{:020}-{:020}",
        job.queue, job.position.major, job.position.minor
    )
}

fn letter_id(name: &str, partition: Partition) -> Result<JobId> {
    let (queue, place) = name.split_once('.').ok_or_else(unexpected)?;
    Ok(JobId {
        queue: queue.parse()?,
        partition,
        position: position(place)?,
    })
}

/// An entry from its text: `VERSION DEADLINE JSON`.
pub(super) fn entry(text: Vec<u8>) -> Result<Entry> {
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
    // Checked again: whoever has the server's password can write there.
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

/// The entries under `keys`, all of `partition`, at one moment.
pub(super) async fn entries<'k>(
    connection: &Connection,
    partition: Partition,
    keys: impl IntoIterator<Item = &'k Key>,
) -> Result<Vec<Option<Entry>>> {
    let mut script = connection.scripts.get.prepare_invoke();
    script.key(connection.keys.of(partition, "state"));
    for key in keys {
        script.key(connection.keys.entry(partition, key));
    }
    script.arg(connection.skew());
    let texts: Vec<Option<Vec<u8>>> = connection.read(&script).await?;
    texts
        .into_iter()
        .map(|text| text.map(entry).transpose())
        .collect()
}

#[async_trait]
impl Store for RedisStore {
    fn partitions(&self) -> Option<PartitionCount> {
        Some(self.connection.partitions)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let connection = &self.connection;
        connection.check_open()?;
        let partition = connection.partitions.partition_of(key);
        let text: Option<Vec<u8>> = connection
            .ask(redis::cmd("GET").arg(connection.keys.entry(partition, key)))
            .await?;
        match text.map(entry).transpose()? {
            // Only the server can tell whether the deadline has passed.
            Some(Entry {
                expires_at: Some(_),
                ..
            }) => Ok(entries(connection, partition, [key])
                .await?
                .into_iter()
                .next()
                .flatten()),
            found => Ok(found),
        }
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        let connection = &self.connection;
        connection.check_open()?;
        let mut places: Vec<Vec<usize>> =
            vec![Vec::new(); usize::from(connection.partitions.get())];
        for (place, key) in keys.iter().enumerate() {
            let partition = connection.partitions.partition_of(key);
            places[usize::from(partition.0)].push(place);
        }
        let reads = connection
            .partitions
            .iter()
            .zip(&places)
            .filter(|(_, places)| !places.is_empty())
            .map(async |(partition, places)| {
                let keys = places.iter().map(|place| &keys[*place]);
                let found = entries(connection, partition, keys).await?;
                Ok::<_, crate::error::Error>((places, found))
            });
        let mut all = vec![None; keys.len()];
        for (places, found) in futures_util::future::try_join_all(reads).await? {
            for (place, entry) in places.iter().zip(found) {
                all[*place] = entry;
            }
        }
        Ok(all)
    }

    async fn list(&self, request: &ListRequest) -> Result<Page> {
        list::page(&self.connection, request).await
    }

    async fn commit(&self, commit_: Commit) -> Result<Committed> {
        commit(&self.connection, &self.memories, commit_).await
    }

    async fn applied(&self, queue: QueueId, partition: Partition) -> Result<Position> {
        let connection = &self.connection;
        connection.check_open()?;
        connection.check_partition(partition)?;
        let mut command = redis::cmd("HGET");
        command
            .arg(self.state(partition))
            .arg(format!("applied:{queue}"));
        let applied: Option<String> = connection.ask(&command).await?;
        applied.map_or(Ok(Position::START), |applied| position(&applied))
    }

    async fn active_queue(&self) -> Result<Option<QueueId>> {
        let connection = &self.connection;
        connection.check_open()?;
        let mut command = redis::cmd("HGET");
        command.arg(connection.meta()).arg("active");
        let active: Option<String> = connection.ask(&command).await?;
        active.map(|active| active.parse()).transpose()
    }

    async fn adopt_queue(&self, queue: QueueId) -> Result<()> {
        let connection = &self.connection;
        let (active, decision) = adopt(connection, queue, false).await?;
        let partitions = connection.partitions.iter();
        let tell = partitions.map(|partition| activate(connection, partition, active, decision));
        futures_util::future::try_join_all(tell).await?;
        Ok(())
    }

    async fn outcome(&self, job: &JobId, wait: Duration) -> Result<JobState> {
        let start = Instant::now();
        if self.connection.check_partition(job.partition).is_err() {
            return Ok(JobState::Unknown);
        }
        let mut moved = self.connection.wake.of(job.partition);
        loop {
            moved.mark_unchanged();
            let state = self.state_of(job).await?;
            let left = wait.saturating_sub(start.elapsed());
            if state != JobState::Queued || left.is_zero() {
                return Ok(state);
            }
            woken(&mut moved, left.min(ASK_AFTER)).await;
        }
    }

    async fn expire(&self, partition: Partition) -> Result<usize> {
        let connection = &self.connection;
        connection.check_partition(partition)?;
        let deadlines = connection.keys.of(partition, "deadlines");
        let names: Vec<String> = connection
            .read(
                connection
                    .scripts
                    .due
                    .key(self.state(partition))
                    .key(&deadlines)
                    .arg(connection.skew())
                    .arg(EXPIRE_BATCH),
            )
            .await?;
        if names.is_empty() {
            return Ok(0);
        }
        let mut script = Call::new(Numbering::Expire);
        script
            .key(self.state(partition))
            .key(connection.keys.of(partition, "keys"))
            .key(deadlines)
            .key(connection.keys.of(partition, "changes"))
            .arg(connection.skew())
            .arg(CHANGES_MAX)
            .arg(connection.keys.channel())
            .arg(partition.0);
        for name in &names {
            script
                .key(connection.keys.entry(partition, &Key::new(name)?))
                .arg(name);
        }
        connection
            .number("entries were removed", partition, &script, false)
            .await
    }

    async fn dead(&self, request: &DeadRequest) -> Result<DeadPage> {
        let connection = &self.connection;
        let most = request.limit.saturating_add(1);
        let pages = connection.partitions.iter().map(async |partition| {
            // Ids are in order of queue, partition and position, names in order of queue and position.
            let first = match &request.after {
                None => "-".to_owned(),
                Some(after) if partition < after.partition => format!("({}.~", after.queue),
                Some(after) if partition > after.partition => format!("[{}.", after.queue),
                Some(after) => format!("({}", letter_name(after)),
            };
            let letters: Vec<(String, String)> = connection
                .read(
                    connection
                        .scripts
                        .letters
                        .key(connection.keys.of(partition, "letters"))
                        .key(connection.keys.of(partition, "letter-index"))
                        .arg(first)
                        .arg(most),
                )
                .await?;
            letters
                .into_iter()
                .map(|(name, text)| {
                    let (at, dead) = dead(&text)?;
                    let id = letter_id(&name, partition)?;
                    Ok(DeadLetter { id, at, dead })
                })
                .collect::<Result<Vec<_>>>()
        });
        let pages = futures_util::future::try_join_all(pages).await?;
        let mut letters: Vec<DeadLetter> = pages.into_iter().flatten().collect();
        letters.sort_by_key(|letter| letter.id);
        let more = letters.len() > request.limit;
        letters.truncate(request.limit);
        Ok(DeadPage { letters, more })
    }

    async fn forget(&self, job: &JobId) -> Result<bool> {
        let connection = &self.connection;
        if connection.check_partition(job.partition).is_err() {
            return Ok(false);
        }
        connection
            .change(
                "the dead letter was dropped",
                connection
                    .scripts
                    .forget
                    .key(connection.keys.of(job.partition, "letters"))
                    .key(connection.keys.of(job.partition, "letter-index"))
                    .arg(letter_name(job)),
            )
            .await
    }

    async fn watch(&self, from: WatchFrom) -> Result<Watch> {
        watch::watch(&self.connection, from).await
    }

    async fn ping(&self) -> Result<()> {
        self.connection.ask(&redis::cmd("PING")).await
    }

    async fn close(&self) -> Result<()> {
        self.connection.close();
        Ok(())
    }
}
