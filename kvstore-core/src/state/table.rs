//! The entries, in the byte order of their keys, and which of them end when.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::entry::{Entry, Timestamp, Version};
use crate::key::Key;

/// Entries by key. It knows no time: what has expired stays until it is removed, and whoever reads has to look.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: BTreeMap<Key, Entry>,
    deadlines: BTreeSet<(Timestamp, Key)>,
    bytes: u64,
    cut: Option<Cut>,
}

/// A view of the table at one moment, walked while the table changes: what changes ahead of the walk is kept as it was.
#[derive(Debug)]
struct Cut {
    /// The walk has passed all keys up to this one.
    passed: Option<Key>,
    /// How keys that changed ahead of the walk were at the moment of the cut.
    before: BTreeMap<Key, Option<Entry>>,
}

impl Table {
    /// A table of `entries`, which must be in ascending order of key.
    pub(crate) fn from_sorted(entries: Vec<(Key, Entry)>) -> Self {
        let bytes = entries.iter().map(|(key, entry)| size(key, entry)).sum();
        let deadlines = entries
            .iter()
            .filter_map(|(key, entry)| entry.expires_at.map(|deadline| (deadline, key.clone())))
            .collect();
        Self {
            entries: entries.into_iter().collect(),
            deadlines,
            bytes,
            cut: None,
        }
    }

    /// Keys and values, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Gives the versions after `version` to the entries that have none (0). The last one given.
    pub(crate) fn give_versions(&mut self, mut version: Version) -> Version {
        for entry in self.entries.values_mut() {
            if entry.version == Version(0) {
                version = Version(version.0 + 1);
                entry.version = version;
            }
        }
        version
    }

    /// The entries whose keys are `start` or behind it.
    pub(crate) fn range_from<'a>(
        &'a self,
        start: Bound<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Entry)> {
        self.entries.range::<str, _>((start, Bound::Unbounded))
    }

    pub(crate) fn set(&mut self, key: Key, entry: Entry) {
        self.bytes += size(&key, &entry);
        if let Some(deadline) = entry.expires_at {
            self.deadlines.insert((deadline, key.clone()));
        }
        let old = self.entries.insert(key.clone(), entry);
        if let Some(old) = &old {
            self.forget(&key, old);
        }
        self.keep_for_cut(key, old);
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<Entry> {
        let old = self.entries.remove(key);
        if let Some(entry) = &old {
            self.forget(key, entry);
            self.keep_for_cut(key.clone(), old.clone());
        }
        old
    }

    /// Takes `old` out of the sums and the deadlines.
    fn forget(&mut self, key: &Key, old: &Entry) {
        self.bytes -= size(key, old);
        if let Some(deadline) = old.expires_at
            && self
                .entries
                .get(key)
                .is_none_or(|entry| entry.expires_at != Some(deadline))
        {
            self.deadlines.remove(&(deadline, key.clone()));
        }
    }

    /// The keys whose deadline is `now` or earlier, at most `max`, the longest past first.
    pub(crate) fn expired(&self, now: Timestamp, max: usize) -> Vec<Key> {
        let past = self
            .deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= now);
        past.take(max).map(|(_, key)| key.clone()).collect()
    }

    /// Starts a walk over the table as it is now; it goes on by [`Table::next_of_cut`]. One that was not finished is dropped.
    pub(crate) fn start_cut(&mut self) {
        self.cut = Some(Cut {
            passed: None,
            before: BTreeMap::new(),
        });
    }

    /// Ends the walk before its end.
    pub(crate) fn drop_cut(&mut self) {
        self.cut = None;
    }

    fn keep_for_cut(&mut self, key: Key, old: Option<Entry>) {
        if let Some(cut) = &mut self.cut
            && cut.passed.as_ref().is_none_or(|passed| key > *passed)
        {
            cut.before.entry(key).or_insert(old);
        }
    }

    /// The next entries of the walk, about `max`; none at its end, and then the walk is over.
    pub(crate) fn next_of_cut(&mut self, max: usize) -> Vec<(Key, Entry)> {
        let Some(mut cut) = self.cut.take() else {
            return Vec::new();
        };
        loop {
            let start = cut
                .passed
                .as_ref()
                .map_or(Bound::Unbounded, Bound::Excluded);
            let now: Vec<(&Key, &Entry)> = self
                .entries
                .range::<Key, _>((start, Bound::Unbounded))
                .take(max)
                .collect();
            // A full step ends at its last key; the last step takes all that was kept.
            let end = (now.len() == max).then(|| now[max - 1].0.clone());
            let ahead = end.as_ref().map_or_else(BTreeMap::new, |end| {
                let mut ahead = cut.before.split_off(end);
                cut.before.extend(ahead.remove_entry(end));
                ahead
            });
            let before = std::mem::replace(&mut cut.before, ahead);
            let unchanged = now
                .into_iter()
                .filter(|(key, _)| !before.contains_key(*key));
            let mut step: BTreeMap<Key, Entry> = unchanged
                .map(|(key, entry)| (key.clone(), copy_out(entry)))
                .collect();
            step.extend(
                before
                    .into_iter()
                    .filter_map(|(key, old)| old.map(|old| (key, old))),
            );

            let is_last = end.is_none();
            cut.passed = end;
            if is_last {
                return step.into_iter().collect();
            }
            // A step over nothing but keys that were created since the cut is empty, and not the end.
            if !step.is_empty() {
                self.cut = Some(cut);
                return step.into_iter().collect();
            }
        }
    }
}

fn size(key: &Key, entry: &Entry) -> u64 {
    (key.as_str().len() + entry.value.len()) as u64
}

/// Values up to this many bytes are copied out on a read: a counter that all cores share costs more than a small copy,
/// and one that is shared even once takes more memory ever after.
const COPY_BYTES_MAX: usize = 4096;

/// An entry for somebody else to keep.
pub(super) fn copy_out(entry: &Entry) -> Entry {
    let value = if entry.value.len() <= COPY_BYTES_MAX {
        entry.value.copied()
    } else {
        entry.value.clone()
    };
    Entry { value, ..*entry }
}
