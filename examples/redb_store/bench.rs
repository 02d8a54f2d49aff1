//! What does the store cost compared with `json_file`? The same calls, each store in its own
//! process.

use std::error::Error;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvstore_core::clock::SystemClock;
use kvstore_core::json_file::{JsonFile, Options};
use kvstore_core::model::commit::Commit;
use kvstore_core::model::write::{Change, Write};
use kvstore_core::{Key, Store, Value};

use crate::CACHE_BYTES;
use crate::store::RedbStore;

const ENTRIES: usize = 100_000;
const VALUE_BYTES: usize = 100;
const SPAN: Duration = Duration::from_secs(3);

/// Measures both, or the one named by the second argument.
pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let Some(name) = std::env::args().nth(2) else {
        for name in ["json_file", "redb"] {
            let program = std::env::current_exe()?;
            assert!(
                Command::new(program)
                    .args(["bench", name])
                    .status()?
                    .success()
            );
        }
        return Ok(());
    };
    let folder = tempfile::tempdir_in(".")?;
    let store: Arc<dyn Store> = match name.as_str() {
        "redb" => {
            let path = folder.path().join("data.redb");
            Arc::new(RedbStore::open(&path, CACHE_BYTES, Arc::new(SystemClock))?)
        }
        _ => JsonFile::open(folder.path(), Options::default())
            .await?
            .store(),
    };
    let empty = memory_kib()?;
    for first in (0..ENTRIES).step_by(1000) {
        let writes = (first..first + 1000).map(set).collect();
        store
            .commit(Commit {
                writes,
                ..Commit::default()
            })
            .await?;
    }
    let loaded = memory_kib()?;
    println!("{name}: {ENTRIES} entries of {VALUE_BYTES} bytes");
    println!("  memory     {:>9.1} MiB", (loaded - empty) as f64 / 1024.0);
    for tasks in [1, 64] {
        let sets = rate(tasks, &store, |store, number| async move {
            let writes = vec![set(number)];
            store
                .commit(Commit {
                    writes,
                    ..Commit::default()
                })
                .await
                .expect("it is durable");
        });
        println!("  sets  × {tasks:<2} {:>9.0} /s", sets.await);
    }
    for tasks in [1, 64] {
        let gets = rate(tasks, &store, |store, number| async move {
            let entry = store.get(&key(number)).await.expect("it is read");
            assert!(entry.is_some());
        });
        println!("  gets  × {tasks:<2} {:>9.0} /s", gets.await);
    }
    store.close().await?;
    let mut bytes = 0;
    for file in std::fs::read_dir(folder.path())? {
        bytes += file?.metadata()?.len();
    }
    println!(
        "  disk       {:>9.1} MiB, closed",
        bytes as f64 / f64::from(1 << 20)
    );
    Ok(())
}

fn key(number: usize) -> Key {
    Key::new(&format!("key:{number:06}")).expect("it is a key")
}

fn set(number: usize) -> Write {
    let text = format!("\"{number:0>width$}\"", width = VALUE_BYTES - 2);
    Write {
        key: key(number),
        change: Change::Set {
            value: Value::parse(text).expect("it is JSON"),
            expires_at: None,
        },
    }
}

/// Measures calls per second, of `tasks` that each call again as soon as they are answered.
async fn rate<F: Future<Output = ()> + Send + 'static>(
    tasks: usize,
    store: &Arc<dyn Store>,
    call: impl Fn(Arc<dyn Store>, usize) -> F + Copy + Send + 'static,
) -> f64 {
    let begun = Instant::now();
    let tasks = (0..tasks).map(|task| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            let mut calls = 0;
            while begun.elapsed() < SPAN {
                // Far apart, like unsorted keys.
                let number = (task * 7919 + calls * 104_729) % ENTRIES;
                call(Arc::clone(&store), number).await;
                calls += 1;
            }
            calls
        })
    });
    let mut calls = 0;
    for task in tasks.collect::<Vec<_>>() {
        calls += task.await.expect("it does not panic");
    }
    calls as f64 / begun.elapsed().as_secs_f64()
}

/// Returns the resident memory of the process.
fn memory_kib() -> Result<i64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.ok_or("no VmRSS")?.trim().trim_end_matches(" kB");
    Ok(kib.parse()?)
}
