//! The queue files: which jobs wait, and which of those that should are gone.

use std::collections::BTreeMap;

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
    /// The jobs behind the first position, up to and with the second, are gone.
    pub(crate) lost: Vec<(u64, u64)>,
    pub(crate) bytes: u64,
}

/// Everything that stands in the files.
#[derive(Default)]
struct Found {
    jobs: BTreeMap<u64, Job>,
    remembered: Vec<Remembered>,
    tried: Option<(Position, u32)>,
    /// The last number given out.
    last: u64,
    /// Jobs up to here are known to be applied.
    done: u64,
    time: Timestamp,
}

/// A place of damage: its problem, and the last job before it.
struct Place {
    problem: usize,
    after: u64,
    /// The next job behind it.
    before: Option<u64>,
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
    ) -> Vec<(u64, u64)> {
        let queues = &state.progress.queues;
        let progress = queues.get(&(id, PARTITION));
        if progress.is_none() && found.done > 0 {
            // What the store knew of it is gone, and the queue knows a little.
            let done = Position::counted(found.done);
            state.progress.lose(id, PARTITION, Position::START, done);
        }
        let progress = state.progress.queues.get(&(id, PARTITION));
        let applied = progress.map_or(0, |progress| progress.applied.minor);
        let known_lost: Vec<Lost> = progress.map_or(Vec::new(), |progress| progress.lost.clone());
        found.last = found.last.max(applied);
        let mut gone = Vec::new();
        let mut at = applied;
        let ahead = found.jobs.range(applied + 1..).map(|(number, _)| *number);
        for number in ahead.chain([found.last + 1]) {
            gone.extend(not_lost(at, number - 1, &known_lost));
            at = number;
        }
        for place in places {
            let up_to = place.before.map_or(u64::MAX, |before| before - 1);
            let mut lost: Vec<String> = gone
                .iter()
                .filter(|(after, to)| *after < up_to && *to > place.after)
                .map(|(after, to)| interval((*after).max(place.after), (*to).min(up_to)))
                .collect();
            if place.before.is_none() {
                lost.push(format!(
                    "any job after {}, if there was one",
                    found.last.max(place.after)
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
        let is_explained = |gone: &(u64, u64)| {
            places.iter().any(|place| {
                gone.1 > place.after && place.before.is_none_or(|before| gone.0 + 1 < before)
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
fn not_lost(after: u64, up_to: u64, known: &[Lost]) -> Vec<(u64, u64)> {
    let mut parts = vec![(after, up_to)];
    for lost in known {
        parts = parts
            .into_iter()
            .flat_map(|(after, up_to)| {
                [
                    (after, up_to.min(lost.after.minor)),
                    (after.max(lost.up_to.minor), up_to),
                ]
            })
            .collect();
        parts.dedup();
    }
    parts.retain(|(after, up_to)| after < up_to);
    parts
}

fn interval(after: u64, up_to: u64) -> String {
    match up_to - after {
        1 => format!("job {up_to}"),
        count => format!("{count} jobs, {} to {up_to}", after + 1),
    }
}

fn header(file: &Raw) -> Option<QueueHeader> {
    match pieces(&file.text, file.end).first()? {
        Piece::Line(line) if line.number == 1 => serde_json::from_slice(line.text).ok(),
        _ => None,
    }
}

impl Found {
    fn place(&self, problem: usize) -> Place {
        Place {
            problem,
            after: self.jobs.last_key_value().map_or(0, |(number, _)| *number),
            before: None,
        }
    }

    fn header(&mut self, header: &QueueHeader) {
        self.last = self.last.max(header.last.minor);
        self.done = self.done.max(header.trimmed.minor);
        self.time = self.time.max(header.time);
    }

    fn line(&mut self, text: LineText, id: QueueId, places: &mut [Place]) {
        self.tried = text.tried.or(self.tried);
        self.last = self.last.max(text.last.map_or(0, |last| last.minor));
        self.done = self.done.max(text.done.map_or(0, |done| done.minor));
        self.remembered.extend(text.idem);
        let (Some(number), Some(command)) = (text.n, text.job) else {
            return;
        };
        for place in places.iter_mut().filter(|place| number > place.after) {
            place.before.get_or_insert(number);
        }
        self.last = self.last.max(number);
        self.time = self.time.max(text.t);
        self.jobs.insert(
            number,
            Job {
                id: JobId {
                    queue: id,
                    partition: PARTITION,
                    position: Position::counted(number),
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
        log.restore_time(self.time);
        let last = Position::counted(self.last).max(applied);
        log.restore_numbering(last, applied)?;
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
