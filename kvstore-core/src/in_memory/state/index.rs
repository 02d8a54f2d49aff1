//! The rows by the hash of their keys.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::row::Row;
use crate::model::key::Key;

/// The number of tables, each with one part of the keys: enough that no one waits long while one of
/// them grows.
pub(super) const TABLES: usize = 64;

/// The hash function for keys, with a different seed in each process, so that keys that collide in
/// one do not in the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Hasher(DefaultHashBuilder);

impl Hasher {
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        self.0.hash_one(key)
    }
}

/// Returns the number of the table for a hash. Within it the lowest bits give the slot, and the
/// uppermost a tag.
pub(super) fn table_of(hash: u64) -> usize {
    (hash >> 32) as usize % TABLES
}

#[derive(Debug)]
pub(super) struct Index {
    hasher: Hasher,
    tables: Vec<HashTable<Row>>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            hasher: Hasher::default(),
            tables: (0..TABLES).map(|_| HashTable::new()).collect(),
        }
    }
}

impl Index {
    /// Builds an index of rows with distinct keys. Each of the `parts` holds the rows of each table
    /// with their hashes.
    pub(super) fn of(hasher: Hasher, mut parts: Vec<Vec<Vec<(u64, Row)>>>) -> Self {
        let mut index = Self {
            hasher,
            ..Self::default()
        };
        let owned = TABLES.div_ceil(parts.len().max(1));
        std::thread::scope(|scope| {
            // From the last to the first, so that each thread can take its share off the end.
            for tables in index.tables.rchunks_mut(owned) {
                let hashed = parts
                    .iter_mut()
                    .map(|part| part.split_off(part.len() - tables.len()));
                let hashed: Vec<_> = hashed.collect();
                let hasher = &index.hasher;
                scope.spawn(move || {
                    let mut hashed: Vec<_> = hashed.into_iter().map(Vec::into_iter).collect();
                    for table in tables {
                        let rows: Vec<_> = hashed.iter_mut().filter_map(Iterator::next).collect();
                        table.reserve(rows.iter().map(Vec::len).sum(), rehash(hasher));
                        for (hash, row) in rows.into_iter().flatten() {
                            table.insert_unique(hash, row, rehash(hasher));
                        }
                    }
                });
            }
        });
        index
    }

    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash(key)
    }

    /// Returns the row of a key with this hash.
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<&Row> {
        self.tables[table_of(hash)].find(hash, |row| row.key_bytes() == key)
    }

    /// Adds the result of [`find`](Self::find) for each of `keys`. All slots are looked up before
    /// the first row is read.
    pub(super) fn find_many<'a>(&'a self, keys: &[Key], rows: &mut Vec<Option<&'a Row>>) {
        let places = keys.iter().map(|key| {
            let hash = self.hash(key.as_str().as_bytes());
            (hash, self.tables[table_of(hash)].find(hash, |_| true))
        });
        let places: Vec<_> = places.collect();
        rows.extend(places.into_iter().zip(keys).map(|((hash, place), key)| {
            let key = key.as_str().as_bytes();
            match place? {
                row if row.key_bytes() == key => Some(row),
                // Another key has the same tag.
                _ => self.find(hash, key),
            }
        }));
    }

    /// Inserts `row`, replacing the one with its key and hash if there is one.
    pub(super) fn set(&mut self, hash: u64, row: Row) {
        let table = &mut self.tables[table_of(hash)];
        match table.find_mut(hash, |old| old.key_bytes() == row.key_bytes()) {
            Some(old) => *old = row,
            None => _ = table.insert_unique(hash, row, rehash(&self.hasher)),
        }
    }

    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) -> Option<Row> {
        let found = self.tables[table_of(hash)].find_entry(hash, |row| row.key_bytes() == key);
        found.ok().map(|found| found.remove().0)
    }
}

fn rehash(hasher: &Hasher) -> impl Fn(&Row) -> u64 {
    |row| hasher.hash(row.key_bytes())
}
