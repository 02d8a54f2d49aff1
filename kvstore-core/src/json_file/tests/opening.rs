//! How does opening treat a folder in which something is not as it was written? (In the crate, for
//! the disk in memory.)
//!
//! It never yields a wrong value, and never loses data silently: the folder opens with everything
//! in it, or it is refused with the file and the line, and then nothing was changed. Only the last
//! line is cut off, if it was never acknowledged.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use crate::clock::ManualClock;
use crate::error::{Error, Result};
use crate::in_memory::state::Table;
use crate::json_file::disk::Disk;
use crate::json_file::disk::simulated::SimulatedDisk;
use crate::json_file::journal::manifest::ROLL;
use crate::json_file::snapshot::meta::Meta;
use crate::json_file::snapshot::pair::{Pair, load};
use crate::json_file::snapshot::{DATA, write};
use crate::json_file::tests::crash::{Seen, block_on, contents, job, work};
use crate::json_file::tests::damage::{commit, complete, copy, folder, open_and_work, start};
use crate::json_file::{JsonFile, Options};
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::id::QueueId;
use crate::model::key::Key;
use crate::model::value::Value;
use crate::queue::JobQueue;
use crate::store::Store;
use crate::told::CapturedLog;

/// Returns every file except those that are left over.
fn files(disk: &SimulatedDisk) -> BTreeMap<String, Vec<u8>> {
    let names = disk.names().unwrap().into_iter();
    names
        .filter(|name| !name.ends_with(".old"))
        .map(|name| (name.clone(), disk.read(&name).unwrap().unwrap()))
        .collect()
}

/// Returns the file and the line that opening reports; `None` if it opens with everything in it.
fn refusal(disk: &SimulatedDisk, context: &str) -> Option<(String, Option<u64>)> {
    let before = files(disk);
    match start(disk) {
        Ok(_) => {
            // Threads of this opening may still be about to end.
            let found = block_on(open_and_work(&copy(disk), context));
            assert_eq!(found, complete(), "{context}");
            None
        }
        Err(Error::Corrupt { path, line, .. }) => {
            assert!(
                files(disk) == before,
                "{context}: something was changed: {:?}",
                disk.names()
            );
            let name = path.file_name().unwrap().to_str().unwrap();
            Some((name.to_owned(), line))
        }
        Err(error) => panic!("{context}: {error:?}"),
    }
}

/// The folder of a killed process with every kind of data, and the same folder after a clean stop.
static FOLDERS: LazyLock<[SimulatedDisk; 2]> = LazyLock::new(|| {
    block_on(async {
        let killed = folder().await;
        let closed = copy(&killed);
        let file = start(&closed).unwrap();
        file.close().await.unwrap();
        [killed, copy(&closed)].map(|disk| unfilled(&disk))
    })
});

/// Copies the disk with only a little of the fill.
fn unfilled(disk: &SimulatedDisk) -> SimulatedDisk {
    let less = SimulatedDisk::new();
    for (name, text) in files(disk) {
        let used = text.iter().rposition(|&byte| byte != b'\n').unwrap() + 1;
        less.put(&name, &text[..text.len().min(used + 8)]);
    }
    less
}

/// A changed byte: in which file, and where in it, modulo the number of files and bytes.
#[derive(Clone, Copy, Debug)]
struct Flip {
    is_closed: bool,
    file: usize,
    place: usize,
    xor: u8,
}

prop_compose! {
    fn flip()(
        is_closed in proptest::bool::weighted(0.2),
        file in any::<usize>(),
        place in any::<usize>(),
        xor in prop_oneof![3 => (0u32..8).prop_map(|bit| 1 << bit), 1 => 1..=u8::MAX],
    ) -> Flip {
        Flip { is_closed, file, place, xor }
    }
}

/// Flips the byte, and returns the file that opening reports, if it reports one.
fn try_flip(flip: Flip) -> Option<String> {
    let whole = &FOLDERS[usize::from(flip.is_closed)];
    let files = files(whole);
    let (name, text) = files.iter().nth(flip.file % files.len()).unwrap();
    let place = flip.place % text.len();
    let context = format!("{name}, byte {place} of {}, {flip:?}", text.len());
    let mut flipped = text.clone();
    flipped[place] ^= flip.xor;
    let disk = copy(whole);
    disk.put(name, &flipped);
    if flip.is_closed && name == DATA {
        // It is indistinguishable from an edit.
        return match start(&disk) {
            Err(Error::Corrupt { path, line, .. }) if path.ends_with(DATA) && line.is_some() => {
                Some(DATA.to_owned())
            }
            Err(error) => panic!("{context}: {error:?}"),
            Ok(_) => None,
        };
    }
    let (named, line) = refusal(&disk, &context)?;
    assert_eq!(named, *name, "{context}");
    if name.ends_with(".jsonl") {
        let before = |text: &[u8]| text.iter().filter(|&&byte| byte == b'\n').count() as u64;
        assert_eq!(line, Some(before(&text[..place]) + 1), "{context}");
    }
    Some(named)
}

proptest! {
    #[test]
    fn flipped_bit_in_any_file_is_refused_with_its_place_or_changes_nothing(
        flips in proptest::collection::vec(flip(), 8),
    ) {
        for flip in flips {
            try_flip(flip);
        }
    }
}

#[test]
fn flipped_bit_in_each_file_is_refused_somewhere() {
    for (is_closed, whole) in FOLDERS.iter().enumerate() {
        let files = files(whole);
        assert!(files.len() >= 3, "{:?}", files.keys());
        for (index, name) in files.keys().enumerate() {
            let refused = (0..40).filter(|place| {
                let flip = Flip {
                    is_closed: is_closed == 1,
                    file: index,
                    place: place * 7,
                    xor: 1,
                };
                try_flip(flip).is_some()
            });
            assert!(refused.count() > 5, "{name}");
        }
    }
}

/// Returns where the line that ends at `end` starts.
fn line_start(text: &[u8], end: usize) -> usize {
    let newline = text[..end - 1].iter().rposition(|&byte| byte == b'\n');
    newline.map_or(0, |newline| newline + 1)
}

#[test]
fn torn_tail_at_every_byte_of_the_last_line_costs_that_line_alone() {
    block_on(async {
        let mut cuts = 0;
        for last_is_job in [false, true] {
            let disk = copy(&FOLDERS[0]);
            let file = start(&disk).unwrap();
            let add_job = async |number| {
                let accepted = file.queue().enqueue(vec![job(number)]).await;
                assert!(accepted.iter().all(Result::is_ok));
            };
            for number in 101..=103 {
                if !last_is_job {
                    add_job(number).await;
                }
                file.store().commit(commit(number)).await.unwrap();
                if last_is_job {
                    add_job(number).await;
                }
            }
            let whole = disk.after_kill();
            let mut all = complete();
            for number in 101..=103 {
                all.insert(format!("k{}", number % 10), number);
                all.insert(format!("j{number}"), number);
            }
            let mut without_last = all.clone();
            match last_is_job {
                true => drop(without_last.remove("j103")),
                false => drop(without_last.insert("k3".into(), 33)),
            }
            let files = files(&whole);
            let (name, text) = files
                .iter()
                .rfind(|(name, _)| name.starts_with("journal-"))
                .unwrap();
            let end = text.iter().rposition(|&byte| byte != b'\n').unwrap() + 2;
            let mark = line_start(text, end);
            assert!(text[mark..].starts_with(b"{\"durable\""), "{name}");
            let line = line_start(text, mark);
            for cut in line..=end {
                for fill in [&b""[..], b"\n\n\n", b"\0\0\0\0"] {
                    let context =
                        format!("{name}, cut at {cut}, {line} to {mark} to {end}, {fill:?}");
                    let disk = copy(&whole);
                    disk.put(name, &[&text[..cut], fill].concat());
                    // The line counts once its last byte, the newline, is there.
                    let is_there = cut >= mark || cut + 1 == mark && fill.starts_with(b"\n");
                    let expected = if is_there { &all } else { &without_last };
                    assert_eq!(open_and_work(&disk, &context).await, *expected, "{context}");
                    // The text that was cut off is kept.
                    let torn = disk.read(&format!("{name}.torn-1")).unwrap();
                    let tail = match is_there {
                        true if cut == end => end,
                        true => mark.min(cut),
                        false => line,
                    };
                    let tail = [&text[tail..cut], fill].concat();
                    match torn {
                        Some(torn) => assert!(tail.starts_with(&torn), "{context}"),
                        None => assert!(cut == line || is_there, "{context}"),
                    }
                    cuts += usize::from(!is_there);
                }
            }
        }
        assert!(cuts > 200, "{cuts}");
    });
}

/// Returns folders in which each kind of file is the only one, or the last of several.
async fn stages() -> Result<Vec<(&'static str, SimulatedDisk, BTreeMap<String, u64>)>> {
    let mut stages = Vec::new();
    let disk = SimulatedDisk::new();
    let file = start(&disk)?;
    let mut expected = BTreeMap::new();
    let mut stage = |name, disk: &SimulatedDisk, expected: &BTreeMap<String, u64>| {
        stages.push((name, disk.after_kill(), expected.clone()));
    };
    file.store().commit(commit(1)).await?;
    expected.insert("k1".into(), 1);
    stage("one journal", &disk, &expected);
    for accepted in file.queue().enqueue(vec![job(1)]).await {
        accepted?;
    }
    expected.insert("j1".into(), 1);
    stage("and one job", &disk, &expected);
    file.store().compact().await?;
    file.store().commit(commit(2)).await?;
    expected.insert("k2".into(), 2);
    stage("after a snapshot", &disk, &expected);
    let again = disk.after_kill();
    drop(file);
    let file = start(&again)?;
    stage("opened again", &again, &expected);
    file.store().commit(commit(3)).await?;
    expected.insert("k3".into(), 3);
    for accepted in file.queue().enqueue(vec![job(2)]).await {
        accepted?;
    }
    expected.insert("j2".into(), 2);
    stage("and used", &again, &expected);
    work(&file, &mut Seen::default()).await?;
    file.close().await?;
    stage("closed", &again, &expected);
    let closed = again.after_kill();
    let file = start(&closed)?;
    stage("opened after that", &closed, &expected);
    file.store().commit(commit(4)).await?;
    expected.insert("k4".into(), 4);
    stage("and used after that", &closed, &expected);
    Ok(stages)
}

#[test]
fn file_that_is_removed_whole_is_missed_by_its_name() {
    let stages = block_on(stages()).unwrap();
    let mut refused = BTreeMap::new();
    for (stage, whole, expected) in &stages {
        for name in files(whole).into_keys() {
            let context = format!("{stage}: without {name}");
            let disk = copy(whole);
            disk.remove(&name).unwrap();
            let before = files(&disk);
            match start(&disk) {
                Err(Error::Corrupt { path, .. }) => {
                    assert!(path.ends_with(&name), "{context}: {path:?}");
                    assert!(files(&disk) == before, "{context}: something was changed");
                    *refused.entry(name).or_insert(0) += 1;
                }
                Err(error) => panic!("{context}: {error:?}"),
                Ok(_) => {
                    // This may happen only if its contents no longer matter.
                    let found = block_on(open_and_work(&copy(&disk), &context));
                    assert_eq!(found, *expected, "{context}");
                }
            }
        }
    }
    for name in [
        "journal-1.jsonl",
        "journal-2.jsonl",
        "data.json",
        "data.meta.json",
    ] {
        assert!(refused.contains_key(name), "{name}: {refused:?}");
    }
    assert!(!refused.contains_key(ROLL), "{refused:?}");
}

#[test]
fn the_only_journal_is_missed() {
    for (stage, whole, _) in &block_on(stages()).unwrap() {
        let all: Vec<String> = files(whole)
            .into_keys()
            .filter(|name| name.starts_with("journal-"))
            .collect();
        let disk = copy(whole);
        all.iter().for_each(|name| disk.remove(name).unwrap());
        match start(&disk) {
            Err(Error::Corrupt { path, .. }) => assert!(
                all.iter().any(|name| path.ends_with(name)),
                "{stage}: {path:?}"
            ),
            Ok(_) => assert_eq!(all, [""; 0], "{stage}"),
            Err(error) => panic!("{stage}: {error:?}"),
        }
    }
}

#[test]
fn data_json_alone_is_an_import() {
    for (stage, whole, _) in &block_on(stages()).unwrap() {
        let disk = SimulatedDisk::new();
        let text = whole.read(DATA).unwrap().unwrap();
        disk.put(DATA, &text);
        let file = start(&disk).unwrap_or_else(|error| panic!("{stage}: {error:?}"));
        let found = block_on(contents(&file.store()));
        let expected: BTreeMap<String, u64> = serde_json::from_slice(&text).unwrap();
        assert_eq!(found, expected, "{stage}");
    }
}

#[test]
fn a_clock_behind_the_folders_last_time_is_one_warning_with_both_times() {
    const NOON: Timestamp = Timestamp(1_800_000_000_000);
    let disk = SimulatedDisk::new();
    let open = |now| {
        let options = Options {
            clock: Arc::new(ManualClock::new(now)),
            ..Options::default()
        };
        JsonFile::start(Arc::new(disk.clone()), &options, None).unwrap()
    };
    block_on(async {
        let file = open(NOON);
        let accepted = file.queue().enqueue(vec![job(1)]).await;
        assert!(accepted.iter().all(Result::is_ok));
        work(&file, &mut Seen::default()).await.unwrap();
        file.close().await.unwrap();
        let told = CapturedLog::default();
        let _told = told.listen();
        let earlier = Timestamp(NOON.0 - 3_600_000);
        let file = open(earlier);
        file.store().get(&Key::new("j1").unwrap()).await.unwrap();
        let text = told.text();
        let warnings: Vec<_> = text.lines().filter(|it| it.starts_with("WARN")).collect();
        assert_eq!(warnings.len(), 1, "{text}");
        for moment in [earlier, NOON] {
            assert!(warnings[0].contains(&moment.to_string()), "{text}");
        }
        file.close().await.unwrap();
    });
}

#[test]
fn data_that_is_read_in_pieces_by_several_threads_comes_back_whole() {
    let disk = SimulatedDisk::new();
    // Pieces of about a megabyte, some of one entry and some of hundreds, in the order of the keys.
    let entries: BTreeMap<Key, Entry> = (0..1200_u64)
        .map(|number| {
            let length = if number % 400 == 0 { 2_000_000 } else { 4000 };
            let entry = Entry {
                value: Value::parse(format!("\"{}\"", "x".repeat(length)).as_bytes()).unwrap(),
                version: Version(number + 1),
                expires_at: (number % 7 == 0).then_some(Timestamp(number)),
            };
            (Key::new(&format!("key-{number:04}")).unwrap(), entry)
        })
        .collect();
    let mut table = Table::of(entries.clone());
    table.start_cut();
    let meta = Meta::of_new_folder(QueueId::random());
    write(&disk, &meta, None, || table.next_of_cut(100)).unwrap();
    let Ok(Pair::Whole(meta, table)) = load(&disk, false) else {
        panic!("what was written is not whole");
    };
    assert!(meta.pieces.len() > 6, "{:?}", meta.pieces);
    let rows = table.range_from(Bound::Unbounded);
    let read: BTreeMap<Key, Entry> = rows.map(|row| (row.key(), row.entry())).collect();
    assert!(read == entries);

    // A change in any piece is detected, and so is a different length.
    let text = disk.read(DATA).unwrap().unwrap();
    let mut start = 0;
    for (bytes, _) in &meta.pieces {
        let mut edited = text.clone();
        let place = start + *bytes as usize / 2;
        edited[place] = if edited[place] == b'x' { b'y' } else { b'x' };
        disk.put(DATA, &edited);
        assert!(
            matches!(load(&disk, false), Ok(Pair::Edited { .. })),
            "in the piece at {start}"
        );
        start += *bytes as usize;
    }
    assert_eq!(start, text.len());
    for edited in [&text[..text.len() - 1], &[&text[..], b"\n"].concat()] {
        disk.put(DATA, edited);
        assert!(matches!(load(&disk, false), Ok(Pair::Edited { .. })));
    }
}
