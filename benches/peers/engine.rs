//! What every database here is asked to do, and which ones there are.

use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::engines::{fjall, heed, kvstore, map, pickledb, redb, rusqlite, sled};

/// A database that is open.
pub(crate) trait Engine: Send + Sync {
    /// Sets one entry, durable on return as far as the database makes anything durable.
    fn set(&self, key: &str, value: &str);

    /// Sets all of them in one batch, durable on return.
    fn set_all(&self, entries: &[(String, String)]);

    /// Sets all entries there are, as fast as the database takes them.
    fn load(&self, data: &Data) {
        for entries in data.batches() {
            self.set_all(&entries);
        }
    }

    /// Reads each key's value as one that the caller owns, from `start` on, and says how long that took. What the database
    /// advises to keep over many reads (a transaction, a statement) is kept. Every key must be there.
    fn gets(&self, keys: &[String], start: &Barrier) -> Duration;

    /// Goes through all entries below each prefix, key and value, without a copy where the database lends them, and says how
    /// many there were and how long it took; `None` if the database keeps no order.
    fn scans(&self, prefixes: &[String]) -> Option<(usize, Duration)>;

    /// Sets random entries from `writers` at once for `span`; the times of all calls. Writers are threads, unless the
    /// database offers something cheaper.
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

/// A database and what has to be known of it.
pub(crate) struct Database {
    pub(crate) name: &'static str,
    /// Whether it asks the device to keep what it has acknowledged.
    pub(crate) flushes: bool,
    /// Opens what is in that folder, or makes it. What is only in memory is filled with `Data` instead.
    pub(crate) open: fn(&Path, &Data) -> Box<dyn Engine>,
}

/// The name of ours.
pub(crate) const OURS: &str = "kvstore";

/// The map that reads and memory are compared with.
pub(crate) const MAP: &str = "RwLock<HashMap>";

/// All of them, ours first.
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

    /// A value that differs from the one before it: some databases skip a write that changes nothing.
    pub(crate) fn random_value(&self) -> String {
        let id = rand::random_range(10_000_000..100_000_000);
        let value = format!(
            r#"{{"id":{id},"name":"Ada Lovelace","mail":"ada@example.org","tags":["a","b"],"score":0.5,"x":0.25}}"#
        );
        debug_assert_eq!(value.len(), 100);
        value
    }

    /// All entries in order of key, in batches.
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

    /// Prefixes of 100 entries each.
    pub(crate) fn random_prefixes(&self, count: usize) -> Vec<String> {
        let hundreds = self.entries / 100;
        let prefix = |_| format!("user:{:06}", rand::random_range(0..hundreds));
        (0..count).map(prefix).collect()
    }
}

/// Times `work` from the moment at which all who wait for `start` are there.
pub(crate) fn timed(start: &Barrier, work: impl FnOnce()) -> Duration {
    start.wait();
    let begin = Instant::now();
    work();
    begin.elapsed()
}
