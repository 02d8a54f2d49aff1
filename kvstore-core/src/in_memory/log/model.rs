//! Does a partition behave like a naive list of jobs for any order of calls, and does it survive a
//! rebuild from what it wrote?

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::{Admission, PartitionLog, Remembered};
use crate::error::{Error, Result};
use crate::model::command::{Command, Operation};
use crate::model::entry::Timestamp;
use crate::model::id::{JobId, Partition, Position, QueueId};
use crate::model::job::{Idempotency, Job, NewJob};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::queue::Found;
use crate::queue::QueueOptions;

const JOBS_MAX: usize = 5;
const BYTES_MAX: usize = 60;
const KEYS_MAX: usize = 4;

fn options() -> QueueOptions {
    QueueOptions {
        jobs_max: JOBS_MAX,
        bytes_max: BYTES_MAX,
        idempotency_keys_max: KEYS_MAX,
        ..QueueOptions::default()
    }
}

#[derive(Clone, Debug)]
enum LogStep {
    /// A request for the value number `value`, which is also its length, possibly under an
    /// idempotency key with a window and a minimum.
    Admit {
        value: u8,
        idempotency: Option<(u8, u64, u64)>,
    },
    Publish,
    Withdraw,
    Read {
        after: u64,
        max: usize,
    },
    Complete(u64),
    BeginAttempt(u64),
    WithdrawAttempt(u64),
    StartAfter(u64),
    /// Time passes, by this much.
    Clock(i64),
    /// Everything is written and rebuilt.
    Restart,
}

fn step() -> impl Strategy<Value = LogStep> {
    let position = || 0..30_u64;
    prop_oneof![
        6 => (0..70_u8, proptest::option::of((0..7_u8, 0..40_u64, 0..60_u64)))
            .prop_map(|(value, idempotency)| LogStep::Admit { value, idempotency }),
        4 => Just(LogStep::Publish),
        1 => Just(LogStep::Withdraw),
        3 => (position(), 0..4_usize).prop_map(|(after, max)| LogStep::Read { after, max }),
        3 => position().prop_map(LogStep::Complete),
        2 => position().prop_map(LogStep::BeginAttempt),
        1 => position().prop_map(LogStep::WithdrawAttempt),
        1 => position().prop_map(LogStep::StartAfter),
        2 => (0..30_i64).prop_map(LogStep::Clock),
        1 => Just(LogStep::Restart),
    ]
}

fn identity(key: u8, window: u64, minimum: u64) -> Idempotency {
    Idempotency {
        key: format!("key {key}"),
        window: Duration::from_millis(window),
        minimum: Duration::from_millis(minimum),
    }
}

fn request(value: u8, idempotency: Option<(u8, u64, u64)>) -> NewJob {
    // A text of `value` bytes including quotes, from 2 up, so equal numbers are equal requests and
    // no others are.
    let text = format!("\"{}\"", "x".repeat(usize::from(value)));
    let set = Operation::set(Key::new("k").unwrap(), Value::parse(text).unwrap());
    NewJob {
        idempotency: idempotency.map(|(key, window, minimum)| identity(key, window, minimum)),
        ..NewJob::new(Command::One(set))
    }
}

/// A partition in its plainest form.
#[derive(Debug, Default)]
struct LogModel {
    jobs: Vec<ModelJob>,
    last: u64,
    trimmed: u64,
    now: u64,
    attempts: Option<(u64, u32)>,
    keys: Vec<ModelKey>,
}

#[derive(Clone, Copy, Debug)]
struct ModelKey {
    key: u8,
    value: u8,
    number: u64,
    guaranteed_until: u64,
    expires_at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct ModelJob {
    number: u64,
    value: u8,
    accepted_at: u64,
    published: bool,
}

#[derive(Debug, PartialEq)]
enum ModelAnswer {
    New(u64),
    Replayed(u64),
    KeyReused,
    Full(&'static str),
    TooLarge,
}

impl LogModel {
    fn size(value: u8) -> usize {
        usize::from(value) + 3
    }

    fn bytes(&self) -> usize {
        self.jobs.iter().map(|job| Self::size(job.value)).sum()
    }

    fn admit(&mut self, value: u8, idempotency: Option<(u8, u64, u64)>) -> ModelAnswer {
        let now = self.now;
        self.keys.retain(|known| known.expires_at > now);
        if let Some((key, ..)) = idempotency {
            if let Some(known) = self.keys.iter().find(|known| known.key == key) {
                return match known.value == value {
                    true => ModelAnswer::Replayed(known.number),
                    false => ModelAnswer::KeyReused,
                };
            }
            if self.keys.len() == KEYS_MAX {
                let order = |known: &ModelKey| {
                    let hash = Remembered::hash(&identity(known.key, 0, 0));
                    (known.guaranteed_until, hash)
                };
                self.keys.sort_by_key(order);
                if self.keys[0].guaranteed_until > now {
                    return ModelAnswer::Full("the queue (idempotency keys)");
                }
                self.keys.remove(0);
            }
        }
        if Self::size(value) > BYTES_MAX {
            return ModelAnswer::TooLarge;
        }
        if self.jobs.len() == JOBS_MAX {
            return ModelAnswer::Full("the queue (jobs)");
        }
        if self.bytes() + Self::size(value) > BYTES_MAX {
            return ModelAnswer::Full("the queue (bytes)");
        }
        self.last += 1;
        self.jobs.push(ModelJob {
            number: self.last,
            value,
            accepted_at: now,
            published: false,
        });
        if let Some((key, window, minimum)) = idempotency {
            self.keys.push(ModelKey {
                key,
                value,
                number: self.last,
                guaranteed_until: now + window.min(minimum),
                expires_at: now + window,
            });
        }
        ModelAnswer::New(self.last)
    }

    fn withdraw(&mut self) {
        let taken_back = |number: u64, jobs: &[ModelJob]| {
            jobs.iter()
                .any(|job| job.number == number && !job.published)
        };
        self.keys
            .retain(|known| !taken_back(known.number, &self.jobs));
        self.jobs.retain(|job| job.published);
    }

    fn complete(&mut self, up_to: u64) {
        for job in &self.jobs {
            if job.published && job.number <= up_to {
                self.trimmed = job.number;
            }
        }
        let trimmed = self.trimmed;
        self.jobs.retain(|job| job.number > trimmed);
        self.attempts = self.attempts.filter(|(head, _)| *head > trimmed);
    }
}

fn answer(result: Result<Admission>) -> ModelAnswer {
    match result {
        Ok(Admission::New { job, remembered }) => {
            assert_eq!(job.keep_outcome, remembered.is_some());
            ModelAnswer::New(job.id.position.minor)
        }
        Ok(Admission::Replayed(id)) => ModelAnswer::Replayed(id.position.minor),
        Err(Error::KeyReused) => ModelAnswer::KeyReused,
        Err(Error::Full { what, .. }) => ModelAnswer::Full(what),
        Err(Error::TooLarge { .. }) => ModelAnswer::TooLarge,
        Err(other) => panic!("{other}"),
    }
}

fn new_log(queue: QueueId) -> PartitionLog {
    PartitionLog::new(queue, Partition(0), &options())
}

/// Rebuilds like a queue in a file: numbering and keys from a header, then the jobs.
fn rebuilt(log: &PartitionLog, queue: QueueId, now: Timestamp) -> PartitionLog {
    let mut new = new_log(queue);
    new.restore_numbering(log.last(), log.trimmed()).unwrap();
    for remembered in log.remembered(now, None) {
        new.restore_idempotency(*remembered);
    }
    for job in &log.jobs {
        new.restore_job(Job::clone(job), None).unwrap();
    }
    if let Some((head, count)) = log.attempts() {
        new.restore_attempts(head, count);
    }
    new
}

fn check(log: &PartitionLog, model: &LogModel, queue: QueueId, clock: Timestamp) {
    let now = clock.0.max(model.now);
    let depth = log.depth(clock);
    assert_eq!(depth.jobs, model.jobs.len() as u64);
    assert_eq!(depth.bytes, model.bytes() as u64);
    let oldest = model.jobs.first().map(|job| now - job.accepted_at);
    assert_eq!(depth.oldest_age, oldest.map(Duration::from_millis));
    assert_eq!(log.last(), Position::counted(model.last));
    assert_eq!(log.trimmed(), Position::counted(model.trimmed));
    let live = model.keys.iter().filter(|known| known.expires_at > now);
    assert_eq!(log.remembered(clock, None).count(), live.count());

    for number in 0..=model.last + 1 {
        let held = model.jobs.iter().find(|job| job.number == number);
        match log.find(Position::counted(number)) {
            Found::Held { job, attempts } => {
                let held = held.filter(|held| held.published).expect("it is readable");
                let partition = Partition(0);
                let position = Position::counted(number);
                assert_eq!(
                    job.id,
                    JobId {
                        queue,
                        partition,
                        position
                    }
                );
                assert_eq!(job.command, request(held.value, None).command);
                assert_eq!(job.accepted_at, Timestamp(held.accepted_at));
                let tried = model.attempts.filter(|(head, _)| *head == number);
                assert_eq!(attempts, tried.map_or(0, |(_, count)| count));
            }
            Found::Dropped => assert!((1..=model.trimmed).contains(&number)),
            Found::Unknown => {
                assert!(number == 0 || number > model.trimmed);
                assert!(held.is_none_or(|held| !held.published));
            }
        }
    }
}

proptest! {
    #[test]
    fn a_partition_does_what_the_model_does(steps in proptest::collection::vec(step(), 0..80)) {
        let queue = QueueId::random();
        let mut log = new_log(queue);
        let mut model = LogModel::default();
        let mut clock = 100_i64;
        for step in steps {
            match step {
                LogStep::Admit { value, idempotency } => {
                    model.now = model.now.max(clock as u64);
                    let admission = log.admit(request(value, idempotency), Timestamp(clock as u64));
                    prop_assert_eq!(answer(admission), model.admit(value, idempotency));
                }
                LogStep::Publish => {
                    log.publish();
                    model.jobs.iter_mut().for_each(|job| job.published = true);
                }
                LogStep::Withdraw => {
                    log.withdraw();
                    model.withdraw();
                }
                LogStep::Read { after, max } => match log.read(Position::counted(after), max) {
                    Err(Error::Gap { trimmed, .. }) => {
                        prop_assert!(after < model.trimmed);
                        prop_assert_eq!(trimmed, Position::counted(model.trimmed));
                    }
                    jobs => {
                        prop_assert!(after >= model.trimmed);
                        let read: Vec<u64> = jobs.unwrap().iter().map(|job| job.id.position.minor).collect();
                        let expected: Vec<u64> = model.jobs.iter()
                            .filter(|job| job.published && job.number > after)
                            .map(|job| job.number).take(max).collect();
                        prop_assert_eq!(read, expected);
                    }
                },
                LogStep::Complete(up_to) => {
                    log.complete(Position::counted(up_to));
                    model.complete(up_to);
                }
                LogStep::BeginAttempt(head) => {
                    let before = model.attempts.filter(|(tried, _)| *tried == head);
                    let count = before.map_or(0, |(_, count)| count) + 1;
                    if model.jobs.iter().any(|job| job.published && job.number == head) {
                        model.attempts = Some((head, count));
                    }
                    prop_assert_eq!(log.begin_attempt(Position::counted(head)), count);
                }
                LogStep::WithdrawAttempt(head) => {
                    log.withdraw_attempt(Position::counted(head));
                    model.attempts = model.attempts
                        .map(|(tried, count)| if tried == head { (tried, count - 1) } else { (tried, count) })
                        .filter(|(_, count)| *count > 0);
                }
                LogStep::StartAfter(position) => {
                    log.publish();
                    model.jobs.iter_mut().for_each(|job| job.published = true);
                    log.start_after(Position::counted(position));
                    if position > model.last {
                        model.complete(position);
                        model.last = position;
                        model.trimmed = position;
                    }
                }
                LogStep::Clock(by) => clock += by,
                LogStep::Restart => {
                    log.publish();
                    model.jobs.iter_mut().for_each(|job| job.published = true);
                    log = rebuilt(&log, queue, Timestamp(clock as u64));
                }
            }
            check(&log, &model, queue, Timestamp(clock as u64));
        }
    }
}

fn admit_new(log: &mut PartitionLog, new: NewJob) -> (Arc<Job>, Option<Remembered>) {
    match log.admit(new, Timestamp(0)).unwrap() {
        Admission::New { job, remembered } => (job, remembered),
        Admission::Replayed(id) => panic!("{id} is replayed"),
    }
}

#[test]
fn a_replay_of_an_unpublished_job_goes_with_it() {
    let mut log = new_log(QueueId::random());
    let again = || request(5, Some((1, 1000, 1000)));
    let (first, _) = admit_new(&mut log, again());
    let replay = log.admit(again(), Timestamp(0)).unwrap();
    let id = first.id;
    assert_eq!(replay, Admission::Replayed(id));
    assert_eq!(log.read(Position::START, 10).unwrap(), []);
    assert_eq!(log.find(id.position), Found::Unknown);

    log.withdraw();
    // The key is free again, and the number is not given out a second time.
    let (second, _) = admit_new(&mut log, again());
    assert!(second.id.position > id.position);
    log.publish();
    let replay = log.admit(again(), Timestamp(0)).unwrap();
    let id = second.id;
    assert_eq!(replay, Admission::Replayed(id));
}

#[test]
fn a_replay_is_answered_after_the_job_is_gone_and_until_the_window_ends() {
    let mut log = new_log(QueueId::random());
    let again = || request(5, Some((1, 1000, 1000)));
    let (job, _) = admit_new(&mut log, again());
    log.publish();
    log.complete(job.id.position);
    assert_eq!(log.find(job.id.position), Found::Dropped);
    let id = job.id;
    let replay = Admission::Replayed(id);
    assert_eq!(log.admit(again(), Timestamp(999)).unwrap(), replay);
    assert!(matches!(
        log.admit(request(6, Some((1, 1000, 1000))), Timestamp(999)),
        Err(Error::KeyReused)
    ));
    let after = log.admit(request(6, Some((1, 1000, 1000))), Timestamp(1000));
    assert!(matches!(after, Ok(Admission::New { .. })));
}

#[test]
fn each_opening_numbers_after_all_earlier_ones_and_knows_no_job_of_a_lost_one() {
    let mut log = new_log(QueueId::random());
    let first = log.open(Timestamp(1000));
    let (job, _) = admit_new(&mut log, request(1, None));
    let position = job.id.position;
    assert_eq!((position.major, position.minor), (first.major, 1));
    log.publish();

    // With a clock that is behind or ahead alike, waiting jobs stay, and numbering continues from a
    // range of its own.
    for clock in [Timestamp(0), Timestamp(1 << 40)] {
        let before = log.last();
        let opened = log.open(clock);
        assert!(opened > before && opened.minor == 0);
        let (next, _) = admit_new(&mut log, request(1, None));
        log.publish();
        assert_eq!(next.id.position.major, opened.major);
        assert!(matches!(log.find(position), Found::Held { .. }));
        for lost in [
            Position {
                minor: before.minor + 1,
                ..before
            },
            Position {
                major: opened.major - 1,
                minor: 1,
            },
            Position {
                minor: 2,
                ..next.id.position
            },
        ] {
            assert_eq!(log.find(lost), Found::Unknown, "{lost}");
        }
    }
    assert_eq!(log.read(Position::START, 10).unwrap().len(), 3);
}

#[test]
fn a_job_over_the_bound_on_bytes_is_rejected_as_too_large() {
    let mut log = new_log(QueueId::random());
    let too_large = log.admit(request(BYTES_MAX as u8, None), Timestamp(0));
    assert!(matches!(too_large, Err(Error::TooLarge { .. })));
}

#[test]
fn exhausted_numbers_are_an_error_and_not_an_overflow() {
    let mut log = new_log(QueueId::random());
    log.start_after(Position::counted(u64::MAX));
    let full = log.admit(request(1, None), Timestamp(0));
    assert!(matches!(full, Err(Error::Full { .. })));
}

#[test]
fn restored_jobs_must_be_in_order_and_of_this_queue() {
    let queue = QueueId::random();
    let mut source = new_log(queue);
    let (first, remembered) = admit_new(&mut source, request(1, Some((1, 1000, 1000))));
    let (second, _) = admit_new(&mut source, request(2, None));

    let mut log = new_log(queue);
    log.restore_job(Job::clone(&first), remembered).unwrap();
    assert!(log.restore_job(Job::clone(&first), None).is_err());
    log.restore_job(Job::clone(&second), None).unwrap();
    assert!(
        log.restore_numbering(first.id.position, Position::START)
            .is_err()
    );
    assert_eq!(log.read(Position::START, 10).unwrap().len(), 2);
    let id = first.id;
    let replay = log.admit(request(1, Some((1, 1000, 1000))), Timestamp(1));
    assert_eq!(replay.unwrap(), Admission::Replayed(id));

    let mut of_another_queue = new_log(QueueId::random());
    assert!(
        of_another_queue
            .restore_job(Job::clone(&first), None)
            .is_err()
    );
}

#[test]
fn a_restored_job_that_was_trimmed_counts_and_is_not_held() {
    let queue = QueueId::random();
    let mut source = new_log(queue);
    let (first, _) = admit_new(&mut source, request(1, None));
    let (second, _) = admit_new(&mut source, request(2, None));

    let mut log = new_log(queue);
    log.restore_numbering(first.id.position, first.id.position)
        .unwrap();
    log.restore_job(Job::clone(&first), None).unwrap();
    log.restore_job(Job::clone(&second), None).unwrap();
    assert_eq!(log.find(first.id.position), Found::Dropped);
    assert_eq!(
        log.read(first.id.position, 10).unwrap(),
        [Job::clone(&second)]
    );
    assert!(matches!(
        log.read(Position::START, 10),
        Err(Error::Gap { .. })
    ));
}
