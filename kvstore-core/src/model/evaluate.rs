//! The one place that decides what jobs come to.
//!
//! [`evaluate`] is a pure function: jobs and the entries they depend on go in, one [`Commit`] with its
//! outcomes comes out. It asks no store and reads no time, so every backend and every worker decides
//! alike.

use std::collections::{HashMap, HashSet};

use crate::limits::{WORK_BATCH_BYTES, WORK_BATCH_WRITES};
use crate::model::command::{Action, Expiry, Operation};
use crate::model::commit::{Advance, Commit, Verdict};
use crate::model::entry::{Entry, Version};
use crate::model::id::Position;
use crate::model::job::{Job, Summary};
use crate::model::key::Key;
use crate::model::write::{Change, Condition, Write};

/// The keys whose entries [`evaluate`] needs to see for `jobs`. Most jobs need none.
pub fn keys_needed(jobs: &[Job]) -> Vec<Key> {
    let mut seen = HashSet::new();
    jobs.iter()
        .flat_map(|job| job.command.operations())
        .filter(|operation| operation.depends_on_entry() && seen.insert(&operation.key))
        .map(|operation| operation.key.clone())
        .collect()
}

/// What [`evaluate`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// What to commit. It advances the partition past the jobs taken.
    pub commit: Commit,
    /// How many of the jobs it covers, from the first; the rest depend on what these write.
    pub taken: usize,
}

/// Works out what `jobs`, which follow `from` in one partition, do to a store that has `entries`.
///
/// `entries` holds what was read for [`keys_needed`], absent keys left out. Every verdict that rests on an entry adds a
/// check that it has not changed since, so the commit can't act on what is no longer so: on [`Error::Conflict`](crate::error::Error::Conflict) read again
/// and evaluate again.
///
/// The batch ends before the first job that depends on a key which an earlier job of it writes, and before one that would make
/// the commit larger than [`WORK_BATCH_WRITES`] or [`WORK_BATCH_BYTES`]; the first job is always in it.
///
/// # Panics
/// If `jobs` is empty.
pub fn evaluate(from: Position, jobs: &[Job], entries: &HashMap<Key, Entry>) -> Evaluation {
    let head = jobs.first().expect("there is a job to evaluate").id;
    let mut commit = Commit::default();
    let mut outcomes = Vec::new();
    let mut written = HashSet::new();
    let mut checked = HashSet::new();
    let mut to = from;
    let mut taken = 0;
    let mut bytes = 0;
    let mut count = 0;

    for job in jobs {
        // Between two openings of a queue lies a gap, which no batch may hide.
        if job.id.position.major != head.position.major {
            break;
        }
        let operations = job.command.operations();
        if operations
            .iter()
            .any(|operation| operation.depends_on_entry() && written.contains(&operation.key))
        {
            break;
        }
        bytes += job.command.size_bytes();
        // Of operations, not of writes: those of jobs that fail still bring their checks along.
        count += operations.len();
        let full = bytes > WORK_BATCH_BYTES || count > WORK_BATCH_WRITES;
        if full && taken > 0 {
            break;
        }
        taken += 1;
        to = job.id.position;

        for operation in operations
            .iter()
            .filter(|operation| operation.depends_on_entry())
        {
            if checked.insert(&operation.key) {
                let current = entries.get(&operation.key).map(|entry| entry.version);
                commit
                    .checks
                    .push((operation.key.clone(), Condition::unchanged(current)));
            }
        }
        if let Some((operation, current)) = first_broken_condition(operations, entries) {
            let summary = Summary::of(&job.command);
            outcomes.push((
                to,
                Verdict::Failed {
                    summary,
                    operation,
                    current,
                },
            ));
            continue;
        }
        if job.keep_outcome {
            let (first, count) = (commit.writes.len(), operations.len());
            outcomes.push((
                to,
                Verdict::Succeeded {
                    summary: Summary::of(&job.command),
                    first,
                    count,
                },
            ));
        }
        for operation in operations {
            written.insert(&operation.key);
            commit.writes.push(Write {
                key: operation.key.clone(),
                change: change(job, operation, entries),
            });
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

fn first_broken_condition(
    operations: &[Operation],
    entries: &HashMap<Key, Entry>,
) -> Option<(usize, Option<Version>)> {
    operations
        .iter()
        .enumerate()
        .find_map(|(index, operation)| {
            let current = entries.get(&operation.key).map(|entry| entry.version);
            (!operation.condition.holds(current)).then_some((index, current))
        })
}

fn change(job: &Job, operation: &Operation, entries: &HashMap<Key, Entry>) -> Change {
    match &operation.action {
        Action::Delete => Change::Delete,
        Action::Set { value, expiry } => Change::Set {
            value: value.clone(),
            expires_at: match expiry {
                Expiry::Never => None,
                Expiry::After(span) => Some(job.accepted_at.after(*span)),
                Expiry::Keep => entries
                    .get(&operation.key)
                    .and_then(|entry| entry.expires_at),
            },
        },
    }
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
        let value = value(1);
        Operation {
            action: Action::Set { value, expiry },
            ..set("k", 1)
        }
    }

    /// The jobs at positions 1, 2, … of one queue.
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

    /// A store, as plainly as possible: entries and the last version.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Model {
        entries: BTreeMap<Key, Entry>,
        version: u64,
    }

    /// What an operation did: its version, and whether the key existed. Or which one failed, and what its key had.
    type ModelOutcome = Result<Vec<(Version, bool)>, (usize, Option<Version>)>;

    impl Model {
        fn current(&self, key: &Key) -> Option<Version> {
            self.entries.get(key).map(|entry| entry.version)
        }

        fn write(&mut self, key: &Key, new: Option<(Value, Option<Timestamp>)>) -> (Version, bool) {
            self.version += 1;
            let version = Version(self.version);
            let before = match new {
                None => self.entries.remove(key),
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

        /// One job, by the words of the API: every condition is judged before anything is written.
        fn apply_alone(&mut self, job: &Job) -> ModelOutcome {
            for (index, operation) in job.command.operations().iter().enumerate() {
                let current = self.current(&operation.key);
                let holds = match operation.condition {
                    Condition::Any => true,
                    Condition::Absent => current.is_none(),
                    Condition::Present => current.is_some(),
                    Condition::Version(wanted) => current == Some(wanted),
                };
                if !holds {
                    return Err((index, current));
                }
            }
            let write = |operation: &Operation| {
                let new = match &operation.action {
                    Action::Delete => None,
                    Action::Set { value, expiry } => {
                        let before = self.entries.get(&operation.key);
                        let expires_at = match expiry {
                            Expiry::Never => None,
                            Expiry::After(span) => Some(job.accepted_at.after(*span)),
                            Expiry::Keep => before.and_then(|entry| entry.expires_at),
                        };
                        Some((value.clone(), expires_at))
                    }
                };
                self.write(&operation.key, new)
            };
            Ok(job.command.operations().iter().map(write).collect())
        }

        /// A commit, by the words of the store's contract.
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
            4 => Just(Condition::Any),
            1 => Just(Condition::Absent),
            1 => Just(Condition::Present),
            2 => (1..12_u64).prop_map(|version| Condition::Version(Version(version))),
        ];
        let expiry = prop_oneof![
            3 => Just(Expiry::Never),
            1 => (1..9_u64).prop_map(|seconds| Expiry::After(Duration::from_secs(seconds))),
            2 => Just(Expiry::Keep),
        ];
        let action = prop_oneof![
            3 => (0..100_u64, expiry)
                .prop_map(|(number, expiry)| Action::Set { value: value(number), expiry }),
            1 => Just(Action::Delete),
        ];
        (condition, action).prop_map(move |(condition, action)| Operation {
            key: key(name),
            condition,
            action,
        })
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
        fn batches_come_to_the_same_as_the_jobs_one_by_one(
            commands in prop::collection::vec((command(), any::<bool>()), 1..20),
        ) {
            let jobs = jobs(commands);
            let mut alone = Model::default();
            let expected: Vec<ModelOutcome> = jobs.iter().map(|job| alone.apply_alone(job)).collect();

            let mut batched = Model::default();
            let mut rest = &jobs[..];
            let mut from = Position::START;
            let mut done = 0;
            while !rest.is_empty() {
                // Only what it says that it needs, and nothing else.
                let entries: HashMap<Key, Entry> = keys_needed(rest).into_iter()
                    .filter_map(|key| batched.entries.get(&key).map(|entry| (key.clone(), entry.clone())))
                    .collect();
                let Evaluation { commit, taken } = evaluate(from, rest, &entries);
                prop_assert!((1..=rest.len()).contains(&taken));

                // Whatever a verdict rests on is checked, once.
                let depends: HashSet<&Key> = rest[..taken].iter().flat_map(|job| job.command.operations())
                    .filter(|operation| operation.condition != Condition::Any
                        || matches!(operation.action, Action::Set { expiry: Expiry::Keep, .. }))
                    .map(|operation| &operation.key).collect();
                prop_assert_eq!(commit.checks.len(), depends.len());
                for (key, condition) in &commit.checks {
                    prop_assert!(depends.contains(key));
                    prop_assert_eq!(*condition, Condition::unchanged(batched.current(key)));
                }

                let written = batched.commit(&commit);
                let advance = commit.advance.unwrap();
                prop_assert_eq!(advance.from, from);
                prop_assert_eq!(advance.to, rest[taken - 1].id.position);
                prop_assert_eq!((advance.queue, advance.partition, advance.lost), (jobs[0].id.queue, Partition(0), false));

                let mut verdicts = advance.outcomes.into_iter().peekable();
                for (job, expected) in rest[..taken].iter().zip(&expected[done..]) {
                    let verdict = verdicts.next_if(|(position, _)| *position == job.id.position);
                    match (verdict.map(|(_, verdict)| verdict), expected) {
                        (None, Ok(_)) => prop_assert!(!job.keep_outcome),
                        (Some(Verdict::Succeeded { summary, first, count }), Ok(writes)) => {
                            prop_assert!(job.keep_outcome);
                            prop_assert_eq!(summary, Summary::of(&job.command));
                            prop_assert_eq!(&written[first..first + count], &writes[..]);
                        }
                        (Some(Verdict::Failed { summary, operation, current }), Err(failed)) => {
                            prop_assert_eq!(summary, Summary::of(&job.command));
                            prop_assert_eq!((operation, current), *failed);
                        }
                        (verdict, _) => prop_assert!(false, "{verdict:?} instead of {expected:?}"),
                    }
                }
                prop_assert!(verdicts.next().is_none(), "an outcome of no job, or out of order");
                from = advance.to;
                done += taken;
                rest = &rest[taken..];
            }
            prop_assert_eq!(batched, alone);
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
    fn a_job_that_depends_on_an_earlier_write_starts_the_next_batch() {
        let if_present = Operation {
            condition: Condition::Present,
            ..set("k", 2)
        };
        assert_eq!(taken(&singles([set("k", 1), if_present.clone()])), 1);
        assert_eq!(taken(&singles([set("k", 1), set_for(Expiry::Keep)])), 1);
        // One that failed has written nothing, so nothing depends on it.
        assert_eq!(
            taken(&singles([if_present.clone(), if_present, set("k", 1)])),
            3
        );
        assert_eq!(taken(&singles([set("k", 1), set("k", 2)])), 2);
    }

    #[test]
    fn a_commit_holds_a_bounded_number_of_writes_and_checks() {
        let many = |count: u64| (0..count).map(|number| set(&format!("key {number}"), number));
        let jobs = singles(many(WORK_BATCH_WRITES as u64 + 1));
        assert_eq!(taken(&jobs), WORK_BATCH_WRITES);
        let that_fail = many(WORK_BATCH_WRITES as u64 + 1).map(|operation| Operation {
            condition: Condition::Present,
            ..operation
        });
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
