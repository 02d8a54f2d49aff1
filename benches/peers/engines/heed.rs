//! LMDB through heed: reads keep one transaction. Values lie in a mapping of the file, and are
//! copied to be owned.

use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use heed::types::Str;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions};

use crate::engine::{Data, Engine, timed};

struct Heed {
    env: &'static Env,
    entries: Database<'static, Str, Str>,
}

pub(crate) fn open(folder: &Path, _: &Data) -> Box<dyn Engine> {
    let mut options = EnvOpenOptions::new();
    // Each reading thread takes a slot.
    options.map_size(4 << 30).max_readers(512);
    // SAFETY: nothing else writes to this folder while it is mapped.
    let env = unsafe { options.open(folder) }.expect("it opens");
    // A table borrows from its environment, which therefore lives until the process ends.
    let env: &Env = Box::leak(Box::new(env));
    let entries = env
        .create_databases_and_commit(
            env.write_txn().expect("it begins"),
            |tables, transaction| {
                let table = tables.create_database::<Str, Str>(transaction, None);
                table.map(CommitOrAbort::<_, ()>::Commit)
            },
        )
        .expect("it is made")
        .unwrap_commit();
    Box::new(Heed { env, entries })
}

impl Engine for Heed {
    fn set(&self, key: &str, value: &str) {
        let mut transaction = self.env.write_txn().expect("it begins");
        self.entries
            .put(&mut transaction, key, value)
            .expect("it is set");
        transaction.commit().expect("it is committed");
    }

    fn set_all(&self, entries: &[(String, String)]) {
        let mut transaction = self.env.write_txn().expect("it begins");
        for (key, value) in entries {
            self.entries
                .put(&mut transaction, key, value)
                .expect("it is set");
        }
        transaction.commit().expect("it is committed");
    }

    fn gets(&self, keys: &[String], start: &Barrier) -> Duration {
        let transaction = self.env.read_txn().expect("it begins");
        timed(start, || {
            for key in keys {
                let value = self.entries.get(&transaction, key).expect("it is read");
                black_box(value.expect("it is there").to_owned());
            }
        })
    }

    fn scans(&self, prefixes: &[String]) -> Option<(usize, Duration)> {
        let transaction = self.env.read_txn().expect("it begins");
        let (start, mut seen) = (Instant::now(), 0);
        for prefix in prefixes {
            let entries = self
                .entries
                .prefix_iter(&transaction, prefix)
                .expect("it is read");
            for entry in entries {
                let (key, value) = entry.expect("it is read");
                black_box((key, value));
                seen += 1;
            }
        }
        Some((seen, start.elapsed()))
    }
}
