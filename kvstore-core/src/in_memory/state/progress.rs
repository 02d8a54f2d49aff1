//! How far queues are applied, and how their jobs ended, within the bounds in [`crate::limits`].

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::{Deserialize, Serialize, Serializer};

use super::record::Advanced;
use crate::limits::{OUTCOME_RETENTION, OUTCOMES_BYTES_MAX};
use crate::model::entry::Timestamp;
use crate::model::id::{JobId, Partition, Position, QueueId};
use crate::model::job::{Dead, DeadLetter, JobState, Outcome, Summary};

/// Positions and outcomes of all queues that were ever applied; one of them is the active one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) active: Option<QueueId>,
    pub(crate) queues: BTreeMap<(QueueId, Partition), QueueProgress>,
    /// The number of versions that no change ever had, since openings skipped them.
    pub(crate) skipped: u64,
}

/// One partition of one queue.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct QueueProgress {
    /// Everything up to this position is applied.
    pub(crate) applied: Position,
    /// Outcomes up to this position may have been dropped.
    pub(crate) pruned: Position,
    /// Jobs that will never be applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) lost: Vec<Lost>,
    /// Outcomes that `applied` alone does not imply, with the time of each. `None` is a dead letter
    /// that was dropped.
    pub(crate) outcomes: Outcomes,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) dead: BTreeMap<Position, (Timestamp, Dead)>,
}

/// Kept outcomes, and their size in bytes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "OutcomeMap")]
pub(crate) struct Outcomes {
    map: OutcomeMap,
    bytes: usize,
}

type OutcomeMap = BTreeMap<Position, (Timestamp, Option<Outcome>)>;

impl Serialize for Outcomes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.map.serialize(serializer)
    }
}

impl From<OutcomeMap> for Outcomes {
    fn from(map: OutcomeMap) -> Self {
        let sizes = map.values().map(|(_, outcome)| bytes_of(outcome.as_ref()));
        let bytes = sizes.sum();
        Self { map, bytes }
    }
}

impl Outcomes {
    pub(crate) fn insert(&mut self, position: Position, at: Timestamp, outcome: Option<Outcome>) {
        self.bytes += bytes_of(outcome.as_ref());
        if let Some((_, before)) = self.map.insert(position, (at, outcome)) {
            self.bytes -= bytes_of(before.as_ref());
        }
    }

    /// Returns the outcomes kept after `after`, in order.
    pub(crate) fn after(
        &self,
        after: Position,
    ) -> impl Iterator<Item = (&Position, &(Timestamp, Option<Outcome>))> {
        self.map.range((Bound::Excluded(after), Bound::Unbounded))
    }

    /// Drops outcomes older than `oldest`, and those over the bounds `kept` and
    /// [`OUTCOMES_BYTES_MAX`]. Returns the last position dropped.
    fn prune(&mut self, oldest: Timestamp, kept: usize) -> Option<Position> {
        let mut pruned = None;
        while let Some((position, (at, _))) = self.map.first_key_value()
            && (*at < oldest
                || self.map.len() > kept
                || self.bytes > OUTCOMES_BYTES_MAX && self.map.len() > 1)
        {
            pruned = Some(*position);
            if let Some((_, (_, outcome))) = self.map.pop_first() {
                self.bytes -= bytes_of(outcome.as_ref());
            }
        }
        pruned
    }
}

/// Returns the approximate memory of a kept outcome.
fn bytes_of(outcome: Option<&Outcome>) -> usize {
    let of_summary = |summary: &Summary| {
        summary.key.as_str().len() + summary.common.as_ref().map_or(0, String::len)
    };
    let own = match outcome {
        None | Some(Outcome::Succeeded(None)) => 0,
        Some(Outcome::Succeeded(Some(succeeded))) => {
            of_summary(&succeeded.summary) + size_of_val(succeeded.writes.as_slice())
        }
        Some(Outcome::Failed(failed)) => of_summary(&failed.summary),
        Some(Outcome::Dead(dead)) => dead.size_bytes(),
    };
    size_of::<(Position, Timestamp, Outcome)>() + own
}

/// The jobs after `after`, up to and including `up_to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lost {
    pub(crate) after: Position,
    pub(crate) up_to: Position,
}

/// The maximum number of lost intervals; beyond it the two oldest are merged.
const LOST_INTERVALS_MAX: usize = 100;

impl QueueProgress {
    /// Copies everything except the outcomes, which may be many.
    pub(crate) fn without_outcomes(&self) -> Self {
        Self {
            lost: self.lost.clone(),
            outcomes: Outcomes::default(),
            dead: self.dead.clone(),
            ..*self
        }
    }
}

impl Progress {
    pub(crate) fn applied(&self, queue: QueueId, partition: Partition) -> Position {
        let queue = self.queues.get(&(queue, partition));
        queue.map_or(Position::START, |queue| queue.applied)
    }

    /// Returns the number of dead letters of the partition, and their bytes.
    pub(crate) fn dead_size(&self, queue: QueueId, partition: Partition) -> (usize, usize) {
        let queue = self.queues.get(&(queue, partition));
        queue.map_or((0, 0), |queue| {
            let bytes = queue.dead.values().map(|(_, dead)| dead.size_bytes());
            (queue.dead.len(), bytes.sum())
        })
    }

    /// Records an advance, and keeps no more than `kept` outcomes of its partition.
    pub(super) fn advance(&mut self, advanced: Advanced, at: Timestamp, kept: usize) {
        self.active = Some(advanced.queue);
        let queue = self
            .queues
            .entry((advanced.queue, advanced.partition))
            .or_default();
        queue.applied = advanced.to;
        if advanced.lost {
            queue.lose(advanced.from, advanced.to);
        } else if advanced.to.major > advanced.from.major {
            // The queue was opened in between. Other numbers given out since belong to a lost
            // history.
            let opened = Position {
                minor: 0,
                ..advanced.to
            };
            queue.lose(advanced.from, opened);
        }
        for (position, outcome) in advanced.outcomes {
            match outcome {
                Outcome::Dead(dead) => drop(queue.dead.insert(position, (at, dead))),
                other => queue.outcomes.insert(position, at, Some(other)),
            }
        }
        queue.prune(at, kept);
    }

    /// Records that the jobs after `after`, up to and including `up_to`, are lost: they will never
    /// be applied, and the partition's position passes them.
    pub(crate) fn lose(&mut self, id: (QueueId, Partition), after: Position, up_to: Position) {
        let queue = self.queues.entry(id).or_default();
        let is_known = |lost: &Lost| lost.after <= after && lost.up_to >= up_to;
        if !queue.lost.iter().any(is_known) {
            queue.lose(after, up_to);
        }
        if queue.applied >= after {
            queue.applied = queue.applied.max(up_to);
        }
    }

    pub(super) fn forget(&mut self, job: &JobId, at: Timestamp) {
        let Some(queue) = self.queues.get_mut(&(job.queue, job.partition)) else {
            return;
        };
        // Without a trace it would look like a success.
        if queue.dead.remove(&job.position).is_some() && job.position > queue.pruned {
            queue.outcomes.insert(job.position, at, None);
        }
    }

    pub(crate) fn has_dead(&self, job: &JobId) -> bool {
        let queue = self.queues.get(&(job.queue, job.partition));
        queue.is_some_and(|queue| queue.dead.contains_key(&job.position))
    }

    /// Returns the dead letters after `after`, in ascending order.
    pub(crate) fn dead_after(&self, after: Option<JobId>) -> impl Iterator<Item = DeadLetter> {
        let queues = self
            .queues
            .iter()
            .flat_map(|(&(queue, partition), progress)| {
                let letters = progress.dead.iter();
                letters.map(move |(&position, (at, dead))| {
                    let id = JobId {
                        queue,
                        partition,
                        position,
                    };
                    (id, *at, dead)
                })
            });
        queues
            .filter(move |(id, ..)| after.is_none_or(|after| *id > after))
            .map(|(id, at, dead)| DeadLetter {
                id,
                at,
                dead: dead.clone(),
            })
    }

    pub(crate) fn state_of(&self, job: &JobId) -> JobState {
        let Some(queue) = self.queues.get(&(job.queue, job.partition)) else {
            // Before the first commit that advances it, any queue may become the active one.
            let may_come = self.active.is_none_or(|active| active == job.queue);
            return match may_come {
                true => JobState::Queued,
                false => JobState::Unknown,
            };
        };
        if let Some((_, dead)) = queue.dead.get(&job.position) {
            return JobState::Finished(Outcome::Dead(dead.clone()));
        }
        if self.active != Some(job.queue) {
            return JobState::Unknown;
        }
        queue.state_of(job.position)
    }
}

impl QueueProgress {
    fn lose(&mut self, after: Position, up_to: Position) {
        self.lost.push(Lost { after, up_to });
        if self.lost.len() > LOST_INTERVALS_MAX {
            let oldest = self.lost.remove(0);
            self.lost[0].after = oldest.after;
        }
    }

    fn state_of(&self, position: Position) -> JobState {
        if position > self.applied {
            return JobState::Queued;
        }
        let mut lost = self.lost.iter();
        if lost.any(|lost| position > lost.after && position <= lost.up_to) {
            return JobState::Unknown;
        }
        match self.outcomes.map.get(&position) {
            Some((_, Some(outcome))) => JobState::Finished(outcome.clone()),
            Some((_, None)) => JobState::Forgotten,
            None if position <= self.pruned => JobState::Forgotten,
            None => JobState::Finished(Outcome::Succeeded(None)),
        }
    }

    /// Drops outcomes that are too old or too many. Uses the time of the records, so a replay drops
    /// the same.
    fn prune(&mut self, now: Timestamp, kept: usize) {
        if let Some(pruned) = self.outcomes.prune(now.before(OUTCOME_RETENTION), kept) {
            self.pruned = pruned;
        }
    }
}
