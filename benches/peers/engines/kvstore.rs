//! kvstore: writers are tasks, since a call is a future.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use kvstore_core::json_file::{JsonFile, JsonStore, Options};
use kvstore_core::model::commit::Commit;
use kvstore_core::model::write::{Change, Write};
use kvstore_core::{Key, Store, Value};
use tokio::runtime::Runtime;

use crate::engine::{Data, Engine, timed};

struct Kvstore {
    runtime: Runtime,
    store: Arc<JsonStore>,
    file: Option<JsonFile>,
}

pub(crate) fn open(folder: &Path, _: &Data) -> Box<dyn Engine> {
    let runtime = Runtime::new().expect("a runtime starts");
    let file = runtime
        .block_on(JsonFile::open(folder, Options::default()))
        .expect("the folder can be opened");
    Box::new(Kvstore {
        runtime,
        store: file.store(),
        file: Some(file),
    })
}

fn write(key: &str, value: &str) -> Write {
    Write {
        key: Key::new(key).expect("the key keeps the rules"),
        change: Change::Set {
            value: Value::parse(value).expect("it is JSON"),
            expires_at: None,
        },
    }
}

fn commit(writes: Vec<Write>) -> Commit {
    Commit {
        writes,
        ..Commit::default()
    }
}

impl Engine for Kvstore {
    fn set(&self, key: &str, value: &str) {
        let commit = self.store.commit(commit(vec![write(key, value)]));
        self.runtime.block_on(commit).expect("it is committed");
    }

    fn set_all(&self, entries: &[(String, String)]) {
        let writes = entries.iter().map(|(key, value)| write(key, value));
        let commit = self.store.commit(commit(writes.collect()));
        self.runtime.block_on(commit).expect("it is committed");
    }

    fn gets(&self, keys: &[String], start: &Barrier) -> Duration {
        let keys: Vec<Key> = keys
            .iter()
            .map(|key| Key::new(key).expect("it is a key"))
            .collect();
        timed(start, || {
            for key in &keys {
                black_box(self.store.read(key).expect("it is there").value);
            }
        })
    }

    fn scans(&self, prefixes: &[String]) -> Option<(usize, Duration)> {
        let (start, mut seen) = (Instant::now(), 0);
        for prefix in prefixes {
            self.store.scan_with(prefix, |key, entry| {
                black_box((key, entry.value));
                seen += 1;
                ControlFlow::Continue(())
            });
        }
        Some((seen, start.elapsed()))
    }

    fn drive(&self, writers: usize, span: Duration, data: &Data) -> Vec<Duration> {
        let (end, data) = (Instant::now() + span, *data);
        let tasks: Vec<_> = (0..writers)
            .map(|_| {
                let store = Arc::clone(&self.store);
                self.runtime.spawn(async move {
                    let mut times = Vec::new();
                    while Instant::now() < end {
                        let (key, value) = (data.random_key(), data.random_value());
                        let start = Instant::now();
                        let commit = commit(vec![write(&key, &value)]);
                        store.commit(commit).await.expect("it is committed");
                        times.push(start.elapsed());
                    }
                    times
                })
            })
            .collect();
        self.runtime.block_on(async {
            let mut times = Vec::new();
            for task in tasks {
                times.extend(task.await.expect("it ends well"));
            }
            times
        })
    }
}

impl Drop for Kvstore {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            self.runtime.block_on(file.close()).expect("it closes");
        }
    }
}
