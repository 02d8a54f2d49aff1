//! Reads the journals: what each readable line did, and which versions and jobs the unreadable ones
//! had.

use std::collections::BTreeMap;

use super::pair::InspectedPair;
use super::{Beside, Reading, list_keys};
use crate::in_memory::log::PartitionLog;
use crate::in_memory::state::{Lost, State};
use crate::json_file::PARTITION;
use crate::json_file::journal::chain::{self, Files, Header};
use crate::json_file::journal::contents::{Contents, Damaged, Piece, ReadLine};
use crate::json_file::journal::record::{self, Line};
use crate::json_file::snapshot::META;
use crate::model::entry::Version;
use crate::model::id::Position;

const MISSING: &str = "it is missing; if this is a copy that was made while a server ran, a snapshot came between: copy again";

/// The state of a walk over the journals.
struct Walk<'a> {
    state: &'a mut State,
    log: &'a mut PartitionLog,
    /// No line was read yet, so no version is known.
    is_first: bool,
    /// Problems whose extent is open: the next line with a version shows how many versions they
    /// cost.
    open: Vec<usize>,
    /// The keys in those problems, as far as they can be read.
    keys: Vec<String>,
    /// The last number that was assigned to a job in each opening.
    numbers: BTreeMap<u64, u64>,
    places: Vec<DamageSite>,
}

/// A place of damage: its problem, and the jobs around it.
struct DamageSite {
    problem: usize,
    after: Position,
    before: Option<Position>,
}

impl DamageSite {
    /// Returns the part of an interval of missing jobs that this place explains.
    fn part(&self, (after, up_to): &(Position, Position)) -> Option<(Position, Position)> {
        let after = *after.max(&self.after);
        let up_to = (*up_to).min(self.before.map_or(END, before));
        (after < up_to).then_some((after, up_to))
    }
}

impl Walk<'_> {
    fn open(&mut self, problem: usize) {
        self.open.push(problem);
        self.places.push(DamageSite {
            problem,
            after: self.last(),
            before: None,
        });
    }

    /// Returns the last position that is known to have been assigned to a job.
    fn last(&self) -> Position {
        let last = self.numbers.last_key_value();
        last.map_or(Position::START, |(&major, &minor)| Position {
            major,
            minor,
        })
    }

    /// Records that positions up to `last` were assigned in its opening.
    fn give_out(&mut self, last: Position) {
        let known = self.numbers.entry(last.major).or_default();
        *known = last.minor.max(*known);
    }

    /// Returns the intervals of jobs that should be waiting and are missing.
    fn gone(&self) -> Vec<(Position, Position)> {
        let progress = self.state.progress.queues.get(&(self.log.id(), PARTITION));
        let applied = progress.map_or(Position::START, |progress| progress.applied);
        let known = progress.map_or(&[][..], |progress| &progress.lost);
        let mut gone = Vec::new();
        for (&major, &minor) in self.numbers.range(applied.major..) {
            let mut at = applied.max(Position { major, minor: 0 });
            let last = Position { major, minor };
            let held = self.log.jobs().map(|job| job.id.position);
            let held = held.filter(|job| *job > at && *job <= last);
            let behind = Position {
                major,
                minor: minor.saturating_add(1),
            };
            for position in held.chain([behind]).collect::<Vec<_>>() {
                gone.extend(not_lost(at, before(position), known));
                at = position;
            }
        }
        gone
    }
}

impl Reading<'_> {
    /// Applies what can be read of the journals to what the pair holds. Returns the intervals of
    /// missing jobs.
    pub(super) fn journals(
        &mut self,
        Files { files, missing }: Files,
        pair: &mut InspectedPair,
        log: &mut PartitionLog,
    ) -> Vec<(Position, Position)> {
        let mut missing = missing.into_iter().peekable();
        let mut walk = Walk {
            is_first: pair.first_journal.is_none(),
            open: Vec::new(),
            keys: Vec::new(),
            numbers: BTreeMap::new(),
            places: Vec::new(),
            state: &mut pair.state,
            log,
        };
        walk.give_out(walk.log.last());
        let latest = files.last().map(|file| file.number);
        for file in &files {
            while let Some(number) = missing.next_if(|number| *number < file.number) {
                walk.open(self.problem(&chain::name(number), None, MISSING));
            }
            let name = chain::name(file.number);
            match &file.header {
                Ok(header) if header.queue != walk.log.id() => {
                    let what = chain::elsewhere(walk.log.id(), header.queue);
                    walk.open(self.problem(&name, Some(1), what));
                }
                _ => self.journal(
                    &name,
                    &file.contents,
                    latest == Some(file.number),
                    &mut walk,
                ),
            }
        }
        for number in missing {
            walk.open(self.problem(&chain::name(number), None, MISSING));
        }
        let after = walk.state.version;
        self.settle(&mut walk, &format!("the commits after version {after}"));
        let gone = walk.gone();
        self.tell_jobs(&walk, &gone);
        gone
    }

    fn journal(&mut self, name: &str, contents: &Contents, is_last: bool, walk: &mut Walk<'_>) {
        let durable = match self.beside {
            Beside::Writer if is_last => contents.durable.length,
            _ => u64::MAX,
        };
        for piece in contents.pieces() {
            match piece {
                Piece::Damaged(damaged) if damaged.is_torn && is_last => {
                    self.torn(name, &damaged);
                    break;
                }
                Piece::Damaged(damaged) => {
                    walk.open(self.damaged(name, &damaged));
                    walk.keys.extend(keys(&damaged));
                }
                Piece::Line(line) if line.offset >= durable => break,
                Piece::Line(line) => {
                    if let Err(what) = self.line(name, line, walk) {
                        walk.open(self.problem(name, Some(line.number), what));
                    }
                    walk.is_first = false;
                }
            }
        }
    }

    /// Applies one line. Fails with a message if the line makes no sense.
    fn line(&mut self, name: &str, line: ReadLine<'_>, walk: &mut Walk<'_>) -> Result<(), String> {
        if line.number == 1 {
            let header: Header =
                serde_json::from_slice(line.text).map_err(|error| error.to_string())?;
            walk.give_out(header.jobs);
            // After damage, the next line shows more: commits without a write have no version.
            if header.version != walk.state.version || walk.open.is_empty() {
                self.version(name, line, header.version, walk);
            }
            return Ok(());
        }
        let text = record::decode(line.text, walk.log.id()).map_err(|error| error.to_string())?;
        if let Some(record) = text.record()
            && !self.version(name, line, record.before, walk)
        {
            return Ok(());
        }
        match &text {
            Line::Job(job, _) => {
                let position = job.id.position;
                walk.give_out(position);
                let places = walk.places.iter_mut();
                for place in places.filter(|place| position > place.after) {
                    place.before.get_or_insert(position);
                }
            }
            Line::Record(record) => {
                walk.give_out(record.jobs.unwrap_or(Position::START));
                if let Some(advance) = &record.advance {
                    let progress = &mut walk.state.progress;
                    let applied = progress.applied(advance.queue, advance.partition);
                    if applied < advance.from {
                        // The outcome of those jobs is no longer known.
                        progress.lose((advance.queue, advance.partition), applied, advance.from);
                    }
                }
                if let Some(applied) = record::applied_of(record, walk.log.id()) {
                    walk.give_out(applied);
                }
            }
            Line::Tried(..) => {}
        }
        text.apply(walk.state, walk.log)
    }

    /// Records that `line` follows version `before`. Returns false if the line cannot count.
    fn version(
        &mut self,
        name: &str,
        line: ReadLine<'_>,
        before: Version,
        walk: &mut Walk<'_>,
    ) -> bool {
        let is = walk.state.version;
        let what = || record::out_of_order(before, is);
        if before < is && !walk.is_first {
            self.loss(name, Some(line.number), what(), "the contents of this line");
            return false;
        }
        if before > is && !walk.is_first && walk.open.is_empty() {
            walk.open(self.problem(name, Some(line.number), what()));
        }
        let lost = match before.0 - is.0.min(before.0) {
            0 => "no write".to_owned(),
            1 => format!("the write of version {before}"),
            count => format!(
                "the {count} writes of versions {} to {before}",
                Version(is.0 + 1)
            ),
        };
        self.settle(walk, &lost);
        walk.state.version = is.max(before);
        true
    }

    /// Records what the open problems before this place cost.
    fn settle(&mut self, walk: &mut Walk<'_>, lost: &str) {
        let mut loses = lost.to_owned();
        if !walk.keys.is_empty() {
            let keys = list_keys(&walk.keys);
            loses.push_str(&format!(" (keys, as far as they can be read: {keys})"));
        }
        for problem in walk.open.drain(..) {
            self.found.problems[problem].loses = Some(loses.clone());
        }
        walk.keys.clear();
    }

    /// Adds to each place of damage which jobs it cost.
    fn tell_jobs(&mut self, walk: &Walk<'_>, gone: &[(Position, Position)]) {
        for place in &walk.places {
            let lost = gone.iter().filter_map(|gone| place.part(gone));
            let mut lost: Vec<String> = lost.map(interval).collect();
            if place.before.is_none() {
                let last = walk.last().max(place.after);
                lost.push(format!(
                    "any job after {last} that waited, if there was one"
                ));
            }
            if let Some(loses) = self.found.problems[place.problem].loses.as_mut()
                && !lost.is_empty()
            {
                loses.push_str(&format!("; {}", lost.join(", ")));
            }
        }
        let is_explained = |gone| walk.places.iter().any(|place| place.part(gone).is_some());
        let unexplained = gone.iter().filter(|gone| !is_explained(gone));
        let unexplained: Vec<String> = unexplained.copied().map(interval).collect();
        if !unexplained.is_empty() {
            let what = "some jobs are neither applied nor present";
            self.loss(META, None, what, unexplained.join(", "));
        }
    }
}

/// Returns the parts of the interval after `after`, up to and including `up_to`, that are not known
/// to be lost.
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

/// The position after every job.
const END: Position = Position {
    major: u64::MAX,
    minor: u64::MAX,
};

/// Returns the position before a job.
fn before(job: Position) -> Position {
    Position {
        minor: job.minor.saturating_sub(1),
        ..job
    }
}

/// Describes the jobs of one opening after `after`, up to and including `up_to`.
fn interval((after, up_to): (Position, Position)) -> String {
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

/// Returns the keys in damaged lines that are still JSON.
fn keys(damaged: &Damaged<'_>) -> Vec<String> {
    let lines = damaged.text.split(|&byte| byte == b'\n');
    lines
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
        .flat_map(|line| match line.get("w") {
            Some(serde_json::Value::Array(writes)) => writes.clone(),
            _ => Vec::new(),
        })
        .filter_map(|write| Some(write.get(0)?.as_str()?.to_owned()))
        .collect()
}
