//! What `data.json` and `data.meta.json` are together, and how a snapshot that was cut off is finished.

use std::io;

use crate::error::Result;
use crate::json_file::disk::{Disk, is_irregular};
use crate::json_file::error::{corrupt, disk_error};
use crate::json_file::snapshot::data::Fingerprint;
use crate::json_file::snapshot::meta::{Meta, parse_meta};
use crate::json_file::snapshot::{DATA, DATA_NEW, DATA_OLD, META};

/// Finishes what a failed [`write`] has left undone, as opening the folder would, and returns what `data.json` is then. Until then
/// `data.meta.json` may name a file that only `data.json.new` is, so another one must not be begun.
pub(crate) fn settle(disk: &dyn Disk) -> io::Result<Fingerprint> {
    let data = match load(disk, true).map_err(io::Error::other)? {
        Pair::Whole(meta, _) => meta.data,
        Pair::Edited { meta, newer, .. } => {
            if newer {
                exchange(disk, meta.previous)?;
            }
            meta.data
        }
        Pair::None | Pair::Foreign(_) => {
            return Err(io::Error::other(format!("{META} is gone")));
        }
    };
    disk.sync_folder()?;
    Ok(data)
}

/// Step 3. What was in the way is kept if it is not the file that we wrote.
pub(super) fn exchange(disk: &dyn Disk, replaces: Option<Fingerprint>) -> io::Result<()> {
    let was_there = disk.names()?.iter().any(|name| name == DATA);
    if was_there {
        disk.link(DATA, DATA_OLD)?;
    }
    disk.rename(DATA_NEW, DATA)?;
    disk.sync_folder()?;
    settle_old(disk, replaces)
}

/// Looks at what `data.json` was replaced in: drops it if it is the file that we wrote, keeps it if not.
fn settle_old(disk: &dyn Disk, replaces: Option<Fingerprint>) -> io::Result<()> {
    match disk.read(DATA_OLD) {
        Ok(None) => return Ok(()),
        Ok(Some(old)) if replaces == Some(Fingerprint::of(&old)) => return disk.remove(DATA_OLD),
        // A link that was put in its place, and may lead to the same text, is none that we wrote.
        Err(error) if !is_irregular(&error) => return Err(error),
        Ok(_) | Err(_) => {}
    }
    let kept = free_name(disk, "data.json.edited")?;
    disk.rename(DATA_OLD, &kept)?;
    disk.sync_folder()?;
    tracing::error!(
        file = %disk.path().join(&kept).display(),
        "data.json was edited while the store was running: the edit is kept in this file and has no effect"
    );
    Ok(())
}

/// `name` with a number behind it that no file has yet.
pub(crate) fn free_name(disk: &dyn Disk, name: &str) -> io::Result<String> {
    let names = disk.names()?;
    let mut number = 1;
    while names.contains(&format!("{name}-{number}")) {
        number += 1;
    }
    Ok(format!("{name}-{number}"))
}

/// What a folder holds, as far as the pair goes.
#[derive(Debug)]
pub(crate) enum Pair {
    /// Nothing.
    None,
    /// A `data.json` without anything of ours beside it.
    Foreign(Vec<u8>),
    /// The pair, as it was written.
    Whole(Box<Meta>, Vec<u8>),
    /// A `data.json` that was changed since. `newer` says that another one, which is not in it, was about to replace it.
    Edited {
        meta: Box<Meta>,
        text: Vec<u8>,
        newer: bool,
    },
}

/// Reads the pair, and finishes what a crash has left undone. `has_journals`: there are journals beside it.
pub(crate) fn load(disk: &dyn Disk, has_journals: bool) -> Result<Pair> {
    let read = |name: &str| {
        disk.read(name)
            .map_err(|error| disk_error(disk, "can't read", name, error))
    };
    // Read at the same time: for each the processor has about as much to do.
    let (meta, data) = std::thread::scope(|scope| {
        let meta = scope.spawn(|| {
            let text = read(META)?;
            text.map(|text| parse_meta(disk, &text)).transpose()
        });
        let data = read(DATA).map(|data| data.map(|text| (Fingerprint::of(&text), text)));
        let meta = meta.join();
        (
            meta.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            data,
        )
    });
    let (meta, data) = (meta?, data?);
    let Some(meta) = meta.map(Box::new) else {
        return match data {
            _ if has_journals => Err(corrupt(
                disk,
                META,
                None,
                "it is missing, and there are journals beside it; put it back, or start with an empty folder",
            )),
            Some((_, text)) => Ok(Pair::Foreign(text)),
            None => Ok(Pair::None),
        };
    };
    let is_new_whole = || Ok(read(DATA_NEW)?.filter(|text| Fingerprint::of(text) == meta.data));
    let finish = |text| {
        exchange(disk, meta.previous)
            .map_err(|error| disk_error(disk, "can't replace", DATA, error))?;
        Ok(text)
    };
    match data {
        Some((is, text)) if is == meta.data => {
            settle_old(disk, meta.previous)
                .map_err(|error| disk_error(disk, "can't replace", DATA, error))?;
            Ok(Pair::Whole(meta, text))
        }
        Some((is, _)) if Some(is) == meta.previous => match is_new_whole()? {
            Some(new) => finish(new).map(|text| Pair::Whole(meta, text)),
            None => Err(corrupt(
                disk,
                DATA_NEW,
                None,
                "it should hold the data of data.meta.json; restore a backup of the folder",
            )),
        },
        Some((_, text)) => is_new_whole().map(|new| Pair::Edited {
            meta,
            text,
            newer: new.is_some(),
        }),
        None => match is_new_whole()? {
            Some(new) if meta.previous.is_none() => finish(new).map(|text| Pair::Whole(meta, text)),
            _ => Err(corrupt(
                disk,
                DATA,
                None,
                "it is missing beside its data.meta.json; put it back, or start with an empty folder",
            )),
        },
    }
}
