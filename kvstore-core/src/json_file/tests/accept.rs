//! Is a job that is applied on acceptance applied once, in order, and as durably as any other?

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::crash::{Seen, block_on, contents, options, work};
use crate::error::{Error, Result};
use crate::in_memory::log::Admission;
use crate::json_file::disk::simulated::{Fault, SimulatedDisk};
use crate::json_file::snapshot::meta::Meta;
use crate::json_file::{JsonFile, JsonStore, Options};
use crate::model::command::{Command, Operation};
use crate::model::commit::Commit;
use crate::model::entry::Timestamp;
use crate::model::id::{Partition, Position, QueueId};
use crate::model::job::{Idempotency, JobState, NewJob, Outcome};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::{Change, Condition, Write};
use crate::queue::{
    Accepted, AppliedJob, AppliedListener, Claim, Found, JobQueue, QueueOptions, WorkQueue,
    WorkerId,
};
use crate::store::Store;

fn start(disk: &SimulatedDisk) -> Result<JsonFile> {
    JsonFile::start(Arc::new(disk.clone()), &options(), None)
}

/// Claims the queue like a worker that allows jobs to be applied on acceptance.
async fn claim(file: &JsonFile) -> Claim {
    // If the power fails first, a later step reports it.
    let _ = file.store().adopt_queue(file.queue().id()).await;
    file.queue()
        .apply_on_acceptance(AppliedListener::new(|_, _| {}));
    let claims = file.queue().claim(&WorkerId::new("test")).await.unwrap();
    claims.into_iter().next().unwrap()
}

fn set(key: &str, value: u64) -> NewJob {
    let value = Value::from_serialize(&value).unwrap();
    NewJob::new(Command::One(Operation::set(Key::new(key).unwrap(), value)))
}

/// Creates a set that succeeds only if the key is absent, under an idempotency key of the same
/// name.
fn create(key: &str, value: u64) -> NewJob {
    let value = Value::from_serialize(&value).unwrap();
    let mut operation = Operation::set(Key::new(key).unwrap(), value);
    operation.condition = Condition::Absent;
    NewJob {
        idempotency: Some(Idempotency {
            key: key.to_owned(),
            window: Duration::from_secs(3600),
            minimum: Duration::from_secs(3600),
        }),
        ..NewJob::new(Command::One(operation))
    }
}

async fn enqueue(file: &JsonFile, jobs: Vec<NewJob>) -> Result<Vec<Accepted>> {
    file.queue().enqueue(jobs).await.into_iter().collect()
}

async fn state(file: &JsonFile, accepted: &Accepted) -> JobState {
    file.store()
        .outcome(&accepted.id, Duration::ZERO)
        .await
        .unwrap()
}

fn succeeded(state: &JobState) -> bool {
    matches!(state, JobState::Finished(Outcome::Succeeded(_)))
}

#[test]
fn job_that_nothing_is_ahead_of_is_applied_with_one_sync() {
    block_on(async {
        let disk = SimulatedDisk::new();
        let file = start(&disk).unwrap();
        let _claim = claim(&file).await;
        enqueue(&file, vec![set("a", 1)]).await.unwrap();
        let before = disk.steps();
        let accepted = enqueue(&file, vec![set("a", 2)]).await.unwrap();
        // The line, its sync, and the mark.
        assert_eq!(disk.steps() - before, 3);
        assert!(succeeded(&state(&file, &accepted[0]).await));
        let found = file.queue().find(&accepted[0].id).await.unwrap();
        assert_eq!(found, Found::Dropped);
        // The answer carries the same outcome as the store.
        let done = accepted[0].outcome.clone().map(JobState::Finished);
        assert_eq!(done, Some(state(&file, &accepted[0]).await));
        assert_eq!(contents(&file.store()).await["a"], 2);
    });
}

#[test]
fn each_job_is_reported_once_with_its_trace_and_end_and_only_what_is_durable() {
    block_on(async {
        let disk = SimulatedDisk::new();
        let file = start(&disk).unwrap();
        let _claim = claim(&file).await;
        let reported: Arc<Mutex<Vec<AppliedJob>>> = Arc::default();
        let keep = Arc::clone(&reported);
        let listener =
            AppliedListener::new(move |jobs, _| keep.lock().unwrap().extend_from_slice(jobs));
        file.queue().apply_on_acceptance(listener);

        let traced = NewJob {
            traceparent: Some("00-01-02-00".to_owned()),
            ..create("a", 1)
        };
        let first = enqueue(&file, vec![traced]).await.unwrap();
        // A repeated request adds no job.
        enqueue(&file, vec![create("a", 1)]).await.unwrap();
        let other = NewJob {
            idempotency: None,
            ..create("a", 2)
        };
        let second = enqueue(&file, vec![other]).await.unwrap();
        disk.plan(disk.steps() + 1, Fault::FullFor(10));
        enqueue(&file, vec![set("b", 1)]).await.unwrap_err();
        disk.plan(u64::MAX, Fault::FullFor(0));
        let third = enqueue(&file, vec![set("b", 1)]).await.unwrap();

        let reported = reported.lock().unwrap();
        let ends: Vec<_> = reported.iter().map(|job| (job.id, job.failed)).collect();
        let expected = [
            (first[0].id, false),
            (second[0].id, true),
            (third[0].id, false),
        ];
        assert_eq!(ends, expected);
        assert_eq!(reported[0].traceparent.as_deref(), Some("00-01-02-00"));
    });
}

#[test]
fn nothing_is_applied_on_acceptance_if_it_is_switched_off_or_no_worker_listens() {
    block_on(async {
        for (switch, listens) in [(true, false), (false, true)] {
            let options = Options {
                apply_on_acceptance: switch,
                ..options()
            };
            let file = JsonFile::start(Arc::new(SimulatedDisk::new()), &options, None).unwrap();
            if listens {
                let _claim = claim(&file).await;
            } else {
                file.queue().claim(&WorkerId::new("test")).await.unwrap();
            }
            let accepted = enqueue(&file, vec![set("a", 1)]).await.unwrap();
            assert_eq!(state(&file, &accepted[0]).await, JobState::Queued);
        }
    });
}

#[test]
fn job_is_left_to_the_worker_as_long_as_another_one_waits_or_no_worker_is_here() {
    block_on(async {
        let disk = SimulatedDisk::new();
        let file = start(&disk).unwrap();
        let first = enqueue(&file, vec![set("a", 1)]).await.unwrap();
        let claim = claim(&file).await;
        let second = enqueue(&file, vec![set("a", 2)]).await.unwrap();
        for accepted in [&first[0], &second[0]] {
            assert_eq!(accepted.outcome, None);
            assert_eq!(state(&file, accepted).await, JobState::Queued);
        }
        let queue = file.queue();
        let jobs = queue
            .read(&claim, Position::START, 10, Duration::ZERO)
            .await;
        let ids: Vec<_> = jobs.unwrap().iter().map(|job| job.id).collect();
        assert_eq!(ids, [first[0].id, second[0].id]);
    });
}

#[test]
fn jobs_of_one_call_are_applied_in_order_also_where_one_depends_on_another() {
    block_on(async {
        let disk = SimulatedDisk::new();
        let file = start(&disk).unwrap();
        let _claim = claim(&file).await;
        let steps = disk.steps();
        let add =
            |amount| NewJob::new(Command::One(Operation::add(Key::new("b").unwrap(), amount)));
        let jobs = vec![set("a", 1), create("a", 2), add(2), add(3)];
        let accepted = enqueue(&file, jobs).await.unwrap();
        // One fill, then the lines, their sync and the mark for all of them.
        assert!(disk.steps() - steps <= 4);
        assert!(accepted.windows(2).all(|pair| pair[0].id < pair[1].id));
        let states: Vec<bool> =
            futures_util::future::join_all(accepted.iter().map(|it| state(&file, it)))
                .await
                .iter()
                .map(succeeded)
                .collect();
        assert_eq!(states, [true, false, true, true]);
        let found = contents(&file.store()).await;
        assert_eq!((found["a"], found["b"]), (1, 5));
    });
}

#[test]
fn condition_is_judged_and_requests_are_remembered_over_snapshots_and_restarts() {
    block_on(async {
        let disk = SimulatedDisk::new();
        let file = start(&disk).unwrap();
        let _claim = claim(&file).await;
        let first = enqueue(&file, vec![create("a", 1)]).await.unwrap();
        let other = NewJob {
            idempotency: None,
            keep_outcome: true,
            ..create("a", 2)
        };
        let failed = enqueue(&file, vec![other]).await.unwrap();
        let outcome = state(&file, &failed[0]).await;
        assert!(
            matches!(outcome, JobState::Finished(Outcome::Failed(_))),
            "{outcome:?}"
        );
        let again = async |file: &JsonFile| {
            let again = enqueue(file, vec![create("a", 1)]).await.unwrap();
            assert_eq!((again[0].id, again[0].replayed), (first[0].id, true));
        };
        again(&file).await;
        let killed = start(&disk.after_kill()).unwrap();
        again(&killed).await;
        file.store().compact().await.unwrap();
        again(&start(&disk.after_kill()).unwrap()).await;
        file.close().await.unwrap();
        again(&start(&disk.after_kill()).unwrap()).await;
    });
}

const JOBS: u64 = 12;

/// Accepts jobs one after the other, each of which must be the first of its key, and counts the
/// acknowledged ones.
async fn tell(disk: &SimulatedDisk, acknowledged: &mut u64) -> Result<()> {
    let file = start(disk)?;
    let _claim = claim(&file).await;
    while *acknowledged < JOBS {
        let number = *acknowledged + 1;
        let jobs = vec![create(&format!("k{number}"), number), set("latest", number)];
        enqueue(&file, jobs).await?;
        *acknowledged = number;
        if number.is_multiple_of(5) {
            file.store().compact().await?;
        }
    }
    file.close().await
}

#[test]
fn what_was_applied_on_acceptance_survives_a_power_cut_at_any_step_and_is_applied_once() {
    block_on(async {
        let disk = SimulatedDisk::new();
        tell(&disk, &mut 0).await.unwrap();
        let steps = disk.steps();
        assert!(steps > 100, "{steps}");
        for step in 1..=steps {
            let disk = SimulatedDisk::new();
            disk.plan(step, Fault::PowerCut);
            let mut acknowledged = 0;
            let _ = tell(&disk, &mut acknowledged).await;
            for seed in 0..4 {
                let left = disk.after_power_cut(seed);
                let context = format!("step {step}, seed {seed}, {acknowledged} acknowledged");
                let file = start(&left).unwrap_or_else(|error| panic!("{context}: {error:?}"));
                let found = contents(&file.store()).await;
                let latest = found.get("latest").copied().unwrap_or(0);
                assert!(latest >= acknowledged, "{context}: {found:?}");
                for number in 1..=latest {
                    assert_eq!(found.get(&format!("k{number}")), Some(&number), "{context}");
                }
                let store = file.store();
                let applied = store
                    .applied(file.queue().id(), Partition(0))
                    .await
                    .unwrap();
                // The same requests again are the same jobs.
                let _claim = claim(&file).await;
                for number in 1..=latest {
                    let job = create(&format!("k{number}"), number);
                    let again = enqueue(&file, vec![job]).await.unwrap();
                    assert!(again[0].replayed, "{context}");
                }
                let next = enqueue(&file, vec![set("latest", 99)]).await.unwrap();
                assert!(next[0].id.position > applied, "{context}");
                assert!(succeeded(&state(&file, &next[0]).await), "{context}");
            }
        }
    });
}

#[test]
fn full_disk_refuses_a_job_before_it_is_accepted_and_uses_its_number_again() {
    block_on(async {
        let disk = SimulatedDisk::new();
        let file = start(&disk).unwrap();
        let _claim = claim(&file).await;
        let first = enqueue(&file, vec![create("a", 1)]).await.unwrap();
        disk.plan(disk.steps() + 1, Fault::FullFor(10));
        let refused = enqueue(&file, vec![create("b", 2)]).await;
        assert!(
            matches!(refused, Err(Error::StorageFull { .. })),
            "{refused:?}"
        );
        disk.plan(u64::MAX, Fault::FullFor(0));
        let second = enqueue(&file, vec![create("b", 2)]).await.unwrap();
        assert!(!second[0].replayed);
        assert_eq!(second[0].id.position.minor, first[0].id.position.minor + 1);
    });
}

/// Returns the length of each value, by key.
async fn lengths(store: &JsonStore) -> BTreeMap<String, usize> {
    let mut lengths = BTreeMap::new();
    store.scan_with("", |key, entry| {
        lengths.insert(key.to_owned(), entry.value.len());
        ControlFlow::Continue(())
    });
    lengths
}

#[test]
fn jobs_that_wait_are_applied_although_the_disk_is_full() {
    block_on(async {
        let disk = SimulatedDisk::new();
        let file = start(&disk).unwrap();
        // There is no worker yet, so they wait. In any case their effects take more space than was
        // filled ahead.
        let large = |number: usize, length: usize| {
            let value = Value::from_serialize(&"x".repeat(length)).unwrap();
            let key = Key::new(&format!("k{number}")).unwrap();
            NewJob::new(Command::One(Operation::set(key, value)))
        };
        for number in 0..20 {
            enqueue(&file, vec![large(number, 100_000)]).await.unwrap();
        }
        disk.plan(disk.steps() + 1, Fault::NoRoom);
        // A refused write stays refused, even in one group with changes whose space is reserved.
        let commit = |number: u64| Commit {
            writes: vec![Write {
                key: Key::new(&format!("direct{number}")).unwrap(),
                change: Change::Set {
                    value: Value::from_serialize(&"x".repeat(600_000)).unwrap(),
                    expires_at: None,
                },
            }],
            ..Commit::default()
        };
        let store = file.store();
        let refused = store.commit(commit(0)).await;
        assert!(
            matches!(refused, Err(Error::StorageFull { .. })),
            "{refused:?}"
        );
        let mut seen = Seen::default();
        let (mut applied, mut refused) = (0, 0);
        for round in 1.. {
            let (worked, direct, job) = tokio::join!(
                work(&file, &mut seen),
                store.commit(commit(round)),
                enqueue(&file, vec![large(100, 600_000)])
            );
            // Once most of the waiting jobs are applied, there may be space again.
            refused += usize::from(direct.is_err()) + usize::from(job.is_err());
            match worked.unwrap() {
                0 => break,
                count => applied += count,
            }
        }
        assert_eq!(applied, 20);
        assert!(refused >= 4, "{refused}");
        let has_all = |entries: BTreeMap<String, usize>| {
            (0..20).all(|number| entries.contains_key(&format!("k{number}")))
        };
        assert!(has_all(lengths(&store).await));
        // Their effects survive a kill.
        let again = start(&disk.after_kill()).unwrap();
        assert!(has_all(lengths(&again.store()).await));
    });
}

#[test]
fn room_for_jobs_that_wait_goes_over_into_the_next_journal() {
    block_on(async {
        let disk = SimulatedDisk::new();
        let file = start(&disk).unwrap();
        let value = Value::from_serialize(&"x".repeat(400_000)).unwrap();
        for key in ["a", "b"] {
            let set = Operation::set(Key::new(key).unwrap(), value.clone());
            let job = NewJob::new(Command::One(set));
            enqueue(&file, vec![job]).await.unwrap();
        }
        file.store().compact().await.unwrap();
        disk.plan(disk.steps() + 1, Fault::NoRoom);
        let applied = work(&file, &mut Seen::default()).await.unwrap();
        assert_eq!(applied, 2);
        let restarted = start(&disk.after_kill()).unwrap();
        assert_eq!(lengths(&restarted.store()).await.len(), 2);
    });
}

#[test]
fn queue_of_a_folder_whose_store_is_not_the_one_that_applies_it_leaves_jobs_to_the_worker() {
    block_on(async {
        let file = start(&SimulatedDisk::new()).unwrap();
        let store: Arc<dyn Store> = Arc::new(crate::memory::MemoryStore::default());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let until = async { drop(stopped.await) };
        let options = crate::worker::Options::default();
        let worker = crate::worker::run(Arc::clone(&store), file.queue(), options, until);
        let work = async {
            let mut last = None;
            for number in 0..20 {
                last = enqueue(&file, vec![set("a", number)]).await.unwrap().pop();
                let id = last.as_ref().unwrap().id;
                let state = store.outcome(&id, Duration::from_secs(10)).await.unwrap();
                assert!(succeeded(&state), "{number}: {state:?}");
            }
            drop(stop);
            last
        };
        let (ended, last) = tokio::join!(worker, work);
        ended.unwrap();
        assert_eq!(last.unwrap().outcome, None);
        assert!(contents(&file.store()).await.is_empty());
    });
}

#[test]
fn snapshot_beside_jobs_keeps_every_outcome_and_request() {
    const BEFORE: u64 = 3000;
    const BESIDE: u64 = 300;
    block_on(async {
        let disk = SimulatedDisk::new();
        let file = start(&disk).unwrap();
        let _claim = claim(&file).await;
        let mut accepted = Vec::new();
        let mut accept = async |numbers: std::ops::Range<u64>| {
            // Every third job fails, and its outcome is kept.
            let jobs =
                numbers.map(|number| create(&format!("k{}", number - number % 3 / 2), number));
            let jobs = jobs.zip(accepted.len()..).map(|(job, number)| NewJob {
                idempotency: Some(Idempotency {
                    key: format!("request {number}"),
                    window: Duration::from_secs(3600),
                    minimum: Duration::from_secs(3600),
                }),
                ..job
            });
            accepted.extend(enqueue(&file, jobs.collect()).await.unwrap());
        };
        accept(0..BEFORE).await;
        let store = file.store();
        let compacted = tokio::spawn(async move { store.compact().await });
        for number in BEFORE..BEFORE + BESIDE {
            accept(number..number + 1).await;
        }
        compacted.await.unwrap().unwrap();
        let again = start(&disk.after_kill()).unwrap();
        let mut failed = 0;
        for job in &accepted {
            let is = state(&again, job).await;
            assert_eq!(
                Some(is.clone()),
                job.outcome.clone().map(JobState::Finished)
            );
            failed += u64::from(!succeeded(&is));
        }
        assert_eq!(failed, (BEFORE + BESIDE) / 3);
        let _claim = claim(&again).await;
        for (number, job) in accepted.iter().enumerate() {
            let repeated = NewJob {
                idempotency: Some(Idempotency {
                    key: format!("request {number}"),
                    window: Duration::from_secs(3600),
                    minimum: Duration::from_secs(3600),
                }),
                ..create(&format!("k{}", number - number % 3 / 2), number as u64)
            };
            let repeated = enqueue(&again, vec![repeated]).await.unwrap();
            assert!(repeated[0].replayed && repeated[0].id == job.id, "{number}");
        }
    });
}

#[test]
fn snapshot_remembers_no_request_whose_job_is_not_on_the_disk_yet() {
    let (disk, now) = (SimulatedDisk::new(), Timestamp(1000));
    let mut meta = Meta::of_new_folder(QueueId::random());
    let mut log = meta.log(&disk, &QueueOptions::default()).unwrap();
    log.admit(create("a", 1), now).unwrap();
    log.publish();
    meta.set_log(&log);
    // The snapshot was cut, and its thread copies the remembered requests while the next group is
    // being written.
    log.admit(create("b", 2), now).unwrap();
    meta.add_remembered(now, || &log);
    // That group was not written, and the folder is reopened.
    let mut log = meta.log(&disk, &QueueOptions::default()).unwrap();
    let mut is_replayed = |job| matches!(log.admit(job, now), Ok(Admission::Replayed(_)));
    assert!(is_replayed(create("a", 1)));
    assert!(!is_replayed(create("b", 2)));
}
