//! The latest changes, for those who watch.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::limits::CHANGES_MAX;
use crate::model::entry::Version;
use crate::model::key::Key;
use crate::store::ChangeKind;

/// Most openings told apart; before them the history ends.
const GAPS_MAX: usize = 100;

/// A bounded history. Values are not in it: they are looked up when a change is handed out, and go along only if they are
/// still its own.
#[derive(Debug, Default)]
pub(super) struct Changes {
    recent: VecDeque<(Version, Key, ChangeKind)>,
    /// Changes up to this one are gone.
    dropped: Version,
    /// Where the store was opened: no version between the two was ever given out.
    gaps: VecDeque<(Version, Version)>,
}

impl Changes {
    pub(super) fn starting_after(version: Version) -> Self {
        Self {
            dropped: version,
            ..Self::default()
        }
    }

    pub(super) fn push(&mut self, version: Version, key: Key, kind: ChangeKind) {
        if self.recent.len() == CHANGES_MAX
            && let Some((oldest, ..)) = self.recent.pop_front()
        {
            self.drop_up_to(oldest);
        }
        self.recent.push_back((version, key, kind));
    }

    fn drop_up_to(&mut self, version: Version) {
        self.dropped = version;
        let gone = self.recent.partition_point(|(other, ..)| *other <= version);
        self.recent.drain(..gone);
        self.gaps.retain(|(_, behind)| *behind > version);
    }

    /// The store was opened, and numbers on behind `behind` after version `last`.
    pub(super) fn pass(&mut self, last: Version, behind: Version) {
        self.gaps.push_back((last, behind));
        if self.gaps.len() > GAPS_MAX
            && let Some((_, oldest)) = self.gaps.pop_front()
        {
            self.drop_up_to(oldest);
        }
    }

    /// The changes behind `version`.
    ///
    /// # Errors
    /// [`Error::Compacted`] if some of them are gone, or no change and no opening had this version: it was
    /// given out in a history that is lost.
    pub(super) fn after(
        &self,
        version: Version,
    ) -> Result<impl Iterator<Item = &(Version, Key, ChangeKind)>> {
        let is_between = |(last, behind): &(_, _)| *last < version && version < *behind;
        if version < self.dropped || self.gaps.iter().any(is_between) {
            return Err(Error::Compacted);
        }
        let start = self.recent.partition_point(|(other, ..)| *other <= version);
        Ok(self.recent.range(start..))
    }
}
