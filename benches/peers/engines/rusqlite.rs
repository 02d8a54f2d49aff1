//! SQLite: a write-ahead log with `synchronous=FULL`, statements prepared once, a cache and a
//! mapping larger than the data, and no separate rowid. One connection writes, behind a lock:
//! several would only wait for each other, and longer. Each reading thread has its own connection.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::{Barrier, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use crate::engine::{Data, Engine, timed};

struct Sqlite {
    path: PathBuf,
    writer: Mutex<Connection>,
}

pub(crate) fn open(folder: &Path, _: &Data) -> Box<dyn Engine> {
    let path = folder.join("data.sqlite");
    let writer = connect(&path);
    writer
        .execute_batch("CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
        .expect("it is made");
    Box::new(Sqlite {
        path,
        writer: Mutex::new(writer),
    })
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("it opens");
    connection
        .execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-524288; PRAGMA mmap_size=1073741824",
        )
        .expect("it is set");
    connection
}

const SET: &str = "INSERT INTO entries (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";

impl Sqlite {
    fn writer(&self) -> MutexGuard<'_, Connection> {
        self.writer.lock().expect("no writer failed")
    }
}

impl Engine for Sqlite {
    fn set(&self, key: &str, value: &str) {
        let writer = self.writer();
        let mut set = writer.prepare_cached(SET).expect("it is prepared");
        set.execute(params![key, value]).expect("it is set");
    }

    fn set_all(&self, entries: &[(String, String)]) {
        let mut writer = self.writer();
        let transaction = writer.transaction().expect("it begins");
        let mut set = transaction.prepare_cached(SET).expect("it is prepared");
        for (key, value) in entries {
            set.execute(params![key, value]).expect("it is set");
        }
        drop(set);
        transaction.commit().expect("it is committed");
    }

    fn gets(&self, keys: &[String], start: &Barrier) -> Duration {
        let connection = connect(&self.path);
        connection.execute_batch("BEGIN").expect("it begins");
        let mut get = connection
            .prepare("SELECT value FROM entries WHERE key = ?1")
            .expect("it is prepared");
        timed(start, || {
            for key in keys {
                let value: String = get.query_row([key], |row| row.get(0)).expect("it is there");
                black_box(value);
            }
        })
    }

    fn scans(&self, prefixes: &[String]) -> Option<(usize, Duration)> {
        let connection = connect(&self.path);
        connection.execute_batch("BEGIN").expect("it begins");
        let mut scan = connection
            .prepare("SELECT key, value FROM entries WHERE key >= ?1 AND key < ?2 ORDER BY key")
            .expect("it is prepared");
        let (start, mut seen) = (Instant::now(), 0);
        for prefix in prefixes {
            let end = format!("{prefix};"); // ';' follows '9'
            let mut rows = scan.query([prefix, &end]).expect("it is read");
            while let Some(row) = rows.next().expect("it is read") {
                let key = row.get_ref(0).expect("it is read");
                let value = row.get_ref(1).expect("it is read");
                black_box((key.as_str().expect("text"), value.as_str().expect("text")));
                seen += 1;
            }
        }
        Some((seen, start.elapsed()))
    }
}
