//! The entries: found by the hash of their keys, iterated in the byte order of their keys, and
//! ordered by deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::index::Index;
use super::order::Order;
use super::row::{Id, Row};
use super::sorted::Sorted;
use crate::limits::ENTRY_BYTES;
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::key::Key;

/// Rows by key. It has no clock: expired rows stay until they are removed, and readers have to
/// check.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// By number. A row keeps its number when its entry is overwritten, so that only the row
    /// changes.
    rows: Vec<Option<Row>>,
    /// Numbers without a row.
    free: Vec<Id>,
    index: Index,
    order: Order,
    deadlines: BTreeSet<(Timestamp, Id)>,
    bytes: u64,
    cut: Option<Cut>,
    scratch: Vec<u8>,
}

/// A view of the table at one moment, iterated while the table changes: rows that change ahead of
/// the iteration are kept as they were.
#[derive(Debug)]
struct Cut {
    /// The iteration has passed all keys up to this one.
    passed: Option<Vec<u8>>,
    /// The rows that changed ahead of the iteration, as they were at the moment of the cut.
    before: BTreeMap<Vec<u8>, Option<Row>>,
}

/// How many rows are looked up together.
pub(super) const PASS: usize = 16;

/// Returns a function from a row's number to its key.
pub(super) fn key_of<'a>(rows: &'a [Option<Row>]) -> impl Fn(Id) -> &'a [u8] {
    move |id| rows[id as usize].as_ref().map_or(&[], Row::key_bytes)
}

impl Table {
    /// Builds a table from the rows of `parts`, on several threads; `None` if the keys are not
    /// ascending.
    pub(crate) fn from_sorted(parts: Vec<Sorted>) -> Option<Self> {
        if !Sorted::are_in_order(&parts) {
            return None;
        }
        let hasher = parts.first().map(|part| part.hasher.clone());
        let mut rows = Vec::with_capacity(parts.iter().map(|part| part.rows.len()).sum());
        let mut hashed = Vec::with_capacity(parts.len());
        let mut table = Self::default();
        for mut part in parts {
            part.end_piece();
            table.order.pieces.append(&mut part.pieces);
            table.deadlines.extend(part.deadlines);
            table.bytes += part.bytes;
            rows.append(&mut part.rows);
            hashed.push(part.hashed);
        }
        table.index = Index::of(hasher.unwrap_or_default(), hashed);
        Some(Self { rows, ..table })
    }

    pub(crate) fn of(entries: BTreeMap<Key, Entry>) -> Self {
        let mut parts = Sorted::parts(&[entries.len()]);
        for (key, entry) in entries {
            let (value, expires_at) = (entry.value.as_bytes(), entry.expires_at);
            parts[0].push(key.as_str(), value, entry.version, expires_at);
        }
        Self::from_sorted(parts).expect("a map is in order")
    }

    /// Returns the memory that entries take, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.bytes() + ENTRY_BYTES * self.len() as u64
    }

    /// Returns the size of keys and values, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Assigns the versions after `version` to the entries that have none (0), in key order, and
    /// returns the last one assigned.
    pub(crate) fn give_versions(&mut self, mut version: Version) -> Version {
        let rows = self.range_from(Bound::Unbounded);
        let without = rows.filter(|row| row.version() == Version(0));
        let without: Vec<Row> = without.cloned().collect();
        for row in without {
            version = Version(version.0 + 1);
            self.set(&row.key(), row.value_bytes(), version, row.expires_at());
        }
        version
    }

    /// Returns the number of rows, of expired entries too.
    pub(crate) fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Row> {
        let key = key.as_str().as_bytes();
        self.index.find(self.index.hash(key), key)
    }

    /// Returns the rows of several keys, in passes over a few of them at a time, so that their
    /// cache misses overlap.
    pub(crate) fn get_many(&self, keys: &[Key]) -> Vec<Option<&Row>> {
        let mut rows = Vec::with_capacity(keys.len());
        for keys in keys.chunks(PASS) {
            self.index.find_many(keys, &mut rows);
        }
        rows
    }

    /// Returns the rows from `start` on, in key order.
    pub(crate) fn range_from(&self, start: Bound<&str>) -> impl Iterator<Item = &Row> {
        self.rows_from(start.map(str::as_bytes))
    }

    fn rows_from(&self, start: Bound<&[u8]>) -> impl Iterator<Item = &Row> {
        let ids = self.order.from(start, key_of(&self.rows));
        ids.filter_map(|id| self.rows[id as usize].as_ref())
    }

    /// Returns how many keys that start with `prefix` are live; `behind` is the first text after
    /// all of those, if there is one. Costs two searches and a look at the expired entries not
    /// removed yet, so writers wait for microseconds, however many keys there are.
    pub(crate) fn count(&self, prefix: &str, behind: Option<&str>, now: Timestamp) -> usize {
        let rank = |key: &str| self.order.rank(key.as_bytes(), key_of(&self.rows));
        let end = behind.map_or(self.len(), rank);
        let expired = self.past(now).filter(|row| row.starts_with(prefix)).count();
        end - rank(prefix) - expired
    }

    pub(crate) fn set(
        &mut self,
        key: &Key,
        value: &[u8],
        version: Version,
        expires_at: Option<Timestamp>,
    ) {
        let bytes = key.as_str().as_bytes();
        let hash = self.index.hash(bytes);
        let found = self.index.find(hash, bytes).map(Row::id);
        let id = found.or_else(|| self.free.pop()).unwrap_or_else(|| {
            self.rows.push(None);
            Id::try_from(self.rows.len() - 1).expect("row ids fit in u32")
        });
        let (scratch, text) = (&mut self.scratch, key.as_str());
        let row = Row::new(scratch, id, text, value, version, expires_at);
        self.bytes += row.size();
        self.index.set(hash, row.clone());
        let old = self.rows[id as usize].replace(row);
        match &old {
            Some(old) => self.forget(id, old),
            None => self.order.insert(id, bytes, key_of(&self.rows)),
        }
        if let Some(deadline) = expires_at {
            self.deadlines.insert((deadline, id));
        }
        self.keep_for_cut(bytes, old);
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<Row> {
        let key = key.as_str().as_bytes();
        let old = self.index.remove(self.index.hash(key), key)?;
        let id = old.id();
        self.order.remove(key, key_of(&self.rows));
        self.rows[id as usize] = None;
        self.free.push(id);
        self.forget(id, &old);
        self.keep_for_cut(key, Some(old.clone()));
        Some(old)
    }

    /// Subtracts `old` from the sums and the deadlines.
    fn forget(&mut self, id: Id, old: &Row) {
        self.bytes -= old.size();
        if let Some(deadline) = old.expires_at() {
            self.deadlines.remove(&(deadline, id));
        }
    }

    /// Returns the keys whose deadline is `now` or earlier, at most `max`, in order of deadline.
    pub(crate) fn expired(&self, now: Timestamp, max: usize) -> Vec<Key> {
        self.past(now).take(max).map(Row::key).collect()
    }

    /// Returns the rows whose deadline is `now` or earlier, the longest past first.
    fn past(&self, now: Timestamp) -> impl Iterator<Item = &Row> {
        let deadlines = self.deadlines.iter();
        let past = deadlines.take_while(move |(deadline, _)| *deadline <= now);
        past.filter_map(|(_, id)| self.rows[*id as usize].as_ref())
    }

    /// Starts an iteration over the table as it is now, continued by [`Table::next_of_cut`]. An
    /// unfinished one is dropped.
    pub(crate) fn start_cut(&mut self) {
        self.cut = Some(Cut {
            passed: None,
            before: BTreeMap::new(),
        });
    }

    /// Ends the iteration early.
    pub(crate) fn drop_cut(&mut self) {
        self.cut = None;
    }

    fn keep_for_cut(&mut self, key: &[u8], old: Option<Row>) {
        if let Some(cut) = &mut self.cut
            && cut.passed.as_deref().is_none_or(|passed| key > passed)
            && !cut.before.contains_key(key)
        {
            cut.before.insert(key.to_vec(), old);
        }
    }

    /// Returns the next rows of the iteration, about `max`. An empty result is its end.
    pub(crate) fn next_of_cut(&mut self, max: usize) -> Vec<Row> {
        let Some(mut cut) = self.cut.take() else {
            return Vec::new();
        };
        loop {
            let passed = cut.passed.as_deref();
            let start = passed.map_or(Bound::Unbounded, Bound::Excluded);
            let now: Vec<&Row> = self.rows_from(start).take(max).collect();
            // A full step ends at its last key; the last step takes everything that was kept.
            let end = (now.len() == max).then(|| now[max - 1].key_bytes().to_vec());
            let ahead = end.as_ref().map_or_else(BTreeMap::new, |end| {
                let mut ahead = cut.before.split_off(end);
                cut.before.extend(ahead.remove_entry(end));
                ahead
            });
            let before = std::mem::replace(&mut cut.before, ahead);
            let now = now.into_iter();
            let as_then = now.filter(|row| !before.contains_key(row.key_bytes()));
            let mut step: Vec<Row> = as_then.cloned().collect();
            if !before.is_empty() {
                step.extend(before.into_values().flatten());
                step.sort_unstable_by(|one, other| one.key_bytes().cmp(other.key_bytes()));
            }

            let is_last = end.is_none();
            cut.passed = end;
            if is_last {
                return step;
            }
            // A step over keys that were all created since the cut is empty without being the end.
            if !step.is_empty() {
                self.cut = Some(cut);
                return step;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An entry in the model: value, version, deadline.
    type Known = (Vec<u8>, Version, Option<Timestamp>);

    #[derive(Clone, Debug)]
    enum TableStep {
        Set {
            key: u16,
            size: usize,
            deadline: Option<u64>,
        },
        Remove(u16),
        StartCut,
        NextOfCut(usize),
    }

    fn step() -> impl Strategy<Value = TableStep> {
        let key = || 0..700_u16;
        prop_oneof![
            6 => (key(), 1..40_usize, proptest::option::of(0..9_u64))
                .prop_map(|(key, size, deadline)| TableStep::Set { key, size, deadline }),
            4 => key().prop_map(TableStep::Remove),
            1 => Just(TableStep::StartCut),
            2 => (1..200_usize).prop_map(TableStep::NextOfCut),
        ]
    }

    fn key(number: u16) -> Key {
        // Of different lengths, so that their order is not that of the numbers.
        Key::new(&format!("k{number}")).unwrap()
    }

    fn known(row: &Row) -> (String, Known) {
        let entry = (row.value_bytes().to_vec(), row.version(), row.expires_at());
        (row.key().to_string(), entry)
    }

    /// Compares the results of every query.
    fn check(
        table: &Table,
        model: &BTreeMap<String, Known>,
        start: &str,
    ) -> Result<(), TestCaseError> {
        let all: Vec<_> = table.range_from(Bound::Unbounded).map(known).collect();
        prop_assert_eq!(&all, &model.clone().into_iter().collect::<Vec<_>>());
        for bound in [Bound::Included(start), Bound::Excluded(start)] {
            let range: Vec<_> = table.range_from(bound).map(|row| known(row).0).collect();
            let expected = model.range::<str, _>((bound, Bound::Unbounded));
            prop_assert_eq!(
                range,
                expected.map(|(key, _)| key.clone()).collect::<Vec<_>>()
            );
        }
        for number in 0..700 {
            let key = key(number);
            let found = table.get(&key).map(|row| known(row).1);
            prop_assert_eq!(found.as_ref(), model.get(key.as_str()));
        }
        let size = |(key, entry): (&String, &Known)| (key.len() + entry.0.len()) as u64;
        prop_assert_eq!(table.bytes(), model.iter().map(size).sum::<u64>());
        for now in 0..9 {
            let mut expired = table.expired(Timestamp(now), usize::MAX);
            expired.sort_unstable();
            let past = |entry: &Known| entry.2.is_some_and(|deadline| deadline.0 <= now);
            let expected = model
                .iter()
                .filter(|(_, entry)| past(entry))
                .map(|(key, _)| key.as_str());
            prop_assert_eq!(
                expired.iter().map(Key::as_str).collect::<Vec<_>>(),
                expected.collect::<Vec<_>>()
            );
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn table_is_a_map_whose_cut_stands_still(
            loaded in 0..1500_u16,
            steps in proptest::collection::vec(step(), 1..900),
        ) {
            // Bulk-loaded and individually inserted entries must behave the same.
            let mut model: BTreeMap<String, Known> = (0..loaded.min(700))
                .map(|number| (key(number).to_string(), (b"0".to_vec(), Version(1), (number % 5 == 0).then_some(Timestamp(8)))))
                .collect();
            let share = model.len() / 3;
            let mut parts = Sorted::parts(&[share, share, model.len() - 2 * share]);
            for (number, (key, (value, version, deadline))) in model.iter().enumerate() {
                let part = number.checked_div(share).unwrap_or(2).min(2);
                parts[part].push(key, value, *version, *deadline);
            }
            let mut table = Table::from_sorted(parts).unwrap();
            let mut cut: Option<(BTreeMap<String, Known>, BTreeMap<String, Known>)> = None;
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    TableStep::Set { key: number_of_key, size, deadline } => {
                        let (value, version) = (vec![b'1'; size], Version(number as u64 + 2));
                        let deadline = deadline.map(Timestamp);
                        table.set(&key(number_of_key), &value, version, deadline);
                        model.insert(key(number_of_key).to_string(), (value, version, deadline));
                    }
                    TableStep::Remove(number) => {
                        let removed = table.remove(&key(number)).map(|row| known(&row).1);
                        prop_assert_eq!(removed, model.remove(key(number).as_str()));
                    }
                    TableStep::StartCut => {
                        table.start_cut();
                        cut = Some((model.clone(), BTreeMap::new()));
                    }
                    TableStep::NextOfCut(max) => {
                        let rows: Vec<_> = table.next_of_cut(max).iter().map(known).collect();
                        prop_assert!(rows.is_sorted_by(|one, next| one.0 < next.0));
                        match &mut cut {
                            None => prop_assert!(rows.is_empty()),
                            Some((_, seen)) => {
                                let last = seen.last_key_value().map(|(key, _)| key.clone());
                                prop_assert!(rows.first().is_none_or(|row| last.is_none_or(|last| row.0 > last)));
                                seen.extend(rows.clone());
                            }
                        }
                        if table.cut.is_none() && let Some((then, seen)) = cut.take() {
                            prop_assert_eq!(then, seen);
                        }
                    }
                }
            }
            check(&table, &model, key(350).as_str())?;
        }
    }

    #[test]
    fn rows_out_of_order_are_rejected() {
        let table = |parts: [&[&str]; 3]| {
            let mut sorted = Sorted::parts(&parts.map(<[_]>::len));
            for (part, keys) in sorted.iter_mut().zip(parts) {
                keys.iter()
                    .for_each(|key| part.push(key, b"1", Version(1), None));
            }
            Table::from_sorted(sorted)
        };
        assert!(table([&["a", "b"], &[], &["c"]]).is_some());
        assert!(table([&["b", "a"], &[], &["c"]]).is_none());
        assert!(table([&["a", "a"], &[], &["c"]]).is_none());
        assert!(table([&["a", "b"], &[], &["b"]]).is_none());
        assert!(table([&["b"], &[], &["a"]]).is_none());
    }
}
