//! What do a durable write, a read, an opening, an entry in memory and a snapshot cost, and does
//! the cost grow with the data?

mod child;
mod data;
mod journal;
mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvstore_core::json_file::{JsonFile, JsonStore, Options};
use kvstore_core::memory::MemoryStore;
use kvstore_core::model::commit::Commit;
use kvstore_core::model::write::{Change, Write};
use kvstore_core::store::ListRequest;
use kvstore_core::{Key, Store};
use tempfile::TempDir;

use crate::child::Child;
use crate::data::{fill, many};
use crate::journal::syncs;
use crate::support::{ROUNDS, Table, drive, is_wanted, key, scratch_folder, value};

/// How long each row of writes is measured in each round.
const SPAN: Duration = Duration::from_secs(1);

/// A small number of entries.
const FEW: usize = 1000;

#[tokio::main]
async fn main() {
    if let Some(arguments) = child::task() {
        return open_and_tell(Path::new(&arguments[0])).await;
    }
    if is_wanted("commits") {
        commits().await;
    }
    if is_wanted("sizes") {
        sizes().await;
    }
    if is_wanted("reads") {
        reads().await;
    }
    if is_wanted("open") {
        open();
    }
    if is_wanted("snapshot") {
        snapshot().await;
    }
}

/// A folder with a store that takes no snapshot by itself: snapshots have a table of their own, and
/// would disturb all others.
struct Opened {
    folder: TempDir,
    file: JsonFile,
    entries: usize,
}

impl Opened {
    async fn with(entries: usize) -> Self {
        let folder = scratch_folder();
        fill(folder.path(), entries);
        let options = Options {
            snapshot_bytes_min: u64::MAX,
            ..Options::default()
        };
        let file = JsonFile::open(folder.path(), options)
            .await
            .expect("the folder can be opened");
        Self {
            folder,
            file,
            entries,
        }
    }

    fn name(&self) -> String {
        format!("{} entries", self.entries)
    }
}

/// Returns a commit that sets `count` random keys of `entries`.
fn sets(count: usize, entries: usize) -> Commit {
    let set = |_| Write {
        key: random_key(entries),
        change: Change::Set {
            value: value(),
            expires_at: None,
        },
    };
    Commit {
        writes: (0..count).map(set).collect(),
        ..Commit::default()
    }
}

fn random_key(entries: usize) -> Key {
    key(rand::random_range(0..entries))
}

/// Commits from `tasks` tasks, one set at a time, for [`SPAN`].
async fn commit(
    store: &Arc<dyn Store>,
    tasks: usize,
    sets_each: usize,
    entries: usize,
) -> support::Rates {
    drive(tasks, SPAN, |_, mut laps| {
        let store = Arc::clone(store);
        async move {
            while laps.go_on() {
                let commit = sets(sets_each, entries);
                store.commit(commit).await.expect("the commit succeeds");
            }
            laps
        }
    })
    .await
}

/// Measures group commit: the cost of a durable write among others.
async fn commits() {
    let opened = Opened::with(FEW).await;
    let file: Arc<dyn Store> = opened.file.store();
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let mut table = Table::new(&["commits", "sets/s", "p50 µs", "p99 µs", "sets per sync"]);
    for _ in 0..ROUNDS {
        for (name, tasks, sets_each) in [
            ("1 task", 1, 1),
            ("64 tasks", 64, 1),
            ("256 tasks", 256, 1),
            ("1 task, 1000 sets each", 1, 1000),
        ] {
            let before = syncs(opened.folder.path(), "journal-");
            let rates = commit(&file, tasks, sets_each, FEW).await;
            let each = sets_each as f64;
            let synced = syncs(opened.folder.path(), "journal-") - before;
            let figures = [
                rates.per_second * each,
                rates.p50_us,
                rates.p99_us,
                rates.calls * each / synced,
            ];
            table.add(&format!("file, {name}"), &figures);
            let rates = commit(&memory, tasks, sets_each, FEW).await;
            let figures = [
                rates.per_second * each,
                rates.p50_us,
                rates.p99_us,
                f64::NAN,
            ];
            table.add(&format!("memory, {name}"), &figures);
        }
    }
    table.print("Commits: durable in files, and in memory (store, `commits`)");
    opened.file.close().await.expect("it closes");
}

/// Measures whether a durable write costs more with more data.
async fn sizes() {
    let opened = [Opened::with(FEW).await, Opened::with(many()).await];
    for tasks in [1, 64] {
        let mut table = Table::new(&["durable sets", "sets/s", "p50 µs", "p99 µs"]);
        for _ in 0..ROUNDS * 2 {
            for opened in &opened {
                let store: Arc<dyn Store> = opened.file.store();
                let rates = commit(&store, tasks, 1, opened.entries).await;
                table.add(
                    &opened.name(),
                    &[rates.per_second, rates.p50_us, rates.p99_us],
                );
            }
        }
        table.print(&format!(
            "Durable sets from {tasks} task(s), by the size of the data (store, `sizes`)"
        ));
    }
    for opened in opened {
        opened.file.close().await.expect("it closes");
    }
}

/// The number of calls in one measurement of reads.
const READS: usize = 200_000;

/// The number of pages in one measurement of lists.
const PAGES: usize = 2_000;

/// Measures reads from one task.
async fn reads() {
    let opened = [Opened::with(FEW).await, Opened::with(many()).await];
    let mut table = Table::new(&["reads, by one task", "ns"]);
    for _ in 0..ROUNDS {
        for opened in &opened {
            let store = opened.file.store();
            let keys: Vec<Key> = (0..READS).map(|_| random_key(opened.entries)).collect();
            let mut add = |name: &str, calls: usize, start: Instant| {
                let ns = start.elapsed().as_secs_f64() * 1e9 / calls as f64;
                table.add(&format!("{name}, {}", opened.name()), &[ns]);
            };
            let start = Instant::now();
            for key in &keys {
                store.read_with(key, |entry| assert!(entry.value.len() > 1));
            }
            add("read_with", READS, start);
            let start = Instant::now();
            for key in &keys {
                assert!(store.read(key).is_some());
            }
            add("read", READS, start);
            let shared: Arc<dyn Store> = store;
            let start = Instant::now();
            for key in &keys {
                assert!(shared.get(key).await.is_ok_and(|entry| entry.is_some()));
            }
            add("get through `dyn Store`", READS, start);
            let start = Instant::now();
            for keys in keys.chunks(100) {
                let found = shared.get_many(keys).await.expect("it reads");
                assert!(found.iter().all(Option::is_some));
            }
            add("get_many of 100 through `dyn Store`, per key", READS, start);
            let start = Instant::now();
            for _ in 0..PAGES {
                // Far enough from the end that the page is full.
                let request = ListRequest {
                    after: Some(random_key(opened.entries - 100).to_string()),
                    ..ListRequest::default()
                };
                let page = shared.list(&request).await;
                assert!(page.is_ok_and(|page| page.entries.len() >= 99));
            }
            add("list, a page of 100", PAGES, start);
        }
    }
    table.print("Reads (store, `reads`)");
    for opened in opened {
        opened.file.close().await.expect("it closes");
    }
}

/// Measures how long opening takes, and how much memory an entry takes.
fn open() {
    let mut table = Table::new(&[
        "open",
        "open ms",
        "RSS bytes per entry",
        "the same after a snapshot",
        "peak bytes per entry",
        "file bytes per entry",
    ]);
    for _ in 0..ROUNDS {
        for entries in [many() / 10, many()] {
            let folder = scratch_folder();
            fill(folder.path(), entries);
            for name in ["import", "reopen"] {
                let mut child = Child::start(&[&folder.path().to_string_lossy()]);
                let figures = child.ask("open");
                let per_entry = |index: usize| figures[index] / entries as f64;
                drop(child);
                let file = folder
                    .path()
                    .join("data.json")
                    .metadata()
                    .expect("it is there")
                    .len();
                let row = [
                    figures[0],
                    per_entry(1),
                    per_entry(2),
                    per_entry(3),
                    file as f64 / entries as f64,
                ];
                table.add(&format!("{name}, {entries} entries"), &row);
            }
        }
    }
    table.print("Opening, in a process of its own (store, `open`)");
}

/// Does the child's part of [`open`].
async fn open_and_tell(folder: &Path) {
    child::answer(async |_| {
        let empty = memory("VmRSS:");
        let start = Instant::now();
        let file = JsonFile::open(folder, Options::default())
            .await
            .expect("the folder can be opened");
        let ms = start.elapsed().as_secs_f64() * 1e3;
        let (opened, peak) = (memory("VmRSS:") - empty, memory("VmHWM:") - empty);
        file.store().compact().await.expect("there is room");
        let compacted = memory("VmRSS:") - empty;
        file.close().await.expect("it closes");
        vec![ms, opened, compacted, peak]
    })
    .await;
}

/// Returns a figure of the kernel about this process, in bytes.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse::<f64>().ok());
    kib.expect("the kernel says so") * 1024.0
}

/// Measures how long a snapshot takes, and how long it blocks others.
async fn snapshot() {
    let opened = Opened::with(many()).await;
    let store = opened.file.store();
    let shared: Arc<dyn Store> = opened.file.store();
    let mut table = Table::new(&[
        "snapshot",
        "longest commit ms",
        "longest read ms",
        "sets/s",
        "snapshot s",
    ]);
    for _ in 0..ROUNDS {
        for tasks in [1, 64] {
            for with_snapshot in [false, true] {
                let done = Arc::new(AtomicBool::new(false));
                let reader = std::thread::spawn({
                    let (store, done) = (opened.file.store(), Arc::clone(&done));
                    let entries = opened.entries;
                    move || longest_read(&store, entries, &done)
                });
                let writers: Vec<_> = (0..tasks)
                    .map(|_| {
                        tokio::spawn(longest_commit(
                            Arc::clone(&shared),
                            opened.entries,
                            Arc::clone(&done),
                        ))
                    })
                    .collect();
                let start = Instant::now();
                if with_snapshot {
                    store.compact().await.expect("there is room");
                } else {
                    tokio::time::sleep(SPAN).await;
                }
                let elapsed = start.elapsed().as_secs_f64();
                done.store(true, Ordering::Relaxed);
                let mut longest = Duration::ZERO;
                let mut commits = 0;
                for writer in writers {
                    let (own, count) = writer.await.expect("it ends well");
                    longest = longest.max(own);
                    commits += count;
                }
                let read = reader.join().expect("it ends well");
                let name = format!(
                    "{tasks} writing task(s), {}",
                    if with_snapshot {
                        "during one"
                    } else {
                        "without"
                    }
                );
                let seconds = if with_snapshot { elapsed } else { f64::NAN };
                table.add(
                    &name,
                    &[
                        longest.as_secs_f64() * 1e3,
                        read.as_secs_f64() * 1e3,
                        commits as f64 / elapsed,
                        seconds,
                    ],
                );
            }
        }
    }
    table.print(&format!(
        "A snapshot of {} entries, and who waits for it (store, `snapshot`)",
        opened.entries
    ));
    opened.file.close().await.expect("it closes");
}

/// Reads now and then until `done`: a reader that never pauses would measure the scheduler.
fn longest_read(store: &JsonStore, entries: usize, done: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !done.load(Ordering::Relaxed) {
        let key = random_key(entries);
        let start = Instant::now();
        assert!(store.read(&key).is_some());
        longest = longest.max(start.elapsed());
        std::thread::sleep(Duration::from_micros(200));
    }
    longest
}

/// Commits one set after the other until `done`.
async fn longest_commit(
    store: Arc<dyn Store>,
    entries: usize,
    done: Arc<AtomicBool>,
) -> (Duration, u64) {
    let (mut longest, mut count) = (Duration::ZERO, 0);
    while !done.load(Ordering::Relaxed) {
        let commit = sets(1, entries);
        let start = Instant::now();
        store.commit(commit).await.expect("the commit succeeds");
        longest = longest.max(start.elapsed());
        count += 1;
    }
    (longest, count)
}
