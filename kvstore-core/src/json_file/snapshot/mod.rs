//! The snapshot pair: `data.json`, which any program can read, and `data.meta.json`, which holds
//! what a plain object cannot: versions and deadlines of entries, how far queues are applied, and
//! the folder's queue.
//!
//! # Writing
//! (1) `data.json.new` is written and synced. (2) `data.meta.json`, which names the new and the
//! previous file by length and CRC, replaces the old one. (3) `data.json.new` replaces `data.json`,
//! which is never absent; the replaced file is checked, and kept if it was edited. So whatever the
//! moment of a crash, [`load`](pair::load) knows where to continue.

pub(crate) mod data;
pub(crate) mod import;
pub(crate) mod meta;
pub(crate) mod pair;
mod versions;

use std::fmt::Write as _;
use std::io;

use crate::in_memory::state::{Row, Table};
use crate::json_file::disk::{Disk, DiskFile};
use crate::json_file::sealed;
use crate::json_file::snapshot::data::{
    FileFingerprint, PIECE_BYTES, line_fingerprint, push_entry,
};
use crate::json_file::snapshot::meta::Meta;
use crate::json_file::snapshot::pair::exchange;

pub(crate) const DATA: &str = "data.json";
pub(crate) const META: &str = "data.meta.json";

// Temporary names are private: files that a user may have made, such as `data.json.old`, are never
// touched.
pub(crate) const DATA_NEW: &str = ".data.json.new";
pub(crate) const META_NEW: &str = ".data.meta.json.new";
pub(crate) const DATA_OLD: &str = ".data.json.replaced";

/// The number of entries that a snapshot takes at a time, under the lock that writes need.
pub(crate) const SNAPSHOT_PIECE: usize = 256;

/// The pair as it was last written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) data: FileFingerprint,
    /// The length of `data.meta.json`.
    pub(crate) meta_bytes: u64,
}

/// Writes the pair with the entries of `table`.
pub(crate) fn write_table(
    disk: &dyn Disk,
    meta: &Meta,
    replaces: Option<FileFingerprint>,
    table: &mut Table,
) -> io::Result<Written> {
    table.start_cut();
    write(disk, meta, replaces, || table.next_of_cut(SNAPSHOT_PIECE))
}

/// Writes the pair: `meta` (whose progress, version, time and journal are set) with the entries
/// that `next` returns piece by piece, until it returns none.
pub(crate) fn write(
    disk: &dyn Disk,
    meta: &Meta,
    replaces: Option<FileFingerprint>,
    next: impl FnMut() -> Vec<Row>,
) -> io::Result<Written> {
    let written = write_new(disk, meta, replaces, next).inspect_err(|_| {
        // On a full disk, partial files would take the space that commits need.
        for name in [DATA_NEW, META_NEW] {
            let _ = disk.remove(name);
        }
    })?;
    disk.rename(META_NEW, META)?;
    disk.sync_folder()?;
    exchange(disk, replaces)?;
    Ok(written)
}

/// Performs step 1, and writes the file for step 2.
fn write_new(
    disk: &dyn Disk,
    meta: &Meta,
    replaces: Option<FileFingerprint>,
    mut next: impl FnMut() -> Vec<Row>,
) -> io::Result<Written> {
    let mut file = disk.create(DATA_NEW)?;
    let mut text = b"{".to_vec();
    let mut meta = meta.without_entries();
    meta.data = FileFingerprint::default();
    let mut flush = |text: &mut Vec<u8>, meta: &mut Meta| {
        write_synced(&mut *file, meta.data.length(), text)?;
        meta.data = meta.data.and(FileFingerprint::of(text));
        let before: usize = meta.pieces.iter().map(|(_, count)| count).sum();
        meta.pieces
            .push((text.len() as u64, meta.versions.len() - before));
        text.clear();
        io::Result::Ok(())
    };
    loop {
        let rows = next();
        if rows.is_empty() {
            break;
        }
        for row in rows {
            text.extend_from_slice(if meta.versions.is_empty() {
                b"\n"
            } else {
                b",\n"
            });
            let start = text.len();
            push_entry(&mut text, &row.key(), row.value_bytes());
            let fingerprint = line_fingerprint(&text[start..]);
            write!(meta.fingerprints, "{fingerprint:016x}").map_err(io::Error::other)?;
            let deadline = row.expires_at();
            meta.deadlines
                .extend(deadline.map(|deadline| (meta.versions.len(), deadline)));
            meta.versions.push(row.version());
            if text.len() >= PIECE_BYTES {
                flush(&mut text, &mut meta)?;
            }
        }
    }
    text.extend_from_slice(b"\n}\n");
    flush(&mut text, &mut meta)?;
    drop(file);

    meta.previous = replaces;
    let text = sealed::seal(&meta);
    let mut file = disk.create(META_NEW)?;
    write_synced(&mut *file, 0, &text)?;
    Ok(Written {
        data: meta.data,
        meta_bytes: text.len() as u64,
    })
}

/// Writes `text` at `offset` and syncs it, piece by piece: a commit that syncs its journal
/// meanwhile waits for one piece, not for the whole snapshot.
fn write_synced(file: &mut dyn DiskFile, offset: u64, text: &[u8]) -> io::Result<()> {
    let mut end = offset;
    for piece in text.chunks(2 * PIECE_BYTES) {
        file.write_at(end, piece)?;
        file.sync()?;
        end += piece.len() as u64;
    }
    Ok(())
}
