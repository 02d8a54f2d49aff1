//! How `data.json` and `data.meta.json` relate, and how an interrupted snapshot is finished.

use std::io;

use crate::error::Result;
use crate::in_memory::state::Table;
use crate::json_file::disk::{Disk, is_irregular};
use crate::json_file::error::{corrupt, disk_error, read};
use crate::json_file::snapshot::data::{FileFingerprint, fingerprint};
use crate::json_file::snapshot::import::Known;
use crate::json_file::snapshot::meta::{Meta, known_entries, parse_meta};
use crate::json_file::snapshot::{DATA, DATA_NEW, DATA_OLD, META};

/// The result of reading a file that should be the one `data.meta.json` names: what the reader made
/// of it, or the file's actual fingerprint (`None`: missing).
pub(crate) type Read<T> = std::result::Result<T, Option<FileFingerprint>>;

/// How the files beside a `data.meta.json` relate to it. Opening, following and inspecting a folder
/// all depend on this.
pub(crate) enum Standing<T> {
    /// `data.json` is the file that it names.
    Whole(T),
    /// `data.json` is the previous file, and the one that it names is ready: a snapshot was being
    /// finished.
    Unfinished(T),
    /// `data.json` is something else, or missing.
    Other {
        data: Option<FileFingerprint>,
        /// The file that it names is ready, but has not replaced `data.json`.
        new: Option<T>,
    },
}

impl<T> Standing<T> {
    /// Determines the relation from the results of `read`.
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

/// Finishes what a failed write left undone, as opening the folder would, and returns the resulting
/// `data.json`. Until then `data.meta.json` may name a file that exists only as `.data.json.new`,
/// so no other file of that name may be begun.
pub(crate) fn settle(disk: &dyn Disk) -> io::Result<FileFingerprint> {
    let text = disk.read(META)?;
    let text = text.ok_or_else(|| io::Error::other(format!("{META} is missing")))?;
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

/// `data.json` was changed after it was written.
struct Edited {
    /// A newer file, whose data it lacks, was about to replace it.
    newer: bool,
}

/// Finishes an interrupted snapshot, and returns what `read` makes of the data.
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
            "it should hold the data that data.meta.json names; restore a backup of the folder",
        ),
        Standing::Other { new, .. } => {
            return Ok(Err(Edited {
                newer: new.is_some(),
            }));
        }
    };
    Err(corrupt(disk, name, None, detail))
}

/// Performs step 3. The replaced file is kept if it is not the one that was written.
pub(super) fn exchange(disk: &dyn Disk, replaces: Option<FileFingerprint>) -> io::Result<()> {
    let was_there = disk.names()?.iter().any(|name| name == DATA);
    if was_there {
        disk.link(DATA, DATA_OLD)?;
    }
    disk.rename(DATA_NEW, DATA)?;
    disk.sync_folder()?;
    settle_old(disk, replaces)
}

/// Checks the file that was replaced: removes it if it is the one that was written, keeps it if
/// not.
fn settle_old(disk: &dyn Disk, replaces: Option<FileFingerprint>) -> io::Result<()> {
    match fingerprint(disk, DATA_OLD) {
        Ok(None) => return Ok(()),
        Ok(old) if old == replaces => return disk.remove(DATA_OLD),
        // A link in its place is never a file that was written here, even if it leads to the same
        // text.
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

/// Returns `name` followed by a number that no file has yet.
pub(crate) fn free_name(disk: &dyn Disk, name: &str) -> io::Result<String> {
    let names = disk.names()?;
    let mut number = 1;
    while names.contains(&format!("{name}-{number}")) {
        number += 1;
    }
    Ok(format!("{name}-{number}"))
}

/// The state of the pair in a folder.
#[derive(Debug)]
pub(crate) enum Pair {
    /// No `data.meta.json`: an empty folder, or a `data.json` from elsewhere.
    Foreign(Option<Vec<u8>>),
    /// The pair, as it was written.
    Whole(Box<Meta>, Table),
    /// A `data.json` that was changed after it was written. `newer` means that a newer file, whose
    /// data it lacks, was about to replace it.
    Edited {
        meta: Box<Meta>,
        known: Known,
        text: Vec<u8>,
        newer: bool,
    },
}

/// Reads the pair, and finishes what a crash left undone. `has_journals` says that there are
/// journals beside it.
pub(crate) fn load(disk: &dyn Disk, has_journals: bool) -> Result<Pair> {
    let Some(text) = read(disk, META)? else {
        return match read(disk, DATA)? {
            _ if has_journals => Err(corrupt(
                disk,
                META,
                None,
                "it is missing, but there are journals beside it; put it back, or start with an empty folder",
            )),
            text => Ok(Pair::Foreign(text)),
        };
    };
    let meta = Box::new(parse_meta(disk, &text)?);
    // It is as large as the rows of a small table, so it is freed before those are read.
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
