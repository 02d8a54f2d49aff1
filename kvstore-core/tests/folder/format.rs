//! Do folders of earlier versions still open with everything in them? (Format 1, which no release
//! has had, is rejected.)
//!
//! The folders in `tests/data/` were written by programs of their format and are never changed.
//! Each new format gets its own:
//!
//! ```text
//! cargo test -p kvstore-core --test folder -- --ignored format
//! ```
//!
//! writes those of the current format, and refuses to replace existing ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kvstore_core::clock::ManualClock;
use kvstore_core::json_file::{JsonFile, Options};
use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::commit::{Advance, Commit, Verdict};
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::id::{JobId, Partition, Position};
use kvstore_core::model::job::{
    Computed, Dead, Failure, Idempotency, JobState, NewJob, Outcome, Summary,
};
use kvstore_core::model::write::{Change, Condition, Write};
use kvstore_core::queue::{WorkQueue, WorkerId};
use kvstore_core::store::{DeadRequest, ListRequest};
use kvstore_core::{Error, JobQueue, Key, Store, Value, Version};

/// The current format, which the names of the folders carry.
const FORMAT: &str = "format-2";

/// The time at which the folders were written and are opened: outcomes are kept for an hour only.
const NOW: Timestamp = Timestamp(1_763_000_000_000);

/// Where the numbers of the opening that wrote the folders begin.
const FIRST: u64 = NOW.0 * 1000;

/// A deadline after that.
const LATER: Timestamp = Timestamp(NOW.0 + 600_000);

/// A `data.json` from elsewhere, in the folder before it was first opened.
const IMPORTED: &str = r#"{
    "imported": [1.0, 1e400, "\u0000é\u00e9"],
    "replaced": {"a": 1, "a": 2},
    "removed": null
}"#;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn value(text: &str) -> Value {
    Value::parse(text).unwrap()
}

async fn open(folder: &Path) -> Result<JsonFile, Error> {
    let options = Options {
        clock: Arc::new(ManualClock::new(NOW)),
        ..Options::default()
    };
    JsonFile::open(folder, options).await
}

fn set(name: &str, text: &str, expires_at: Option<Timestamp>) -> Write {
    let change = Change::Set {
        value: value(text),
        expires_at,
    };
    Write {
        key: key(name),
        change,
    }
}

fn job(name: &str, text: &str) -> NewJob {
    NewJob::new(Command::One(Operation::set(key(name), value(text))))
}

/// Returns a job whose request may be repeated.
fn repeatable_job() -> NewJob {
    NewJob {
        idempotency: Some(Idempotency {
            key: "once".into(),
            window: Duration::from_secs(86_400),
            minimum: Duration::from_secs(86_400),
        }),
        keep_outcome: true,
        ..job("waiting:2", "2")
    }
}

/// Returns the dead letter of the job that was given up.
fn dead() -> Dead {
    Dead {
        reason: "the store refused it".into(),
        attempts: 3,
        command: Command::Batch(vec![
            Operation::set(key("dead:1"), value("[]")),
            Operation::delete(key("dead:2")),
        ]),
    }
}

fn id(file: &JsonFile, number: u64) -> JobId {
    JobId {
        queue: file.queue().id(),
        partition: Partition(0),
        position: at(number),
    }
}

fn at(minor: u64) -> Position {
    Position {
        major: FIRST,
        minor,
    }
}

/// Writes some of everything that a folder can hold.
async fn fill(file: &JsonFile) {
    let (store, queue) = (file.store(), file.queue());
    let direct = Commit {
        checks: vec![(key("replaced"), Condition::Present)],
        writes: vec![
            set("replaced", "\"anew\"", None),
            Write {
                key: key("removed"),
                change: Change::Delete,
            },
            set("a/b/c", "{\"deadline\":true}", Some(LATER)),
        ],
        advance: None,
    };
    store.commit(direct).await.unwrap();
    let jobs = vec![
        job("applied", "1"),
        job("refused", "1"),
        NewJob::new(dead().command),
        job("waiting:1", "1"),
        repeatable_job(),
    ];
    for accepted in queue.enqueue(jobs).await {
        accepted.unwrap();
    }
    let summary = |command: &Command| Summary::of(command);
    let advance = Advance {
        queue: queue.id(),
        partition: Partition(0),
        from: Position::START,
        to: at(3),
        outcomes: vec![
            (
                at(1),
                Verdict::Succeeded {
                    summary: summary(&job("applied", "1").command),
                    first: 0,
                    computed: vec![Computed::default()],
                },
            ),
            (
                at(2),
                Verdict::Failed {
                    summary: summary(&job("refused", "1").command),
                    operation: 0,
                    reason: Failure::Condition,
                    current: Some(Version(FIRST + 2)),
                },
            ),
            (at(3), Verdict::Dead(dead())),
        ],
        lost: false,
    };
    let applied = Commit {
        writes: vec![set("applied", "1", None)],
        advance: Some(advance),
        ..Commit::default()
    };
    store.commit(applied).await.unwrap();
}

/// Checks that everything written by [`fill`] is there, and that work can continue.
async fn check(file: &JsonFile) {
    let (store, queue) = (file.store(), file.queue());
    let request = ListRequest {
        include_values: true,
        ..ListRequest::default()
    };
    let page = store.list(&request).await.unwrap();
    let found: Vec<_> = page
        .entries
        .iter()
        .map(|entry| {
            let text = entry.value.as_ref().unwrap().as_str();
            let version = entry.version.0 - FIRST;
            (entry.key.as_str(), text, version, entry.expires_at)
        })
        .collect();
    assert_eq!(
        found,
        [
            ("a/b/c", "{\"deadline\":true}", 6, Some(LATER)),
            ("applied", "1", 7, None),
            ("imported", r#"[1.0,1e400,"\u0000é\u00e9"]"#, 1, None),
            ("replaced", "\"anew\"", 4, None),
        ]
    );

    let state = async |number| {
        store
            .outcome(&id(file, number), Duration::ZERO)
            .await
            .unwrap()
    };
    let JobState::Finished(Outcome::Succeeded(Some(succeeded))) = state(1).await else {
        panic!("{:?}", state(1).await);
    };
    assert_eq!(succeeded.summary, Summary::of(&job("applied", "1").command));
    assert_eq!(
        (succeeded.writes[0].version, succeeded.writes[0].existed),
        (Version(FIRST + 7), false)
    );
    let JobState::Finished(Outcome::Failed(failed)) = state(2).await else {
        panic!("{:?}", state(2).await);
    };
    assert_eq!(
        (failed.operation, failed.current),
        (0, Some(Version(FIRST + 2)))
    );
    assert_eq!(state(3).await, JobState::Finished(Outcome::Dead(dead())));
    assert_eq!(state(4).await, JobState::Queued);
    let request = DeadRequest {
        after: None,
        limit: 10,
    };
    let letters = store.dead(&request).await.unwrap().letters;
    let [letter] = &letters[..] else {
        panic!("{letters:?}");
    };
    assert_eq!(
        (letter.id, letter.at, &letter.dead),
        (id(file, 3), NOW, &dead())
    );

    let claims = queue.claim(&WorkerId::new("test")).await.unwrap();
    let applied = store.applied(queue.id(), Partition(0)).await.unwrap();
    let jobs = queue
        .read(&claims[0], applied, 10, Duration::ZERO)
        .await
        .unwrap();
    let waiting: BTreeMap<_, _> = jobs.into_iter().map(|job| (job.id, job.command)).collect();
    assert_eq!(
        waiting,
        BTreeMap::from([
            (id(file, 4), job("waiting:1", "1").command),
            (id(file, 5), repeatable_job().command),
        ])
    );
    let repeated = queue
        .enqueue(vec![repeatable_job()])
        .await
        .pop()
        .unwrap()
        .unwrap();
    assert_eq!((repeated.id, repeated.replayed), (id(file, 5), true));
    // No number is given out twice.
    let next = queue
        .enqueue(vec![job("n", "1")])
        .await
        .pop()
        .unwrap()
        .unwrap();
    assert!(next.id.position > at(5), "{}", next.id);
    let commit = Commit {
        writes: vec![set("n", "1", None)],
        ..Commit::default()
    };
    let next = store.commit(commit).await.unwrap().first_version;
    assert!(next > Version(FIRST + 7), "{next}");
}

/// Copies the files of a folder, except the lock, which belongs to a process.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Copies a folder, since opening it changes it.
fn copy_of(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&data(name), folder.path());
    folder
}

#[tokio::test]
async fn folder_that_was_closed_opens_with_everything_in_it() {
    let folder = copy_of("format-2-closed");
    let file = open(folder.path()).await.unwrap();
    check(&file).await;
    file.close().await.unwrap();
}

#[tokio::test]
async fn folder_of_a_killed_process_opens_with_everything_in_it() {
    let folder = copy_of("format-2-killed");
    // Keeps this a test of journals too.
    assert!(folder.path().join("journal-1.jsonl").exists());
    let file = open(folder.path()).await.unwrap();
    check(&file).await;
    file.close().await.unwrap();
}

#[tokio::test]
async fn folder_of_another_format_is_rejected_and_both_formats_are_named() {
    for (name, file, format) in [
        ("format-1-killed", "files.json", "format 1"),
        ("newer-meta", "data.meta.json", "format 999"),
        ("newer-journal", "journal-1.jsonl", "format 999"),
    ] {
        let folder = copy_of(name);
        let error = open(folder.path()).await.unwrap_err().to_string();
        for part in [file, format, "format 2"] {
            assert!(error.contains(part), "{name}: {error}");
        }
        for entry in std::fs::read_dir(data(name)).unwrap() {
            let entry = entry.unwrap();
            let now = std::fs::read(folder.path().join(entry.file_name())).unwrap();
            assert_eq!(
                now,
                std::fs::read(entry.path()).unwrap(),
                "{name}: {entry:?} was changed"
            );
        }
    }
}

/// Writes the folders; see the top of this file.
#[tokio::test]
#[ignore = "writes into the source tree"]
async fn writes_the_folders_of_the_current_format() {
    let make = |name: String| {
        let folder = data(&name);
        std::fs::create_dir(&folder).expect("existing folders are not replaced");
        folder
    };
    let work = tempfile::tempdir().unwrap();
    std::fs::write(work.path().join("data.json"), IMPORTED).unwrap();
    let file = open(work.path()).await.unwrap();
    fill(&file).await;
    // Everything is synced, so this is what a kill would leave, apart from the padding newlines at
    // the end, which mean nothing.
    let killed = make(format!("{FORMAT}-killed"));
    copy(work.path(), &killed);
    for entry in std::fs::read_dir(&killed).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.trim_end().to_owned() + "\n").unwrap();
    }
    file.close().await.unwrap();
    copy(work.path(), &make(format!("{FORMAT}-closed")));
}

/// Writes folders as a future format 999 would.
#[test]
#[ignore = "writes into the source tree"]
fn writes_the_folders_of_a_newer_format() {
    for (name, file) in [
        ("newer-meta", "data.meta.json"),
        ("newer-journal", "journal-1.jsonl"),
    ] {
        std::fs::create_dir(data(name)).expect("existing folders are not replaced");
        copy(&data(&format!("{FORMAT}-killed")), &data(name));
        let path = data(name).join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap();
        // The checksum, `,"c":"00000000"}`, ends the line.
        let first = first[..first.len() - 16].replacen("\"format\":2,", "\"format\":999,", 1);
        assert!(first.contains("999"));
        let crc = crc32c::crc32c(first.as_bytes());
        std::fs::write(&path, format!("{first},\"c\":\"{crc:08x}\"}}\n")).unwrap();
    }
}
