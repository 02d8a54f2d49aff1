//! Tests that the checker finds every violation, and reports none in a legal history.

use kvstore_core::model::id::{JobId, Partition, Position, QueueId};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{
    Condition, Kind, Moment, NEVER, Operation, Read, ValueId, Verdict, What, Write, check,
};

fn job(position: u64) -> JobId {
    JobId {
        queue: "00000000000000aa".parse::<QueueId>().unwrap(),
        partition: Partition(0),
        position: Position::counted(position),
    }
}

fn operation(invoked: Moment, done: Moment, what: What) -> Operation {
    Operation {
        key: 0,
        invoked,
        accepted: done,
        done,
        what,
    }
}

fn read(invoked: Moment, done: Moment, seen: Option<(ValueId, u64)>) -> Operation {
    operation(invoked, done, What::Read(Read { after: None, seen }))
}

fn write(invoked: Moment, done: Moment, value: Option<ValueId>, verdict: Verdict) -> Operation {
    let write = Write {
        value,
        condition: Condition::Any,
        jobs: Vec::new(),
        verdict,
    };
    operation(invoked, done, What::Write(write))
}

/// Returns a write that was answered with its version, which is its position as well.
fn put(invoked: Moment, done: Moment, value: ValueId, version: u64) -> Operation {
    let verdict = Verdict::Applied {
        version: Some(version),
        existed: None,
    };
    with(write(invoked, done, Some(value), verdict), |write| {
        write.jobs.push(job(version));
    })
}

fn delete(invoked: Moment, done: Moment, existed: bool) -> Operation {
    let verdict = Verdict::Applied {
        version: None,
        existed: Some(existed),
    };
    write(invoked, done, None, verdict)
}

fn unknown(invoked: Moment, value: Option<ValueId>) -> Operation {
    write(invoked, NEVER, value, Verdict::Unknown)
}

fn with(mut operation: Operation, change: impl FnOnce(&mut Write)) -> Operation {
    match &mut operation.what {
        What::Write(write) => change(write),
        What::Read(_) => panic!("a read"),
    }
    operation
}

fn kinds(history: &[Operation]) -> Vec<Kind> {
    let mut kinds: Vec<_> = check(history).into_iter().map(|found| found.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

fn assert_good(history: &[Operation]) {
    assert_eq!(check(history), [], "{history:#?}");
}

#[test]
fn what_may_be_is_accepted() {
    assert_good(&[]);
    assert_good(&[read(0, 1, None), put(2, 3, 1, 1), read(4, 5, Some((1, 1)))]);
    // At the same time both are right.
    assert_good(&[put(0, 9, 1, 1), read(1, 8, None), read(1, 8, Some((1, 1)))]);
    assert_good(&[
        put(0, 1, 1, 1),
        delete(2, 3, true),
        delete(4, 5, false),
        read(6, 7, None),
    ]);
    // Accepted first is applied first, even if it is waited for later.
    let late = Operation {
        accepted: 1,
        ..put(0, 20, 1, 1)
    };
    assert_good(&[late, put(2, 3, 2, 2), read(4, 5, Some((2, 2)))]);
}

#[test]
fn unknown_outcomes_may_have_happened_or_not_and_at_any_later_time() {
    assert_good(&[
        put(0, 1, 1, 1),
        unknown(2, Some(2)),
        read(3, 4, Some((1, 1))),
    ]);
    assert_good(&[
        put(0, 1, 1, 1),
        unknown(2, Some(2)),
        read(3, 4, Some((2, 5))),
    ]);
    assert_good(&[
        put(0, 1, 1, 1),
        unknown(2, Some(2)),
        read(3, 4, Some((1, 1))),
        read(5, 6, Some((2, 5))),
    ]);
    assert_good(&[put(0, 1, 1, 1), unknown(2, None), read(3, 4, None)]);
    // No read has seen it, and yet a value must have been there.
    assert_good(&[unknown(0, Some(1)), delete(1, 2, true)]);
    // It needs the one before it.
    let second = with(unknown(1, Some(2)), |write| {
        write.condition = Condition::Present
    });
    assert_good(&[unknown(0, Some(1)), second, read(3, 4, Some((2, 2)))]);
    // Once only, and not before it was asked.
    assert_eq!(
        kinds(&[
            put(0, 1, 1, 1),
            unknown(2, None),
            read(3, 4, None),
            put(5, 6, 2, 2),
            read(7, 8, None),
        ]),
        [Kind::Unexplained]
    );
    assert_eq!(
        kinds(&[read(0, 1, Some((1, 1))), unknown(2, Some(1))]),
        [Kind::Unexplained]
    );
}

#[test]
fn conditions_are_judged_in_the_order_of_the_log() {
    let on =
        |condition, operation| with(operation, |write: &mut Write| write.condition = condition);
    let failed = |invoked, position, current| {
        let verdict = Verdict::Failed { current };
        with(write(invoked, invoked + 1, Some(99), verdict), |write| {
            write.jobs.push(job(position));
            write.condition = Condition::Version(1);
        })
    };
    assert_good(&[put(0, 1, 1, 1), on(Condition::Version(1), put(2, 3, 2, 2))]);
    assert_good(&[put(0, 1, 1, 1), put(2, 3, 2, 2), failed(4, 3, Some(2))]);
    // It held, or what it names was not there.
    for history in [
        vec![put(0, 1, 1, 1), failed(2, 2, Some(1))],
        vec![put(0, 1, 1, 1), put(2, 3, 2, 2), failed(4, 3, None)],
        vec![
            put(0, 1, 1, 1),
            put(2, 3, 2, 2),
            on(Condition::Version(1), put(4, 5, 3, 3)),
        ],
        vec![put(0, 1, 1, 1), on(Condition::Absent, put(2, 3, 2, 2))],
        vec![on(Condition::Present, put(2, 3, 2, 2))],
        // Its place in the log is before what it was judged by.
        vec![put(0, 9, 1, 1), failed(0, 2, Some(3)), put(0, 9, 3, 3)],
    ] {
        assert_eq!(kinds(&history), [Kind::Unexplained], "{history:#?}");
    }
}

#[test]
fn stale_read_is_found() {
    let history = [put(0, 1, 1, 1), put(2, 3, 2, 2), read(4, 5, Some((1, 1)))];
    assert_eq!(kinds(&history), [Kind::Unexplained]);
    let history = [put(0, 1, 1, 1), read(2, 3, None)];
    assert_eq!(kinds(&history), [Kind::Unexplained]);
    // Only its token says that it must be there.
    let late = Operation {
        accepted: 1,
        ..put(0, 20, 1, 1)
    };
    let seen = |after| operation(2, 3, What::Read(Read { after, seen: None }));
    assert_good(&[late.clone(), seen(None)]);
    assert_eq!(kinds(&[late, seen(Some(job(1)))]), [Kind::Unexplained]);
}

#[test]
fn lost_write_is_found() {
    let history = [
        put(0, 1, 1, 1),
        put(2, 3, 2, 2),
        read(4, 5, Some((1, 1))),
        read(6, 7, Some((1, 1))),
    ];
    assert_eq!(kinds(&history), [Kind::Unexplained]);
    for verdict in [Verdict::Accepted, Verdict::Lost("not found".to_owned())] {
        let history = [write(0, 1, Some(1), verdict)];
        assert_eq!(kinds(&history), [Kind::Lost]);
    }
    // One took the other's place.
    let same = with(put(2, 3, 2, 2), |write| write.jobs = vec![job(1)]);
    assert!(kinds(&[put(0, 1, 1, 1), same]).contains(&Kind::Lost));
}

#[test]
fn swapped_order_is_found() {
    let at = |position, operation| {
        with(operation, |write: &mut Write| {
            write.jobs = vec![job(position)]
        })
    };
    // Versions against positions.
    let history = [at(1, put(0, 9, 1, 2)), at(2, put(0, 9, 2, 1))];
    assert_eq!(kinds(&history), [Kind::Reordered]);
    // Positions against times.
    let history = [at(2, put(0, 1, 1, 2)), at(1, put(2, 3, 2, 1))];
    assert!(kinds(&history).contains(&Kind::Reordered));
    // No client knows a version: the order shows in the result.
    let accepted = |invoked, value, position| {
        let verdict = Verdict::Applied {
            version: None,
            existed: None,
        };
        let operation = at(position, write(invoked, 20, Some(value), verdict));
        Operation {
            accepted: invoked + 1,
            ..operation
        }
    };
    let history = [
        accepted(0, 1, 1),
        accepted(2, 2, 2),
        read(30, 31, Some((1, 7))),
    ];
    assert_eq!(kinds(&history), [Kind::Unexplained]);
}

#[test]
fn double_apply_is_found() {
    // The second time shows in its version, or in what it has covered.
    let history = [
        put(0, 1, 1, 1),
        read(2, 3, Some((1, 1))),
        read(4, 5, Some((1, 2))),
    ];
    assert_eq!(kinds(&history), [Kind::Duplicated]);
    let history = [
        put(0, 1, 1, 1),
        put(2, 3, 2, 2),
        read(4, 5, Some((2, 2))),
        read(6, 7, Some((1, 1))),
    ];
    assert_eq!(kinds(&history), [Kind::Unexplained]);
    let twice = with(put(0, 1, 1, 1), |write| write.jobs.push(job(2)));
    assert_eq!(kinds(&[twice]), [Kind::Duplicated]);
}

#[test]
fn resurrected_delete_is_found() {
    let history = [
        put(0, 1, 1, 1),
        delete(2, 3, true),
        read(4, 5, Some((1, 1))),
    ];
    assert_eq!(kinds(&history), [Kind::Unexplained]);
    let history = [
        put(0, 1, 1, 1),
        delete(2, 3, true),
        read(4, 5, None),
        delete(6, 7, true),
    ];
    assert_eq!(kinds(&history), [Kind::Unexplained]);
}

#[test]
fn what_was_refused_or_never_written_must_not_be_seen() {
    let refused = write(0, 1, Some(1), Verdict::Refused);
    assert_good(&[refused.clone(), read(2, 3, None)]);
    assert!(kinds(&[refused, read(2, 3, Some((1, 1)))]).contains(&Kind::Unexplained));
    assert!(kinds(&[read(2, 3, Some((1, 1)))]).contains(&Kind::Unexplained));
    let elsewhere = Operation {
        key: 1,
        ..put(0, 1, 1, 1)
    };
    assert!(kinds(&[elsewhere, read(2, 3, Some((1, 1)))]).contains(&Kind::Unexplained));
}

#[test]
fn version_that_is_used_twice_is_found() {
    let history = [
        unknown(0, Some(1)),
        read(1, 2, Some((1, 1))),
        unknown(3, Some(2)),
        read(4, 5, Some((2, 1))),
    ];
    assert_eq!(kinds(&history), [Kind::Unexplained]);
}

/// How long before its application a write is accepted, in a generated run.
const DELAY: Moment = 60;

/// The time between two events there.
const STEP: Moment = 10;

/// Generates what really happens to one key, step by step, and the answers of its clients: a legal
/// history for every seed.
fn run(seed: u64, length: u64) -> Vec<Operation> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut history = Vec::new();
    let (mut state, mut version): (Option<(ValueId, u64)>, u64) = (None, 0);
    let mut versions = vec![0];
    for step in 1..=length {
        let now = 1000 + step * STEP;
        let before = random.random_range(0..4 * STEP);
        let after = random.random_range(1..4 * STEP);
        if random.random_ratio(2, 5) {
            history.push(read(now - before, now + after, state));
            continue;
        }
        let value = random.random_ratio(4, 5).then_some(step);
        let condition = match random.random_range(0..6) {
            0 => Condition::Absent,
            1 => Condition::Present,
            2 => Condition::Version(versions[random.random_range(0..versions.len())]),
            3 => Condition::Version(state.map_or(0, |(_, version)| version)),
            _ => Condition::Any,
        };
        let holds = match condition {
            Condition::Any => true,
            Condition::Absent => state.is_none(),
            Condition::Present => state.is_some(),
            Condition::Version(version) => state.is_some_and(|(_, current)| current == version),
        };
        let is_told = random.random_ratio(5, 6);
        let happens = is_told || random.random_ratio(1, 2);
        let existed = state.is_some();
        let verdict = if !is_told {
            Verdict::Unknown
        } else if holds {
            let applied = value.is_some().then_some(version + 1);
            Verdict::Applied {
                version: applied.filter(|_| random.random_ratio(2, 3)),
                existed: random.random_ratio(2, 3).then_some(existed),
            }
        } else {
            Verdict::Failed {
                current: state.map(|(_, version)| version),
            }
        };
        if holds && happens {
            version += 1;
            versions.push(version);
            state = value.map(|value| (value, version));
        }
        let mut operation = write(now - DELAY - before, now + after, value, verdict);
        operation = with(operation, |write| {
            write.condition = condition;
            if is_told {
                write.jobs.push(job(step));
            }
        });
        if !is_told {
            (operation.accepted, operation.done) = (NEVER, NEVER);
        } else if random.random_ratio(1, 3) {
            // It was not waited for.
            operation.accepted = now - DELAY + random.random_range(0..DELAY);
        }
        history.push(operation);
    }
    history
}

/// Returns a moment after all operations.
fn end(history: &[Operation]) -> Moment {
    let ends = history.iter().map(|operation| operation.done);
    ends.filter(|done| *done != NEVER).max().unwrap_or(0) + 1
}

proptest! {
    // Some longer ones, with as many unknown outcomes on a single key, take more steps than the
    // search has.
    #[test]
    fn every_legal_run_is_accepted(seed in any::<u64>(), length in 0..180_u64) {
        let history = run(seed, length);
        prop_assert_eq!(check(&history), []);
    }

    #[test]
    fn legal_run_with_a_value_that_comes_back_is_not(seed in any::<u64>(), length in 10..40_u64) {
        let mut history = run(seed, length);
        // Written and replaced for certain, and then read once more.
        let is_put = |operation: &Operation| operation.write().is_some_and(|write| {
            write.value.is_some() && matches!(write.verdict, Verdict::Applied { .. })
        });
        let put = history.iter().position(is_put);
        prop_assume!(put.is_some());
        let (put, value) = put.map(|at| (at, history[at].write().unwrap().value.unwrap())).unwrap();
        prop_assume!(history[put + 1..].iter().any(is_put));
        let version = history.iter().filter_map(Operation::version).find(|(seen, _)| *seen == value);
        let end = end(&history);
        history.push(read(end, end + 1, Some((value, version.map_or(u64::MAX, |(_, version)| version)))));
        prop_assert!(!check(&history).is_empty());
    }

    #[test]
    fn legal_run_with_two_positions_swapped_is_not(seed in any::<u64>(), length in 20..200_u64) {
        let mut history = run(seed, length);
        let jobs: Vec<_> = (0..history.len())
            .filter(|at| history[*at].write().is_some_and(|write| write.job().is_some()))
            .collect();
        let pair = jobs.iter().find_map(|first| {
            let later = |second: &&usize| history[*first].accepted < history[**second].invoked;
            Some((*first, *jobs.iter().find(later)?))
        });
        prop_assume!(pair.is_some());
        let (first, second) = pair.unwrap();
        let (one, other) = (
            history[first].write().unwrap().jobs.clone(),
            history[second].write().unwrap().jobs.clone(),
        );
        history[first] = with(history[first].clone(), |write| write.jobs = other);
        history[second] = with(history[second].clone(), |write| write.jobs = one);
        prop_assert!(!check(&history).is_empty());
    }

    #[test]
    fn legal_run_with_a_write_taken_away_is_not(seed in any::<u64>(), length in 20..200_u64) {
        let mut history = run(seed, length);
        // Its value has been read, and now no write has written it.
        let read = history.iter().find_map(|operation| match &operation.what {
            What::Read(read) => read.seen,
            What::Write(_) => None,
        });
        prop_assume!(read.is_some());
        let value = read.map(|(value, _)| value);
        history.retain(|operation| operation.write().is_none_or(|write| write.value != value));
        prop_assert!(!check(&history).is_empty());
    }
}
