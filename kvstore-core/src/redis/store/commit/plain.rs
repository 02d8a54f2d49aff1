//! What a worker commits most of the time, on its way to the script that does only that, and costs the server half as much.
//!
//! The entries' texts hold their versions, so whoever makes the texts has to know the last version. It is remembered from commit to
//! commit; where somebody else has written since, the script says so and nothing has happened.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Result;
use crate::limits::{CHANGES_MAX, OUTCOME_RETENTION, OUTCOMES_MAX};
use crate::model::commit::{Advance, Commit, Verdict};
use crate::model::id::Partition;
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::{Change, Condition};
use crate::redis::run::{Call, Numbering};
use crate::redis::session::Session;
use crate::redis::text::{number, stream_id, unexpected, verdict_text};

/// Most sets: `unpack` takes twice as many values, and no more than 7,999.
const SETS_MAX: usize = 1000;

/// How often the texts are made again because somebody has written meanwhile.
const TRIES_MAX: usize = 3;

/// Makes `commit`, if it is of that kind, and says what the script said; `None` if the general one has to.
pub(crate) async fn apply(
    session: &Session,
    latest: &AtomicU64,
    commit: &Commit,
    partition: Partition,
) -> Result<Option<Vec<String>>> {
    let Some(sets) = Sets::of(commit) else {
        return Ok(None);
    };
    for _ in 0..TRIES_MAX {
        let before = latest.load(Ordering::Relaxed);
        let script = invocation(session, before, &sets, partition)?;
        let mut answer: Vec<String> = session
            .number("the commit took effect", partition, &script, true)
            .await?;
        match &mut answer[..] {
            [word, version] if word == "version" => {
                latest.store(number(version)?, Ordering::Relaxed);
            }
            [word] if word == "general" => return Ok(None),
            [word, _, existed] if word == "ok" => {
                latest.store(before + sets.all.len() as u64, Ordering::Relaxed);
                *existed = sets.existed(existed);
                return Ok(Some(answer));
            }
            [_, ..] => return Ok(Some(answer)),
            [] => return Err(unexpected()),
        }
    }
    Ok(None)
}

/// The sets of a commit that does nothing else than this script can.
struct Sets<'c> {
    advance: &'c Advance,
    /// All of them, in order.
    all: Vec<(&'c Key, &'c Value)>,
    /// For each key, in the order in which they first appear, its last set: its place in `all`.
    last: Vec<usize>,
    /// For each set whether it is the first of its key.
    is_first: Vec<bool>,
}

impl<'c> Sets<'c> {
    fn of(commit: &'c Commit) -> Option<Self> {
        let advance = commit.advance.as_ref().filter(|advance| !advance.lost)?;
        let is_plain = commit
            .checks
            .iter()
            .all(|(_, condition)| *condition == Condition::Any)
            && !advance
                .outcomes
                .iter()
                .any(|(_, verdict)| matches!(verdict, Verdict::Dead(_)))
            && (1..=SETS_MAX).contains(&commit.writes.len());
        if !is_plain {
            return None;
        }
        let mut sets = Self {
            advance,
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
        // The script writes outcomes, and knows no more than one set of each key.
        let repeats = sets.last.len() < sets.all.len();
        (!repeats || advance.outcomes.is_empty()).then_some(sets)
    }

    /// A digit for each set from those of the keys: whoever was set before in the same commit exists.
    fn existed(&self, keys: &str) -> String {
        let mut keys = keys.chars();
        let digits = self.is_first.iter().map(|is_first| match is_first {
            true => keys.next().unwrap_or('0'),
            false => '1',
        });
        digits.collect()
    }
}

fn invocation(
    session: &Session,
    before: u64,
    sets: &Sets<'_>,
    partition: Partition,
) -> Result<Call> {
    let (keys, advance) = (&session.keys, sets.advance);
    let mut script = Call::new(Numbering::Apply);
    for name in ["state", "keys", "deadlines", "changes"] {
        script.key(keys.of(partition, name));
    }
    script.key(keys.outcomes(partition, advance.queue));
    script
        .arg(session.skew())
        .arg(advance.queue.to_string())
        .arg(stream_id(advance.from))
        .arg(stream_id(advance.to))
        .arg(before)
        .arg(before + sets.all.len() as u64)
        .arg(CHANGES_MAX)
        .arg(keys.channel())
        .arg(partition.0)
        .arg(OUTCOMES_MAX)
        .arg(OUTCOME_RETENTION.as_millis() as u64)
        .arg(sets.last.len())
        .arg(sets.all.len())
        .arg(advance.outcomes.len());
    for place in &sets.last {
        let (key, value) = sets.all[*place];
        let entry = keys.entry(partition, key);
        let mut text = format!("{} 0 ", before + 1 + *place as u64).into_bytes();
        text.extend_from_slice(value.as_bytes());
        script.key(&entry).arg(entry).arg(text);
    }
    for place in &sets.last {
        script.arg("0").arg(sets.all[*place].0.as_str());
    }
    for (version, (key, _)) in (before + 1..).zip(&sets.all) {
        script.arg(format!("s{version}")).arg(key.as_str());
    }
    for (at, verdict) in &advance.outcomes {
        let (kind, text, first, count) = verdict_text(verdict)?;
        script
            .arg(stream_id(*at))
            .arg(kind)
            .arg(text)
            .arg(first)
            .arg(count);
    }
    Ok(script)
}
