//! The operations measured on every database, and the list of databases.

use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::engines::{fjall, heed, kvstore, map, pickledb, redb, rusqlite, sled};

/// An open database.
pub(crate) trait Engine: Send + Sync {
    /// Sets one entry, durable on return as far as the database makes anything durable.
    fn set(&self, key: &str, value: &str);

    /// Sets all of them in one batch, durable on return.
    fn set_all(&self, entries: &[(String, String)]);

    /// Loads all entries, as fast as the database takes them.
    fn load(&self, data: &Data) {
        for entries in data.batches() {
            self.set_all(&entries);
        }
    }

    /// Reads each key's value as an owned one, from `start` on, and returns the time taken. What
    /// the database advises to keep across reads (a transaction, a statement) is kept. Every key
    /// must exist.
    fn gets(&self, keys: &[String], start: &Barrier) -> Duration;

    /// Iterates over all entries below each prefix, key and value, without a copy if the database
    /// lends them, and returns their number and the time taken; `None` if the database keeps no
    /// order.
    fn scans(&self, prefixes: &[String]) -> Option<(usize, Duration)>;

    /// Sets random entries from `writers` at once for `span`, and returns the times of all calls.
    /// Writers are threads, unless the database offers something cheaper.
    fn drive(&self, writers: usize, span: Duration, data: &Data) -> Vec<Duration> {
        let end = Instant::now() + span;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..writers)
                .map(|_| {
                    scope.spawn(move || {
                        let mut times = Vec::new();
                        while Instant::now() < end {
                            let (key, value) = (data.random_key(), data.random_value());
                            let start = Instant::now();
                            self.set(&key, &value);
                            times.push(start.elapsed());
                        }
                        times
                    })
                })
                .collect();
            let ended = threads.into_iter().map(|thread| thread.join());
            ended
                .flat_map(|times| times.expect("it ends well"))
                .collect()
        })
    }
}

/// A database and its properties.
pub(crate) struct Database {
    pub(crate) name: &'static str,
    /// True if acknowledged writes are flushed to the device.
    pub(crate) flushes: bool,
    /// Opens the database in that folder, or creates it. A database in memory is filled with `Data`
    /// instead.
    pub(crate) open: fn(&Path, &Data) -> Box<dyn Engine>,
}

/// The name of kvstore.
pub(crate) const OURS: &str = "kvstore";

/// The map that reads and memory are compared with.
pub(crate) const MAP: &str = "RwLock<HashMap>";

/// All of them, kvstore first.
pub(crate) const DATABASES: [Database; 8] = [
    Database {
        name: OURS,
        flushes: true,
        open: kvstore::open,
    },
    Database {
        name: "redb",
        flushes: true,
        open: redb::open,
    },
    Database {
        name: "fjall",
        flushes: true,
        open: fjall::open,
    },
    Database {
        name: "LMDB (heed)",
        flushes: true,
        open: heed::open,
    },
    Database {
        name: "SQLite (rusqlite)",
        flushes: true,
        open: rusqlite::open,
    },
    Database {
        name: "sled",
        flushes: false,
        open: sled::open,
    },
    Database {
        name: "pickledb",
        flushes: false,
        open: pickledb::open,
    },
    Database {
        name: MAP,
        flushes: false,
        open: map::open,
    },
];

/// The same entries for all: keys of 13 bytes, values of 100.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Data {
    pub(crate) entries: usize,
}

impl Data {
    pub(crate) fn key(number: usize) -> String {
        format!("user:{number:08}")
    }

    pub(crate) fn random_key(&self) -> String {
        Self::key(rand::random_range(0..self.entries))
    }

    /// Returns a value that differs from the one before it: some databases skip a write that
    /// changes nothing.
    pub(crate) fn random_value(&self) -> String {
        let id = rand::random_range(10_000_000..100_000_000);
        let value = format!(
            r#"{{"id":{id},"name":"Ada Lovelace","mail":"ada@example.org","tags":["a","b"],"score":0.5,"x":0.25}}"#
        );
        debug_assert_eq!(value.len(), 100);
        value
    }

    /// Returns all entries in key order, in batches.
    pub(crate) fn batches(&self) -> impl Iterator<Item = Vec<(String, String)>> {
        let all = *self;
        (0..all.entries).step_by(10_000).map(move |first| {
            let last = (first + 10_000).min(all.entries);
            (first..last)
                .map(|number| (Self::key(number), all.random_value()))
                .collect()
        })
    }

    pub(crate) fn random_keys(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.random_key()).collect()
    }

    /// Returns prefixes of 100 entries each.
    pub(crate) fn random_prefixes(&self, count: usize) -> Vec<String> {
        let hundreds = self.entries / 100;
        let prefix = |_| format!("user:{:06}", rand::random_range(0..hundreds));
        (0..count).map(prefix).collect()
    }
}

/// Times `work` from the moment at which all participants have reached `start`.
pub(crate) fn timed(start: &Barrier, work: impl FnOnce()) -> Duration {
    start.wait();
    let begin = Instant::now();
    work();
    begin.elapsed()
}
