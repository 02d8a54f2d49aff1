//! `files.json`: the roll of the journals, by which one that is gone whole is missed.
//!
//! ```text
//! {"format":1,"journal":7,"queue_from":2,"queue":3,"c":"5e1f00b2"}
//! ```
//!
//! Journals name the one before them, so a gap is found; nothing names the last one but this, and no other file says from where
//! on the queue is needed. A new file is on the disk before it
//! is on the roll, and on the roll before anything is written to it that is acknowledged. A folder without a roll is one that
//! nobody has opened yet, or whose roll was removed: then only gaps are found.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::json_file::disk::Disk;
use crate::json_file::error::{corrupt, disk_error};
use crate::json_file::journal::chain::Kind;
use crate::json_file::journal::line;
use crate::json_file::journal::record::push_json;
use crate::json_file::journal::{AppendError, FORMAT};

pub(crate) const ROLL: &str = "files.json";
const ROLL_NEW: &str = ".files.json.new";

/// The number of the latest file of each kind; 0 if there was none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Roll {
    format: u32,
    journal: u64,
    /// The first queue file that is still needed.
    queue_from: u64,
    queue: u64,
}

impl Default for Roll {
    fn default() -> Self {
        Self {
            format: FORMAT,
            journal: 0,
            queue_from: 0,
            queue: 0,
        }
    }
}

impl Roll {
    /// The roll of a folder; `None` if it has none.
    pub(crate) fn read(disk: &dyn Disk) -> Result<Option<Self>> {
        let text = disk
            .read(ROLL)
            .map_err(|error| disk_error(disk, "can't read", ROLL, error))?;
        text.map(|text| Self::parse(disk, &text)).transpose()
    }

    fn parse(disk: &dyn Disk, text: &[u8]) -> Result<Self> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        if line::check(text, 0).is_none() {
            return Err(corrupt(
                disk,
                ROLL,
                Some(1),
                "its checksum does not match; restore a backup of the folder, or remove it if no journal or queue file is missing",
            ));
        }
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let bad = |error: serde_json::Error| corrupt(disk, ROLL, Some(1), error.to_string());
        let Format { format } = serde_json::from_slice(text).map_err(bad)?;
        crate::json_file::error::check_format(disk, ROLL, format)?;
        serde_json::from_slice(text).map_err(bad)
    }

    /// The number of the latest file of `kind`.
    pub(crate) fn latest(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Store => self.journal,
            Kind::Queue => self.queue,
        }
    }

    /// The number of the first file of the queue; `None` if that is not known.
    pub(crate) fn first_of_queue(&self) -> Option<u64> {
        (self.queue_from > 0).then_some(self.queue_from)
    }

    /// Refuses a folder in which the latest journal is missing. Those before `first` are done with.
    pub(crate) fn check_journals(&self, disk: &dyn Disk, first: u64) -> Result<()> {
        let numbers = Kind::Store.numbers(disk)?;
        if self.journal < first || numbers.last() >= Some(&self.journal) {
            return Ok(());
        }
        Err(missing(disk, Kind::Store, self.journal))
    }

    /// Refuses a folder in which the first or the latest queue file is missing.
    pub(crate) fn check_queue(&self, disk: &dyn Disk) -> Result<()> {
        let numbers = Kind::Queue.numbers(disk)?;
        if self.queue > 0 && numbers.last() < Some(&self.queue) {
            return Err(missing(disk, Kind::Queue, self.queue));
        }
        match self.first_of_queue() {
            Some(first) if numbers.first() > Some(&first) => Err(missing(disk, Kind::Queue, first)),
            _ => Ok(()),
        }
    }

    fn write(&self, disk: &dyn Disk) -> Result<(), AppendError> {
        let mut text = Vec::new();
        push_json(&mut text, self);
        text.pop();
        line::seal(&mut text, 0, &mut 0);
        let begin = || {
            let mut file = disk.create(ROLL_NEW)?;
            file.write_at(0, &text)?;
            file.sync()
        };
        // Nothing was renamed yet, so the one that is there counts, whatever the error.
        begin().map_err(AppendError::Full)?;
        let put = || {
            disk.rename(ROLL_NEW, ROLL)?;
            disk.sync_folder()
        };
        put().map_err(AppendError::Broken)
    }
}

fn missing(disk: &dyn Disk, kind: Kind, number: u64) -> Error {
    let detail = "it is missing: put it back, restore a backup of the folder, or let a repair give up what stood in it";
    corrupt(disk, &kind.name(number), None, detail)
}

/// The roll of a folder that is open: the threads of store and queue both call theirs.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<Roll>);

impl Calls {
    pub(crate) fn new(roll: Roll) -> Self {
        Self(Mutex::new(roll))
    }

    /// Puts file `number` of `kind`, which is on the disk, on the roll.
    pub(crate) fn call(&self, disk: &dyn Disk, kind: Kind, number: u64) -> Result<(), AppendError> {
        self.change(disk, |roll| match kind {
            Kind::Store => roll.journal = number,
            Kind::Queue => roll.queue = number,
        })
    }

    /// As [`call`](Self::call), of a queue whose first file is `from`.
    pub(crate) fn call_queue(
        &self,
        disk: &dyn Disk,
        from: u64,
        number: u64,
    ) -> Result<(), AppendError> {
        self.change(disk, |roll| (roll.queue_from, roll.queue) = (from, number))
    }

    /// Says that the queue needs no file before `number`. They may be removed then.
    pub(crate) fn dismiss(&self, disk: &dyn Disk, number: u64) -> Result<(), AppendError> {
        self.change(disk, |roll| roll.queue_from = number)
    }

    fn change(&self, disk: &dyn Disk, change: impl FnOnce(&mut Roll)) -> Result<(), AppendError> {
        // It is changed when the disk has it, so a panic leaves it as it was.
        let mut roll = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = *roll;
        change(&mut next);
        if next != *roll {
            next.write(disk)?;
            *roll = next;
        }
        Ok(())
    }
}
