//! What happens to a `data.json` that is edited, while no process has it open and while the store
//! runs? (In the crate, for the disk in memory, and for the positions that an edit must not touch.)
//!
//! At rest an edit is an import: unchanged entries keep their version and deadline, changed ones
//! get a new version, and omitted ones are deleted. An edit that cannot be imported changes
//! nothing. While the store runs, an edit has no effect, and is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use crate::error::{Error, Result};
use crate::json_file::disk::Disk;
use crate::json_file::disk::simulated::SimulatedDisk;
use crate::json_file::snapshot::DATA;
use crate::json_file::tests::crash::{Seen, block_on, job, options, work};
use crate::json_file::{JsonFile, Options, PARTITION};
use crate::model::commit::Commit;
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::{Change, Write};
use crate::queue::JobQueue;
use crate::store::{ListRequest, Store};
use crate::told::CapturedLog;

const LATER: Timestamp = Timestamp(1 << 50);

fn start(disk: &SimulatedDisk, keep_edit: bool) -> Result<JsonFile> {
    let options = Options {
        keep_edit,
        ..options()
    };
    JsonFile::start(Arc::new(disk.clone()), &options, None)
}

fn set(key: &str, value: &str, expires_at: Option<Timestamp>) -> Commit {
    let write = Write {
        key: Key::new(key).unwrap(),
        change: Change::Set {
            value: Value::parse(value).unwrap(),
            expires_at,
        },
    };
    Commit {
        writes: vec![write],
        ..Commit::default()
    }
}

async fn entries(file: &JsonFile) -> BTreeMap<String, Entry> {
    let all = ListRequest {
        limit: 1000,
        ..ListRequest::default()
    };
    let page = file.store().list(&all).await.unwrap();
    let keys: Vec<Key> = page.entries.into_iter().map(|entry| entry.key).collect();
    let found = file.store().get_many(&keys).await.unwrap();
    let entries = keys.iter().zip(found);
    entries
        .map(|(key, entry)| (key.to_string(), entry.unwrap()))
        .collect()
}

/// Returns all files of the folder, to check that nothing was changed.
fn files(disk: &SimulatedDisk) -> BTreeMap<String, Vec<u8>> {
    let names = disk.names().unwrap().into_iter();
    names
        .map(|name| (name.clone(), disk.read(&name).unwrap().unwrap()))
        .collect()
}

fn refused(disk: &SimulatedDisk) -> (Option<u64>, String) {
    let before = files(disk);
    match start(disk, false) {
        Err(Error::Corrupt { path, line, detail }) => {
            assert!(path.ends_with(DATA), "{path:?}");
            assert!(files(disk) == before, "something was changed");
            (line, detail)
        }
        other => panic!("{other:?}"),
    }
}

/// What an edit does to an entry.
#[derive(Clone, Debug)]
enum Edit {
    Leave,
    Change(u8),
    Drop,
}

fn entry_and_edit() -> impl Strategy<Value = (u8, Option<Timestamp>, Edit)> {
    let edit = prop_oneof![
        3 => Just(Edit::Leave),
        1 => any::<u8>().prop_map(Edit::Change),
        1 => Just(Edit::Drop),
    ];
    let deadline = prop_oneof![Just(None), Just(Some(LATER))];
    (any::<u8>(), deadline, edit)
}

/// Returns a value whose exact text must be preserved.
fn value(number: u8) -> String {
    format!("[{number}.0,\"\\u00e9{number}\"]")
}

proptest! {
    #[test]
    fn edit_at_rest_keeps_what_it_leaves_alone(
        members in proptest::collection::btree_map("[a-zé]{1,4}", entry_and_edit(), 0..12),
        added in proptest::collection::btree_map("[A-Z]{1,3}", any::<u8>(), 0..3),
        space in "[ \n\t]{0,3}",
    ) {
        block_on(async {
            let disk = SimulatedDisk::new();
            let file = start(&disk, false).unwrap();
            for (key, (number, deadline, _)) in &members {
                file.store().commit(set(key, &value(*number), *deadline)).await.unwrap();
            }
            for accepted in file.queue().enqueue(vec![job(1)]).await {
                accepted.unwrap();
            }
            work(&file, &mut Seen::default()).await.unwrap();
            let before = entries(&file).await;
            let queue = file.queue().id();
            let applied = file.store().applied(queue, PARTITION).await.unwrap();
            file.close().await.unwrap();

            // Written by another program, in its own order.
            let mut expected = BTreeMap::from([("j1".to_owned(), "1".to_owned())]);
            for (key, (number, _, edit)) in &members {
                match edit {
                    Edit::Leave => _ = expected.insert(key.clone(), value(*number)),
                    Edit::Change(number) => _ = expected.insert(key.clone(), value(*number)),
                    Edit::Drop => {}
                }
            }
            expected.extend(added.iter().map(|(key, number)| (key.clone(), value(*number))));
            let lines: Vec<String> = expected.iter().rev()
                .map(|(key, value)| format!("{space}\"{key}\"{space}:{space}{}", value.replace(',', &format!(",{space}"))))
                .collect();
            let disk = disk.after_kill();
            disk.put(DATA, format!("{space}{{{}{space}}}", lines.join(",")).as_bytes());

            let file = start(&disk, false).unwrap();
            let after = entries(&file).await;
            let texts = after.iter().map(|(key, entry)| (key.as_str(), entry.value.as_bytes()));
            prop_assert!(texts.eq(expected.iter().map(|(key, value)| (key.as_str(), value.as_bytes()))));
            let latest = before.values().map(|entry| entry.version).max().unwrap();
            let mut given = std::collections::BTreeSet::new();
            for (key, entry) in &after {
                match before.get(key).filter(|before| before.value == entry.value) {
                    Some(before) => prop_assert_eq!(entry, before),
                    None => {
                        prop_assert!(entry.version > latest && given.insert(entry.version));
                        prop_assert_eq!(entry.expires_at, None);
                    }
                }
            }
            // Positions are kept, and no version is used again.
            prop_assert_eq!(file.queue().id(), queue);
            prop_assert_eq!(file.store().applied(queue, PARTITION).await.unwrap(), applied);
            prop_assert_eq!(work(&file, &mut Seen::default()).await.unwrap(), 0);
            let next = file.store().commit(set("again", "1", None)).await.unwrap().first_version;
            prop_assert!(next > latest && after.values().all(|entry| entry.version < next));
            Ok(())
        })?;
    }
}

#[test]
fn edit_that_can_not_be_taken_lists_twenty_problems_and_changes_nothing() {
    block_on(async {
        let disk = SimulatedDisk::new();
        let file = start(&disk, false).unwrap();
        let first = file.store().commit(set("a", "1", None)).await.unwrap();
        file.close().await.unwrap();
        let disk = disk.after_kill();
        let whole = disk.read(DATA).unwrap().unwrap();

        let mut text = "{\n\"a\":1,\n\"a\":2,\n\"\":3,\n".to_owned();
        for number in 0..30 {
            text.push_str(&format!("  \"x//{number}\":0,\n"));
        }
        text.push_str("\"b\":4}");
        disk.put(DATA, text.as_bytes());
        let (line, detail) = refused(&disk);
        assert_eq!(line, Some(3));
        assert!(
            detail.contains("line 3 column 1: the key \"a\" occurs a second time"),
            "{detail}"
        );
        assert!(detail.contains("line 4 column 1: \"\""), "{detail}");
        assert!(detail.contains("line 22 column 3: \"x//17\""), "{detail}");
        assert_eq!(detail.matches(" column ").count(), 20, "{detail}");

        for (text, place) in [
            ("{\"a\":1,}", "line 1 column 8"),
            ("{\n\"a\":01}", "line 2 column 6"),
            ("", "line 1 column 1"),
        ] {
            disk.put(DATA, text.as_bytes());
            let (line, detail) = refused(&disk);
            assert!(
                line.is_some() && detail.contains(place),
                "{text:?}: {detail}"
            );
        }

        disk.put(DATA, &whole);
        let file = start(&disk, false).unwrap();
        assert_eq!(entries(&file).await["a"].version, first.first_version);
    });
}

#[test]
fn flipped_bit_in_data_json_at_rest_is_refused_or_told_as_an_edit() {
    let disk = SimulatedDisk::new();
    let before = block_on(async {
        let file = start(&disk, false).unwrap();
        for (key, value) in [("a", "1"), ("bc", "\"x y\""), ("d", "[10,20]")] {
            file.store().commit(set(key, value, None)).await.unwrap();
        }
        let before = entries(&file).await;
        file.close().await.unwrap();
        before
    });
    let latest = before.values().map(|entry| entry.version).max().unwrap();
    let text = disk.read(DATA).unwrap().unwrap();
    let (mut refused, mut told_of) = (0, 0);
    for bit in 0..text.len() * 8 {
        let disk = disk.after_kill();
        let mut flipped = text.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        disk.put(DATA, &flipped);
        let told = CapturedLog::default();
        match tracing::subscriber::with_default(told.clone(), || start(&disk, false)) {
            Err(Error::Corrupt { path, line, .. }) => {
                assert!(path.ends_with(DATA) && line.is_some(), "bit {bit}");
                refused += 1;
            }
            Err(error) => panic!("bit {bit}: {error:?}"),
            Ok(file) => {
                let after = block_on(entries(&file));
                let told = told.text();
                assert!(
                    told.contains("WARN") && told.contains("data.json"),
                    "bit {bit}: {told}"
                );
                let other = |(key, entry): &(&String, &Entry)| before.get(*key) != Some(entry);
                let changed: Vec<_> = after.iter().filter(other).collect();
                assert!(changed.len() <= 1, "bit {bit}: {changed:?}");
                for (key, entry) in changed {
                    assert!(told.contains(&format!("{key:?}")), "bit {bit}: {told}");
                    assert!(entry.version > latest, "bit {bit}");
                }
                told_of += 1;
            }
        }
    }
    assert!(refused > 50 && told_of > 20, "{refused} {told_of}");
}

/// Returns the folder of a killed process: a snapshot, and a commit and a job in later journals.
async fn killed() -> (SimulatedDisk, Version) {
    let disk = SimulatedDisk::new();
    let file = start(&disk, false).unwrap();
    file.store().commit(set("a", "1", None)).await.unwrap();
    file.store().compact().await.unwrap();
    file.store().commit(set("b", "2", None)).await.unwrap();
    for accepted in file.queue().enqueue(vec![job(1)]).await {
        accepted.unwrap();
    }
    work(&file, &mut Seen::default()).await.unwrap();
    let latest = file.store().shared.read().version;
    (disk.after_kill(), latest)
}

#[test]
fn edit_beside_later_commits_is_refused_until_one_of_both_is_given_up() {
    block_on(async {
        let (disk, latest) = killed().await;
        let whole = disk.read(DATA).unwrap().unwrap();
        disk.put(DATA, b"{\"a\":\"edited\"}");
        let (_, detail) = refused(&disk);
        for part in ["2 later commits", "put it back", "?keep_edit=true"] {
            assert!(detail.contains(part), "{part}: {detail}");
        }

        let kept = disk.after_kill();
        let file = start(&kept, true).unwrap();
        let found = entries(&file).await;
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a"]);
        // Later versions had been seen, and the job had taken effect.
        assert!(found["a"].version > latest);
        assert_eq!(work(&file, &mut Seen::default()).await.unwrap(), 0);
        file.close().await.unwrap();
        let file = start(&kept.after_kill(), false).unwrap();
        assert_eq!(entries(&file).await, found);

        disk.put(DATA, &whole);
        let file = start(&disk, false).unwrap();
        assert_eq!(
            entries(&file).await.keys().collect::<Vec<_>>(),
            ["a", "b", "j1"]
        );
    });
}

#[test]
fn kept_edit_uses_no_version_again_where_the_commits_given_up_can_not_be_read() {
    block_on(async {
        for is_removed in [true, false] {
            let (disk, latest) = killed().await;
            let names = disk.names().unwrap();
            let journal = names
                .iter()
                .rfind(|name| name.starts_with("journal-"))
                .unwrap();
            let mut text = disk.read(journal).unwrap().unwrap();
            // Damages the first line after the header, and with it all later ones.
            let line = text.iter().position(|&byte| byte == b'\n').unwrap() + 1;
            text[line + 5] ^= 1;
            match is_removed {
                true => disk.remove(journal).unwrap(),
                false => disk.put(journal, &text),
            }
            disk.put(DATA, b"{\"a\":\"edited\"}");
            assert!(matches!(start(&disk, false), Err(Error::Corrupt { .. })));
            let file = start(&disk, true).unwrap();
            let found = entries(&file).await;
            assert!(found["a"].version > latest, "{is_removed}: {found:?}");
        }
    });
}

#[test]
fn edit_while_the_store_runs_has_no_effect_and_is_kept() {
    block_on(async {
        let disk = SimulatedDisk::new();
        let file = start(&disk, false).unwrap();
        let first = file.store().commit(set("a", "1", None)).await.unwrap();
        file.store().compact().await.unwrap();
        for number in 1..=3 {
            let edit = format!("{{\"a\":\"edit {number}\"}}");
            disk.put(DATA, edit.as_bytes());
            file.store()
                .commit(set("b", &number.to_string(), None))
                .await
                .unwrap();
            // The clean stop handles the last one.
            match number {
                3 => file.close().await.unwrap(),
                _ => file.store().compact().await.unwrap(),
            }
            let kept = disk.read(&format!("data.json.edited-{number}")).unwrap();
            assert_eq!(kept.as_deref(), Some(edit.as_bytes()));
            let data = disk.read(DATA).unwrap().unwrap();
            assert_eq!(
                data,
                format!("{{\n\"a\":1,\n\"b\":{number}\n}}\n").as_bytes()
            );
        }
        let file = start(&disk.after_kill(), false).unwrap();
        let found = entries(&file).await;
        assert_eq!(found["a"].value.as_bytes(), b"1");
        assert_eq!(found["a"].version, first.first_version);
    });
}
