//! sled, configured for throughput. Its `flush` writes to the file but never syncs it.

use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use sled::{Batch, Config, Db, Mode};

use crate::engine::{Data, Engine, timed};

struct Sled(Db);

pub(crate) fn open(folder: &Path, _: &Data) -> Box<dyn Engine> {
    let database = Config::new()
        .path(folder.join("data.sled"))
        .mode(Mode::HighThroughput)
        .cache_capacity(1 << 30)
        .open()
        .expect("it opens");
    Box::new(Sled(database))
}

impl Engine for Sled {
    fn set(&self, key: &str, value: &str) {
        self.0.insert(key, value).expect("it is set");
        self.0.flush().expect("it is written");
    }

    fn set_all(&self, entries: &[(String, String)]) {
        let mut batch = Batch::default();
        for (key, value) in entries {
            batch.insert(key.as_str(), value.as_str());
        }
        self.0.apply_batch(batch).expect("it is set");
        self.0.flush().expect("it is written");
    }

    fn gets(&self, keys: &[String], start: &Barrier) -> Duration {
        timed(start, || {
            for key in keys {
                black_box(self.0.get(key).expect("it is read").expect("it is there"));
            }
        })
    }

    fn scans(&self, prefixes: &[String]) -> Option<(usize, Duration)> {
        let (start, mut seen) = (Instant::now(), 0);
        for prefix in prefixes {
            for entry in self.0.scan_prefix(prefix) {
                black_box(entry.expect("it is read"));
                seen += 1;
            }
        }
        Some((seen, start.elapsed()))
    }
}
