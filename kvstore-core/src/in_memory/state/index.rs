//! Where the row of a key is, by its hash.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// The number of a row.
pub(super) type Id = u32;

/// So many tables that the growth of one is over soon, whoever waits for it: each holds one part of the keys.
const TABLES: u8 = 64;

/// How keys are hashed: of another seed in each process, so that keys that collide in one don't in the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Hasher(DefaultHashBuilder);

impl Hasher {
    pub(super) fn hash(&self, key: &[u8]) -> Hash {
        let hash = self.0.hash_one(key);
        Hash {
            hash: hash as u32,
            table: (hash >> 32) as u8 % TABLES,
        }
    }
}

/// Numbers of rows by the hash of their keys. It holds no keys: who asks compares them.
#[derive(Debug)]
pub(super) struct Index {
    hasher: Hasher,
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
    table: u8,
}

impl Default for Index {
    fn default() -> Self {
        Self::with_hasher(Hasher::default())
    }
}

/// A table takes the place from the lower bits and a tag from the uppermost, so both are to be there.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

impl Index {
    fn with_hasher(hasher: Hasher) -> Self {
        Self {
            hasher,
            tables: (0..TABLES).map(|_| HashTable::new()).collect(),
        }
    }

    /// An index of keys that are all different, with the numbers from 0 on, whose `hashes` come in parts. `threads` build it.
    pub(super) fn of(hasher: Hasher, hashes: &[&[Hash]], threads: usize) -> Self {
        let mut index = Self::with_hasher(hasher);
        let tables = usize::from(TABLES);
        let share = hashes.iter().map(|part| part.len()).sum::<usize>() / tables;
        let owned = tables.div_ceil(threads);
        std::thread::scope(|scope| {
            for (first, tables) in (0..).step_by(owned).zip(index.tables.chunks_mut(owned)) {
                scope.spawn(move || {
                    for table in &mut *tables {
                        table.reserve(share, |place| spread(place.hash));
                    }
                    for (id, hash) in (0..).zip(hashes.iter().copied().flatten()) {
                        let own = usize::from(hash.table).checked_sub(first);
                        if let Some(table) = own.and_then(|own| tables.get_mut(own)) {
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
        self.hasher.hash(key)
    }

    /// The number under `hash` of which `is_it` holds.
    pub(super) fn find(&self, hash: Hash, is_it: impl Fn(Id) -> bool) -> Option<Id> {
        let found = self.tables[usize::from(hash.table)].find(spread(hash.hash), |place| {
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
        self.tables[usize::from(hash.table)]
            .insert_unique(spread(hash.hash), place, |place| spread(place.hash));
    }

    pub(super) fn remove(&mut self, hash: Hash, id: Id) {
        let entry = self.tables[usize::from(hash.table)]
            .find_entry(spread(hash.hash), |place| place.id == id);
        if let Ok(entry) = entry {
            entry.remove();
        }
    }
}
