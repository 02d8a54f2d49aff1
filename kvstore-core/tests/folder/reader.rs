//! Does a process that only reads a folder show everything that its writer has acknowledged, and
//! nothing else, at all times?

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use kvstore_core::clock::SystemClock;
use kvstore_core::json_file::{JsonFile, JsonReader, JsonStore, Options};
use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::commit::{Advance, Commit};
use kvstore_core::model::id::{JobId, Partition, Position, QueueId};
use kvstore_core::model::job::{JobState, NewJob};
use kvstore_core::model::write::{Change, Write};
use kvstore_core::open::Followed;
use kvstore_core::queue::Found;
use kvstore_core::service::{Request, ServiceOptions};
use kvstore_core::store::{ListRequest, WatchFrom};
use kvstore_core::{Error, JobQueue, Key, Service, Store, StoreExt, Value, Version};

/// Longer than anything takes that happens at all.
const SOON: Duration = Duration::from_secs(60);

async fn write_to(folder: &Path, snapshot_bytes_min: u64) -> JsonFile {
    loop {
        let options = Options {
            snapshot_bytes_min,
            ..Options::default()
        };
        match JsonFile::open(folder, options).await {
            Ok(file) => return file,
            // A dropped store has threads that end soon.
            Err(Error::Locked { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn read_from(folder: &Path) -> JsonReader {
    JsonReader::open(folder, Arc::new(SystemClock))
        .await
        .unwrap()
}

async fn until_ready(reader: &JsonReader) {
    let ready = async {
        while reader.ping().await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, ready).await.unwrap();
}

async fn number(store: &impl Store, key: &str) -> Option<u64> {
    store.get_as::<u64>(key).await.unwrap()
}

async fn all(store: &impl Store) -> BTreeMap<String, String> {
    let request = ListRequest {
        include_values: true,
        limit: 1000,
        ..ListRequest::default()
    };
    let page = store.list(&request).await.unwrap();
    let pair = |entry: kvstore_core::store::Listed| {
        (
            entry.key.to_string(),
            entry.value.unwrap().as_str().to_owned(),
        )
    };
    page.entries.into_iter().map(pair).collect()
}

/// Counts up in a key of its own, and asks every reader after every write.
async fn count(store: Arc<JsonStore>, readers: Vec<JsonReader>, key: String, from: u64, to: u64) {
    for count in from..to {
        let filler = "x".repeat(100);
        store.set(&key, &(count, filler)).await.unwrap();
        for reader in &readers {
            let (seen, _) = reader.get_as::<(u64, String)>(&key).await.unwrap().unwrap();
            assert_eq!(seen, count, "{key}");
        }
    }
}

/// Reads until it is stopped; no value may go backwards.
async fn watch_over(reader: JsonReader, keys: Vec<Key>, stop: Arc<AtomicBool>) -> u64 {
    let mut seen = vec![Version(0); keys.len()];
    let mut reads = 0;
    while !stop.load(Ordering::SeqCst) {
        let entries = reader.get_many(&keys).await.unwrap();
        for (seen, entry) in seen.iter_mut().zip(entries) {
            let version = entry.map_or(Version(0), |entry| entry.version);
            assert!(version >= *seen, "{version} after {seen}");
            *seen = version;
        }
        reads += 1;
        tokio::task::yield_now().await;
    }
    reads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_acknowledged_write_is_in_the_next_read_of_every_reader() {
    let folder = tempfile::tempdir().unwrap();
    let keys: Vec<String> = (0..3).map(|number| format!("k{number}")).collect();
    let mut readers = Vec::new();
    let file = write_to(folder.path(), 4096).await;
    for _ in 0..3 {
        readers.push(read_from(folder.path()).await);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let watchers: Vec<_> = readers
        .iter()
        .map(|reader| {
            let keys = keys.iter().map(|key| Key::new(key).unwrap()).collect();
            tokio::spawn(watch_over(reader.clone(), keys, Arc::clone(&stop)))
        })
        .collect();
    let mut file = Some(file);
    for round in 0..3 {
        let writer = match file.take() {
            Some(file) => file,
            None => write_to(folder.path(), 4096).await,
        };
        let tasks = keys.iter().map(|key| {
            let (from, to) = (round * 100, (round + 1) * 100);
            tokio::spawn(count(
                writer.store(),
                readers.clone(),
                key.clone(),
                from,
                to,
            ))
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        // Once after a proper close, otherwise with writes in flight.
        if round == 1 {
            writer.close().await.unwrap();
        }
    }
    stop.store(true, Ordering::SeqCst);
    for watcher in watchers {
        assert!(watcher.await.unwrap() > 0);
    }
    for reader in &readers {
        let turns = reader.rotations() + reader.reloads();
        assert!(turns > 10, "{turns} new journals are no test");
        assert!(reader.lag().unwrap() < SOON);
    }
}

#[tokio::test]
async fn watchers_see_every_write_and_learn_when_the_data_was_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_to(folder.path(), 1 << 20).await;
    let reader = read_from(folder.path()).await;
    file.store().set("gone", &1).await.unwrap();
    let mut watch = reader.watch(&WatchFrom::Now.into()).await.unwrap();
    for count in 0..20 {
        file.store().set("a", &count).await.unwrap();
        let change = tokio::time::timeout(SOON, watch.changes.next())
            .await
            .unwrap();
        let change = change.unwrap().unwrap();
        assert_eq!(change.key.as_str(), "a");
        assert_eq!(change.value.unwrap().to::<u64>().unwrap(), count);
    }
    file.close().await.unwrap();
    drop(file);
    assert_eq!(number(&reader, "gone").await, Some(1));
    // An edit at rest, which deletes without a version.
    std::fs::write(folder.path().join("data.json"), r#"{"a": 19}"#).unwrap();
    assert_eq!(
        number(&reader, "gone").await,
        Some(1),
        "no reader has taken it yet"
    );
    let file = write_to(folder.path(), 1 << 20).await;
    assert_eq!(number(&reader, "gone").await, None);
    assert_eq!(number(&reader, "a").await, Some(19));
    let end = tokio::time::timeout(SOON, watch.changes.next())
        .await
        .unwrap();
    assert!(matches!(end, Some(Err(Error::Compacted))), "{end:?}");
    drop(file);
}

#[tokio::test]
async fn reader_waits_for_a_folder_and_says_so() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("later");
    let reader = read_from(&folder).await;
    let queue = reader.queue();
    let told = reader.ping().await.unwrap_err().to_string();
    assert!(
        told.contains("there is no folder") && told.contains("later"),
        "{told}"
    );
    assert!(reader.get(&Key::new("a").unwrap()).await.is_err());
    assert!(queue.ping().await.is_err());
    std::fs::create_dir(&folder).unwrap();
    let empty = read_from(&folder).await;
    let told = empty.ping().await.unwrap_err().to_string();
    assert!(told.contains("holds no store yet"), "{told}");
    let file = write_to(&folder, 1 << 20).await;
    file.store().set("a", &1).await.unwrap();
    for reader in [&reader, &empty] {
        until_ready(reader).await;
        assert_eq!(number(reader, "a").await, Some(1));
        assert_eq!(reader.queue().id(), file.queue().id());
    }
    assert_eq!(queue.id(), file.queue().id());
}

type Files = BTreeMap<String, (Vec<u8>, SystemTime)>;

fn files(folder: &Path) -> Files {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let file = |entry: std::fs::DirEntry| {
        let (text, metadata) = (
            std::fs::read(entry.path()).unwrap(),
            entry.metadata().unwrap(),
        );
        let name = entry.file_name().into_string().unwrap();
        (name, (text, metadata.modified().unwrap()))
    };
    entries.map(file).collect()
}

#[tokio::test]
async fn reader_changes_nothing_and_names_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_to(folder.path(), 1 << 20).await;
    file.store().set("a", &1).await.unwrap();
    let reader = read_from(folder.path()).await;
    let refused = reader.set("a", &2).await.unwrap_err();
    assert!(matches!(refused, Error::ReadOnly { .. }), "{refused:?}");
    let (told, pid) = (refused.to_string(), std::process::id().to_string());
    assert!(told.contains("only reads") && told.contains(&pid), "{told}");
    assert!(reader.expire(Partition(0)).await.is_err());
    drop(file);
    // With journals left, which a writer would continue, and a file that it would remove.
    drop(write_to(folder.path(), 1 << 20).await);
    std::fs::write(folder.path().join(".journal-99.jsonl.begun"), "").unwrap();
    let before = files(folder.path());
    let other = read_from(folder.path()).await;
    assert_eq!(number(&other, "a").await, Some(1));
    // The thread of a store that was dropped ends by itself, a moment later.
    let begun = Instant::now();
    loop {
        let told = other.set("a", &2).await.unwrap_err().to_string();
        assert!(told.contains("only reads"), "{told}");
        if told.contains("none now") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{told}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for reader in [reader, other] {
        assert_eq!(number(&reader, "a").await, Some(1));
        reader.close().await.unwrap();
        assert!(reader.ping().await.is_err());
    }
    assert_eq!(files(folder.path()), before);
}

/// Creates a folder with a pair, and a journal with ten commits.
async fn left_behind(folder: &Path) -> BTreeMap<String, String> {
    let file = write_to(folder, 1 << 20).await;
    for number in 0..10 {
        file.store()
            .set(&format!("k{number}"), &number)
            .await
            .unwrap();
    }
    all(&*file.store()).await
}

/// Returns the offset at which the last line of `text` begins, which has no newline at its end.
fn last_line(text: &[u8]) -> usize {
    text.iter().rposition(|&byte| byte == b'\n').unwrap() + 1
}

#[tokio::test]
async fn damage_is_reported_with_its_location_and_no_wrong_value_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let written = left_behind(folder.path()).await;
    let journal = folder.path().join("journal-1.jsonl");
    let sound = std::fs::read(&journal).unwrap();
    let used = sound.iter().rposition(|&byte| byte != b'\n').unwrap() + 1;
    let last_mark = last_line(&sound[..used]);
    let before_last = last_line(&sound[..last_mark - 1]);
    let mut told = 0;
    for place in (0..used).step_by(7) {
        let mut damaged = sound.clone();
        damaged[place] ^= 1 << (place % 8);
        std::fs::write(&journal, damaged).unwrap();
        let reader = read_from(folder.path()).await;
        match reader.ping().await {
            Err(Error::Corrupt { path, line, .. }) => {
                assert_eq!(path, journal);
                let lines = sound[..place].iter().filter(|&&byte| byte == b'\n').count() as u64;
                assert_eq!(line, Some(lines + 1), "byte {place}");
                assert!(reader.get(&Key::new("k0").unwrap()).await.is_err());
                told += 1;
            }
            Err(error) => panic!("byte {place}: {error:?}"),
            // The last mark is the only evidence of the last line.
            Ok(()) => {
                assert!(place >= last_mark, "byte {place} of {before_last}");
                let shown = all(&reader).await;
                assert!(
                    shown
                        .iter()
                        .all(|entry| written.get(entry.0) == Some(entry.1))
                );
                assert_eq!(shown.len(), 9);
            }
        }
        reader.close().await.unwrap();
    }
    assert!(told > 50, "{told}");
    std::fs::write(&journal, sound).unwrap();
    assert_eq!(all(&read_from(folder.path()).await).await, written);
}

#[tokio::test]
async fn lines_without_a_mark_are_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let written = left_behind(folder.path()).await;
    let journal = folder.path().join("journal-1.jsonl");
    let sound = std::fs::read(&journal).unwrap();
    let used = sound.iter().rposition(|&byte| byte != b'\n').unwrap() + 1;
    let last_mark = last_line(&sound[..used]);
    // As if the writer had been stopped just before it wrote the mark.
    std::fs::write(&journal, &sound[..last_mark]).unwrap();
    let reader = read_from(folder.path()).await;
    assert_eq!(all(&reader).await.len(), 9);
    // The next writer takes the line over, and covers it by a mark before any reader shows it.
    let file = write_to(folder.path(), 1 << 20).await;
    assert_eq!(all(&*file.store()).await, written);
    assert_eq!(all(&reader).await, written);
    assert_eq!(reader.rotations(), 1);
    assert_eq!(reader.reloads(), 1);
    file.store().set("after", &1).await.unwrap();
    assert_eq!(number(&reader, "after").await, Some(1));
}

#[tokio::test]
async fn jobs_without_a_mark_are_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_to(folder.path(), 1 << 20).await;
    for count in [1, 2] {
        let set = Operation::set(Key::new("a").unwrap(), Value::parse("1").unwrap());
        let job = NewJob::new(Command::One(set));
        file.queue().enqueue(vec![job]).await.remove(0).unwrap();
        // As if the writer had been stopped just before it wrote the mark, and just after.
        for (is_marked, shown) in [(false, count - 1), (true, count)] {
            let copy = tempfile::tempdir().unwrap();
            for (name, (mut text, _)) in files(folder.path()) {
                if name.starts_with("journal-") && !is_marked {
                    let used = text.iter().rposition(|&byte| byte != b'\n').unwrap();
                    let mark = text[..used]
                        .iter()
                        .rposition(|&byte| byte == b'\n')
                        .unwrap();
                    assert!(text[mark..].starts_with(b"\n{\"durable\""));
                    text.truncate(mark + 1);
                }
                std::fs::write(copy.path().join(name), text).unwrap();
            }
            let reader = read_from(copy.path()).await;
            assert_eq!(reader.queue().depth().await.unwrap().jobs, shown);
        }
    }
}

#[tokio::test]
async fn an_older_copy_of_the_folder_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    left_behind(folder.path()).await;
    drop(write_to(folder.path(), 1 << 20).await);
    let older = files(folder.path());
    let file = write_to(folder.path(), 1 << 20).await;
    file.store().set("k0", &"newer").await.unwrap();
    let reader = read_from(folder.path()).await;
    assert_eq!(
        reader.get_as::<String>("k0").await.unwrap().as_deref(),
        Some("newer")
    );
    file.close().await.unwrap();
    drop(file);
    for name in files(folder.path()).into_keys() {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    for (name, (text, _)) in older {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    // Half of it may have been found first.
    let told = async {
        loop {
            let refused = reader.get(&Key::new("k0").unwrap()).await.unwrap_err();
            if refused.to_string().contains("an older copy") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, told).await.unwrap();
    let anew = read_from(folder.path()).await;
    assert_eq!(number(&anew, "k0").await, Some(0));
}

#[tokio::test]
async fn service_that_only_reads_knows_the_jobs_of_the_one_that_writes() {
    let folder = tempfile::tempdir().unwrap();
    let options = || ServiceOptions {
        visible_wait: Duration::from_millis(50),
        ..ServiceOptions::default()
    };
    let url = format!("file:{}", folder.path().display());
    let url = url.parse().unwrap();
    let opened = kvstore_core::open::follow(&url, None).await.unwrap();
    let reading = Service::reading(opened, options());
    let file = write_to(folder.path(), 1 << 20).await;
    let set = |text: &str| {
        let command = Operation::set(Key::new("a").unwrap(), Value::parse(text).unwrap());
        Request::new(Command::One(command), Duration::ZERO)
    };
    // What cannot be known yet is not called wrong.
    let foreign = JobId {
        queue: QueueId::random(),
        partition: Partition(0),
        position: Position::counted(1),
    };
    let unready = JsonReader::open(folder.path().join("none"), Arc::new(SystemClock))
        .await
        .unwrap();
    let queue = unready.queue();
    let unready = Followed {
        store: Arc::new(unready),
        queue,
    };
    let unready = Service::reading(unready, options());
    assert!(
        unready
            .wait_visible(&foreign)
            .await
            .unwrap_err()
            .is_retryable()
    );
    assert!(unready.job(&foreign, Duration::ZERO).await.is_err());

    let writing = Service::open(file.store(), file.queue(), options())
        .await
        .unwrap();
    let job = writing.submit(set("1")).await.unwrap().id;
    while reading.ping().await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // It shows what waits as the writer does, and reports what was never accepted.
    let (reads, writes) = (reading.queue(), file.queue());
    let held = reads.find(&job).await.unwrap();
    assert!(matches!(held, Found::Held { .. }), "{held:?}");
    assert_eq!(held, writes.find(&job).await.unwrap());
    let peek = async |queue: &dyn JobQueue| {
        let jobs = queue.peek(job.partition, Position::START, 10).await;
        jobs.unwrap()
    };
    assert_eq!(peek(&**reads).await, peek(&*writes).await);
    assert_eq!(peek(&**reads).await.len(), 1);
    let depth = reads.depth().await.unwrap();
    let expected = writes.depth().await.unwrap();
    assert_eq!((depth.jobs, depth.bytes), (1, expected.bytes));
    let later = JobId {
        position: Position {
            minor: job.position.minor + 1,
            ..job.position
        },
        ..job
    };
    for unknown in [&foreign, &later] {
        assert_eq!(reads.find(unknown).await.unwrap(), Found::Unknown);
    }
    let waiting = reading.wait_visible(&job).await;
    assert!(
        matches!(waiting, Err(Error::NotYetVisible { .. })),
        "{waiting:?}"
    );
    assert_eq!(
        reading
            .job(&job, Duration::ZERO)
            .await
            .unwrap()
            .unwrap()
            .state,
        JobState::Queued
    );
    assert!(matches!(
        reading.wait_visible(&foreign).await,
        Err(Error::Invalid { .. })
    ));
    assert_eq!(reading.job(&foreign, Duration::ZERO).await.unwrap(), None);

    // What a worker does.
    let advance = Advance {
        queue: job.queue,
        partition: job.partition,
        from: Position::START,
        to: job.position,
        outcomes: Vec::new(),
        lost: false,
    };
    let waiter = tokio::spawn({
        let reading = reading.clone();
        async move { reading.job(&job, SOON).await }
    });
    let commit = Commit {
        writes: vec![Write {
            key: Key::new("a").unwrap(),
            change: Change::Set {
                value: Value::parse("1").unwrap(),
                expires_at: None,
            },
        }],
        advance: Some(advance),
        ..Commit::default()
    };
    file.store().commit(commit).await.unwrap();
    reading.wait_visible(&job).await.unwrap();
    let entry = reading.get(&Key::new("a").unwrap()).await.unwrap();
    assert_eq!(entry.unwrap().value.as_str(), "1");
    let report = waiter.await.unwrap().unwrap().unwrap();
    assert!(matches!(report.state, JobState::Finished(_)), "{report:?}");
    let refused = reading.submit(set("2")).await.unwrap_err();
    assert!(
        !refused.is_retryable() && refused.to_string().contains("only reads"),
        "{refused}"
    );
}
