//! What `data.json` and `data.meta.json` are together, and how a snapshot that was cut off is
//! finished.

use std::io;

use crate::error::Result;
use crate::in_memory::state::Table;
use crate::json_file::disk::{Disk, is_irregular};
use crate::json_file::error::{corrupt, disk_error, read};
use crate::json_file::snapshot::data::{FileFingerprint, fingerprint};
use crate::json_file::snapshot::import::Known;
use crate::json_file::snapshot::meta::{Meta, known_entries, parse_meta};
use crate::json_file::snapshot::{DATA, DATA_NEW, DATA_OLD, META};

/// A file that should be the one that `data.meta.json` names: what was made of it, or what it is
/// instead (`None`: missing).
pub(crate) type Read<T> = std::result::Result<T, Option<FileFingerprint>>;

/// What the files beside a `data.meta.json` are to it. Opening, following and inspecting a folder
/// all go by this.
pub(crate) enum Standing<T> {
    /// `data.json` is what it names.
    Whole(T),
    /// `data.json` is the previous one, and what it names stands ready: the end of a snapshot.
    Unfinished(T),
    /// `data.json` is something else, or missing.
    Other {
        data: Option<FileFingerprint>,
        /// What it names stands ready, and is not in `data.json`.
        new: Option<T>,
    },
}

impl<T> Standing<T> {
    /// Tells by what `read` makes of a file.
    pub(crate) fn of(meta: &Meta, read: impl Fn(&str) -> Result<Read<T>>) -> Result<Self> {
        let data = match read(DATA)? {
            Ok(whole) => return Ok(Self::Whole(whole)),
            Err(data) => data,
        };
        Ok(match read(DATA_NEW)?.ok() {
            Some(new) if data == meta.previous => Self::Unfinished(new),
            new => Self::Other { data, new },
        })
    }
}

/// Finishes what a failed write has left undone, as opening the folder would, and returns what `data.json` is then. Until then
/// `data.meta.json` may name a file that only `.data.json.new` is, so another one must not be begun.
pub(crate) fn settle(disk: &dyn Disk) -> io::Result<FileFingerprint> {
    let text = disk.read(META)?;
    let text = text.ok_or_else(|| io::Error::other(format!("{META} is gone")))?;
    let meta = parse_meta(disk, &text).map_err(io::Error::other)?;
    let settled = finish(disk, &meta, |name| {
        let is = fingerprint(disk, name)
            .map_err(|error| disk_error(disk, "cannot read", name, error))?;
        Ok(if is == Some(meta.data) {
            Ok(())
        } else {
            Err(is)
        })
    });
    if let Err(Edited { newer: true }) = settled.map_err(io::Error::other)? {
        exchange(disk, meta.previous)?;
    }
    disk.sync_folder()?;
    Ok(meta.data)
}

/// `data.json` was changed since it was written.
struct Edited {
    /// Another one, which is not in it, was about to replace it.
    newer: bool,
}

/// Finishes a snapshot that was cut off. Returns what `read` makes of the data.
fn finish<T>(
    disk: &dyn Disk,
    meta: &Meta,
    read: impl Fn(&str) -> Result<Read<T>>,
) -> Result<std::result::Result<T, Edited>> {
    let failed = |error| disk_error(disk, "cannot replace", DATA, error);
    let (name, detail) = match Standing::of(meta, read)? {
        Standing::Whole(whole) => {
            settle_old(disk, meta.previous).map_err(failed)?;
            return Ok(Ok(whole));
        }
        Standing::Unfinished(new) => {
            exchange(disk, meta.previous).map_err(failed)?;
            return Ok(Ok(new));
        }
        Standing::Other { data: None, .. } => (
            DATA,
            "it is missing beside its data.meta.json; put it back, or start with an empty folder",
        ),
        Standing::Other { data, new: None } if data == meta.previous => (
            DATA_NEW,
            "it should hold the data of data.meta.json; restore a backup of the folder",
        ),
        Standing::Other { new, .. } => {
            return Ok(Err(Edited {
                newer: new.is_some(),
            }));
        }
    };
    Err(corrupt(disk, name, None, detail))
}

/// Step 3. What was in the way is kept if it is not the file that we wrote.
pub(super) fn exchange(disk: &dyn Disk, replaces: Option<FileFingerprint>) -> io::Result<()> {
    let was_there = disk.names()?.iter().any(|name| name == DATA);
    if was_there {
        disk.link(DATA, DATA_OLD)?;
    }
    disk.rename(DATA_NEW, DATA)?;
    disk.sync_folder()?;
    settle_old(disk, replaces)
}

/// Looks at what `data.json` was replaced in: drops it if it is the file that we wrote, keeps it if
/// not.
fn settle_old(disk: &dyn Disk, replaces: Option<FileFingerprint>) -> io::Result<()> {
    match fingerprint(disk, DATA_OLD) {
        Ok(None) => return Ok(()),
        Ok(old) if old == replaces => return disk.remove(DATA_OLD),
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
    /// Nothing, or a `data.json` without anything of ours beside it.
    Foreign(Option<Vec<u8>>),
    /// The pair, as it was written.
    Whole(Box<Meta>, Table),
    /// A `data.json` that was changed since. `newer` says that another one, which is not in it, was
    /// about to replace it.
    Edited {
        meta: Box<Meta>,
        known: Known,
        text: Vec<u8>,
        newer: bool,
    },
}

/// Reads the pair, and finishes what a crash has left undone. `has_journals`: there are journals
/// beside it.
pub(crate) fn load(disk: &dyn Disk, has_journals: bool) -> Result<Pair> {
    let Some(text) = read(disk, META)? else {
        return match read(disk, DATA)? {
            _ if has_journals => Err(corrupt(
                disk,
                META,
                None,
                "it is missing, and there are journals beside it; put it back, or start with an empty folder",
            )),
            text => Ok(Pair::Foreign(text)),
        };
    };
    let meta = Box::new(parse_meta(disk, &text)?);
    // It is as large as the rows of a small table.
    drop(text);
    Ok(match finish(disk, &meta, |name| meta.table(disk, name))? {
        Ok(table) => Pair::Whole(meta, table),
        Err(Edited { newer }) => Pair::Edited {
            known: known_entries(disk, &read(disk, META)?.unwrap_or_default())?,
            text: read(disk, DATA)?.unwrap_or_default(),
            meta,
            newer,
        },
    })
}
