//! Searches for an order of one key's operations that explains every answer.
//!
//! This is the search of Wing and Gong with the memory that Lowe added. It takes the operations one
//! by one, each only when no operation that ended before it began is still to come, and backtracks
//! where none fits. An operation is taken only after all jobs before it in the queue; one of
//! unknown outcome may be taken late or never.
//!
//! Three rules keep the search short. An operation that changes nothing (a read, a failed
//! condition) is taken as soon as it fits, since it cannot block another. Jobs are taken in the
//! order of their positions. And an operation of unknown outcome is taken only if the next one
//! needs it.
//!
//! Sources: Wing and Gong, "Testing and Verifying Concurrent Objects" (1993); Lowe, "Testing for
//! Linearizability" (2017).

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Condition, NEVER, Operation, ValueId, Verdict, What};

/// Steps after which a search gives up. A history of thousands of operations takes about as many
/// steps.
const STEPS_MAX: usize = 400_000;

/// How many operations an explanation shows.
const SHOWN: usize = 12;

/// The value of the key.
type State = Option<ValueId>;

/// The known versions: each belongs to one value.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    of_value: HashMap<ValueId, u64>,
    of_version: HashMap<u64, ValueId>,
}

impl Versions {
    pub(crate) fn of(operations: &[&Operation]) -> Self {
        let mut versions = Self::default();
        for (value, version) in operations
            .iter()
            .filter_map(|operation| operation.version())
        {
            versions.of_value.insert(value, version);
            versions.of_version.insert(version, value);
        }
        versions
    }

    /// Returns true if `value` has `version`; `None` if no client knows.
    fn is(&self, value: ValueId, version: u64) -> Option<bool> {
        match (self.of_value.get(&value), self.of_version.get(&version)) {
            (None, None) => None,
            (Some(known), _) => Some(*known == version),
            (None, Some(known)) => Some(*known == value),
        }
    }
}

/// Searches for an order that explains all answers.
///
/// # Errors
/// A description of the point at which every order ends.
pub(crate) fn explain(operations: &[&Operation]) -> Result<(), String> {
    Search::new(operations).run()
}

struct Search<'a> {
    /// The operations that count, by the time of their beginning.
    operations: Vec<&'a Operation>,
    versions: Versions,
    /// The operations that must be taken, by the time of their beginning.
    certain: Vec<usize>,
    /// The operations that may be taken.
    open: Vec<usize>,
    /// The operations with a job, by position.
    jobs: Vec<usize>,
    /// For each read with a sync token, the write that it names.
    after: HashMap<usize, usize>,

    taken: Vec<u64>,
    trail: Vec<usize>,
    state: State,
    /// How many of `certain`, from the first, are taken.
    low: usize,
    /// How many of `jobs` are taken; they are taken in order.
    jobs_taken: usize,
    certain_taken: usize,
    /// The state before the last operation of unknown outcome that was taken, until another
    /// operation has needed it.
    needless: Option<State>,
}

/// The effect of an operation where it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Unchanged,
    Leaves(State),
}

/// A point to which the search can backtrack.
struct Choice {
    trail: usize,
    state: State,
    needless: Option<State>,
    candidates: Vec<usize>,
}

impl<'a> Search<'a> {
    fn new(all: &[&'a Operation]) -> Self {
        let versions = Versions::of(all);
        let mut operations: Vec<_> = all
            .iter()
            .copied()
            .filter(|operation| {
                operation
                    .write()
                    .is_none_or(|write| write.verdict != Verdict::Refused)
            })
            .collect();
        operations.sort_by_key(|operation| operation.invoked);
        let is_open = |at: &usize| {
            operations[*at]
                .write()
                .is_some_and(|write| write.verdict == Verdict::Unknown)
        };
        let (open, certain): (Vec<_>, Vec<_>) = (0..operations.len()).partition(is_open);
        let job = |at: usize| operations[at].write().and_then(|write| write.job());
        let mut jobs: Vec<_> = certain
            .iter()
            .copied()
            .filter(|at| job(*at).is_some())
            .collect();
        jobs.sort_by_key(|at| job(*at).map(|job| job.position));
        let by_job: HashMap<_, _> = jobs.iter().map(|at| (job(*at), *at)).collect();
        let after = certain
            .iter()
            .filter_map(|at| match &operations[*at].what {
                What::Read(read) if read.after.is_some() => Some((*at, *by_job.get(&read.after)?)),
                _ => None,
            })
            .collect();
        Self {
            taken: vec![0; operations.len().div_ceil(64)],
            operations,
            versions,
            certain,
            open,
            jobs,
            after,
            trail: Vec::new(),
            state: None,
            low: 0,
            jobs_taken: 0,
            certain_taken: 0,
            needless: None,
        }
    }

    fn run(mut self) -> Result<(), String> {
        let mut been = HashSet::new();
        let mut choices: Vec<Choice> = Vec::new();
        let mut furthest = (0, String::new());
        for _ in 0..STEPS_MAX {
            self.take_what_changes_nothing();
            if self.certain_taken == self.certain.len() {
                return Ok(());
            }
            let is_new = been.insert((self.taken.clone(), self.state, self.needless));
            let candidates = if is_new {
                self.candidates()
            } else {
                Vec::new()
            };
            if is_new && self.certain_taken >= furthest.0 && candidates.is_empty() {
                furthest = (self.certain_taken, self.describe());
            }
            choices.push(Choice {
                trail: self.trail.len(),
                state: self.state,
                needless: self.needless,
                candidates,
            });
            // Backtracks to a point with candidates left.
            loop {
                let Some(choice) = choices.last_mut() else {
                    return Err(furthest.1);
                };
                let next = choice.candidates.pop();
                let (trail, state, needless) = (choice.trail, choice.state, choice.needless);
                self.go_back(trail, state, needless);
                match next {
                    Some(next) => break self.take(next),
                    None => choices.pop(),
                };
            }
        }
        Err(format!("undecided after {STEPS_MAX} steps; {}", furthest.1))
    }

    fn is_taken(&self, at: usize) -> bool {
        self.taken[at / 64] & (1 << (at % 64)) != 0
    }

    /// Returns everything that could come next by time and position, operations of unknown outcome
    /// last.
    fn enabled(&self) -> Vec<usize> {
        // Nothing may come before an operation that had ended when it began, and no write before
        // one that was accepted by then.
        let (mut over, mut accepted) = (NEVER, NEVER);
        let mut window = Vec::new();
        for at in self.certain[self.low..].iter().copied() {
            let operation = self.operations[at];
            if operation.invoked > over {
                break;
            }
            if !self.is_taken(at) {
                over = over.min(operation.done);
                if operation.write().is_some() {
                    accepted = accepted.min(operation.accepted);
                }
                window.push(at);
            }
        }
        window.extend(self.open.iter().filter(|at| !self.is_taken(**at)));
        window.retain(|at| {
            let operation = self.operations[*at];
            let is_in_turn = match operation.write() {
                Some(write) if write.job().is_some() && write.verdict != Verdict::Unknown => {
                    self.jobs.get(self.jobs_taken) == Some(at)
                }
                _ => true,
            };
            operation.invoked <= over
                && (operation.write().is_none() || operation.invoked <= accepted)
                && is_in_turn
                && self.after.get(at).is_none_or(|write| self.is_taken(*write))
        });
        window
    }

    fn take_what_changes_nothing(&mut self) {
        loop {
            let fitting: Vec<_> = self
                .enabled()
                .into_iter()
                .filter(|at| self.fits(*at, self.state) == Some(Fit::Unchanged))
                .collect();
            if fitting.is_empty() {
                return;
            }
            // The jobs among them are taken one by one, in turn.
            for at in fitting {
                self.mark(at);
            }
            self.needless = None;
        }
    }

    /// Returns the enabled operations that change the state, the most promising one last.
    fn candidates(&self) -> Vec<usize> {
        let mut deletes = BTreeSet::new();
        let mut candidates: Vec<_> = self
            .enabled()
            .into_iter()
            .filter(|at| matches!(self.fits(*at, self.state), Some(Fit::Leaves(_))))
            // An operation that would have fitted without the preceding one of unknown outcome did
            // not need that one.
            .filter(|at| {
                self.needless
                    .is_none_or(|before| self.fits(*at, before).is_none())
            })
            .filter(|at| match self.operations[*at].write() {
                Some(write) if write.verdict == Verdict::Unknown => {
                    let is_idle = write.value == self.state || Some(write.value) == self.needless;
                    // All deletes of unknown outcome are alike, once they are possible.
                    !is_idle && (write.value.is_some() || deletes.insert(write.condition))
                }
                _ => true,
            })
            .collect();
        candidates.reverse();
        candidates
    }

    /// Returns the effect of an operation on `state`; `None` if it does not fit there.
    fn fits(&self, at: usize, state: State) -> Option<Fit> {
        let write = match &self.operations[at].what {
            What::Read(read) => {
                return (read.seen.map(|(value, _)| value) == state).then_some(Fit::Unchanged);
            }
            What::Write(write) => write,
        };
        let holds = match write.condition {
            Condition::Any => Some(true),
            Condition::Absent => Some(state.is_none()),
            Condition::Present => Some(state.is_some()),
            Condition::Version(version) => {
                state.map_or(Some(false), |value| self.versions.is(value, version))
            }
        };
        match &write.verdict {
            Verdict::Applied { existed, .. } => (holds != Some(false)
                && existed.is_none_or(|existed| existed == state.is_some()))
            .then_some(Fit::Leaves(write.value)),
            Verdict::Unknown => (holds != Some(false)).then_some(Fit::Leaves(write.value)),
            Verdict::Failed { current } => {
                let is_current = match (state, current) {
                    (None, None) => true,
                    (Some(value), Some(version)) => {
                        self.versions.is(value, *version) != Some(false)
                    }
                    _ => false,
                };
                (holds != Some(true) && is_current).then_some(Fit::Unchanged)
            }
            Verdict::Accepted | Verdict::Refused | Verdict::Lost(_) => None,
        }
    }

    fn take(&mut self, at: usize) {
        let before = self.state;
        if let Some(Fit::Leaves(state)) = self.fits(at, self.state) {
            self.state = state;
        }
        let is_open = self.operations[at]
            .write()
            .is_some_and(|write| write.verdict == Verdict::Unknown);
        self.needless = is_open.then_some(before);
        self.mark(at);
    }

    fn mark(&mut self, at: usize) {
        self.taken[at / 64] |= 1 << (at % 64);
        self.trail.push(at);
        if self.jobs.get(self.jobs_taken) == Some(&at) {
            self.jobs_taken += 1;
        }
        if self.open.binary_search(&at).is_err() {
            self.certain_taken += 1;
        }
        while self.low < self.certain.len() && self.is_taken(self.certain[self.low]) {
            self.low += 1;
        }
    }

    fn go_back(&mut self, trail: usize, state: State, needless: Option<State>) {
        for at in self.trail.split_off(trail).into_iter().rev() {
            self.taken[at / 64] &= !(1 << (at % 64));
            if self.jobs_taken > 0 && self.jobs[self.jobs_taken - 1] == at {
                self.jobs_taken -= 1;
            }
            if let Ok(place) = self.certain.binary_search(&at) {
                self.certain_taken -= 1;
                self.low = self.low.min(place);
            }
        }
        (self.state, self.needless) = (state, needless);
    }

    /// Describes the end of an order that cannot continue.
    fn describe(&self) -> String {
        let mut text = format!(
            "after {} of {} operations the key holds {:?}, and none of the next fits\n",
            self.certain_taken,
            self.certain.len(),
            self.state
        );
        let first = self.trail.len().saturating_sub(SHOWN);
        for at in &self.trail[first..] {
            text += &format!("  taken {:?}\n", self.operations[*at]);
        }
        let left = self.certain[self.low..]
            .iter()
            .filter(|at| !self.is_taken(**at));
        for at in left.take(SHOWN) {
            text += &format!("  next  {:?}\n", self.operations[*at]);
        }
        text
    }
}
