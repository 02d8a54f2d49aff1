//! The latest changes, for those who watch.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::limits::CHANGES_MAX;
use crate::model::entry::Version;
use crate::model::key::Key;
use crate::store::ChangeKind;

/// A bounded history. Values are not in it: they are looked up when a change is handed out, and go along only if they are
/// still its own.
#[derive(Debug, Default)]
pub(super) struct Changes {
    recent: VecDeque<(Version, Key, ChangeKind)>,
    /// Changes up to this one are gone.
    dropped: Version,
}

impl Changes {
    pub(super) fn starting_after(version: Version) -> Self {
        Self {
            recent: VecDeque::new(),
            dropped: version,
        }
    }

    pub(super) fn push(&mut self, version: Version, key: Key, kind: ChangeKind) {
        if self.recent.len() == CHANGES_MAX
            && let Some((oldest, ..)) = self.recent.pop_front()
        {
            self.dropped = oldest;
        }
        self.recent.push_back((version, key, kind));
    }

    /// The changes behind `version`.
    ///
    /// # Errors
    /// [`Error::Compacted`] if some of them are gone.
    pub(super) fn after(
        &self,
        version: Version,
    ) -> Result<impl Iterator<Item = &(Version, Key, ChangeKind)>> {
        if version < self.dropped {
            return Err(Error::Compacted);
        }
        let start = self.recent.partition_point(|(other, ..)| *other <= version);
        Ok(self.recent.range(start..))
    }
}
