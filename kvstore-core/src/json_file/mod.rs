//! wip

#[cfg(test)]
mod crash;
mod disk;
mod import;
mod journal;
mod line;
mod lock;
mod record;
mod recovery;
mod room;
#[cfg(test)]
mod simulated;
mod snapshot;
mod store;
mod writer;

use std::io;
use std::path::Path;
use std::sync::Arc;

use self::disk::Disk;
use self::room::Room;
pub use self::store::JsonStore;
use self::writer::Unstated;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::state::Shared;

/// What an embedder may want to set.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most bytes of keys and values, those of waiting jobs included; none by default. All of them are in memory.
    pub data_bytes_max: Option<u64>,
    /// A snapshot is taken once the journal is larger than this and than `data.json`.
    pub snapshot_bytes_min: u64,
    /// Take a `data.json` that was edited although later commits stand in journals, and give those up.
    pub keep_edit: bool,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_bytes_max: None,
            snapshot_bytes_min: SNAPSHOT_BYTES_MIN,
            keep_edit: false,
            clock: Arc::new(SystemClock),
        }
    }
}

/// Below this, rewriting a small `data.json` again and again would cost more than reading the journal at the next start.
const SNAPSHOT_BYTES_MIN: u64 = 4 << 20;

/// Opens the store's part of a folder, and starts its thread.
fn start_store(
    disk: Arc<dyn Disk>,
    options: &Options,
    room: Arc<Room>,
    holder: Holder,
) -> Result<JsonStore> {
    let recovered = recovery::recover(&*disk, options.clock.now(), options.keep_edit)?;
    let (state, unstated) = Unstated::split(recovered);
    room.set_data(state.table.bytes());
    let shared = Arc::new(Shared::new(state, Arc::clone(&options.clock)));
    let start = writer::Start {
        disk: Arc::clone(&disk),
        shared: Arc::clone(&shared),
        room,
        recovered: unstated,
        snapshot_bytes_min: options.snapshot_bytes_min,
    };
    let (requests, _) = writer::start(start)
        .map_err(|error| disk_error(&*disk, "can't start a thread for", "", error))?;
    Ok(JsonStore {
        shared,
        requests,
        holder,
    })
}

/// What keeps other processes out of the folder, shared by store and queue.
#[derive(Clone, Debug, Default)]
struct Holder(Option<Arc<lock::Lock>>);

impl Holder {
    fn let_go(&self) {}
}

/// How the names of journals begin.
const JOURNAL: &str = "journal-";
/// How the names of queue files begin.
const QUEUE: &str = "queue-";

/// What is said of a line whose checksum is wrong although later lines were durable.
const DAMAGED: &str = "its checksum does not match, and it had been on the disk whole: nothing was changed; restore a backup of the folder";

/// The numbers of the files that are called `prefix` and a number, in ascending order.
fn numbered(names: &[String], prefix: &str) -> Vec<u64> {
    let number = |name: &String| {
        name.strip_prefix(prefix)?
            .strip_suffix(".jsonl")?
            .parse()
            .ok()
    };
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

fn corrupt(disk: &dyn Disk, name: &str, line: Option<u64>, detail: impl Into<String>) -> Error {
    Error::Corrupt {
        path: disk.path().join(name),
        line,
        detail: detail.into(),
    }
}

fn check_format(disk: &dyn Disk, name: &str, format: u32) -> Result<()> {
    if format == journal::FORMAT {
        return Ok(());
    }
    Err(corrupt(
        disk,
        name,
        Some(1),
        format!(
            "it has format {format}, and this version knows format {}",
            journal::FORMAT
        ),
    ))
}

fn disk_error(disk: &dyn Disk, what: &str, name: &str, error: io::Error) -> Error {
    io_error(&disk.path().join(name), what, error)
}

/// What the machine says about a file, for people.
fn io_error(path: &Path, what: &str, error: io::Error) -> Error {
    Error::Unavailable {
        what: format!("{what} {}", path.display()),
        source: Some(error.into()),
    }
}

/// Puts what could not be read at the end of a file into another one beside it.
fn keep_torn_tail(disk: &dyn Disk, name: &str, contents: &journal::Contents) -> Result<()> {
    let Some(damage) = &contents.damage else {
        return Ok(());
    };
    let keep = || {
        let kept = snapshot::free_name(disk, &format!("{name}.torn"))?;
        let mut file = disk.create(&kept)?;
        file.write_at(0, contents.tail())?;
        file.sync()?;
        disk.sync_folder()?;
        Ok(kept)
    };
    let kept = keep().map_err(|error| disk_error(disk, "can't write beside", name, error))?;
    let (file, line) = (disk.path().join(name), damage.line);
    if damage.has_whole_lines {
        tracing::error!(file = %file.display(), line, kept, "the end of this file can't be read and may have been acknowledged: it was cut, and kept aside");
    } else {
        tracing::warn!(file = %file.display(), line, kept, "a write was cut off and never acknowledged: it was cut, and kept aside");
    }
    Ok(())
}
