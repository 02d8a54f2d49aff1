//! Where the row of a key is, by its hash.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// The number of a row.
pub(super) type Id = u32;

/// So many tables that the growth of one is over soon, whoever waits for it: each holds one part of the keys.
const TABLES: usize = 64;

/// Numbers of rows by the hash of their keys. It holds no keys: who asks compares them.
#[derive(Debug)]
pub(super) struct Index {
    hasher: DefaultHashBuilder,
    tables: Vec<HashTable<Place>>,
}

/// A key's hash and where its row is.
#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u32,
    id: Id,
}

/// A key's hash, and the table that it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hash {
    hash: u32,
    table: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            // Of another seed in each process: keys that collide in one don't in the next.
            hasher: DefaultHashBuilder::default(),
            tables: (0..TABLES).map(|_| HashTable::new()).collect(),
        }
    }
}

/// A table takes the place from the lower bits and a tag from the uppermost, so both are to be there.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

impl Index {
    /// An index of keys that are all different, with the numbers from 0 on, built by several threads.
    pub(super) fn of<'a>(
        keys: &(impl Fn(usize) -> &'a [u8] + Sync),
        count: usize,
        threads: usize,
    ) -> Self {
        let mut index = Self::default();
        let mut hashes = vec![Hash { hash: 0, table: 0 }; count];
        let share = count.div_ceil(threads).max(1);
        let owned = TABLES.div_ceil(threads);
        std::thread::scope(|scope| {
            for (part, hashes) in hashes.chunks_mut(share).enumerate() {
                let index = &index;
                scope.spawn(move || {
                    for (offset, hash) in hashes.iter_mut().enumerate() {
                        *hash = index.hash(keys(part * share + offset));
                    }
                });
            }
        });
        let hashes = &hashes;
        std::thread::scope(|scope| {
            for (part, tables) in index.tables.chunks_mut(owned).enumerate() {
                scope.spawn(move || {
                    let first = part * owned;
                    for table in &mut *tables {
                        table.reserve(count / TABLES, |place| spread(place.hash));
                    }
                    for (id, hash) in (0..).zip(hashes) {
                        if let Some(table) = hash
                            .table
                            .checked_sub(first)
                            .and_then(|own| tables.get_mut(own))
                        {
                            let place = Place {
                                hash: hash.hash,
                                id,
                            };
                            table.insert_unique(spread(hash.hash), place, |place| {
                                spread(place.hash)
                            });
                        }
                    }
                });
            }
        });
        index
    }

    pub(super) fn hash(&self, key: &[u8]) -> Hash {
        let hash = self.hasher.hash_one(key);
        Hash {
            hash: hash as u32,
            table: (hash >> 32) as usize % TABLES,
        }
    }

    /// The number under `hash` of which `is_it` holds.
    pub(super) fn find(&self, hash: Hash, is_it: impl Fn(Id) -> bool) -> Option<Id> {
        let found = self.tables[hash.table].find(spread(hash.hash), |place| {
            place.hash == hash.hash && is_it(place.id)
        });
        found.map(|place| place.id)
    }

    /// Adds the number of a key that is not there yet.
    pub(super) fn insert(&mut self, hash: Hash, id: Id) {
        let place = Place {
            hash: hash.hash,
            id,
        };
        self.tables[hash.table].insert_unique(spread(hash.hash), place, |place| spread(place.hash));
    }

    pub(super) fn remove(&mut self, hash: Hash, id: Id) {
        let entry = self.tables[hash.table].find_entry(spread(hash.hash), |place| place.id == id);
        if let Ok(entry) = entry {
            entry.remove();
        }
    }
}
