//! A worker's most frequent commit, sets without a deadline or a condition, in a form that costs
//! the server half as much: the entries' texts already hold their versions.
//!
//! Each commit remembers the last version for the next. If another process has written since, the
//! script reports that and changes nothing.

use std::collections::HashMap;

use crate::model::commit::Commit;
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::{Change, Condition};
use crate::redis::scripts::Call;

/// Most sets: `unpack` takes two values for each, and no more than 7,999.
const SETS_MAX: usize = 1000;

/// The sets of a commit that has nothing else.
pub(super) struct Sets<'c> {
    /// All sets, in order.
    all: Vec<(&'c Key, &'c Value)>,
    /// The last set of each key, as an index into `all`, in the order in which the keys first
    /// appear.
    last: Vec<usize>,
    /// For each set, true if it is the first of its key.
    is_first: Vec<bool>,
}

impl<'c> Sets<'c> {
    /// Returns `None` for a commit that does anything else.
    pub(super) fn of(commit: &'c Commit) -> Option<Self> {
        let advance = commit.advance.as_ref()?;
        let mut checks = commit.checks.iter();
        if !checks.all(|(_, condition)| *condition == Condition::Any)
            || !(1..=SETS_MAX).contains(&commit.writes.len())
        {
            return None;
        }
        let mut sets = Self {
            all: Vec::with_capacity(commit.writes.len()),
            last: Vec::with_capacity(commit.writes.len()),
            is_first: Vec::with_capacity(commit.writes.len()),
        };
        let mut places = HashMap::with_capacity(commit.writes.len());
        for write in &commit.writes {
            let Change::Set {
                value,
                expires_at: None,
            } = &write.change
            else {
                return None;
            };
            let number = sets.all.len();
            let place = *places.entry(&write.key).or_insert(sets.last.len());
            sets.is_first.push(place == sets.last.len());
            match sets.last.get_mut(place) {
                Some(last) => *last = number,
                None => sets.last.push(number),
            }
            sets.all.push((&write.key, value));
        }
        // The script records outcomes from one set of each key.
        let repeats = sets.last.len() < sets.all.len();
        (!repeats || advance.outcomes.is_empty()).then_some(sets)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'c Key> {
        self.last.iter().map(|place| self.all[*place].0)
    }

    /// Adds the keys and their texts, the members of the index, and the changes for watchers, with
    /// the versions after `latest`.
    pub(super) fn add(&self, script: &mut Call, latest: u64, entry: impl Fn(&Key) -> String) {
        for place in &self.last {
            let (key, value) = self.all[*place];
            let mut text = format!("{} 0 ", latest + 1 + *place as u64).into_bytes();
            text.extend_from_slice(value.as_bytes());
            script.add((entry(key), text));
        }
        for key in self.keys() {
            script.add(("0", key.as_str()));
        }
        for (version, (key, _)) in (latest + 1..).zip(&self.all) {
            script.add((format!("s{version}"), key.as_str()));
        }
    }

    /// Expands a digit for each key to a digit for each set: a key that was set earlier in the same
    /// commit exists.
    pub(super) fn existed(&self, keys: &str) -> String {
        let mut keys = keys.chars();
        let digits = self.is_first.iter().map(|is_first| match is_first {
            true => keys.next().unwrap_or('0'),
            false => '1',
        });
        digits.collect()
    }
}
