//! Is a name that is not a regular file refused with the reason, and left as it was? (In the crate,
//! for the names.)
//!
//! A snapshot replaces files by renaming, so it would replace a link while the link's target stays
//! behind; and a link that leads nowhere is not an empty store.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::SystemClock;
use crate::error::{Error, Result};
use crate::json_file::snapshot::{DATA, META};
use crate::json_file::{Inspection, JsonFile, JsonReader, Options, repair};
use crate::store::Store;
use crate::store_ext::StoreExt;

/// Returns the folder of a killed process, with a snapshot and writes after it.
async fn killed() -> tempfile::TempDir {
    let (running, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = JsonFile::open(running.path(), Options::default())
        .await
        .unwrap();
    let store = file.store();
    store.set("a", &1).await.unwrap();
    store.compact().await.unwrap();
    store.set("b", &2).await.unwrap();
    for name in names(running.path()) {
        std::fs::copy(running.path().join(&name), folder.path().join(&name)).unwrap();
    }
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

async fn open(folder: &Path) -> Result<JsonFile> {
    JsonFile::open(folder, Options::default()).await
}

async fn follow(folder: &Path) -> Result<()> {
    let reader = JsonReader::open(folder, Arc::new(SystemClock)).await?;
    reader.ping().await
}

fn assert_refused<T: std::fmt::Debug>(result: Result<T>, path: &Path, reason: &str) {
    match result {
        Err(Error::Corrupt {
            path: found,
            detail,
            ..
        }) => {
            assert_eq!(found, path);
            assert!(detail.contains(reason), "{detail}");
        }
        other => panic!("{}: {other:?}", path.display()),
    }
}

#[tokio::test]
async fn link_in_place_of_any_file_is_refused_and_left() {
    let elsewhere = tempfile::tempdir().unwrap();
    let all = names(killed().await.path());
    assert!(all.len() >= 5, "{all:?}");
    for name in all {
        let folder = killed().await;
        let (path, target) = (folder.path().join(&name), elsewhere.path().join(&name));
        std::fs::copy(&path, &target).unwrap();
        std::fs::remove_file(&path).unwrap();
        symlink(&target, &path).unwrap();
        let before = (names(folder.path()).len(), std::fs::read(&target).unwrap());

        assert_refused(open(folder.path()).await, &path, "symbolic link");
        assert_refused(repair(folder.path()), &path, "symbolic link");
        if name != "LOCK" {
            assert_refused(Inspection::of(folder.path()), &path, "symbolic link");
        }
        if [DATA, META].contains(&&*name) {
            assert_refused(follow(folder.path()).await, &path, "symbolic link");
        }
        assert_eq!(std::fs::read_link(&path).unwrap(), target, "{name}");
        let after = (names(folder.path()).len(), std::fs::read(&target).unwrap());
        assert!(after == before, "{name}: something was changed");
    }
}

#[tokio::test]
async fn data_json_that_leads_nowhere_or_is_no_file_is_no_empty_store() {
    for (is_link, reason) in [(false, "regular file"), (true, "symbolic link")] {
        for name in [DATA, META] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            match is_link {
                false => std::fs::create_dir(&path).unwrap(),
                true => symlink("/nowhere/data.json", &path).unwrap(),
            }
            assert_refused(open(folder.path()).await, &path, reason);
            assert!(path.symlink_metadata().is_ok());
            assert_eq!(names(folder.path()).len(), 2, "only LOCK was made");
        }
    }
}

#[tokio::test]
async fn folder_may_be_a_link_itself() {
    let folder = killed().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let link: PathBuf = elsewhere.path().join("database");
    symlink(folder.path(), &link).unwrap();
    let file = open(&link).await.unwrap();
    follow(&link).await.unwrap();
    assert_eq!(file.store().get_as::<i32>("b").await.unwrap(), Some(2));
    file.close().await.unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(folder.path().join(DATA).is_file());
}

#[tokio::test]
async fn link_that_takes_the_place_of_data_json_while_it_runs_is_kept() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (data, target) = (folder.path().join(DATA), elsewhere.path().join("mine.json"));
    let file = open(folder.path()).await.unwrap();
    file.store().set("a", &1).await.unwrap();
    file.store().compact().await.unwrap();
    // The link leads to the same text as before.
    std::fs::copy(&data, &target).unwrap();
    std::fs::remove_file(&data).unwrap();
    symlink(&target, &data).unwrap();
    file.store().set("a", &2).await.unwrap();
    file.close().await.unwrap();
    let kept = folder.path().join("data.json.edited-1");
    assert_eq!(std::fs::read_link(kept).unwrap(), target);
    assert!(data.symlink_metadata().unwrap().is_file());
    let file = open(folder.path()).await.unwrap();
    assert_eq!(file.store().get_as::<i32>("a").await.unwrap(), Some(2));
}

#[tokio::test]
async fn file_in_place_of_the_folder_gets_a_hint() {
    let folder = killed().await;
    let data = folder.path().join(DATA);
    let opened = open(&data).await.map(drop);
    for refused in [
        opened,
        repair(&data).map(drop),
        Inspection::of(&data).map(drop),
    ] {
        assert!(
            matches!(&refused, Err(Error::Config(message)) if message.contains("name the folder")),
            "{refused:?}"
        );
    }
}
