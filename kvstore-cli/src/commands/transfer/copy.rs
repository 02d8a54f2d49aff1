//! Copies entries into a store or a server, page by page, leaving equal ones alone. So an
//! interrupted run can be started again, and continues where it ended.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use indicatif::ProgressBar;
use kvstore_client::Client;
use kvstore_core::clock::{Clock as _, SystemClock};
use kvstore_core::limits::WORK_BATCH_WRITES;
use kvstore_core::model::command::Operation;
use kvstore_core::model::commit::Commit;
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::id::PartitionCount;
use kvstore_core::model::write::{Change, Condition, Write};
use kvstore_core::open::Opened;
use kvstore_core::portable::PortableEntry;
use kvstore_core::service::Request;
use kvstore_core::{Entry, Error, Key, Result, Store as _};
use serde::Serialize;

use super::place::EntryStream;
use crate::failure::CommandFailure;

/// The maximum size of the values compared at once, so that a server's answer with its own values
/// stays below its bound.
const PAGE_BYTES: usize = 2 << 20;

/// How many writes to a server are in flight: it syncs together what arrives together.
const WRITES_AT_ONCE: usize = 128;

/// How long each write waits to be applied.
const WAIT: Duration = Duration::from_secs(60);

/// How often a write whose outcome is unknown is sent.
const TRIES: usize = 5;

/// How far apart two equal deadlines may be: on a server a time to live is in whole seconds, and
/// counts from the acceptance of the write.
const SAME_DEADLINE: Duration = Duration::from_secs(3);

/// What happened to the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    pub(super) written: u64,
    /// Entries that had the same value and deadline already.
    pub(super) equal: u64,
    /// Existing entries that were to stay.
    pub(super) kept: u64,
    /// Entries whose deadline has passed: they are absent everywhere.
    pub(super) expired: u64,
}

impl Totals {
    /// Returns the number of entries.
    pub(super) fn sum(self) -> u64 {
        self.written + self.equal + self.kept + self.expired
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} written, {} equal already", self.written, self.equal)?;
        for (count, what) in [(self.kept, "left as they are"), (self.expired, "expired")] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// The destination of the entries.
#[derive(Debug)]
pub(super) enum CopyTarget {
    Store(Opened),
    Server(Client),
}

/// Writes `entries` to `target`, except, with `keep`, those whose keys exist, and counts them. On
/// an error everything before it is written.
pub(super) async fn copy(
    mut entries: EntryStream<'_>,
    target: &CopyTarget,
    keep: bool,
    bar: &ProgressBar,
    totals: &mut Totals,
) -> Result<(), CommandFailure> {
    let mut page = Chunk::default();
    loop {
        let next = match entries.next().await {
            Some(Ok(entry)) if page.has_room_for(&entry) => {
                page.add(entry);
                continue;
            }
            next => next,
        };
        let count = page.entries.len() as u64;
        std::mem::take(&mut page)
            .write(target, keep, totals)
            .await?;
        bar.inc(count);
        match next {
            Some(entry) => page.add(entry?),
            None => return Ok(()),
        }
    }
}

/// Entries that are compared and written together, which bounds the memory.
#[derive(Default)]
struct Chunk {
    entries: Vec<PortableEntry>,
    keys: HashSet<Key>,
    bytes: usize,
}

impl Chunk {
    /// Returns true if `entry` fits in the page. A repeated key begins a new page, so that its
    /// comparison sees the earlier write.
    fn has_room_for(&self, entry: &PortableEntry) -> bool {
        self.entries.is_empty()
            || self.entries.len() < WORK_BATCH_WRITES
                && self.bytes + size(entry) <= PAGE_BYTES
                && !self.keys.contains(&entry.key)
    }

    fn add(&mut self, entry: PortableEntry) {
        self.bytes += size(&entry);
        self.keys.insert(entry.key.clone());
        self.entries.push(entry);
    }

    async fn write(mut self, target: &CopyTarget, keep: bool, totals: &mut Totals) -> Result<()> {
        let now = SystemClock.now();
        let total = self.entries.len();
        let is_live =
            |entry: &PortableEntry| entry.expires_at.is_none_or(|deadline| deadline > now);
        self.entries.retain(is_live);
        totals.expired += (total - self.entries.len()) as u64;
        let keys: Vec<Key> = self.entries.iter().map(|entry| entry.key.clone()).collect();
        let present = target.get_many(&keys).await?;
        let mut differing = Vec::new();
        for (entry, present) in self.entries.into_iter().zip(present) {
            match present {
                Some(present) if target.is_equal(&present, &entry) => totals.equal += 1,
                Some(_) if keep => totals.kept += 1,
                _ => differing.push(entry),
            }
        }
        target.write(differing, keep, totals).await
    }
}

fn size(entry: &PortableEntry) -> usize {
    entry.key.as_str().len() + entry.value.len()
}

impl CopyTarget {
    /// Returns the existing entries, in parts if a server's values exceed the size of one answer.
    fn get_many<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<Vec<Option<Entry>>>> {
        Box::pin(async move {
            let client = match self {
                Self::Store(opened) => return opened.store.get_many(keys).await,
                Self::Server(client) => client,
            };
            match client.store().get_many(keys).await {
                Err(Error::TooLarge { .. }) if keys.len() > 1 => {
                    let (first, rest) = keys.split_at(keys.len() / 2);
                    let mut entries = self.get_many(first).await?;
                    entries.extend(self.get_many(rest).await?);
                    Ok(entries)
                }
                entries => entries,
            }
        })
    }

    fn is_equal(&self, present: &Entry, entry: &PortableEntry) -> bool {
        let is_same = |one: Timestamp, other: Timestamp| match self {
            Self::Store(_) => one == other,
            Self::Server(_) => one.since(other).max(other.since(one)) <= SAME_DEADLINE,
        };
        entry.value == present.value
            && match (entry.expires_at, present.expires_at) {
                (Some(one), Some(other)) => is_same(one, other),
                (one, other) => one == other,
            }
    }

    async fn write(
        &self,
        entries: Vec<PortableEntry>,
        keep: bool,
        totals: &mut Totals,
    ) -> Result<()> {
        match self {
            Self::Store(opened) => {
                let partitions = opened.store.partitions();
                let commits = commits(entries, keep, partitions).into_iter();
                let results = commits.map(|commit| absent_only(opened, commit));
                let mut failed = Ok(());
                for result in join_all(results).await {
                    match result {
                        Ok((written, kept)) => {
                            totals.written += written;
                            totals.kept += kept;
                        }
                        Err(error) => failed = failed.and(Err(error)),
                    }
                }
                failed
            }
            Self::Server(client) => {
                let now = SystemClock.now();
                let writes = entries.into_iter().map(|entry| {
                    let operation = operation(entry, keep, now);
                    send(client, operation)
                });
                let mut writes = stream::iter(writes).buffer_unordered(WRITES_AT_ONCE);
                while let Some(is_written) = writes.try_next().await? {
                    match is_written {
                        true => totals.written += 1,
                        false => totals.kept += 1,
                    }
                }
                Ok(())
            }
        }
    }
}

/// Commits `commit` without the writes whose checks do not hold; returns how many were written and
/// how many left out.
async fn absent_only(opened: &Opened, mut commit: Commit) -> Result<(u64, u64)> {
    let mut kept = 0;
    loop {
        let count = commit.writes.len() as u64;
        if count == 0 {
            return Ok((0, kept));
        }
        match opened.store.commit(commit.clone()).await {
            Ok(_) => return Ok((count, kept)),
            Err(Error::Conflict { key, .. }) => {
                commit.checks.retain(|(other, _)| *other != key);
                commit.writes.retain(|write| write.key != key);
                kept += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Returns one commit for each partition of `entries`: with several partitions, nothing is atomic
/// across them.
fn commits(
    entries: Vec<PortableEntry>,
    keep: bool,
    partitions: Option<PartitionCount>,
) -> Vec<Commit> {
    let mut by_partition = BTreeMap::<_, Commit>::new();
    for PortableEntry {
        key,
        value,
        expires_at,
        ..
    } in entries
    {
        let partition = partitions.map(|count| count.partition_of(&key));
        let commit = by_partition.entry(partition).or_default();
        if keep {
            commit.checks.push((key.clone(), Condition::Absent));
        }
        let change = Change::Set { value, expires_at };
        commit.writes.push(Write { key, change });
    }
    by_partition.into_values().collect()
}

fn operation(entry: PortableEntry, keep: bool, now: Timestamp) -> Operation {
    let set = Operation::set(entry.key, entry.value);
    let set = match keep {
        true => set.if_absent(),
        false => set,
    };
    match entry.expires_at {
        Some(deadline) => {
            let left = deadline.since(now).as_millis().div_ceil(1000).max(1);
            set.expires_after(Duration::from_secs(left as u64))
        }
        None => set,
    }
}

/// Writes one entry to a server, and returns false if it exists and is to stay.
async fn send(client: &Client, operation: Operation) -> Result<bool> {
    let mut tries = 0;
    loop {
        tries += 1;
        let request = Request::new(operation.clone().into(), WAIT);
        match client.service().submit(request).await {
            Ok(_) => return Ok(true),
            Err(Error::Conflict { .. }) => return Ok(false),
            // Repeating the same value is harmless, and the writes have no idempotency keys, of
            // which a server remembers a limited number.
            Err(Error::Unknown { .. }) if tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use kvstore_core::store::ListRequest;
    use kvstore_core::{StoreExt as _, Value, Version};

    use super::*;

    fn entry(key: &str, value: &str, expires_at: Option<Timestamp>) -> PortableEntry {
        PortableEntry {
            key: Key::new(key).unwrap(),
            value: Value::parse(value).unwrap(),
            expires_at,
            version: None,
        }
    }

    async fn memory() -> (CopyTarget, Opened) {
        let url = "memory:".parse().unwrap();
        let opened = kvstore_core::open(&url, None).await.unwrap();
        (CopyTarget::Store(opened.clone()), opened)
    }

    async fn copied(entries: Vec<PortableEntry>, to: &CopyTarget, keep: bool) -> Totals {
        let mut totals = Totals::default();
        let entries = stream::iter(entries).map(Ok).boxed_local();
        copy(entries, to, keep, &ProgressBar::hidden(), &mut totals)
            .await
            .unwrap();
        totals
    }

    fn totals(written: u64, equal: u64, kept: u64, expired: u64) -> Totals {
        Totals {
            written,
            equal,
            kept,
            expired,
        }
    }

    async fn version(opened: &Opened, key: &str) -> Option<Version> {
        let entry = opened.store.get(&Key::new(key).unwrap()).await.unwrap();
        entry.map(|entry| entry.version)
    }

    #[tokio::test]
    async fn equal_entries_are_left_alone_and_different_ones_are_written() {
        let (to, opened) = memory().await;
        let later = SystemClock.now().after(Duration::from_secs(1000));
        let entries = vec![
            entry("a", "1", None),
            entry("b", "2", Some(later)),
            entry("past", "3", Some(Timestamp(1))),
        ];
        let all = || entries.clone();
        assert_eq!(copied(all(), &to, false).await, totals(2, 0, 0, 1));
        let before = version(&opened, "b").await;
        assert_eq!(copied(all(), &to, false).await, totals(0, 2, 0, 1));
        assert_eq!(version(&opened, "b").await, before);
        assert_eq!(version(&opened, "past").await, None);

        // Another value, and another deadline.
        opened.store.set("a", &7).await.unwrap();
        let later = later.after(Duration::from_secs(1));
        let entries = vec![
            entry("a", "1", None),
            entry("b", "2", Some(later)),
            entry("c", "3", None),
        ];
        assert_eq!(
            copied(entries.clone(), &to, true).await,
            totals(1, 0, 2, 0),
            "what is there was to stay"
        );
        assert_eq!(copied(entries, &to, false).await, totals(2, 1, 0, 0));
        let b = opened.store.get(&Key::new("b").unwrap()).await.unwrap();
        assert_eq!(b.unwrap().expires_at, Some(later));
        assert_eq!(opened.store.get_as("a").await.unwrap(), Some(1));
    }

    #[tokio::test]
    async fn entries_of_concurrent_writers_stay_if_requested() {
        let (to, opened) = memory().await;
        opened.store.set("b", &7).await.unwrap();
        let entries = ["a", "b", "c"].map(|key| entry(key, "1", None));
        let mut counted = Totals::default();
        // After the comparison, which did not see it.
        to.write(entries.to_vec(), true, &mut counted)
            .await
            .unwrap();
        assert_eq!(counted, totals(2, 0, 1, 0));
        assert_eq!(opened.store.get_as("b").await.unwrap(), Some(7));
        assert_eq!(opened.store.get_as("c").await.unwrap(), Some(1));
    }

    #[tokio::test]
    async fn pages_end_at_every_bound_and_lose_nothing() {
        let (to, opened) = memory().await;
        let long = format!("\"{}\"", "x".repeat(PAGE_BYTES / 3));
        let mut entries: Vec<_> = (0..2 * WORK_BATCH_WRITES)
            .map(|number| entry(&format!("k{number}"), "1", None))
            .collect();
        entries.extend((0..5).map(|number| entry(&format!("l{number}"), &long, None)));
        let count = entries.len() as u64;
        assert_eq!(
            copied(entries.clone(), &to, false).await,
            totals(count, 0, 0, 0)
        );
        let request = ListRequest {
            count: true,
            ..ListRequest::default()
        };
        let page = opened.store.list(&request);
        assert_eq!(page.await.unwrap().count, Some(count));

        let mut page = Chunk::default();
        for entry in entries {
            if !page.has_room_for(&entry) {
                assert!(page.entries.len() == WORK_BATCH_WRITES || page.bytes > PAGE_BYTES / 2);
                page = Chunk::default();
            }
            page.add(entry);
            assert!(page.entries.len() <= WORK_BATCH_WRITES && page.bytes <= PAGE_BYTES);
        }
    }

    #[tokio::test]
    async fn last_line_of_a_key_wins() {
        let (to, opened) = memory().await;
        let entries = ["1", "2", "2", "3"].map(|value| entry("a", value, None));
        assert_eq!(
            copied(entries.to_vec(), &to, false).await,
            totals(3, 1, 0, 0)
        );
        assert_eq!(opened.store.get_as("a").await.unwrap(), Some(3));
    }

    #[tokio::test]
    async fn everything_before_an_error_is_written() {
        let (to, opened) = memory().await;
        let mut totals = Totals::default();
        let entries = stream::iter([
            Ok(entry("a", "1", None)),
            Err(CommandFailure::Usage("a bad line".to_owned())),
            Ok(entry("b", "1", None)),
        ]);
        let hidden = ProgressBar::hidden();
        let failed = copy(entries.boxed_local(), &to, false, &hidden, &mut totals).await;
        assert!(matches!(failed, Err(CommandFailure::Usage(text)) if text == "a bad line"));
        assert_eq!(totals.written, 1);
        assert!(version(&opened, "a").await.is_some() && version(&opened, "b").await.is_none());
    }

    #[test]
    fn each_commit_is_in_one_partition() {
        let count = PartitionCount::new(4).unwrap();
        let entries: Vec<_> = (0..100)
            .map(|number| entry(&format!("k{number}"), "1", None))
            .collect();
        assert_eq!(commits(entries.clone(), false, None).len(), 1);
        let commits = commits(entries.clone(), true, Some(count));
        assert_eq!(commits.len(), 4);
        let mut found = HashSet::new();
        for commit in &commits {
            let partition = count.partition_of(&commit.writes[0].key);
            for (write, (checked, condition)) in commit.writes.iter().zip(&commit.checks) {
                assert_eq!(count.partition_of(&write.key), partition);
                assert_eq!((checked, condition), (&write.key, &Condition::Absent));
                found.insert(write.key.clone());
            }
        }
        assert_eq!(found.len(), entries.len());
    }
}
