//! What a program without a database would use: a map behind a lock, with nothing on disk.

use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::{Barrier, RwLock};
use std::time::Duration;

use bytes::Bytes;

use crate::engine::{Data, Engine, timed};

struct Map(RwLock<HashMap<String, Bytes>>);

pub(crate) fn open(_: &Path, data: &Data) -> Box<dyn Engine> {
    let map = Map(RwLock::default());
    for entries in data.batches() {
        map.set_all(&entries);
    }
    Box::new(map)
}

impl Engine for Map {
    fn set(&self, key: &str, value: &str) {
        let value = Bytes::copy_from_slice(value.as_bytes());
        let mut map = self.0.write().expect("no writer failed");
        map.insert(key.to_owned(), value);
    }

    fn set_all(&self, entries: &[(String, String)]) {
        let mut map = self.0.write().expect("no writer failed");
        for (key, value) in entries {
            map.insert(key.clone(), Bytes::copy_from_slice(value.as_bytes()));
        }
    }

    fn gets(&self, keys: &[String], start: &Barrier) -> Duration {
        timed(start, || {
            for key in keys {
                let map = self.0.read().expect("no writer failed");
                black_box(map.get(key).expect("it is there").clone());
            }
        })
    }

    fn scans(&self, _: &[String]) -> Option<(usize, Duration)> {
        None
    }
}
