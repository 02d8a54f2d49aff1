//! The latest changes, for those who watch.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::limits::{CHANGES_BYTES_MAX, CHANGES_MAX};
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
    /// The length of their keys.
    bytes: usize,
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
        self.bytes += key.as_str().len();
        self.recent.push_back((version, key, kind));
        while (self.recent.len() > CHANGES_MAX || self.bytes > CHANGES_BYTES_MAX)
            && let Some((oldest, ..)) = self.recent.front()
        {
            self.drop_up_to(*oldest);
        }
    }

    fn drop_up_to(&mut self, version: Version) {
        self.dropped = version;
        let gone = self.recent.partition_point(|(other, ..)| *other <= version);
        let gone = self.recent.drain(..gone);
        self.bytes -= gone.map(|(_, key, _)| key.as_str().len()).sum::<usize>();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_bounded_in_number_and_in_bytes() {
        for length in [8, 512] {
            let mut changes = Changes::default();
            let key = Key::new(&"k".repeat(length)).unwrap();
            for version in 1..=2 * CHANGES_MAX as u64 {
                changes.push(Version(version), key.clone(), ChangeKind::Set);
                let kept = changes.after(changes.dropped).unwrap().count();
                assert!(kept <= CHANGES_MAX && kept * length <= CHANGES_BYTES_MAX);
                assert_eq!(kept * length, changes.bytes);
            }
            let kept = CHANGES_MAX.min(CHANGES_BYTES_MAX / length);
            assert_eq!(changes.after(changes.dropped).unwrap().count(), kept);
            assert!(changes.after(Version(changes.dropped.0 - 1)).is_err());
        }
    }
}
