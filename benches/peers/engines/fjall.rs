//! fjall, with a cache larger than the data, and filters for keys that are expected to exist.

use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::engine::{Data, Engine, timed};

struct Fjall {
    database: Database,
    entries: Keyspace,
}

pub(crate) fn open(folder: &Path, _: &Data) -> Box<dyn Engine> {
    let database = Database::builder(folder.join("data.fjall"))
        .cache_size(1 << 30)
        .open()
        .expect("it opens");
    let options = || KeyspaceCreateOptions::default().expect_point_read_hits(true);
    let entries = database.keyspace("entries", options).expect("it opens");
    Box::new(Fjall { database, entries })
}

impl Engine for Fjall {
    fn set(&self, key: &str, value: &str) {
        self.entries.insert(key, value).expect("it is set");
        self.database
            .persist(PersistMode::SyncData)
            .expect("it is kept");
    }

    fn set_all(&self, entries: &[(String, String)]) {
        let mut batch = self
            .database
            .batch()
            .durability(Some(PersistMode::SyncData));
        for (key, value) in entries {
            batch.insert(&self.entries, key.as_str(), value.as_str());
        }
        batch.commit().expect("it is committed");
    }

    fn gets(&self, keys: &[String], start: &Barrier) -> Duration {
        timed(start, || {
            for key in keys {
                let value = self
                    .entries
                    .get(key)
                    .expect("it is read")
                    .expect("it is there");
                black_box(value);
            }
        })
    }

    fn scans(&self, prefixes: &[String]) -> Option<(usize, Duration)> {
        let (start, mut seen) = (Instant::now(), 0);
        for prefix in prefixes {
            for entry in self.entries.prefix(prefix) {
                black_box(entry.into_inner().expect("it is read"));
                seen += 1;
            }
        }
        Some((seen, start.elapsed()))
    }
}
