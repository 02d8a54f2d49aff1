//! The one place that decides the effects of jobs.
//!
//! [`evaluate`] is a pure function: it takes jobs and the entries that they depend on, and returns
//! one [`Commit`] with its outcomes. It neither asks a store nor reads a clock, so every backend
//! and every worker decides alike.

use std::collections::{HashMap, HashSet};

use crate::limits::{WORK_BATCH_BYTES, WORK_BATCH_WRITES};
use crate::model::command::{Action, Expiry, Operation};
use crate::model::commit::{Advance, Commit, Verdict};
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::id::Position;
use crate::model::job::{Computed, Failure, Job, Summary};
use crate::model::key::Key;
use crate::model::merge::merge;
use crate::model::value::Value;
use crate::model::write::{Change, Condition, Write};

/// Returns the keys whose entries [`evaluate`] needs for `jobs`. Most jobs need none.
pub fn keys_needed(jobs: &[Job]) -> Vec<Key> {
    let mut seen = HashSet::new();
    jobs.iter()
        .flat_map(|job| job.command.operations())
        .filter(|operation| operation.depends_on_entry() && seen.insert(&operation.key))
        .map(|operation| operation.key.clone())
        .collect()
}

/// The result of [`evaluate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// The commit. It advances the partition past the jobs taken.
    pub commit: Commit,
    /// The number of jobs that it covers, from the first; the others depend on its writes.
    pub taken: usize,
}

/// Computes what `jobs`, which follow `from` in one partition, do to a store that has `entries`.
///
/// `entries` holds what was read for [`keys_needed`], without absent keys. Every verdict that
/// depends on an entry adds a check that it has not changed since, so the commit cannot act on
/// outdated entries: on [`Error::Conflict`](crate::error::Error::Conflict) read again and evaluate
/// again.
///
/// A job that depends on a key written by an earlier job of the batch is judged by the result of
/// that write, so a counter that many clients increment costs one commit for a whole batch of
/// increments. The batch ends before a job that cannot be judged this way: one that needs the
/// version that the write will get, or one that depends on whether a deadline set by the batch has
/// passed at the time of the commit. It also ends before a job that would make the commit larger
/// than [`WORK_BATCH_WRITES`] or [`WORK_BATCH_BYTES`]; the first job is always included.
///
/// # Panics
/// If `jobs` is empty.
pub fn evaluate(from: Position, jobs: &[Job], entries: &HashMap<Key, Entry>) -> Evaluation {
    let head = jobs.first().expect("there is a job to evaluate").id;
    let mut batch = Evaluator {
        entries,
        written: HashMap::new(),
        checked: HashSet::new(),
    };
    let mut commit = Commit::default();
    let mut outcomes = Vec::new();
    let mut to = from;
    let mut taken = 0;
    let mut bytes = 0;
    let mut count = 0;

    for job in jobs {
        // There is a gap between two openings of a queue, and no batch may hide it.
        if job.id.position.major != head.position.major {
            break;
        }
        let operations = job.command.operations();
        let Some(judged) = batch.judge(job) else {
            break;
        };
        bytes += operations
            .iter()
            .map(|operation| operation.key.as_str().len())
            .sum::<usize>();
        if let Ok(effects) = &judged {
            bytes += effects.iter().map(Effect::value_bytes).sum::<usize>();
        }
        // Counts operations, not writes: jobs that fail still contribute their checks.
        count += operations.len();
        let full = bytes > WORK_BATCH_BYTES || count > WORK_BATCH_WRITES;
        if full && taken > 0 {
            break;
        }
        taken += 1;
        to = job.id.position;

        commit.checks.extend(batch.new_checks(operations));
        let effects = match judged {
            Ok(effects) => effects,
            Err((operation, reason, current)) => {
                let summary = Summary::of(&job.command);
                let verdict = Verdict::Failed {
                    summary,
                    operation,
                    reason,
                    current,
                };
                outcomes.push((to, verdict));
                continue;
            }
        };
        if job.keep_outcome {
            let verdict = Verdict::Succeeded {
                summary: Summary::of(&job.command),
                first: commit.writes.len(),
                computed: effects.iter().map(|effect| effect.computed).collect(),
            };
            outcomes.push((to, verdict));
        }
        for Effect { key, change, .. } in effects {
            // No job after the last one depends on its writes.
            if taken < jobs.len() {
                batch.written.insert(key, change.clone());
            }
            let key = key.clone();
            commit.writes.push(Write { key, change });
        }
    }
    commit.advance = Some(Advance {
        queue: head.queue,
        partition: head.partition,
        from,
        to,
        outcomes,
        lost: false,
    });
    Evaluation { commit, taken }
}

/// The known state of the store after the jobs so far.
struct Evaluator<'a> {
    entries: &'a HashMap<Key, Entry>,
    /// The last change of each key that the batch writes.
    written: HashMap<&'a Key, Change>,
    /// The keys whose entries the commit checks.
    checked: HashSet<&'a Key>,
}

/// An entry, or its absence, as a job sees it.
struct Current<'a> {
    /// Value and deadline; `None` if it is absent.
    entry: Option<(&'a Value, Option<Timestamp>)>,
    version: EntryVersion,
}

/// The version of an entry.
#[derive(Clone, Copy)]
enum EntryVersion {
    Known(Option<Version>),
    /// Assigned by the store at the commit.
    ToCome,
}

/// One write of a job.
struct Effect<'a> {
    key: &'a Key,
    change: Change,
    computed: Computed,
}

impl Effect<'_> {
    fn value_bytes(&self) -> usize {
        let value = self.change.value_at(Timestamp::default());
        value.map_or(0, |(value, _)| value.len())
    }
}

/// The operation that cannot be done, the reason, and the version of its key.
type Refusal = (usize, Failure, Option<Version>);

impl<'a> Evaluator<'a> {
    /// Returns the effects of `job`, or why it fails; `None` if that cannot be known before the
    /// commit.
    fn judge(&self, job: &'a Job) -> Option<Result<Vec<Effect<'a>>, Refusal>> {
        let operations = job.command.operations();
        let mut effects = Vec::with_capacity(operations.len());
        let mut results_bytes = 0;
        // Conditions come first: a failed condition is the reason that a caller expects.
        let mut found = Vec::with_capacity(operations.len());
        for (index, operation) in operations.iter().enumerate() {
            let current = match operation.depends_on_entry() {
                true => self.current(&operation.key)?,
                false => Current {
                    entry: None,
                    version: EntryVersion::Known(None),
                },
            };
            if !holds(&operation.condition, &current)? {
                return refuse(index, Failure::Condition, &current);
            }
            found.push(current);
        }
        for (index, (operation, current)) in operations.iter().zip(&found).enumerate() {
            let key = &operation.key;
            match effect(job, operation, current, &mut results_bytes) {
                Err(reason) => return refuse(index, reason, current),
                Ok(None) => {}
                Ok(Some((change, computed))) => effects.push(Effect {
                    key,
                    change,
                    computed,
                }),
            }
        }
        Some(Ok(effects))
    }

    /// Returns what an operation on `key` sees; `None` if only the commit can tell.
    fn current(&self, key: &Key) -> Option<Current<'_>> {
        let stored = self.entries.get(key);
        let Some(change) = self.written.get(key) else {
            return Some(Current {
                entry: stored.map(|entry| (&entry.value, entry.expires_at)),
                version: EntryVersion::Known(stored.map(|entry| entry.version)),
            });
        };
        match change {
            Change::Delete => Some(Current {
                entry: None,
                version: EntryVersion::Known(None),
            }),
            Change::SetFor { .. } => None,
            Change::Set { value, expires_at } => {
                // The deadline may have passed by the time of the commit, and then the entry is
                // absent. That is ruled out for an entry that the commit checks: it must still be
                // present.
                let kept = self.checked.contains(key)
                    && stored.is_some_and(|stored| stored.expires_at == *expires_at);
                (expires_at.is_none() || kept).then_some(Current {
                    entry: Some((value, *expires_at)),
                    version: EntryVersion::ToCome,
                })
            }
        }
    }

    /// Returns the checks that `operations` need, each once, except on keys that the batch writes
    /// before them.
    fn new_checks(&mut self, operations: &'a [Operation]) -> Vec<(Key, Condition)> {
        let mut checks = Vec::new();
        for operation in operations {
            let key = &operation.key;
            if operation.depends_on_entry()
                && !self.written.contains_key(key)
                && self.checked.insert(key)
            {
                let current = self.entries.get(key).map(|entry| entry.version);
                checks.push((key.clone(), Condition::unchanged(current)));
            }
        }
        checks
    }
}

/// Returns true if `condition` holds; `None` if it needs a version that is not known yet.
fn holds(condition: &Condition, current: &Current<'_>) -> Option<bool> {
    match (current.version, condition) {
        (EntryVersion::Known(version), _) => Some(condition.holds(version)),
        (EntryVersion::ToCome, Condition::Any | Condition::Present) => Some(true),
        (EntryVersion::ToCome, _) => None,
    }
}

fn refuse<T>(
    operation: usize,
    reason: Failure,
    current: &Current<'_>,
) -> Option<Result<T, Refusal>> {
    match current.version {
        EntryVersion::Known(version) => Some(Err((operation, reason, version))),
        EntryVersion::ToCome => None,
    }
}

/// Returns the change that `operation` makes and its computed result; `None` for a check.
/// `results_bytes` counts the values that the merges and touches of one job produce, which the size
/// of the job does not include.
fn effect(
    job: &Job,
    operation: &Operation,
    current: &Current<'_>,
    results_bytes: &mut usize,
) -> Result<Option<(Change, Computed)>, Failure> {
    let kept = current.entry.and_then(|(_, deadline)| deadline);
    let expires_at = match operation.expiry {
        Expiry::Never => None,
        Expiry::After(span) => Some(job.accepted_at.after(span)),
        Expiry::Keep => kept,
    };
    let mut bounded = |value: &Value, limit: usize| {
        let others = std::mem::replace(results_bytes, *results_bytes + value.len());
        let limit_bytes = match () {
            () if value.len() > limit => limit as u64,
            () if others > 0 && *results_bytes > WORK_BATCH_BYTES => WORK_BATCH_BYTES as u64,
            () => return Ok(()),
        };
        Err(Failure::TooLarge { limit_bytes })
    };
    let (value, expires_at, number) = match &operation.action {
        Action::Check => return Ok(None),
        Action::Delete => return Ok(Some((Change::Delete, Computed::default()))),
        Action::Set { value } => {
            let value = value.clone();
            let change = Change::Set { value, expires_at };
            return Ok(Some((change, Computed::default())));
        }
        Action::Add { by } => {
            let (before, expires_at) = match current.entry {
                None => (0, expires_at),
                Some((value, deadline)) => {
                    let number = value.as_str().parse().map_err(|_| Failure::NotInteger)?;
                    (number, deadline)
                }
            };
            let sum = i64::checked_add(before, *by).ok_or(Failure::Overflow)?;
            (Value::from(sum), expires_at, Some(sum))
        }
        Action::Merge { patch, bytes_max } => {
            let merged = merge(current.entry.map(|(value, _)| value), patch);
            bounded(&merged, *bytes_max)?;
            (merged, expires_at, None)
        }
        Action::Touch => {
            let (value, _) = current.entry.ok_or(Failure::NotFound)?;
            bounded(value, usize::MAX)?;
            (value.clone(), expires_at, None)
        }
    };
    let computed = Computed { number, expires_at };
    Ok(Some((Change::Set { value, expires_at }, computed)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use std::time::Duration;

    use super::*;
    use crate::model::command::Command;
    use crate::model::entry::Timestamp;
    use crate::model::id::{JobId, Partition, QueueId};
    use crate::model::value::Value;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn value(number: u64) -> Value {
        Value::from_serialize(&number).unwrap()
    }

    fn set(name: &str, number: u64) -> Operation {
        Operation::set(key(name), value(number))
    }

    fn set_for(expiry: Expiry) -> Operation {
        Operation {
            expiry,
            ..set("k", 1)
        }
    }

    /// Returns jobs at positions 1, 2, … of one queue.
    fn jobs(commands: Vec<(Command, bool)>) -> Vec<Job> {
        let queue = QueueId::random();
        let job = |(number, (command, keep_outcome))| Job {
            id: JobId {
                queue,
                partition: Partition(0),
                position: Position::counted(number),
            },
            command,
            keep_outcome,
            accepted_at: Timestamp(1000 * number),
            traceparent: None,
        };
        (1..).zip(commands).map(job).collect()
    }

    fn singles(operations: impl IntoIterator<Item = Operation>) -> Vec<Job> {
        let commands = operations.into_iter().map(Command::One);
        jobs(commands.map(|command| (command, false)).collect())
    }

    /// A minimal store: entries and the last version.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct EvaluationModel {
        entries: BTreeMap<Key, Entry>,
        version: u64,
        now: Timestamp,
    }

    /// For each write its version, whether the key existed, and its computed result. Or the
    /// operation that failed, the reason, and the version of its key.
    type ModelOutcome = Result<Vec<ModelWrite>, Refusal>;

    type ModelWrite = (Version, bool, Computed);

    impl EvaluationModel {
        fn current(&self, key: &Key) -> Option<Version> {
            self.entries.get(key).map(|entry| entry.version)
        }

        fn write(&mut self, key: &Key, new: Option<(Value, Option<Timestamp>)>) -> (Version, bool) {
            self.version += 1;
            let version = Version(self.version);
            let before = match new {
                None => self.entries.remove(key),
                // A deadline that has passed leaves the key absent.
                Some((_, Some(deadline))) if deadline <= self.now => self.entries.remove(key),
                Some((value, expires_at)) => {
                    let entry = Entry {
                        value,
                        version,
                        expires_at,
                    };
                    self.entries.insert(key.clone(), entry)
                }
            };
            (version, before.is_some())
        }

        /// Advances the clock; what has expired becomes absent.
        fn set_clock(&mut self, now: Timestamp) {
            self.now = now;
            self.entries
                .retain(|_, entry| entry.expires_at.is_none_or(|deadline| deadline > now));
        }

        /// Applies one job as the API describes it: every condition is judged before anything is
        /// written.
        fn apply_alone(&mut self, job: &Job) -> ModelOutcome {
            let operations = job.command.operations();
            for (index, operation) in operations.iter().enumerate() {
                let current = self.current(&operation.key);
                let holds = match &operation.condition {
                    Condition::Any => true,
                    Condition::Absent => current.is_none(),
                    Condition::Present => current.is_some(),
                    Condition::Version(wanted) => current == Some(*wanted),
                    Condition::OneOf(wanted) => {
                        wanted.iter().any(|wanted| current == Some(*wanted))
                    }
                    Condition::NoneOf {
                        versions,
                        or_absent,
                    } => {
                        let has = versions.iter().any(|version| current == Some(*version));
                        !has && (*or_absent || current.is_some())
                    }
                };
                if !holds {
                    return Err((index, Failure::Condition, current));
                }
            }
            let mut results = Vec::new();
            for (index, operation) in operations.iter().enumerate() {
                let before = self.entries.get(&operation.key);
                let refuse = |reason| Err((index, reason, self.current(&operation.key)));
                let kept = before.and_then(|entry| entry.expires_at);
                let asked = match operation.expiry {
                    Expiry::Never => None,
                    Expiry::After(span) => Some(job.accepted_at.after(span)),
                    Expiry::Keep => kept,
                };
                results.push(match &operation.action {
                    Action::Check => continue,
                    Action::Delete => (operation, None, Computed::default()),
                    Action::Set { value } => {
                        (operation, Some((value.clone(), asked)), Computed::default())
                    }
                    Action::Add { by } => {
                        let number = match before {
                            None => 0,
                            Some(entry) => match serde_json::from_slice(entry.value.as_bytes()) {
                                Ok(number) => number,
                                Err(_) => return refuse(Failure::NotInteger),
                            },
                        };
                        let Some(sum) = i64::checked_add(number, *by) else {
                            return refuse(Failure::Overflow);
                        };
                        let expires_at = before.map_or(asked, |_| kept);
                        let computed = Computed {
                            number: Some(sum),
                            expires_at,
                        };
                        let value = Value::parse(sum.to_string()).unwrap();
                        (operation, Some((value, expires_at)), computed)
                    }
                    Action::Merge { patch, bytes_max } => {
                        let merged = merge(before.map(|entry| &entry.value), patch);
                        if merged.len() > *bytes_max {
                            let limit_bytes = *bytes_max as u64;
                            return refuse(Failure::TooLarge { limit_bytes });
                        }
                        let computed = Computed {
                            number: None,
                            expires_at: asked,
                        };
                        (operation, Some((merged, asked)), computed)
                    }
                    Action::Touch => {
                        let Some(entry) = before else {
                            return refuse(Failure::NotFound);
                        };
                        let computed = Computed {
                            number: None,
                            expires_at: asked,
                        };
                        (operation, Some((entry.value.clone(), asked)), computed)
                    }
                });
            }
            let write = |(operation, new, computed): (&Operation, _, _)| {
                let (version, existed) = self.write(&operation.key, new);
                (version, existed, computed)
            };
            Ok(results.into_iter().map(write).collect())
        }

        /// Applies a commit as the contract of stores describes it.
        fn commit(&mut self, commit: &Commit) -> Vec<(Version, bool)> {
            for (key, condition) in &commit.checks {
                assert!(
                    condition.holds(self.current(key)),
                    "the check on {key} failed"
                );
            }
            let write = |write: &Write| {
                let new = write.change.value_at(Timestamp(0));
                let new = new.map(|(value, expires_at)| (value.clone(), expires_at));
                self.write(&write.key, new)
            };
            commit.writes.iter().map(write).collect()
        }
    }

    fn operation_on(name: &'static str) -> impl Strategy<Value = Operation> {
        let condition = prop_oneof![
            6 => Just(Condition::Any),
            1 => Just(Condition::Absent),
            1 => Just(Condition::Present),
            2 => (1..12_u64).prop_map(|version| Condition::Version(Version(version))),
            1 => (1..12_u64, 1..12_u64)
                .prop_map(|(one, two)| Condition::one_of(&[Version(one), Version(two)])),
            1 => (1..12_u64, any::<bool>())
                .prop_map(|(one, absent)| Condition::none_of(&[Version(one)], absent)),
        ];
        let span = || (1..9_u64).prop_map(|seconds| Expiry::After(Duration::from_secs(seconds)));
        let expiry = || prop_oneof![3 => Just(Expiry::Never), 1 => span(), 2 => Just(Expiry::Keep)];
        let text = |texts: &'static [&'static str]| {
            prop::sample::select(texts).prop_map(|text| Value::parse(text).unwrap())
        };
        let values = &[
            "0",
            "-7",
            "9223372036854775807",
            "1.0",
            r#"{"a":1}"#,
            "null",
        ];
        let patches = &[
            r#"{"a":null,"b":2}"#,
            r#"{"a":{"c":1.0}}"#,
            "3",
            r#"{"long":"0123456789"}"#,
        ];
        let by = prop_oneof![4 => -3..4_i64, 1 => Just(i64::MIN), 1 => Just(i64::MAX)];
        let action = prop_oneof![
            3 => (text(values), expiry()).prop_map(|(value, expiry)| (Action::Set { value }, expiry)),
            1 => Just((Action::Delete, Expiry::Never)),
            5 => (by, expiry()).prop_map(|(by, expiry)| (Action::Add { by }, expiry)),
            3 => (text(patches), expiry())
                .prop_map(|(patch, expiry)| (Action::Merge { patch, bytes_max: 24 }, expiry)),
            2 => prop_oneof![span(), Just(Expiry::Never)].prop_map(|expiry| (Action::Touch, expiry)),
            1 => Just((Action::Check, Expiry::Never)),
        ];
        (condition, action)
            .prop_map(move |(condition, (action, expiry))| Operation {
                key: key(name),
                condition,
                action,
                expiry,
            })
            // By value three of them are more than the stack of a test takes.
            .boxed()
    }

    fn command() -> impl Strategy<Value = Command> {
        let one = || prop_oneof![operation_on("a"), operation_on("b"), operation_on("c")];
        let three = (operation_on("c"), operation_on("a"), operation_on("b"));
        prop_oneof![
            3 => one().prop_map(Command::One),
            1 => three.prop_map(|(c, a, b)| Command::Batch(vec![c, a, b])),
        ]
    }

    proptest! {
        #[test]
        fn a_batch_has_the_same_effect_as_its_jobs_one_by_one(
            commands in prop::collection::vec((command(), any::<bool>()), 1..20),
            // The time from the first job's acceptance to each commit, in seconds.
            pauses in prop::collection::vec(0..6_u64, 20),
        ) {
            let jobs = jobs(commands);
            let mut alone = EvaluationModel::default();
            let mut batched = EvaluationModel::default();
            let mut rest = &jobs[..];
            let mut from = Position::START;
            let mut pauses = pauses.into_iter();
            while !rest.is_empty() {
                // Nothing but what it asks for.
                let entries: HashMap<Key, Entry> = keys_needed(rest).into_iter()
                    .filter_map(|key| batched.entries.get(&key).map(|entry| (key.clone(), entry.clone())))
                    .collect();
                let Evaluation { commit, taken } = evaluate(from, rest, &entries);
                prop_assert!((1..=rest.len()).contains(&taken));

                // Whatever a verdict depends on is checked exactly once, unless the batch itself
                // has written it.
                let mut known: HashSet<&Key> = HashSet::new();
                let mut depends: HashSet<&Key> = HashSet::new();
                let failed: HashSet<Position> = commit.advance.iter().flat_map(|advance| &advance.outcomes)
                    .filter(|(_, verdict)| matches!(verdict, Verdict::Failed { .. }))
                    .map(|(position, _)| *position).collect();
                for job in &rest[..taken] {
                    let operations = job.command.operations();
                    depends.extend(operations.iter()
                        .filter(|operation| operation.depends_on_entry())
                        .map(|operation| &operation.key).filter(|key| !known.contains(key)));
                    if !failed.contains(&job.id.position) {
                        known.extend(operations.iter()
                            .filter(|operation| operation.action != Action::Check)
                            .map(|operation| &operation.key));
                    }
                }
                prop_assert_eq!(commit.checks.len(), depends.len());
                for (key, condition) in &commit.checks {
                    prop_assert!(depends.contains(key));
                    prop_assert_eq!(condition, &Condition::unchanged(batched.current(key)));
                }

                // Time passes between the reads and the commit. If that breaks a check, the store
                // says so, and the jobs are evaluated again.
                let now = batched.now.after(Duration::from_secs(pauses.next().unwrap_or(0)));
                batched.set_clock(now);
                if commit.checks.iter().any(|(key, condition)| !condition.holds(batched.current(key))) {
                    continue;
                }
                alone.set_clock(now);
                let expected: Vec<ModelOutcome> =
                    rest[..taken].iter().map(|job| alone.apply_alone(job)).collect();
                let written = batched.commit(&commit);
                let advance = commit.advance.unwrap();
                prop_assert_eq!(advance.from, from);
                prop_assert_eq!(advance.to, rest[taken - 1].id.position);
                prop_assert_eq!((advance.queue, advance.partition, advance.lost), (jobs[0].id.queue, Partition(0), false));

                let mut verdicts = advance.outcomes.into_iter().peekable();
                for (job, expected) in rest[..taken].iter().zip(expected) {
                    let verdict = verdicts.next_if(|(position, _)| *position == job.id.position);
                    match (verdict.map(|(_, verdict)| verdict), expected) {
                        (None, Ok(_)) => prop_assert!(!job.keep_outcome),
                        (Some(Verdict::Succeeded { summary, first, computed }), Ok(writes)) => {
                            prop_assert!(job.keep_outcome);
                            prop_assert_eq!(summary, Summary::of(&job.command));
                            let found: Vec<ModelWrite> = written[first..].iter().zip(computed)
                                .map(|(&(version, existed), computed)| (version, existed, computed)).collect();
                            prop_assert_eq!(found, writes);
                        }
                        (Some(Verdict::Failed { summary, operation, reason, current }), Err(failed)) => {
                            prop_assert_eq!(summary, Summary::of(&job.command));
                            prop_assert_eq!((operation, reason, current), failed);
                        }
                        (verdict, expected) => prop_assert!(false, "{verdict:?} instead of {expected:?}"),
                    }
                }
                prop_assert!(verdicts.next().is_none(), "an outcome without a job, or out of order");
                prop_assert_eq!(&batched, &alone);
                from = advance.to;
                rest = &rest[taken..];
            }
        }

        #[test]
        fn fingerprints_are_equal_exactly_for_equal_commands(one in command(), other in command()) {
            prop_assert_eq!(one.fingerprint(), one.clone().fingerprint());
            prop_assert_eq!(one.fingerprint() == other.fingerprint(), one == other);
        }
    }

    fn taken(jobs: &[Job]) -> usize {
        evaluate(Position::START, jobs, &HashMap::new()).taken
    }

    #[test]
    fn a_batch_ends_before_a_job_that_only_its_commit_can_judge() {
        let hour = Duration::from_secs(3600);
        let add = || Operation::add(key("k"), 1);
        let taken_of = |operations: Vec<Operation>| taken(&singles(operations));
        // The job needs the version that the write before it will get.
        assert_eq!(
            taken_of(vec![set("k", 1), set("k", 2).if_version(Version(1))]),
            1
        );
        assert_eq!(taken_of(vec![set("k", 1), set("k", 2).if_absent()]), 1);
        let text = Operation::set(key("k"), Value::parse("\"x\"").unwrap());
        assert_eq!(
            taken_of(vec![text, add()]),
            1,
            "the failure names a version"
        );
        // A deadline that the batch sets may have passed at the commit.
        assert_eq!(taken_of(vec![add().expires_after(hour), add()]), 1);
        assert_eq!(
            taken_of(vec![set_for(Expiry::After(hour)), set_for(Expiry::Keep)]),
            1
        );
        assert_eq!(
            taken_of(vec![Operation::touch(key("k"), hour), add()]),
            2,
            "it failed"
        );

        // Everything else is known.
        assert_eq!(taken_of(vec![set("k", 1), set("k", 2).if_present()]), 2);
        assert_eq!(taken_of(vec![set("k", 1), set_for(Expiry::Keep)]), 2);
        assert_eq!(taken_of(vec![add(), add(), add()]), 3);
        let delete = || Operation::delete(key("k"));
        assert_eq!(
            taken_of(vec![delete(), set("k", 2).if_absent(), delete(), add()]),
            4
        );
        // A failed job has written nothing, so nothing depends on it.
        let if_present = set("k", 2).if_present();
        assert_eq!(
            taken_of(vec![if_present.clone(), if_present, set("k", 1)]),
            3
        );
    }

    #[test]
    fn adds_to_a_counter_with_a_deadline_are_one_commit() {
        let entry = Entry {
            value: value(5),
            version: Version(9),
            expires_at: Some(Timestamp(60_000)),
        };
        let entries = HashMap::from([(key("k"), entry)]);
        let add = Operation::add(key("k"), 1).expires_after(Duration::from_secs(1));
        let jobs = singles(vec![add; 4]);
        let Evaluation { commit, taken } = evaluate(Position::START, &jobs, &entries);
        assert_eq!(taken, 4);
        assert_eq!(commit.checks, [(key("k"), Condition::Version(Version(9)))]);
        let last = Change::Set {
            value: value(9),
            expires_at: Some(Timestamp(60_000)),
        };
        assert_eq!(commit.writes[3].change, last);
    }

    #[test]
    fn results_of_merges_and_touches_are_bounded_together() {
        let entry = |name: &str| {
            let text = format!("{{\"{name}\":\"{}\"}}", "x".repeat(WORK_BATCH_BYTES / 4));
            let entry = Entry {
                value: Value::parse(text).unwrap(),
                version: Version(1),
                expires_at: None,
            };
            (key(name), entry)
        };
        let names = ["a", "b", "c", "d"];
        let entries = HashMap::from(names.map(entry));
        let patch = Value::parse("{}").unwrap();
        let mut merges = Command::Batch(
            names
                .map(|name| Operation::merge(key(name), patch.clone()))
                .into(),
        );
        merges.bound_merges(usize::MAX);
        let touch = |name| Operation::touch(key(name), Duration::from_secs(1));
        for batch in [merges, Command::Batch(names.map(touch).into())] {
            let jobs = jobs_of([batch.clone(), batch]);
            let Evaluation { commit, taken } = evaluate(Position::START, &jobs, &entries);
            assert_eq!(taken, 2);
            assert_eq!(commit.writes, []);
            let limit_bytes = WORK_BATCH_BYTES as u64;
            for (_, verdict) in commit.advance.unwrap().outcomes {
                let Verdict::Failed {
                    operation, reason, ..
                } = verdict
                else {
                    panic!("{verdict:?}");
                };
                assert_eq!((operation, reason), (3, Failure::TooLarge { limit_bytes }));
            }
        }
        // A single one may be larger, and several jobs make several commits.
        let jobs = singles(names.map(touch));
        let Evaluation { commit, taken } = evaluate(Position::START, &jobs, &entries);
        assert_eq!((taken, commit.writes.len()), (3, 3));
    }

    #[test]
    fn a_commit_holds_a_bounded_number_of_writes_and_checks() {
        let many = |count: u64| (0..count).map(|number| set(&format!("key {number}"), number));
        let jobs = singles(many(WORK_BATCH_WRITES as u64 + 1));
        assert_eq!(taken(&jobs), WORK_BATCH_WRITES);
        let that_fail = many(WORK_BATCH_WRITES as u64 + 1).map(Operation::if_present);
        assert_eq!(taken(&singles(that_fail)), WORK_BATCH_WRITES);

        let batch = Command::Batch(many(WORK_BATCH_WRITES as u64).collect());
        let after_one = jobs_of([Command::One(set("k", 1)), batch.clone()]);
        assert_eq!(taken(&after_one), 1);
        assert_eq!(taken(&jobs_of([batch, Command::One(set("k", 1))])), 1);
    }

    #[test]
    fn a_commit_holds_a_bounded_number_of_bytes_or_one_job() {
        let of_length = |length: usize| {
            let text = format!("\"{}\"", "x".repeat(length - 2));
            Operation::set(key("k"), Value::parse(text).unwrap())
        };
        let half = of_length(WORK_BATCH_BYTES / 2 - "k".len());
        assert_eq!(taken(&singles([half.clone(), half.clone(), half])), 2);
        let large = of_length(WORK_BATCH_BYTES + 1);
        assert_eq!(taken(&singles([large.clone(), set("k", 1)])), 1);
        assert_eq!(taken(&singles([set("k", 1), large])), 1);
    }

    fn jobs_of(commands: impl IntoIterator<Item = Command>) -> Vec<Job> {
        jobs(
            commands
                .into_iter()
                .map(|command| (command, false))
                .collect(),
        )
    }
}
