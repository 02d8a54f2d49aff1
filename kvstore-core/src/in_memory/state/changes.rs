//! The latest changes, for watches.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::limits::CHANGES_BYTES_MAX;
use crate::model::entry::Version;
use crate::model::key::Key;
use crate::store::ChangeKind;

/// The maximum number of openings on record; the history ends before the oldest one.
const GAPS_MAX: usize = 100;

/// A bounded history. Values are not part of it: they are looked up when a change is handed out,
/// and included only if the entry still has that version.
#[derive(Debug, Default)]
pub(super) struct Changes {
    recent: VecDeque<(Version, Key, ChangeKind)>,
    /// The total length of their keys.
    bytes: usize,
    /// Changes up to this version are gone.
    dropped: Version,
    /// The openings of the store: no version between the two was ever given out.
    gaps: VecDeque<(Version, Version)>,
}

impl Changes {
    pub(super) fn starting_after(version: Version) -> Self {
        Self {
            dropped: version,
            ..Self::default()
        }
    }

    /// Adds a change, and drops the oldest so that no more than `kept` remain.
    pub(super) fn push(&mut self, version: Version, key: Key, kind: ChangeKind, kept: usize) {
        self.bytes += key.as_str().len();
        self.recent.push_back((version, key, kind));
        while (self.recent.len() > kept || self.bytes > CHANGES_BYTES_MAX)
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

    /// Records an opening after version `last`, which continues the numbering after `behind`.
    pub(super) fn pass(&mut self, last: Version, behind: Version) {
        self.gaps.push_back((last, behind));
        if self.gaps.len() > GAPS_MAX
            && let Some((_, oldest)) = self.gaps.pop_front()
        {
            self.drop_up_to(oldest);
        }
    }

    /// Returns the changes after `version`.
    ///
    /// # Errors
    /// [`Error::Compacted`] if some of them are gone, or if no change and no opening had this
    /// version: it belongs to a history that is lost.
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
    use crate::limits::CHANGES_MAX;

    #[test]
    fn history_is_bounded_in_number_and_in_bytes() {
        for length in [8, 512] {
            let mut changes = Changes::default();
            let key = Key::new(&"k".repeat(length)).unwrap();
            for version in 1..=2 * CHANGES_MAX as u64 {
                changes.push(Version(version), key.clone(), ChangeKind::Set, CHANGES_MAX);
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
