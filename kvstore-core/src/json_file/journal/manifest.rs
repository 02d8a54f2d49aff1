//! `files.json`: the number of the latest journal, so that its loss is detected.
//!
//! ```text
//! {"format":2,"journal":7,"c":"5e1f00b2"}
//! ```
//!
//! Each journal names the one before it, so a gap is detected; only this file names the last one. A
//! new journal is on the disk before it is in the manifest, and in the manifest before anything
//! written to it is acknowledged. A folder without a manifest has never been opened, or its
//! manifest was removed: then only gaps are detected.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::json_file::disk::Disk;
use crate::json_file::error::{corrupt, read};
use crate::json_file::journal::{AppendError, chain};
use crate::json_file::sealed::{self, Format};

pub(crate) const ROLL: &str = "files.json";
const ROLL_NEW: &str = ".files.json.new";

/// The manifest: the number of the latest journal; 0 if there was none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Roll {
    format: Format,
    pub(crate) journal: u64,
}

impl Roll {
    /// Reads the manifest of a folder; `None` if there is none.
    pub(crate) fn read(disk: &dyn Disk) -> Result<Option<Self>> {
        let text = read(disk, ROLL)?;
        text.map(|text| sealed::parse(disk, ROLL, &text))
            .transpose()
    }

    /// Refuses a folder in which the latest journal is missing. Journals before `first` are no
    /// longer needed.
    pub(crate) fn check(&self, disk: &dyn Disk, first: u64) -> Result<()> {
        if self.journal < first || chain::numbers(disk)?.last() >= Some(&self.journal) {
            return Ok(());
        }
        let detail = "it is missing: put it back, restore a backup of the folder, or let a repair give up its contents";
        Err(corrupt(disk, &chain::name(self.journal), None, detail))
    }

    /// Records journal `number`, which is on the disk, as the latest.
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
        // Nothing was renamed yet, so the existing manifest remains valid, whatever the error.
        begin().map_err(AppendError::Full)?;
        let put = || {
            disk.rename(ROLL_NEW, ROLL)?;
            disk.sync_folder()
        };
        put().map_err(AppendError::Broken)
    }
}
