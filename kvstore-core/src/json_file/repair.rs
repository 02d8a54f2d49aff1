//! Repairs a damaged folder: writes everything that is readable to new files, and keeps the damaged
//! ones under other names.
//!
//! Nothing is overwritten before everything that can be read of it is on the disk. First each
//! damaged file gets a second name, `<file>.removed-N`. Then the pair is written, which is one step
//! as in every snapshot. Then the journals that the pair includes are removed. If a repair is
//! interrupted at any moment, it can be run again.

use std::path::Path;
use std::sync::Arc;

use crate::clock::{Clock, SystemClock, first_number};
use crate::error::{Error, Result};
use crate::json_file::disk::lock::Lock;
use crate::json_file::disk::{Disk, Folder};
use crate::json_file::error::{disk_error, io_error};
use crate::json_file::inspect::{Beside, FolderProblem, Salvage, has_anything};
use crate::json_file::journal::chain;
use crate::json_file::journal::manifest::ROLL;
use crate::json_file::snapshot::data::fingerprint;
use crate::json_file::snapshot::pair::free_name;
use crate::json_file::snapshot::{self, DATA, DATA_NEW, DATA_OLD};
use crate::json_file::{PARTITION, check_is_no_file};
use crate::model::entry::{Timestamp, Version};

/// Repairs `folder`, which no process may have open, and returns the problems that it had; if there
/// were none, nothing was changed.
///
/// Every line and entry that is provably as it was written is kept;
/// [`Inspection::problems`](crate::json_file::Inspection::problems) reports beforehand what that
/// leaves out. Damaged files are kept beside the others as `<file>.removed-N`. Versions and
/// positions of jobs continue with new numbers, so none is used twice. Jobs that are gone are
/// unknown from then on, and never "succeeded".
///
/// # Errors
/// [`Error::Locked`] if a process has the folder open; [`Error::NotFound`] if it contains no store;
/// [`Error::Corrupt`] for a problem that no repair can help with, or a format of another version;
/// [`Error::Unavailable`] if the folder cannot be read or written. After an error the repair can be
/// tried again, and everything that was readable still is.
///
/// # Cost
/// Reads and rewrites all data. Blocks the calling thread.
pub fn repair(folder: impl AsRef<Path>) -> Result<Vec<FolderProblem>> {
    let folder = folder.as_ref();
    let unlocked =
        || Folder::unlocked(folder).map_err(|error| io_error(folder, "cannot open", error));
    check_is_no_file(folder)?;
    if !folder.is_dir() || !has_anything(&unlocked()?)? {
        return Err(Error::NotFound {
            what: format!("a store in {}", folder.display()),
        });
    }
    let lock = Arc::new(Lock::take(folder)?);
    let disk = Folder::new(folder, Arc::clone(&lock));
    let repaired = repair_disk(&disk, SystemClock.now());
    lock.release();
    repaired
}

pub(super) fn repair_disk(disk: &dyn Disk, now: Timestamp) -> Result<Vec<FolderProblem>> {
    let mut salvage = Salvage::read(disk, Beside::Nobody)?;
    let problems = std::mem::take(&mut salvage.found.problems);
    if problems.is_empty() {
        return Ok(problems);
    }
    if let Some(problem) = problems.iter().find(|it| it.loses.is_none()) {
        return Err(Error::Corrupt {
            path: problem.path.clone(),
            line: problem.line,
            detail: problem.what.clone(),
        });
    }
    renumber(&mut salvage, now)?;
    keep_aside(disk, &problems, salvage.pair.data_from)
        .map_err(|error| disk_error(disk, "cannot keep damaged files in", "", error))?;
    write_pair(disk, &mut salvage)?;
    chain::remove_before(disk, salvage.pair.meta.journal);
    if problems.iter().any(|it| it.path.ends_with(ROLL)) {
        disk.remove(ROLL)
            .map_err(|error| disk_error(disk, "cannot remove", ROLL, error))?;
    }
    disk.sync_folder()
        .map_err(|error| io_error(disk.path(), "cannot sync", error))?;
    Ok(problems)
}

/// Skips the versions and positions that missing data may have used.
fn renumber(salvage: &mut Salvage, now: Timestamp) -> Result<()> {
    let Salvage { pair, log, .. } = salvage;
    let (state, meta) = (&mut pair.state, &pair.meta);
    let last = state.version.max(meta.version);
    state.version = Version(first_number(last.0, now));
    state.progress.skipped += state.version.0 - last.0;
    state.time = state.time.max(meta.time).max(now);
    if pair.has_unversioned {
        state.version = state.table.give_versions(state.version);
    }
    let last = log.last();
    let opened = log.open(now);
    let lost = salvage.lost_jobs.iter().copied();
    for (after, up_to) in lost.chain([(last, opened)]) {
        state.progress.lose((meta.queue, PARTITION), after, up_to);
    }
    log.complete(state.progress.applied(meta.queue, PARTITION));
    Ok(())
}

/// Gives each file with a problem a second name, which remains when the first is given to a new
/// file.
fn keep_aside(
    disk: &dyn Disk,
    problems: &[FolderProblem],
    data_from: Option<&str>,
) -> std::io::Result<()> {
    let names = disk.names()?;
    for name in &names {
        if problems.iter().any(|it| it.path.ends_with(name)) {
            let kept = free_name(disk, &format!("{name}.removed"))?;
            disk.link(name, &kept)?;
            tracing::warn!(file = %disk.path().join(name).display(), kept, "this file is damaged: it is kept under another name");
        }
    }
    disk.sync_folder()?;
    if let Some(whole) = data_from {
        disk.rename(whole, DATA)?;
        disk.sync_folder()?;
    }
    // The pair is about to be written under these names.
    for name in [DATA_NEW, DATA_OLD] {
        if names.iter().any(|it| it == name) && data_from != Some(name) {
            let kept = free_name(disk, &format!("{name}.removed"))?;
            disk.rename(name, &kept)?;
            disk.sync_folder()?;
        }
    }
    Ok(())
}

/// Writes everything that could be read, as a snapshot does.
fn write_pair(disk: &dyn Disk, salvage: &mut Salvage) -> Result<()> {
    let next = salvage.next_number(disk)?;
    let Salvage { pair, log, .. } = salvage;
    let (state, meta) = (&mut pair.state, &mut pair.meta);
    meta.journal = next.max(meta.journal);
    meta.take_down(state, log);
    let mut write = || {
        let replaces = fingerprint(disk, DATA)?;
        snapshot::write_table(disk, meta, replaces, &mut state.table)
    };
    write().map_err(|error| disk_error(disk, "cannot write", DATA, error))?;
    Ok(())
}
