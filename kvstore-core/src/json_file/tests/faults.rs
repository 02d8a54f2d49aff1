//! Does a folder keep its promises when something else happens to it: files removed, moved, linked
//! or in the way, a disk that is full for a moment, or no file descriptors left?

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::crash::{block_on, options};
use crate::clock::ManualClock;
use crate::error::{Error, Result};
use crate::in_memory::state::Record;
use crate::json_file::disk::lock::{self, LOCK};
use crate::json_file::disk::simulated::{Fault, SimulatedDisk};
use crate::json_file::disk::{Disk, Folder};
use crate::json_file::follower::tail::{Follower, Step};
use crate::json_file::journal::record::{self, Line};
use crate::json_file::journal::scan::Scan;
use crate::json_file::journal::{End, line, mark_body};
use crate::json_file::{JsonFile, Options};
use crate::model::commit::Commit;
use crate::model::entry::Timestamp;
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::{Change, Write};
use crate::store::Store;
use crate::store_ext::StoreExt;

fn disk(folder: &Path) -> Arc<dyn Disk> {
    Arc::new(Folder::unlocked(folder).unwrap())
}

fn open(folder: &Path) -> Result<JsonFile> {
    block_on(JsonFile::open(folder, options()))
}

fn set(file: &JsonFile, key: &str, value: u64) -> Result<()> {
    block_on(file.store().set(key, &value)).map(drop)
}

fn get(file: &JsonFile, key: &str) -> Option<u64> {
    block_on(file.store().get_as(key)).unwrap()
}

#[test]
fn a_second_writer_is_refused_after_the_lock_file_was_removed() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).unwrap();
    fs::remove_file(folder.path().join(LOCK)).unwrap();
    let second = open(folder.path());
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
    let refused = set(&first, "a", 1);
    assert!(
        matches!(refused, Err(Error::Poisoned { .. })),
        "{refused:?}"
    );
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "an operator moves the folder, not the backend"
)]
fn a_folder_that_was_put_in_the_place_of_an_open_one_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("database");
    let old = open(&folder).unwrap();
    set(&old, "old", 1).unwrap();
    fs::rename(&folder, parent.path().join("database.bad")).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("data.json"), r#"{"restored":2}"#).unwrap();
    let new = open(&folder).unwrap();
    set(&new, "new", 3).unwrap();

    let closed = block_on(old.close());
    assert!(matches!(closed, Err(Error::Poisoned { .. })), "{closed:?}");
    block_on(new.close()).unwrap();
    let again = open(&folder).unwrap();
    assert_eq!(
        [
            get(&again, "restored"),
            get(&again, "new"),
            get(&again, "old")
        ],
        [Some(2), Some(3), None]
    );
}

#[test]
fn nothing_is_acknowledged_in_a_folder_that_was_removed() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(folder.path()).unwrap();
    fs::remove_dir_all(folder.path()).unwrap();
    let ping = block_on(file.store().ping());
    assert!(matches!(ping, Err(Error::Poisoned { .. })), "{ping:?}");
    let refused = set(&file, "a", 1);
    assert!(
        matches!(refused, Err(Error::Poisoned { .. })),
        "{refused:?}"
    );
    assert!(!folder.path().exists());
}

#[test]
fn files_of_a_user_are_never_touched() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = [
        "data.json.old",
        "data.json.new",
        "data.json.replaced",
        "data.meta.json.new",
        "files.json.new",
        "journal-1.jsonl.begun",
        "notes.jsonl.begun",
        ".notes.begun",
    ];
    for name in theirs {
        fs::write(folder.path().join(name), name).unwrap();
    }
    for round in 0..2 {
        let file = open(folder.path()).unwrap();
        for number in 0..3 {
            set(&file, "a", round * 10 + number).unwrap();
            block_on(file.store().compact()).unwrap();
        }
        block_on(file.close()).unwrap();
    }
    for name in theirs {
        let text = fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(text, name);
    }
}

#[test]
fn holder_is_found_and_looking_for_it_refuses_no_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert_eq!(lock::holder(path), None);
    std::thread::scope(|scope| {
        let (sender, stop) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            while stop.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                lock::holder(path);
            }
        });
        for _ in 0..20 {
            let file = open(path).unwrap();
            assert_eq!(lock::holder(path), Some(Some(std::process::id())));
            block_on(file.close()).unwrap();
        }
        drop(sender);
    });
    assert_eq!(lock::holder(path), None);
}

/// Steps until there is nothing more; returns the records, or `None` if the follower lost its
/// place.
fn follow(follower: &mut Follower) -> Option<Vec<Record>> {
    let mut all = Vec::new();
    loop {
        match follower.step().unwrap() {
            Step::Lines(lines) => all.extend(lines.into_iter().map(|line| match line {
                Line::Record(record) => record,
                other => panic!("{other:?}"),
            })),
            Step::Current => return Some(all),
            Step::Lost => return None,
        }
    }
}

/// Returns the line of a record after `end` that sets `a`, and the new end.
fn record_line(before: &Record, value: u64, end: End) -> (Vec<u8>, End) {
    let record = Record {
        before: crate::model::entry::Version(before.before.0 + 1),
        writes: vec![Write {
            key: Key::new("a").unwrap(),
            change: Change::Set {
                value: Value::from_serialize(&value).unwrap(),
                expires_at: None,
            },
        }],
        ..before.clone()
    };
    seal(record::encode(&record), end)
}

fn seal(mut line: Vec<u8>, end: End) -> (Vec<u8>, End) {
    let mut crc = end.crc;
    line::seal(&mut line, 0, &mut crc);
    let length = end.length + line.len() as u64;
    (line, End { length, crc })
}

/// Returns where the lines of a journal end.
fn end_of(text: &[u8]) -> End {
    let mut end = End::default();
    for scanned in Scan::new(text, 1, 0) {
        end.crc = scanned.crc.unwrap();
        end.length = scanned.end() as u64;
    }
    end
}

#[test]
fn follower_finds_lines_that_were_written_again_where_it_had_read_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(folder.path()).unwrap();
    let (mut follower, ..) = Follower::load(disk(folder.path())).unwrap();
    set(&file, "a", 100).unwrap();
    let last = follow(&mut follower).unwrap().pop().unwrap();
    // From here on the file is written by hand, as if the process had been killed.
    let path = folder.path().join("journal-1.jsonl");
    let journal = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let end = end_of(&fs::read(&path).unwrap());
    let (first, _) = record_line(&last, 200, end);
    let (second, after) = record_line(&last, 300, end);
    assert_eq!(first.len(), second.len());

    // No mark covers the first line; then it is cut off, since there was no space for the mark.
    journal.write_all_at(&first, end.length).unwrap();
    assert_eq!(follow(&mut follower).unwrap(), []);
    journal.set_len(end.length).unwrap();
    journal.write_all_at(&second, end.length).unwrap();
    let (mark, _) = seal(mark_body(after), after);
    journal.write_all_at(&mark, after.length).unwrap();

    assert!(!follower.is_current().unwrap());
    let found = follow(&mut follower).unwrap();
    let Change::Set { value, .. } = &found[0].writes[0].change else {
        panic!("{found:?}")
    };
    assert_eq!((found.len(), value.as_bytes()), (1, &b"300"[..]));
    assert!(follower.is_current().unwrap());
    drop(file);
}

#[test]
fn follower_that_fell_behind_notices_although_the_journals_have_second_names() {
    let folder = tempfile::tempdir().unwrap();
    let backup = tempfile::tempdir().unwrap();
    let file = open(folder.path()).unwrap();
    set(&file, "a", 1).unwrap();
    let (mut follower, ..) = Follower::load(disk(folder.path())).unwrap();
    follow(&mut follower).unwrap();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        fs::hard_link(entry.path(), backup.path().join(entry.file_name())).unwrap();
    }
    for number in 2..5 {
        block_on(file.store().compact()).unwrap();
        set(&file, "a", number).unwrap();
    }
    assert!(!follower.is_current().unwrap());
    assert_eq!(follow(&mut follower), None);
}

fn commit(value: &str) -> Commit {
    Commit {
        writes: vec![Write {
            key: Key::new("a").unwrap(),
            change: Change::Set {
                value: Value::from_serialize(&value).unwrap(),
                expires_at: None,
            },
        }],
        ..Commit::default()
    }
}

/// Simulates a process that is out of file descriptors for a moment.
#[test]
fn new_journal_that_cannot_be_begun_leaves_the_old_one_in_use() {
    block_on(async {
        // Creating, writing and syncing the journal, then the same for the manifest.
        for step in [1, 2, 3, 6, 7, 8] {
            let disk = SimulatedDisk::new();
            let file = JsonFile::start(Arc::new(disk.clone()), &options(), None).unwrap();
            let store = file.store();
            store.commit(commit("1")).await.unwrap();
            disk.plan(disk.steps() + step, Fault::ErrorOnce);
            let compacted = store.compact().await;
            assert_eq!(disk.faults_met(), 1, "step {step}");
            assert!(
                matches!(compacted, Err(Error::Unavailable { .. })),
                "step {step}: {compacted:?}"
            );
            store.commit(commit("2")).await.unwrap();
            store.compact().await.unwrap();
            let left = disk.after_power_cut(step);
            let file = JsonFile::start(Arc::new(left), &options(), None).unwrap();
            let found: Option<String> = file.store().get_as("a").await.unwrap();
            assert_eq!(found.as_deref(), Some("2"), "step {step}");
        }
    });
}

#[test]
fn snapshot_that_failed_is_tried_again_after_a_minute() {
    block_on(async {
        let disk = SimulatedDisk::new();
        let clock = ManualClock::new(Timestamp(1));
        let options = Options {
            clock: Arc::new(clock.clone()),
            snapshot_bytes_min: 1 << 10,
            ..Options::default()
        };
        let file = JsonFile::start(Arc::new(disk.clone()), &options, None).unwrap();
        let store = file.store();
        // The commit fills, writes, syncs and marks; the snapshot starts with a new journal.
        disk.plan(disk.steps() + 5, Fault::ErrorOnce);
        store.commit(commit(&"x".repeat(100_000))).await.unwrap();
        store.ping().await.unwrap();
        let journals = || {
            let names = disk.names().unwrap();
            let mut names: Vec<String> = names
                .into_iter()
                .filter(|name| name.starts_with("journal-"))
                .collect();
            names.sort();
            names
        };
        disk.plan(u64::MAX, Fault::ErrorOnce);
        assert_eq!(disk.faults_met(), 1);
        for _ in 0..5 {
            store.commit(commit("2")).await.unwrap();
        }
        assert_eq!(journals(), ["journal-1.jsonl"]);
        clock.advance(Duration::from_secs(61));
        store.commit(commit("3")).await.unwrap();
        store.ping().await.unwrap();
        assert_ne!(journals(), ["journal-1.jsonl"]);
    });
}
