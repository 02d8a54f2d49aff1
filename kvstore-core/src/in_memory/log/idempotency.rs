//! The requests that a partition remembers by their idempotency keys, each until its window ends:
//! beyond the life of the job in the queue, and with a bound on their number. At the bound, keys
//! whose guaranteed time is over make room for new ones.
//!
//! A key is kept as its hash, so a remembered request costs the same whatever text its caller
//! chose, and the bound on the number also bounds the bytes.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::entry::Timestamp;
use crate::model::id::{Fingerprint, Position};
use crate::model::job::Idempotency;

/// The maximum number of keys of a kind dropped by one look-up: more than one look-up can add, so
/// they never pile up, and few enough that no caller pays for a whole table that expired at once.
const SWEEP_MAX: usize = 16;

/// A remembered request. A queue in a file writes it with the job, and again into the header of the
/// next file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    /// The hash of the idempotency key.
    pub(crate) key: Fingerprint,
    /// The job that the request became, in the partition of this table.
    pub(crate) job: Position,
    /// The [`Command::fingerprint`](crate::model::command::Command::fingerprint) of the request.
    pub(crate) request: Fingerprint,
    /// Before this time the request is not dropped to make room for another. No later than
    /// `expires_at`.
    #[serde(default)]
    pub(crate) guaranteed_until: Timestamp,
    /// When it is forgotten.
    pub(crate) expires_at: Timestamp,
}

impl Remembered {
    /// Returns the hash under which the caller's `idempotency` key is remembered.
    pub(crate) fn hash(idempotency: &Idempotency) -> Fingerprint {
        Fingerprint::of(&[idempotency.key.as_bytes()])
    }
}

/// The remembered requests of one partition.
#[derive(Debug, Default)]
pub(super) struct IdempotencyTable {
    by_key: HashMap<Fingerprint, Remembered>,
    /// The same requests by deadline. Windows differ from request to request, so this is not the
    /// order of arrival.
    by_deadline: BTreeSet<(Timestamp, Fingerprint)>,
    /// The same requests by the end of their guaranteed time.
    by_guarantee: BTreeSet<(Timestamp, Fingerprint)>,
    keys_max: usize,
}

impl IdempotencyTable {
    pub(super) fn new(keys_max: usize) -> Self {
        Self {
            keys_max,
            ..Self::default()
        }
    }

    /// Returns the job that `request` became when it came under `key` before, or `None` if `key` is
    /// new and there is space for it.
    pub(super) fn look_up(
        &mut self,
        key: Fingerprint,
        request: Fingerprint,
        now: Timestamp,
    ) -> Result<Option<Position>> {
        self.sweep(now);
        match self.by_key.get(&key) {
            Some(known) if known.expires_at <= now => Ok(None),
            Some(known) if known.request == request => Ok(Some(known.job)),
            Some(_) => Err(Error::KeyReused),
            None => self.make_room(now).map(|()| None),
        }
    }

    /// Makes room for one more key by dropping keys whose guaranteed time is over.
    fn make_room(&mut self, now: Timestamp) -> Result<()> {
        // It may take more than one, since a restart brings back keys that had been dropped.
        for _ in 0..SWEEP_MAX {
            if self.by_key.len() < self.keys_max {
                return Ok(());
            }
            match self.by_guarantee.first() {
                Some(&(guaranteed_until, key)) if guaranteed_until <= now => self.remove(key),
                first => {
                    return Err(Error::Full {
                        what: "the queue (idempotency keys)",
                        limit: self.keys_max as u64,
                        room_in: first.map(|(guaranteed_until, _)| guaranteed_until.since(now)),
                    });
                }
            }
        }
        Ok(())
    }

    /// Returns the job that a request under `key` became.
    pub(super) fn job_of(&self, key: Fingerprint) -> Option<Position> {
        self.by_key.get(&key).map(|known| known.job)
    }

    /// Remembers a request, replacing an expired one under the same key.
    pub(super) fn insert(&mut self, remembered: Remembered) {
        self.remove(remembered.key);
        self.by_deadline
            .insert((remembered.expires_at, remembered.key));
        self.by_guarantee
            .insert((remembered.guaranteed_until, remembered.key));
        self.by_key.insert(remembered.key, remembered);
    }

    /// Returns the number of keys in the table, including expired ones that are not swept yet.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn remove(&mut self, key: Fingerprint) {
        if let Some(known) = self.by_key.remove(&key) {
            self.by_deadline.remove(&(known.expires_at, key));
            self.by_guarantee.remove(&(known.guaranteed_until, key));
        }
    }

    /// Returns the live requests after `after`, by deadline.
    pub(super) fn live(
        &self,
        now: Timestamp,
        after: Option<&Remembered>,
    ) -> impl Iterator<Item = &Remembered> {
        let excluded = |after: &Remembered| Bound::Excluded((after.expires_at, after.key));
        let start = after.map_or(Bound::Unbounded, excluded);
        self.by_deadline
            .range((start, Bound::Unbounded))
            .filter(move |(expires_at, _)| *expires_at > now)
            .filter_map(|(_, key)| self.by_key.get(key))
    }

    fn sweep(&mut self, now: Timestamp) {
        for _ in 0..SWEEP_MAX {
            match self.by_deadline.first() {
                Some(&(expires_at, key)) if expires_at <= now => self.remove(key),
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn hash(number: usize) -> Fingerprint {
        Fingerprint::of(&[&number.to_be_bytes()])
    }

    fn remembered(number: usize, expires_at: u64) -> Remembered {
        Remembered {
            key: hash(number),
            job: Position::counted(number as u64),
            request: hash(1000 + number),
            guaranteed_until: Timestamp(expires_at),
            expires_at: Timestamp(expires_at),
        }
    }

    #[test]
    fn a_full_table_has_space_as_soon_as_one_key_expires() {
        let mut table = IdempotencyTable::new(2);
        table.insert(remembered(1, 100));
        table.insert(remembered(2, 50));
        let mut new_key_at = |now| table.look_up(hash(3), hash(3), Timestamp(now));
        let Err(Error::Full { limit, room_in, .. }) = new_key_at(49) else {
            panic!("there is no room");
        };
        assert_eq!((limit, room_in), (2, Some(Duration::from_millis(1))));
        assert_eq!(new_key_at(50).unwrap(), None);
        assert_eq!(table.by_key.len(), 1);
    }

    #[test]
    fn a_full_table_forgets_only_what_is_no_longer_guaranteed() {
        let mut table = IdempotencyTable::new(2);
        for (number, guaranteed_until) in [(1, 60), (2, 40)] {
            table.insert(Remembered {
                guaranteed_until: Timestamp(guaranteed_until),
                ..remembered(number, 100)
            });
        }
        let Err(Error::Full { room_in, .. }) = table.look_up(hash(3), hash(3), Timestamp(39))
        else {
            panic!("both are guaranteed");
        };
        assert_eq!(room_in, Some(Duration::from_millis(1)));
        assert_eq!(
            table.look_up(hash(3), hash(3), Timestamp(40)).unwrap(),
            None
        );
        assert_eq!(table.job_of(hash(2)), None);
        let known = table.look_up(hash(1), hash(1001), Timestamp(40)).unwrap();
        assert_eq!(known, Some(Position::counted(1)));
        // There is room for it now, so no other key is dropped, although it could be.
        table.insert(remembered(3, 100));
        table.look_up(hash(1), hash(1001), Timestamp(70)).unwrap();
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_known_key_is_answered_even_when_the_table_is_full() {
        let mut table = IdempotencyTable::new(1);
        table.insert(remembered(1, 100));
        let known = table.look_up(hash(1), hash(1001), Timestamp(0));
        assert_eq!(known.unwrap(), Some(Position::counted(1)));
        let other_request = table.look_up(hash(1), hash(7), Timestamp(0));
        assert!(matches!(other_request, Err(Error::KeyReused)));
    }

    #[test]
    fn an_expired_key_is_new_even_before_it_is_swept() {
        let mut table = IdempotencyTable::new(1000);
        for number in 0..100 {
            table.insert(remembered(number, 10));
        }
        // Key 99 may be beyond this sweep: its deadline must count all the same.
        for number in (0..100).rev() {
            let answer = table.look_up(hash(number), hash(0), Timestamp(10));
            assert_eq!(answer.unwrap(), None);
        }
    }

    #[test]
    fn one_look_up_sweeps_a_bounded_number_and_many_sweep_all() {
        let mut table = IdempotencyTable::new(1000);
        for number in 0..100 {
            table.insert(remembered(number, 10));
        }
        let mut sweep = || {
            table.look_up(hash(500), hash(0), Timestamp(10)).unwrap();
            assert_eq!(table.by_key.len(), table.by_guarantee.len());
            (table.by_key.len(), table.by_deadline.len())
        };
        assert_eq!(sweep(), (100 - SWEEP_MAX, 100 - SWEEP_MAX));
        for _ in 0..100 / SWEEP_MAX {
            sweep();
        }
        assert_eq!(sweep(), (0, 0));
    }

    #[test]
    fn a_key_used_again_keeps_one_deadline() {
        let mut table = IdempotencyTable::new(10);
        table.insert(remembered(1, 10));
        table.insert(remembered(1, 90));
        table.look_up(hash(2), hash(2), Timestamp(50)).unwrap();
        let live: Vec<_> = table.live(Timestamp(50), None).copied().collect();
        assert_eq!(live, [remembered(1, 90)]);
        assert_eq!(table.live(Timestamp(90), None).count(), 0);
    }
}
