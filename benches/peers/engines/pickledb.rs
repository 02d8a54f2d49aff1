//! pickledb: each set rewrites the whole file, which is never synced. It needs `&mut`, hence the
//! lock.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::{Barrier, RwLock};
use std::time::Duration;

use pickledb::{PickleDb, PickleDbDumpPolicy, SerializationMethod};

use crate::engine::{Data, Engine, timed};

struct Pickle(RwLock<PickleDb>);

pub(crate) fn open(folder: &Path, _: &Data) -> Box<dyn Engine> {
    let path: PathBuf = folder.join("data.pickle.json");
    // `set` requests the dump itself, so that `set_all` can do with one for all.
    let policy = || PickleDbDumpPolicy::DumpUponRequest;
    let database = if path.exists() {
        PickleDb::load(&path, policy(), SerializationMethod::Json).expect("it opens")
    } else {
        PickleDb::new(&path, policy(), SerializationMethod::Json)
    };
    Box::new(Pickle(RwLock::new(database)))
}

impl Engine for Pickle {
    fn load(&self, data: &Data) {
        let mut database = self.0.write().expect("no writer failed");
        for (key, value) in data.batches().flatten() {
            database.set(&key, &value).expect("it is set");
        }
        database.dump().expect("it is written");
    }

    fn set(&self, key: &str, value: &str) {
        let mut database = self.0.write().expect("no writer failed");
        database.set(key, &value).expect("it is set");
        database.dump().expect("it is written");
    }

    fn set_all(&self, entries: &[(String, String)]) {
        let mut database = self.0.write().expect("no writer failed");
        for (key, value) in entries {
            database.set(key, value).expect("it is set");
        }
        database.dump().expect("it is written");
    }

    fn gets(&self, keys: &[String], start: &Barrier) -> Duration {
        timed(start, || {
            for key in keys {
                let database = self.0.read().expect("no writer failed");
                black_box(database.get::<String>(key).expect("it is there"));
            }
        })
    }

    fn scans(&self, _: &[String]) -> Option<(usize, Duration)> {
        None
    }
}
