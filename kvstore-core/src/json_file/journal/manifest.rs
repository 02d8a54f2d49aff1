//! `files.json`: which journal is the latest, so that one that is gone whole is missed.
//!
//! ```text
//! {"format":2,"journal":7,"c":"5e1f00b2"}
//! ```
//!
//! Journals name the one before them, so a gap is found; nothing names the last one but this. A new file is on the disk before
//! it is on the roll, and on the roll before anything is written to it that is acknowledged. A folder without a roll is one
//! that nobody has opened yet, or whose roll was removed: then only gaps are found.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::json_file::disk::Disk;
use crate::json_file::error::{corrupt, read};
use crate::json_file::journal::{AppendError, chain};
use crate::json_file::sealed::{self, Format};

pub(crate) const ROLL: &str = "files.json";
const ROLL_NEW: &str = ".files.json.new";

/// The number of the latest journal; 0 if there was none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Roll {
    format: Format,
    pub(crate) journal: u64,
}

impl Roll {
    /// Reads the roll of a folder; `None` if it has none.
    pub(crate) fn read(disk: &dyn Disk) -> Result<Option<Self>> {
        let text = read(disk, ROLL)?;
        text.map(|text| sealed::parse(disk, ROLL, &text))
            .transpose()
    }

    /// Refuses a folder in which the latest journal is missing. Those before `first` are done with.
    pub(crate) fn check(&self, disk: &dyn Disk, first: u64) -> Result<()> {
        if self.journal < first || chain::numbers(disk)?.last() >= Some(&self.journal) {
            return Ok(());
        }
        let detail = "it is missing: put it back, restore a backup of the folder, or let a repair give up what stood in it";
        Err(corrupt(disk, &chain::name(self.journal), None, detail))
    }

    /// Puts journal `number`, which is on the disk, on the roll.
    pub(crate) fn call(&mut self, disk: &dyn Disk, number: u64) -> Result<(), AppendError> {
        let next = Self {
            journal: number,
            ..*self
        };
        if next != *self {
            next.write(disk)?;
            *self = next;
        }
        Ok(())
    }

    fn write(&self, disk: &dyn Disk) -> Result<(), AppendError> {
        let text = sealed::seal(self);
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
