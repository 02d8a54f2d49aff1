//! What watchers receive: the changes of the partitions, each in its own order.
//!
//! A place in the history is the version up to which each partition was read, so the id of a change
//! has a number for each partition.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use tokio::sync::watch::{Receiver, Sender, channel};

use crate::error::{Error, Result, Subject};
use crate::limits::CHANGES_MAX;
use crate::model::entry::Version;
use crate::model::id::{Partition, PartitionCount};
use crate::model::key::Key;
use crate::redis::link::wake::ASK_AFTER;
use crate::redis::scripts::Script;
use crate::redis::session::Session;
use crate::redis::store::entries;
use crate::redis::text::{number, unexpected};
use crate::store::{ChangeId, ChangeKind, Changed, Watch, WatchFrom, WatchRequest};

/// Most entries of a partition's history that one read returns. Each holds the changes of one
/// commit, or a part of them.
const ENTRIES_READ: usize = 20;

/// Bytes after which such a read stops.
const ENTRIES_BYTES: usize = 256 << 10;

/// Most values that a watcher requests at once.
const VALUES_READ: usize = 1000;

/// Bytes of values after which a watcher requests no more until those are taken.
const VALUES_BYTES: usize = 1 << 20;

/// Parts of a partition's history kept for watchers that are slower than the fastest.
const PARTS_KEPT: usize = 4;

/// The parts of each partition's history that were read last, in order. All watchers of a process
/// that are at the same place share one answer of the server.
#[derive(Debug)]
pub(crate) struct Feed(Vec<tokio::sync::Mutex<VecDeque<Part>>>);

/// A part of a partition's history.
#[derive(Clone, Debug)]
struct Part {
    after: u64,
    asked: Instant,
    /// The version up to which the changes are complete.
    latest: u64,
    changes: Arc<[KeyChange]>,
}

impl Part {
    /// Returns the version behind which the next part begins.
    fn end(&self) -> u64 {
        let last = self.changes.last().map_or(0, |(_, version, _)| *version);
        self.latest.max(last)
    }
}

impl Feed {
    pub(crate) fn new(partitions: PartitionCount) -> Self {
        Self(partitions.iter().map(|_| Default::default()).collect())
    }

    /// Returns the part of a history behind version `after`. An empty one is as of the last message
    /// that the partition has moved, or of [`ASK_AFTER`] ago where that is later.
    async fn read(&self, session: &Session, partition: Partition, after: u64) -> Result<Part> {
        let moved = session.wake.store.moved_at(partition);
        let mut parts = self.0[usize::from(partition.0)].lock().await;
        let mut kept = parts.iter().rev();
        if let Some(part) = kept.find(|part| part.after == after && part.end() > after) {
            return Ok(part.clone());
        }
        if let Some(part) = parts.iter().rfind(|part| part.latest == after)
            && part.asked > moved
            && part.asked.elapsed() < ASK_AFTER
        {
            let changes = Arc::default();
            return Ok(Part {
                after,
                changes,
                ..*part
            });
        }
        let asked = Instant::now();
        let (latest, changes) = read_partition(session, partition, after).await?;
        let part = Part {
            after,
            asked,
            latest,
            changes: changes.into(),
        };
        // Watchers that are far behind do not evict what the others share.
        if parts.back().is_none_or(|last| last.after <= after) {
            parts.retain(|last| last.after != after);
            parts.push_back(part.clone());
            if parts.len() > PARTS_KEPT {
                parts.pop_front();
            }
        }
        Ok(part)
    }
}

pub(crate) async fn watch(
    session: &Arc<Session>,
    feed: &Arc<Feed>,
    request: &WatchRequest,
) -> Result<Watch> {
    let latest = latest(session).await?;
    for (parts, history) in feed.0.iter().zip(&latest) {
        // The server may have lost what was read from it.
        let mut parts = parts.lock().await;
        parts.retain(|part| history.check(part.end()).is_ok());
    }
    let heard = match &request.from {
        WatchFrom::Now => latest.iter().map(|history| history.latest).collect(),
        WatchFrom::After(id) => {
            let heard = parse(id, latest.len())?;
            for (heard, history) in heard.iter().zip(&latest) {
                history.check(*heard)?;
            }
            heard
        }
    };
    let start = id(&heard);
    let mut moved = session.wake.store.any();
    moved.mark_changed();
    let (place, taken) = channel(start.clone());
    let watcher = RedisWatcher {
        session: Arc::clone(session),
        feed: Arc::clone(feed),
        request: request.clone(),
        place,
        heard,
        moved,
        waiting: VecDeque::new(),
    };
    let changes = futures_util::stream::try_unfold(watcher, |mut watcher| async move {
        match watcher.next().await {
            Err(_) if watcher.session.check_open().is_err() => Ok(None),
            next => Ok(Some((next?, watcher))),
        }
    });
    Ok(Watch {
        start,
        changes: changes.boxed(),
        place: Box::new(move || taken.borrow().clone()),
    })
}

/// How far the versions of a partition reach.
struct History {
    latest: u64,
    /// The version behind the gap that the server's previous run began with. Earlier versions are
    /// too old, or belong to a history that was lost.
    begun: u64,
    /// The last version before the gap that the server's current run began with, and the first
    /// version behind it.
    gap: Option<(u64, u64)>,
}

/// A partition's latest version, the end of the gap before the last, and both ends of the last gap.
type HistoryRow = (Option<u64>, Option<u64>, Option<u64>, Option<u64>);

impl History {
    fn new((latest, begun, from, to): HistoryRow) -> Self {
        Self {
            latest: latest.unwrap_or(0),
            begun: begun.unwrap_or(0),
            gap: from.zip(to),
        }
    }

    /// Checks that every change after version `heard` is still there.
    ///
    /// # Errors
    /// [`Error::Compacted`] if some of them were dropped, or if that version was never assigned
    /// here: it was lost, or belongs to another store.
    fn check(&self, heard: u64) -> Result<()> {
        let since = match self.gap {
            Some(_) if heard < self.begun => None,
            Some((from, to)) if heard <= from => {
                Some(from - heard + self.latest.saturating_sub(to))
            }
            Some((_, to)) if heard < to => None,
            _ => self.latest.checked_sub(heard),
        };
        match since {
            Some(since) if since <= CHANGES_MAX as u64 => Ok(()),
            _ => Err(Error::Compacted),
        }
    }
}

/// Reads how far each partition is.
async fn latest(session: &Session) -> Result<Vec<History>> {
    let reads = session.partitions.iter().map(async |partition| {
        let call = session.call(Script::Changes, partition).arg((0, 0, 0));
        let (history, ..): ChangesRow = session.read(&call).await?;
        Ok::<_, Error>(History::new(history))
    });
    futures_util::future::try_join_all(reads).await
}

/// Returns the id of the place behind version `heard` of each partition.
pub(crate) fn id(heard: &[u64]) -> ChangeId {
    let numbers: Vec<String> = heard.iter().map(u64::to_string).collect();
    ChangeId::new(numbers.join("."))
}

fn parse(id: &ChangeId, partitions: usize) -> Result<Vec<u64>> {
    let malformed = || {
        Error::invalid(
            Subject::ChangeId,
            "it does not have the form that this store hands out",
        )
    };
    let heard = id
        .as_str()
        .split('.')
        .map(|text| text.parse().map_err(|_| malformed()))
        .collect::<Result<Vec<u64>>>()?;
    if heard.len() != partitions || self::id(&heard) != *id {
        return Err(malformed());
    }
    Ok(heard)
}

struct RedisWatcher {
    session: Arc<Session>,
    feed: Arc<Feed>,
    request: WatchRequest,
    /// The place up to which every shown change was taken.
    place: Sender<ChangeId>,
    heard: Vec<u64>,
    moved: Receiver<u64>,
    /// Changes that were read, each with its partition while its value has yet to be requested.
    waiting: VecDeque<(Changed, Option<Partition>)>,
}

impl RedisWatcher {
    /// Returns the next change.
    async fn next(&mut self) -> Result<Changed> {
        loop {
            self.session.check_open()?;
            if let Some((_, Some(partition))) = self.waiting.front() {
                self.fetch(*partition).await?;
            }
            if let Some((changed, _)) = self.waiting.pop_front() {
                self.place.send_replace(changed.id.clone());
                return Ok(changed);
            }
            self.moved.mark_unchanged();
            let before = self.heard.clone();
            self.read().await?;
            if self.waiting.is_empty() {
                self.place.send_replace(id(&self.heard));
            }
            // Another part may follow one of which nothing is shown.
            if self.heard == before {
                let moved = self.moved.changed();
                // After an end the store is closed, and after a timeout it is asked again.
                let _ = tokio::time::timeout(ASK_AFTER, moved).await;
            }
        }
    }

    /// Reads the new changes of all partitions.
    async fn read(&mut self) -> Result<()> {
        for partition in self.session.partitions.iter() {
            let place = usize::from(partition.0);
            let after = self.heard[place];
            let part = self.feed.read(&self.session, partition, after).await?;
            for (key, version, kind) in part.changes.iter() {
                if self.request.shows(key, *kind) {
                    self.heard[place] = *version;
                    let changed = Changed {
                        id: id(&self.heard),
                        key: key.clone(),
                        version: Version(*version),
                        kind: *kind,
                        value: None,
                    };
                    let asked = self.request.include_values.then_some(partition);
                    self.waiting.push_back((changed, asked));
                }
            }
            // This includes versions that are shown to no watcher.
            self.heard[place] = part.end();
        }
        Ok(())
    }

    /// Requests the values of the next changes of `partition`, up to the limits.
    async fn fetch(&mut self, partition: Partition) -> Result<()> {
        let is_next = |(_, asked): &&(Changed, Option<Partition>)| *asked == Some(partition);
        let next = self.waiting.iter().take_while(is_next).take(VALUES_READ);
        let keys = next.map(|(changed, _)| &changed.key);
        let found = entries(&self.session, partition, keys, VALUES_BYTES).await?;
        for ((changed, asked), entry) in self.waiting.iter_mut().zip(found) {
            let entry = entry.filter(|entry| entry.version == changed.version);
            (changed.value, *asked) = (entry.map(|entry| entry.value), None);
        }
        Ok(())
    }
}

type KeyChange = (Key, u64, ChangeKind);

/// How far the versions reach, whether the changes are complete, and entries of the history.
type ChangesRow = (HistoryRow, bool, Vec<(String, Vec<String>)>);

/// Reads the changes behind version `after`, and the version up to which they are complete.
async fn read_partition(
    session: &Session,
    partition: Partition,
    after: u64,
) -> Result<(u64, Vec<KeyChange>)> {
    let call = session.call(Script::Changes, partition);
    let call = call.arg((after, ENTRIES_READ, ENTRIES_BYTES));
    let (history, is_all, entries): ChangesRow = session.read(&call).await?;
    let history = History::new(history);
    history.check(after)?;
    let mut found = Vec::new();
    for (_, fields) in entries {
        for pair in fields.chunks_exact(2) {
            let kind = match pair[0].as_bytes().first() {
                Some(b's') => ChangeKind::Set,
                Some(b'd') => ChangeKind::Delete,
                Some(b'x') => ChangeKind::Expire,
                _ => return Err(unexpected()),
            };
            let version = number(&pair[0][1..])?;
            if version > after {
                found.push((Key::new(&pair[1])?, version, kind));
            }
        }
    }
    Ok((if is_all { history.latest } else { after }, found))
}
