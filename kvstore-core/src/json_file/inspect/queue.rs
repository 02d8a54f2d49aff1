//! The queue files: which jobs wait, and which of those that should are gone.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::pieces::{Piece, pieces};
use super::{Raw, Reading};
use crate::error::Result;
use crate::in_memory::log::{PartitionLog, Remembered};
use crate::in_memory::state::{Lost, State};
use crate::json_file::PARTITION;
use crate::json_file::journal::chain::Kind;
use crate::json_file::journal::jobs::{LineText, QueueHeader};
use crate::model::entry::Timestamp;
use crate::model::id::{JobId, Position, QueueId};
use crate::model::job::Job;
use crate::queue::QueueOptions;

const MISSING: &str =
    "it is missing; if this is a copy that was made while a server ran, copy again";

/// What the queue holds.
pub(crate) struct Queue {
    pub(crate) id: QueueId,
    pub(crate) log: PartitionLog,
    /// The latest time that its files name.
    pub(crate) time: Timestamp,
    /// The jobs behind the first position, up to and with the second, are gone.
    pub(crate) lost: Vec<(Position, Position)>,
    pub(crate) bytes: u64,
}

/// Everything that stands in the files.
#[derive(Default)]
struct Found {
    jobs: BTreeMap<Position, Job>,
    remembered: Vec<Remembered>,
    tried: Option<(Position, u32)>,
    /// The last number given out in each opening.
    last: BTreeMap<u64, u64>,
    /// Jobs up to here are known to be applied.
    done: Position,
    time: Timestamp,
}

/// A place of damage: its problem, and the last job before it.
struct Place {
    problem: usize,
    after: Position,
    /// The next job behind it.
    before: Option<Position>,
}

impl Reading<'_> {
    /// Reads the queue of `id`, or of the id that its files name. `has_store`: there is a store that it belongs to.
    pub(crate) fn queue(
        &mut self,
        has_store: bool,
        id: Option<QueueId>,
        state: &mut State,
    ) -> Result<Queue> {
        let (files, missing) = self.files(Kind::Queue, None)?;
        let id = id
            .or_else(|| files.iter().find_map(header).map(|it| it.queue))
            .or(state.progress.active)
            .unwrap_or_else(QueueId::random);
        let mut found = Found::default();
        let mut places: Vec<Place> = Vec::new();
        let mut missing = missing.into_iter().peekable();
        for file in &files {
            while let Some(number) = missing.next_if(|number| *number < file.number) {
                let problem = self.problem(&Kind::Queue.name(number), None, MISSING);
                places.push(found.place(problem));
            }
            let other = header(file)
                .map(|header| header.queue)
                .filter(|it| *it != id);
            if let Some(other) = other {
                let what = format!(
                    "it is of queue {other}, and this folder's is {id}: it was put here from elsewhere"
                );
                let problem = self.problem(&file.name, Some(1), what);
                self.damaged.insert(file.name.clone());
                places.push(found.place(problem));
                continue;
            }
            self.queue_file(file, id, &mut found, &mut places);
        }
        let is_last_missing = missing.peek().is_some();
        for number in missing {
            let problem = self.problem(&Kind::Queue.name(number), None, MISSING);
            places.push(found.place(problem));
        }
        if files.is_empty() && has_store && !is_last_missing {
            let what = "there is no queue file: one is there whenever a folder has been open";
            let problem = self.problem(&Kind::Queue.name(1), None, what);
            places.push(found.place(problem));
        }
        Ok(Queue {
            id,
            bytes: files.iter().map(|file| file.text.len() as u64).sum(),
            lost: self.missing_jobs(&mut found, &places, id, state, &files),
            time: found.time,
            log: found.log(id, state)?,
        })
    }

    fn queue_file(&mut self, file: &Raw, id: QueueId, found: &mut Found, places: &mut Vec<Place>) {
        for piece in pieces(&file.text, file.end) {
            let line = match piece {
                Piece::Damaged(damaged) if damaged.is_torn && file.is_last => {
                    self.torn(&file.name, &damaged);
                    break;
                }
                Piece::Damaged(damaged) => {
                    let problem = self.damaged(&file.name, &damaged);
                    places.push(found.place(problem));
                    continue;
                }
                Piece::Line(line) => line,
            };
            let taken = if line.number == 1 {
                serde_json::from_slice(line.text).map(|header| found.header(&header))
            } else {
                serde_json::from_slice(line.text).map(|text| found.line(text, id, places))
            };
            if let Err(error) = taken {
                self.damaged.insert(file.name.clone());
                let problem = self.problem(&file.name, Some(line.number), error.to_string());
                places.push(found.place(problem));
            }
        }
    }

    /// Which jobs should wait and are not there; says so at the places where they may have stood.
    fn missing_jobs(
        &mut self,
        found: &mut Found,
        places: &[Place],
        id: QueueId,
        state: &mut State,
        files: &[Raw],
    ) -> Vec<(Position, Position)> {
        let queues = &state.progress.queues;
        let progress = queues.get(&(id, PARTITION));
        if progress.is_none() && found.done > Position::START {
            // What the store knew of it is gone, and the queue knows a little.
            state
                .progress
                .lose(id, PARTITION, Position::START, found.done);
        }
        let progress = state.progress.queues.get(&(id, PARTITION));
        let applied = progress.map_or(Position::START, |progress| progress.applied);
        let known_lost: Vec<Lost> = progress.map_or(Vec::new(), |progress| progress.lost.clone());
        found.give_out(applied);
        let mut gone = Vec::new();
        for (&major, &last) in found.last.range(applied.major..) {
            let mut at = applied.max(Position { major, minor: 0 });
            let end = Position { major, minor: last };
            let held = (Bound::Excluded(at), Bound::Included(end));
            let behind_end = Position {
                major,
                minor: last.saturating_add(1),
            };
            let ahead = found.jobs.range(held).map(|(position, _)| *position);
            for position in ahead.chain([behind_end]) {
                gone.extend(not_lost(at, before(position), &known_lost));
                at = position;
            }
        }
        let last = found.last();
        for place in places {
            let up_to = place.before.map_or(END, before);
            let mut lost: Vec<String> = gone
                .iter()
                .filter(|(after, to)| *after < up_to && *to > place.after)
                .map(|(after, to)| interval((*after).max(place.after), (*to).min(up_to)))
                .collect();
            if place.before.is_none() {
                lost.push(format!(
                    "any job after {}, if there was one",
                    last.max(place.after)
                ));
            }
            if lost.is_empty() {
                lost.push("no job that waits".to_owned());
            }
            self.problems[place.problem].loses = Some(format!(
                "{}, and what was remembered of their requests",
                lost.join(", ")
            ));
        }
        let is_explained = |gone: &(Position, Position)| {
            places.iter().any(|place| {
                gone.1 > place.after && place.before.is_none_or(|next| gone.0 < before(next))
            })
        };
        let unexplained: Vec<String> = gone
            .iter()
            .filter(|gone| !is_explained(gone))
            .map(|(after, to)| interval(*after, *to))
            .collect();
        if let (Some(file), false) = (files.first(), unexplained.is_empty()) {
            let what = "jobs before it are not applied and not there: a queue file is gone, or the store is older than its queue";
            let problem = self.problem(&file.name, None, what);
            self.problems[problem].loses = Some(unexplained.join(", "));
        }
        gone
    }
}

/// The parts of the interval behind `after`, up to and with `up_to`, that are not known to be lost.
fn not_lost(after: Position, up_to: Position, known: &[Lost]) -> Vec<(Position, Position)> {
    let mut parts = vec![(after, up_to)];
    for lost in known {
        parts = parts
            .into_iter()
            .flat_map(|(after, up_to)| {
                [
                    (after, up_to.min(lost.after)),
                    (after.max(lost.up_to), up_to),
                ]
            })
            .collect();
        parts.dedup();
    }
    parts.retain(|(after, up_to)| after < up_to);
    parts
}

/// The place after every job.
const END: Position = Position {
    major: u64::MAX,
    minor: u64::MAX,
};

/// The place before a job.
fn before(job: Position) -> Position {
    Position {
        minor: job.minor.saturating_sub(1),
        ..job
    }
}

/// Names the jobs of one opening behind `after`, up to and with `up_to`.
fn interval(after: Position, up_to: Position) -> String {
    match up_to.minor - after.minor {
        1 => format!("job {up_to}"),
        count => {
            let first = Position {
                minor: after.minor + 1,
                ..after
            };
            format!("{count} jobs, {first} to {up_to}")
        }
    }
}

fn header(file: &Raw) -> Option<QueueHeader> {
    match pieces(&file.text, file.end).first()? {
        Piece::Line(line) if line.number == 1 => serde_json::from_slice(line.text).ok(),
        _ => None,
    }
}

impl Found {
    /// Notes that positions up to `last` were given out in its opening.
    fn give_out(&mut self, last: Position) {
        let known = self.last.entry(last.major).or_default();
        *known = last.minor.max(*known);
    }

    fn last(&self) -> Position {
        let last = self.last.last_key_value();
        last.map_or(Position::START, |(&major, &minor)| Position {
            major,
            minor,
        })
    }

    fn place(&self, problem: usize) -> Place {
        Place {
            problem,
            after: self
                .jobs
                .last_key_value()
                .map_or(Position::START, |(position, _)| *position),
            before: None,
        }
    }

    fn header(&mut self, header: &QueueHeader) {
        self.give_out(header.last);
        self.done = self.done.max(header.trimmed);
        self.time = self.time.max(header.time);
    }

    fn line(&mut self, text: LineText, id: QueueId, places: &mut [Place]) {
        self.tried = text.tried.or(self.tried);
        if let Some(last) = text.last.max(text.opened) {
            self.give_out(last);
        }
        self.done = self.done.max(text.done.unwrap_or_default());
        self.remembered.extend(text.idem);
        let (Some(position), Some(command)) = (text.n, text.job) else {
            return;
        };
        for place in places.iter_mut().filter(|place| position > place.after) {
            place.before.get_or_insert(position);
        }
        self.give_out(position);
        self.time = self.time.max(text.t);
        self.jobs.insert(
            position,
            Job {
                id: JobId {
                    queue: id,
                    partition: PARTITION,
                    position,
                },
                command,
                keep_outcome: text.keep,
                accepted_at: text.t,
                traceparent: text.trace,
            },
        );
    }

    /// The jobs that wait, as a queue holds them.
    fn log(self, id: QueueId, state: &State) -> Result<PartitionLog> {
        let applied = state.progress.applied(id, PARTITION);
        let mut log = PartitionLog::new(id, PARTITION, &QueueOptions::default());
        log.restore_numbering(self.last().max(applied), applied)?;
        for remembered in self.remembered {
            log.restore_idempotency(remembered);
        }
        for (_, job) in self.jobs {
            log.restore_job(job, None)?;
        }
        if let Some((head, count)) = self.tried {
            log.restore_attempts(head, count);
        }
        Ok(log)
    }
}
