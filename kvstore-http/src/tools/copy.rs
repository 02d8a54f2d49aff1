//! Brings entries into a store, page by page, and leaves alone what is there already. So whoever is cut off begins again, and
//! goes on where it ended.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use futures_util::future::join_all;
use futures_util::stream::StreamExt;
use indicatif::ProgressBar;
use kvstore_core::clock::{Clock, SystemClock};
use kvstore_core::limits::{WORK_BATCH_BYTES, WORK_BATCH_WRITES};
use kvstore_core::model::commit::Commit;
use kvstore_core::model::id::PartitionCount;
use kvstore_core::model::write::{Change, Write};
use kvstore_core::portable::PortableEntry;
use kvstore_core::process::Failure;
use kvstore_core::{Entry, Key, Store};

use super::place::Entries;

/// What became of the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) written: u64,
    /// Those that had value and deadline already.
    pub(super) equal: u64,
    /// Those whose deadline has passed: they are absent, wherever they are.
    pub(super) expired: u64,
}

impl Totals {
    /// All of them.
    pub(super) fn sum(self) -> u64 {
        self.written + self.equal + self.expired
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} written, {} equal already", self.written, self.equal)?;
        match self.expired {
            0 => Ok(()),
            expired => write!(f, ", {expired} expired"),
        }
    }
}

/// Writes `entries` to the store `to`, and counts. At an error everything before it has been written.
pub(super) async fn copy(
    mut entries: Entries<'_>,
    to: &dyn Store,
    bar: &ProgressBar,
    totals: &mut Totals,
) -> Result<(), Failure> {
    let mut page = Page::default();
    loop {
        let next = match entries.next().await {
            Some(Ok(entry)) if page.has_room_for(&entry) => {
                page.add(entry);
                continue;
            }
            next => next,
        };
        let count = page.entries.len() as u64;
        std::mem::take(&mut page).write(to, totals).await?;
        bar.inc(count);
        match next {
            Some(entry) => page.add(entry?),
            None => return Ok(()),
        }
    }
}

/// Entries that are looked up and written together: what is in memory of them all.
#[derive(Default)]
struct Page {
    entries: Vec<PortableEntry>,
    keys: HashSet<Key>,
    bytes: usize,
}

impl Page {
    /// A key that comes again begins a page, so that it finds what its first time has left.
    fn has_room_for(&self, entry: &PortableEntry) -> bool {
        self.entries.is_empty()
            || self.entries.len() < WORK_BATCH_WRITES
                && self.bytes + size(entry) <= WORK_BATCH_BYTES
                && !self.keys.contains(&entry.key)
    }

    fn add(&mut self, entry: PortableEntry) {
        self.bytes += size(&entry);
        self.keys.insert(entry.key.clone());
        self.entries.push(entry);
    }

    async fn write(mut self, to: &dyn Store, totals: &mut Totals) -> Result<(), Failure> {
        let now = SystemClock.now();
        let total = self.entries.len();
        let is_live =
            |entry: &PortableEntry| entry.expires_at.is_none_or(|deadline| deadline > now);
        self.entries.retain(is_live);
        totals.expired += (total - self.entries.len()) as u64;
        let keys: Vec<Key> = self.entries.iter().map(|entry| entry.key.clone()).collect();
        let present = to.get_many(&keys).await?;
        let mut writes = Vec::new();
        for (entry, present) in self.entries.into_iter().zip(present) {
            if present.is_some_and(|present| is_equal(&present, &entry)) {
                totals.equal += 1;
                continue;
            }
            writes.push(Write {
                key: entry.key,
                change: Change::Set {
                    value: entry.value,
                    expires_at: entry.expires_at,
                },
            });
        }
        let commits = commits(writes, to.partitions()).into_iter();
        let results = join_all(commits.map(async |commit| {
            let count = commit.writes.len() as u64;
            to.commit(commit).await.map(|_| count)
        }));
        let mut failed = None;
        for result in results.await {
            match result {
                Ok(count) => totals.written += count,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

fn size(entry: &PortableEntry) -> usize {
    entry.key.as_str().len() + entry.value.len()
}

fn is_equal(present: &Entry, entry: &PortableEntry) -> bool {
    present.value == entry.value && present.expires_at == entry.expires_at
}

/// A commit for each partition that `writes` are in: where there are several, nothing is atomic across them.
fn commits(writes: Vec<Write>, partitions: Option<PartitionCount>) -> Vec<Commit> {
    let mut by_partition = BTreeMap::<_, Vec<Write>>::new();
    for write in writes {
        let partition = partitions.map(|count| count.partition_of(&write.key));
        by_partition.entry(partition).or_default().push(write);
    }
    let commit = |writes| Commit {
        writes,
        ..Commit::default()
    };
    by_partition.into_values().map(commit).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::stream;
    use kvstore_core::memory::MemoryStore;
    use kvstore_core::model::entry::Timestamp;
    use kvstore_core::store::ListRequest;
    use kvstore_core::{StoreExt, Value, Version};

    use super::*;

    fn entry(key: &str, value: &str, expires_at: Option<Timestamp>) -> PortableEntry {
        PortableEntry {
            key: Key::new(key).unwrap(),
            value: Value::parse(value).unwrap(),
            expires_at,
            version: None,
        }
    }

    async fn copied(entries: Vec<PortableEntry>, to: &dyn Store) -> Totals {
        let mut totals = Totals::default();
        let entries = stream::iter(entries).map(Ok).boxed_local();
        copy(entries, to, &ProgressBar::hidden(), &mut totals)
            .await
            .unwrap();
        totals
    }

    fn totals(written: u64, equal: u64, expired: u64) -> Totals {
        Totals {
            written,
            equal,
            expired,
        }
    }

    async fn version(store: &dyn Store, key: &str) -> Option<Version> {
        let entry = store.get(&Key::new(key).unwrap()).await.unwrap();
        entry.map(|entry| entry.version)
    }

    #[tokio::test]
    async fn what_is_equal_is_left_alone_and_what_differs_is_written() {
        let store = MemoryStore::default();
        let later = SystemClock.now().after(Duration::from_secs(1000));
        let entries = vec![
            entry("a", "1", None),
            entry("b", "2", Some(later)),
            entry("past", "3", Some(Timestamp(1))),
        ];
        assert_eq!(copied(entries.clone(), &store).await, totals(2, 0, 1));
        let before = version(&store, "b").await;
        assert_eq!(copied(entries.clone(), &store).await, totals(0, 2, 1));
        assert_eq!(version(&store, "b").await, before);
        assert_eq!(version(&store, "past").await, None);

        // Another value, and another deadline.
        store.set("a", &7).await.unwrap();
        let later = later.after(Duration::from_secs(1));
        let entries = vec![entry("a", "1", None), entry("b", "2", Some(later))];
        assert_eq!(copied(entries, &store).await, totals(2, 0, 0));
        let b = store.get(&Key::new("b").unwrap()).await.unwrap().unwrap();
        assert_eq!(b.expires_at, Some(later));
        assert_eq!(store.get_as("a").await.unwrap(), Some(1));
    }

    #[tokio::test]
    async fn pages_end_at_every_bound_and_lose_nothing() {
        let store = MemoryStore::default();
        let long = format!("\"{}\"", "x".repeat(WORK_BATCH_BYTES / 3));
        let mut entries: Vec<_> = (0..2 * WORK_BATCH_WRITES)
            .map(|number| entry(&format!("k{number}"), "1", None))
            .collect();
        entries.extend((0..5).map(|number| entry(&format!("l{number}"), &long, None)));
        let count = entries.len() as u64;
        assert_eq!(copied(entries.clone(), &store).await, totals(count, 0, 0));
        let request = ListRequest {
            count: true,
            ..ListRequest::default()
        };
        let page = store.list(&request);
        assert_eq!(page.await.unwrap().count, Some(count));

        let mut page = Page::default();
        for entry in entries {
            if !page.has_room_for(&entry) {
                assert!(
                    page.entries.len() == WORK_BATCH_WRITES || page.bytes > WORK_BATCH_BYTES / 2
                );
                page = Page::default();
            }
            page.add(entry);
            assert!(page.entries.len() <= WORK_BATCH_WRITES && page.bytes <= WORK_BATCH_BYTES);
        }
    }

    #[tokio::test]
    async fn last_line_of_a_key_stays() {
        let store = MemoryStore::default();
        let entries = ["1", "2", "2", "3"].map(|value| entry("a", value, None));
        assert_eq!(copied(entries.to_vec(), &store).await, totals(3, 1, 0));
        assert_eq!(store.get_as("a").await.unwrap(), Some(3));
    }

    #[tokio::test]
    async fn everything_before_an_error_is_written() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let mut totals = Totals::default();
        let entries = stream::iter([
            Ok(entry("a", "1", None)),
            Err("a bad line".into()),
            Ok(entry("b", "1", None)),
        ]);
        let failed = copy(
            entries.boxed_local(),
            &store,
            &ProgressBar::hidden(),
            &mut totals,
        )
        .await;
        assert_eq!(failed.unwrap_err().to_string(), "a bad line");
        assert_eq!(totals.written, 1);
        assert!(version(&store, "a").await.is_some() && version(&store, "b").await.is_none());
    }

    #[test]
    fn each_commit_is_in_one_partition() {
        let count = PartitionCount::new(4).unwrap();
        let writes: Vec<_> = (0..100)
            .map(|number| Write {
                key: Key::new(&format!("k{number}")).unwrap(),
                change: Change::Delete,
            })
            .collect();
        assert_eq!(commits(writes.clone(), None).len(), 1);
        let commits = commits(writes.clone(), Some(count));
        assert_eq!(commits.len(), 4);
        for commit in &commits {
            let partition = count.partition_of(&commit.writes[0].key);
            assert!(
                commit
                    .writes
                    .iter()
                    .all(|write| count.partition_of(&write.key) == partition)
            );
        }
        let mut all: Vec<_> = commits
            .into_iter()
            .flat_map(|commit| commit.writes)
            .collect();
        assert_eq!(all.len(), writes.len());
        all.retain(|write| !writes.contains(write));
        assert_eq!(all, []);
    }
}
