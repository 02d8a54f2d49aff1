//! redb: a cache larger than the data; reads keep one transaction and its table.

use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use redb::{Builder, Database, ReadableDatabase, TableDefinition};

use crate::engine::{Data, Engine, timed};

const TABLE: TableDefinition<'_, &str, &str> = TableDefinition::new("entries");

struct Redb(Database);

pub(crate) fn open(folder: &Path, _: &Data) -> Box<dyn Engine> {
    let database = Builder::new()
        .set_cache_size(1 << 30)
        .create(folder.join("data.redb"))
        .expect("it opens");
    Box::new(Redb(database))
}

impl Engine for Redb {
    fn set(&self, key: &str, value: &str) {
        let transaction = self.0.begin_write().expect("it begins");
        let mut table = transaction.open_table(TABLE).expect("it opens");
        table.insert(key, value).expect("it is set");
        drop(table);
        transaction.commit().expect("it is committed");
    }

    fn set_all(&self, entries: &[(String, String)]) {
        let transaction = self.0.begin_write().expect("it begins");
        let mut table = transaction.open_table(TABLE).expect("it opens");
        for (key, value) in entries {
            table
                .insert(key.as_str(), value.as_str())
                .expect("it is set");
        }
        drop(table);
        transaction.commit().expect("it is committed");
    }

    fn gets(&self, keys: &[String], start: &Barrier) -> Duration {
        let transaction = self.0.begin_read().expect("it begins");
        let table = transaction.open_table(TABLE).expect("it opens");
        timed(start, || {
            for key in keys {
                let value = table
                    .get(key.as_str())
                    .expect("it is read")
                    .expect("it is there");
                black_box(value.value().to_owned());
            }
        })
    }

    fn scans(&self, prefixes: &[String]) -> Option<(usize, Duration)> {
        let transaction = self.0.begin_read().expect("it begins");
        let table = transaction.open_table(TABLE).expect("it opens");
        let (start, mut seen) = (Instant::now(), 0);
        for prefix in prefixes {
            let range = table.range::<&str>(prefix.as_str()..).expect("it is read");
            for entry in range {
                let (key, value) = entry.expect("it is read");
                if !key.value().starts_with(prefix.as_str()) {
                    break;
                }
                black_box((key.value(), value.value()));
                seen += 1;
            }
        }
        Some((seen, start.elapsed()))
    }
}
