//! The store: each call runs a script and interprets its answer.

mod commit;
mod list;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::error::{Error, Result};
use crate::limits::{EXPIRE_BATCH, OUTCOME_RETENTION};
use crate::model::commit::{Commit, Committed};
use crate::model::entry::Entry;
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{DeadLetter, JobState, Outcome};
use crate::model::key::Key;
use crate::model::write::{Change, Write};
use crate::redis::link::wake::{ASK_AFTER, reached};
use crate::redis::scripts::Script;
use crate::redis::session::Session;
use crate::redis::store::commit::{Memory, activate, adopt};
use crate::redis::store::watch::Feed;
use crate::redis::text::{
    carried, dead, entry, finished, letter_id, letter_name, position, stream_id, unexpected,
};
use crate::store::{DeadPage, DeadRequest, ListRequest, Page, Store, Watch, WatchRequest};

/// How far the store's time may be ahead of a server's clock before a warning.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// A store on a Redis server.
#[derive(Debug)]
pub(crate) struct RedisStore {
    pub(crate) session: Arc<Session>,
    /// What commits remember of each partition.
    memories: Vec<Memory>,
    feed: Arc<Feed>,
    /// Set while the server's clock is known to be behind the store's time.
    is_ahead: AtomicBool,
}

impl RedisStore {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        let partitions = session.partitions.iter();
        Self {
            memories: partitions.map(|_| Memory::default()).collect(),
            feed: Arc::new(Feed::new(session.partitions)),
            is_ahead: AtomicBool::new(false),
            session,
        }
    }

    /// Warns once if a server's clock is behind the store's time.
    fn note_clock(&self, ahead_ms: u64) {
        let is_ahead = ahead_ms > CLOCK_TOLERANCE.as_millis() as u64;
        if is_ahead && !self.is_ahead.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                ahead_ms,
                "the Redis server's clock is behind the time that the store has seen: the store's time runs \
                 on from there; check the clocks of the servers"
            );
        } else if ahead_ms == 0 {
            self.is_ahead.store(false, Ordering::Relaxed);
        }
    }

    fn memory(&self, partition: Partition) -> &Memory {
        &self.memories[usize::from(partition.0)]
    }

    /// Returns the state of a job now. A job that is applied counts as queued until the required
    /// replicas have its changes.
    async fn state_of(&self, job: &JobId) -> Result<JobState> {
        let session = &self.session;
        let (place, letter) = (
            stream_id(job.position),
            letter_name(job.queue, job.position),
        );
        let outcomes = session.keys.outcomes(job.partition, job.queue);
        let call = session.call(Script::Outcome, job.partition).key(outcomes);
        let call = call.arg((job.queue.to_string(), place, letter));
        let found: OutcomeRow = session.read(&call).await?;
        let run = found.6.clone();
        let state = self.judge(job, found).await?;
        if state == JobState::Queued || session.options.wait_replicas == 0 {
            return Ok(state);
        }
        // One at a time, since each answer covers all earlier jobs.
        let asked = Instant::now();
        let mut replicated = self.memory(job.partition).replicated.lock().await;
        let is_known = run == replicated.run && job.position <= replicated.position;
        if job.queue == session.queue && is_known {
            return Ok(state);
        }
        if replicated.failed.is_some_and(|failed| failed > asked) {
            return Ok(JobState::Queued);
        }
        let found: Option<OutcomeRow> = session.replicated(&call).await?;
        let Some(found) = found else {
            replicated.failed = Some(Instant::now());
            return Ok(JobState::Queued);
        };
        if job.queue == session.queue
            && let Some(applied) = &found.1
        {
            replicated.position = position(applied)?;
            replicated.run.clone_from(&found.6);
        }
        self.judge(job, found).await
    }

    /// Derives a job's state from `found`.
    async fn judge(&self, job: &JobId, found: OutcomeRow) -> Result<JobState> {
        let (active, applied, pruned, lost, letter, outcome, _) = found;
        if let Some(letter) = letter {
            return Ok(JobState::Finished(Outcome::Dead(dead(&letter)?.1)));
        }
        // A partition learns which queue is active from its first commit.
        let active = match active {
            Some(active) => Some(active.parse()?),
            None => self.active_queue().await?,
        };
        if active.is_some_and(|active: QueueId| active != job.queue) {
            return Ok(JobState::Unknown);
        }
        if is_behind(applied.as_deref(), job.position)? {
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
        Ok(if is_behind(pruned.as_deref(), job.position)? {
            JobState::Finished(Outcome::Succeeded(None))
        } else {
            JobState::Forgotten
        })
    }
}

/// Active queue, applied, pruned, lost, letter, fields of the outcome, run.
type OutcomeRow = (
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<Vec<String>>,
    Option<String>,
);

/// Returns true if `mark` is absent or lies before `place`.
fn is_behind(mark: Option<&str>, place: Position) -> Result<bool> {
    let mark = mark.map(position).transpose()?;
    Ok(mark.is_none_or(|mark| mark < place))
}

/// Returns the entries under `keys`, all of `partition`, at one moment: those of the first keys
/// whose texts together have `bytes`, or all.
pub(crate) async fn entries<'k>(
    session: &Session,
    partition: Partition,
    keys: impl IntoIterator<Item = &'k Key>,
    bytes: usize,
) -> Result<Vec<Option<Entry>>> {
    let keys = keys.into_iter();
    let keys = keys.map(|key| session.keys.entry(partition, key));
    let call = session.call(Script::Get, partition);
    let call = call.key(keys.collect::<Vec<_>>());
    let call = call.arg((session.skew(), bytes));
    let texts: Vec<Option<Vec<u8>>> = session.read(&call).await?;
    texts
        .into_iter()
        .map(|text| text.map(entry).transpose())
        .collect()
}

#[async_trait]
impl Store for RedisStore {
    fn partitions(&self) -> Option<PartitionCount> {
        Some(self.session.partitions)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let session = &self.session;
        let partition = session.partitions.partition_of(key);
        let text: Option<Vec<u8>> = session
            .ask(redis::cmd("GET").arg(session.keys.entry(partition, key)))
            .await?;
        match text.map(entry).transpose()? {
            // Only the server knows whether the deadline has passed.
            Some(Entry {
                expires_at: Some(_),
                ..
            }) => {
                let found = entries(session, partition, [key], usize::MAX);
                Ok(found.await?.pop().flatten())
            }
            found => Ok(found),
        }
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        let session = &self.session;
        session.check_open()?;
        let mut places: BTreeMap<Partition, Vec<usize>> = BTreeMap::new();
        for (place, key) in keys.iter().enumerate() {
            let partition = session.partitions.partition_of(key);
            places.entry(partition).or_default().push(place);
        }
        let reads = places.iter().map(async |(partition, places)| {
            let keys = places.iter().map(|place| &keys[*place]);
            let found = entries(session, *partition, keys, usize::MAX).await?;
            Ok::<_, Error>((places, found))
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
        list::page(&self.session, request).await
    }

    async fn commit(&self, commit: Commit) -> Result<Committed> {
        let partition = commit::partition_of(&self.session, &commit)?;
        commit::apply(self, Script::Step, partition, commit).await
    }

    async fn applied(&self, queue: QueueId, partition: Partition) -> Result<Position> {
        self.session.partitions.check(partition)?;
        let state = self.session.keys.of(partition, "state");
        let applied = self
            .session
            .field(&state, &format!("applied:{queue}"))
            .await?;
        applied.map_or(Ok(Position::START), |applied| position(&applied))
    }

    async fn active_queue(&self) -> Result<Option<QueueId>> {
        self.session.active_queue().await
    }

    async fn adopt_queue(&self, queue: QueueId) -> Result<()> {
        let session = &self.session;
        let (active, decision) = adopt(session, queue, false).await?;
        let partitions = session.partitions.iter();
        let tell = partitions.map(|partition| activate(session, partition, active, decision));
        futures_util::future::try_join_all(tell).await?;
        Ok(())
    }

    async fn outcome(&self, job: &JobId, wait: Duration) -> Result<JobState> {
        let (start, session) = (Instant::now(), &self.session);
        if session.partitions.check(job.partition).is_err() {
            return Ok(JobState::Unknown);
        }
        let mut moved = session.wake.store.of(job.partition);
        // A job that this process has just enqueued waits until there is news of it.
        let mut is_new = job.queue == session.queue
            && job.position <= session.runs.acknowledged(job.partition)
            && !wait.is_zero();
        loop {
            let is_far = moved.borrow_and_update().position >= job.position;
            let state = match std::mem::take(&mut is_new) && !is_far {
                true => JobState::Queued,
                false => self.state_of(job).await?,
            };
            let left = wait.saturating_sub(start.elapsed());
            if state != JobState::Queued || left.is_zero() {
                return Ok(state);
            }
            let is_far = |position| position >= job.position;
            let is_told = reached(&mut moved, is_far, left.min(ASK_AFTER)).await;
            // With replicas, what a message says has yet to reach them.
            if is_told && job.queue == session.queue && session.options.wait_replicas == 0 {
                let outcome = carried(&moved.borrow().carried, job.position);
                if let Some(outcome) = outcome {
                    return outcome;
                }
            }
        }
    }

    async fn expire(&self, partition: Partition) -> Result<usize> {
        let session = &self.session;
        session.partitions.check(partition)?;
        let outcomes = session.keys.outcomes(partition, session.queue);
        let retention = OUTCOME_RETENTION.as_millis() as u64;
        let call = session.call(Script::Due, partition).key(outcomes);
        let call = call.arg((session.skew(), EXPIRE_BATCH, retention));
        let (is_old, ahead_ms, names): (bool, u64, Vec<String>) = session.read(&call).await?;
        self.note_clock(ahead_ms);
        // A time ahead of the clock advances from where it was last written.
        if names.is_empty() && !is_old && ahead_ms == 0 {
            return Ok(0);
        }
        let delete = |name: &String| {
            let (key, change) = (Key::new(name)?, Change::Delete);
            Ok(Write { key, change })
        };
        let commit = Commit {
            writes: names.iter().map(delete).collect::<Result<_>>()?,
            ..Commit::default()
        };
        let removed = commit::apply(self, Script::Expire, partition, commit).await?;
        Ok(removed.existed.into_iter().filter(|was| *was).count())
    }

    async fn dead(&self, request: &DeadRequest) -> Result<DeadPage> {
        let session = &self.session;
        let most = request.limit.saturating_add(1);
        let pages = session.partitions.iter().map(async |partition| {
            // Ids are in order of queue, partition and position, names in order of queue and
            // position.
            let first = match &request.after {
                None => "-".to_owned(),
                Some(after) if partition < after.partition => format!("({}.~", after.queue),
                Some(after) if partition > after.partition => format!("[{}.", after.queue),
                Some(after) => format!("({}", letter_name(after.queue, after.position)),
            };
            let call = session.call(Script::Letters, partition).arg((first, most));
            let letters: Vec<(String, String)> = session.read(&call).await?;
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
        let session = &self.session;
        if session.partitions.check(job.partition).is_err() {
            return Ok(false);
        }
        let call = session.call(Script::Forget, job.partition);
        let call = call.arg(letter_name(job.queue, job.position));
        session.change("the dead letter was dropped", &call).await
    }

    async fn watch(&self, request: &WatchRequest) -> Result<Watch> {
        watch::watch(&self.session, &self.feed, request).await
    }

    fn lag(&self) -> Option<Duration> {
        None
    }

    async fn ping(&self) -> Result<()> {
        self.session.ask(&redis::cmd("PING")).await
    }

    async fn close(&self) -> Result<()> {
        self.session.close();
        Ok(())
    }
}
