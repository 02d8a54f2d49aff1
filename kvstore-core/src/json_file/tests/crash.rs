//! What survives a crash at step N? (In the crate, since the simulated disk is not part of the
//! public interface.)
//!
//! A first run counts the steps that a scenario takes on the disk. Then the scenario is repeated
//! and stopped at each of them. Part of the unsynced data is lost, and the store is opened on what
//! is left: everything acknowledged is there, everything is in order, and nothing is there in part.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::{Clock, ManualClock};
use crate::error::{Error, Result};
use crate::json_file::disk::Disk;
use crate::json_file::disk::simulated::{Fault, SimulatedDisk};
use crate::json_file::snapshot::data::FileFingerprint;
use crate::json_file::snapshot::meta::parse_meta;
use crate::json_file::snapshot::{DATA_NEW, META, META_NEW};
use crate::json_file::{JsonFile, JsonStore, Options};
use crate::model::command::{Command, Operation};
use crate::model::commit::Commit;
use crate::model::entry::{Timestamp, Version};
use crate::model::evaluate::evaluate;
use crate::model::id::{Partition, Position};
use crate::model::job::NewJob;
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::{Change, Write};
use crate::queue::{Accepted, Claim, JobQueue, WorkQueue, WorkerId};
use crate::store::{ListRequest, Store};

const COMMITS: u64 = 24;

fn open(disk: &SimulatedDisk) -> Result<Arc<JsonStore>> {
    let file = JsonFile::start(Arc::new(disk.clone()), &options(), None)?;
    Ok(file.store())
}

pub(crate) fn options() -> Options {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp(1)));
    Options {
        clock,
        ..Options::default()
    }
}

/// Returns the writes of the `number`th commit of the scenario: always `latest`, and some other
/// keys.
fn writes(number: u64) -> Vec<Write> {
    let set = |key: String, value: u64| Write {
        key: Key::new(&key).unwrap(),
        change: Change::Set {
            value: Value::from_serialize(&value).unwrap(),
            expires_at: None,
        },
    };
    let mut writes = vec![
        set("latest".into(), number),
        set(format!("k{}", number % 7), number),
    ];
    if number.is_multiple_of(3) {
        writes.push(Write {
            key: Key::new(&format!("k{}", (number + 2) % 7)).unwrap(),
            change: Change::Delete,
        });
    }
    writes
}

/// Returns the contents of the store after that many commits.
fn model(commits: u64) -> BTreeMap<String, u64> {
    let mut entries = BTreeMap::new();
    for write in (1..=commits).flat_map(writes) {
        let key = write.key.to_string();
        match write.change.value_at(Timestamp(0)) {
            Some((value, _)) => _ = entries.insert(key, value.to().unwrap()),
            None => _ = entries.remove(&key),
        }
    }
    entries
}

/// How far the scenario went.
#[derive(Clone, Copy, Debug, Default)]
struct AcknowledgedState {
    acknowledged: u64,
    attempted: u64,
    latest: Version,
}

/// Opens the store, commits one after the other and several at once, takes snapshots, and stops
/// cleanly. Continues from what is already there.
async fn tell(disk: &SimulatedDisk, told: &mut AcknowledgedState) -> Result<()> {
    let store = open(disk)?;
    while told.acknowledged < COMMITS {
        let first = told.acknowledged + 1;
        let group = if first.is_multiple_of(5) { 3 } else { 1 };
        let commits = (first..first + group).map(|number| {
            store.commit(Commit {
                writes: writes(number),
                ..Commit::default()
            })
        });
        told.attempted = first + group - 1;
        for committed in futures_util::future::join_all(commits).await {
            told.latest = committed?.first_version;
            told.acknowledged += 1;
        }
        if told.acknowledged.is_multiple_of(8) {
            store.compact().await?;
        }
    }
    store.close().await
}

pub(crate) async fn contents(store: &JsonStore) -> BTreeMap<String, u64> {
    let page = store
        .list(&ListRequest {
            include_values: true,
            ..ListRequest::default()
        })
        .await
        .unwrap();
    page.entries
        .into_iter()
        .map(|entry| (entry.key.to_string(), entry.value.unwrap().to().unwrap()))
        .collect()
}

/// Opens what is left, compares it with the model, and returns how many commits it holds.
async fn check(
    disk: &SimulatedDisk,
    told: AcknowledgedState,
    context: &str,
) -> (Arc<JsonStore>, u64) {
    let store = open(disk).unwrap_or_else(|error| panic!("{context}: {error:?}"));
    let found = contents(&store).await;
    let commits = found.get("latest").copied().unwrap_or(0);
    assert!(
        commits >= told.acknowledged,
        "{context}: {commits} of {told:?}"
    );
    assert!(
        commits <= told.attempted,
        "{context}: {commits} of {told:?}"
    );
    assert_eq!(found, model(commits), "{context}");
    (store, commits)
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut_at_any_step() {
    block_on(async {
        let disk = SimulatedDisk::new();
        let mut told = AcknowledgedState::default();
        tell(&disk, &mut told).await.unwrap();
        let steps = disk.steps();
        assert!(steps > 100, "{steps}");
        for step in 1..=steps {
            let disk = SimulatedDisk::new();
            disk.plan(step, Fault::PowerCut);
            let mut told = AcknowledgedState::default();
            let result = tell(&disk, &mut told).await;
            // The number of commits that share a sync depends on timing, so a run may be some steps
            // shorter than the first.
            if disk.faults_met() == 0 {
                assert!(
                    result.is_ok() && step > steps * 3 / 4,
                    "step {step} of {steps}: {result:?}"
                );
                break;
            }
            for seed in 0..8 {
                let context = format!("step {step} of {steps}, seed {seed}, {result:?}");
                let left = disk.after_power_cut(seed);
                let (store, commits) = check(&left, told, &context).await;
                // A version that was seen is never given to another write.
                let again = store
                    .commit(Commit {
                        writes: writes(commits + 1),
                        ..Commit::default()
                    })
                    .await
                    .unwrap();
                assert!(again.first_version > told.latest, "{context}");
                let mut rest = AcknowledgedState {
                    acknowledged: commits + 1,
                    attempted: commits + 1,
                    ..told
                };
                store.close().await.unwrap();
                drop(store);
                tell(&left, &mut rest)
                    .await
                    .unwrap_or_else(|error| panic!("{context}: {error:?}"));
                check(&left, rest, &context).await;
            }
        }
    });
}

#[test]
fn a_power_cut_during_recovery_is_recovered_from() {
    block_on(async {
        for step in (5..120).step_by(7) {
            let disk = SimulatedDisk::new();
            disk.plan(step, Fault::PowerCut);
            let mut told = AcknowledgedState::default();
            let _ = tell(&disk, &mut told).await;
            let first = disk.after_power_cut(step);
            for second in 1.. {
                let left = first.after_kill();
                left.plan(second, Fault::PowerCut);
                let opened = open(&left).is_ok();
                let context = format!("cut at step {step}, and at step {second} of the recovery");
                check(&left.after_power_cut(second), told, &context).await;
                if opened {
                    break;
                }
            }
        }
    });
}

#[test]
fn a_kill_at_any_step_loses_nothing_that_was_written() {
    block_on(async {
        for step in 1..150 {
            let disk = SimulatedDisk::new();
            disk.plan(step, Fault::PowerCut);
            let mut told = AcknowledgedState::default();
            let result = tell(&disk, &mut told).await;
            if disk.faults_met() == 0 {
                assert!(result.is_ok() && step > 100, "step {step}: {result:?}");
                break;
            }
            check(&disk.after_kill(), told, &format!("step {step}")).await;
        }
    });
}

#[test]
fn after_an_error_nothing_more_is_acknowledged_until_it_is_opened_again() {
    block_on(async {
        let mut poisoned = 0;
        for step in 1..150 {
            let disk = SimulatedDisk::new();
            disk.plan(step, Fault::ErrorOnce);
            let mut told = AcknowledgedState::default();
            let result = tell(&disk, &mut told).await;
            if disk.faults_met() == 0 {
                assert!(result.is_ok() && step > 100, "step {step}: {result:?}");
                break;
            }
            if let Err(Error::Unknown { .. } | Error::Poisoned { .. }) = result {
                poisoned += 1;
            }
            for seed in 0..4 {
                check(
                    &disk.after_power_cut(seed),
                    told,
                    &format!("step {step}, seed {seed}: {result:?}"),
                )
                .await;
            }
        }
        assert!(poisoned > 20, "{poisoned}");
    });
}

/// Commits once, and takes a snapshot that fails at its step `step`. Returns the store if the fault
/// hit the snapshot.
async fn after_failed_snapshot(disk: &SimulatedDisk, step: u64) -> Option<Arc<JsonStore>> {
    let store = open(disk).unwrap();
    let commit = |number| {
        store.commit(Commit {
            writes: writes(number),
            ..Commit::default()
        })
    };
    commit(1).await.unwrap();
    store.compact().await.unwrap();
    commit(2).await.unwrap();
    disk.plan(disk.steps() + step, Fault::ErrorOnce);
    let failed = store.compact().await;
    assert!(failed.is_ok() || disk.faults_met() == 1, "step {step}");
    disk.plan(u64::MAX, Fault::ErrorOnce);
    let is_sound = failed.is_err() && store.ping().await.is_ok();
    if is_sound {
        commit(3).await.unwrap();
    }
    is_sound.then_some(store)
}

fn assert_nothing_looks_edited(disk: &SimulatedDisk, context: &str) {
    let names = disk.names().unwrap();
    assert!(
        !names.iter().any(|name| name.contains("edited")),
        "{context}: {names:?}"
    );
}

/// Asserts that the partial files of a failed snapshot are gone, unless `data.meta.json` already
/// names them or was about to.
fn assert_no_room_is_lost(disk: &SimulatedDisk, context: &str) {
    let read = |name| disk.read(name).unwrap();
    if let Some(new) = read(DATA_NEW).filter(|_| read(META_NEW).is_none()) {
        let meta = parse_meta(disk, &read(META).unwrap()).unwrap();
        assert_eq!(meta.data, FileFingerprint::of(&new), "{context}");
    }
}

#[test]
fn a_snapshot_that_failed_at_any_step_is_made_up_for_by_the_next_one() {
    block_on(async {
        let told = AcknowledgedState {
            acknowledged: 3,
            attempted: 3,
            latest: Version(1),
        };
        let mut failed = 0;
        for step in 1..40 {
            let disk = SimulatedDisk::new();
            let Some(store) = after_failed_snapshot(&disk, step).await else {
                continue;
            };
            failed += 1;
            assert_no_room_is_lost(&disk, &format!("step {step}"));
            let begun = disk.steps();
            store.compact().await.unwrap();
            assert_nothing_looks_edited(&disk, &format!("step {step}"));
            // The same again, with a power cut at a step of the next snapshot.
            for second in 1..=disk.steps() - begun {
                let disk = SimulatedDisk::new();
                let store = after_failed_snapshot(&disk, step).await.unwrap();
                disk.plan(disk.steps() + second, Fault::PowerCut);
                let _ = store.compact().await;
                for seed in 0..4 {
                    let context =
                        format!("an error at step {step}, power off at {second}, seed {seed}");
                    let left = disk.after_power_cut(seed);
                    check(&left, told, &context).await;
                    assert_nothing_looks_edited(&left, &context);
                }
            }
        }
        assert!(failed > 10, "{failed}");
    });
}

#[test]
fn a_poisoned_store_says_so_and_still_reads() {
    block_on(async {
        let disk = SimulatedDisk::new();
        let store = open(&disk).unwrap();
        store
            .commit(Commit {
                writes: writes(1),
                ..Commit::default()
            })
            .await
            .unwrap();
        // The write succeeds, but its sync fails.
        disk.plan(disk.steps() + 2, Fault::ErrorOnce);
        let failed = store
            .commit(Commit {
                writes: writes(2),
                ..Commit::default()
            })
            .await;
        assert_eq!(disk.faults_met(), 1);
        assert!(matches!(failed, Err(Error::Unknown { .. })), "{failed:?}");
        let refused = store
            .commit(Commit {
                writes: writes(3),
                ..Commit::default()
            })
            .await;
        assert!(
            matches!(refused, Err(Error::Poisoned { .. })),
            "{refused:?}"
        );
        assert!(matches!(store.ping().await, Err(Error::Poisoned { .. })));
        assert_eq!(contents(&store).await, model(1));
    });
}

#[test]
fn a_full_disk_is_an_answer_and_passes() {
    block_on(async {
        let disk = SimulatedDisk::new();
        let store = open(&disk).unwrap();
        store
            .commit(Commit {
                writes: writes(1),
                ..Commit::default()
            })
            .await
            .unwrap();
        disk.plan(disk.steps() + 1, Fault::FullFor(u64::MAX / 2));
        for _ in 0..3 {
            let refused = store
                .commit(Commit {
                    writes: writes(2),
                    ..Commit::default()
                })
                .await;
            assert!(
                matches!(refused, Err(Error::StorageFull { .. })),
                "{refused:?}"
            );
            assert_eq!(contents(&store).await, model(1));
        }
        assert!(disk.faults_met() >= 3);
        // A ping may be in one group with a write that runs out of space.
        for _ in 0..200 {
            let write = store.commit(Commit {
                writes: writes(2),
                ..Commit::default()
            });
            let (refused, answers, after) = tokio::join!(write, store.ping(), store.ping());
            assert!(
                matches!(refused, Err(Error::StorageFull { .. })),
                "{refused:?}"
            );
            answers.unwrap();
            after.unwrap();
        }
        assert!(matches!(
            store.compact().await,
            Err(Error::Unavailable { .. })
        ));

        // There is space again.
        disk.plan(u64::MAX, Fault::ErrorOnce);
        store
            .commit(Commit {
                writes: writes(2),
                ..Commit::default()
            })
            .await
            .unwrap();
        store.compact().await.unwrap();
        store
            .commit(Commit {
                writes: writes(3),
                ..Commit::default()
            })
            .await
            .unwrap();
        assert_eq!(contents(&store).await, model(3));
        for seed in 0..8 {
            assert_eq!(
                contents(&open(&disk.after_power_cut(seed)).unwrap()).await,
                model(3)
            );
        }
    });
}

/// What a client and a worker have seen of the folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The jobs that were accepted, with the numbers that they set.
    accepted: Vec<(Position, u64)>,
    attempted: u64,
    applied: Position,
}

pub(crate) fn job(number: u64) -> NewJob {
    let value = Value::from_serialize(&number).unwrap();
    NewJob::new(Command::One(Operation::set(
        Key::new(&format!("j{number}")).unwrap(),
        value,
    )))
}

pub(crate) fn claim() -> Claim {
    Claim {
        worker: WorkerId::new("crash"),
        partition: Partition(0),
    }
}

/// Applies a batch of waiting jobs, once.
pub(crate) async fn work(file: &JsonFile, seen: &mut Seen) -> Result<usize> {
    let (store, queue) = (file.store(), file.queue());
    let from = store.applied(queue.id(), Partition(0)).await?;
    let jobs = queue
        .read(&claim(), from, 3, std::time::Duration::ZERO)
        .await?;
    if let Some(head) = jobs.first() {
        queue.begin_attempt(&claim(), head.id.position).await?;
        let evaluation = evaluate(from, &jobs, &std::collections::HashMap::new());
        let to = jobs[evaluation.taken - 1].id.position;
        store.commit(evaluation.commit).await?;
        seen.applied = to;
        queue.complete(&claim(), to).await?;
    }
    Ok(jobs.len())
}

async fn accept_and_work(disk: &SimulatedDisk, seen: &mut Seen) -> Result<()> {
    let file = JsonFile::start(Arc::new(disk.clone()), &options(), None)?;
    for first in (0..18).step_by(3) {
        seen.attempted = first + 3;
        let accepted = file
            .queue()
            .enqueue((first..first + 3).map(job).collect())
            .await;
        for (number, accepted) in (first..).zip(accepted) {
            let Accepted { id, .. } = accepted?;
            seen.accepted.push((id.position, number));
        }
        if first % 2 == 0 {
            work(&file, seen).await?;
        }
        if first == 9 {
            file.store().compact().await?;
        }
    }
    file.close().await
}

#[test]
fn every_accepted_job_is_applied_exactly_once_and_in_order_after_a_power_cut_at_any_step() {
    block_on(async {
        let disk = SimulatedDisk::new();
        accept_and_work(&disk, &mut Seen::default()).await.unwrap();
        let steps = disk.steps();
        for step in 1..=steps {
            let disk = SimulatedDisk::new();
            disk.plan(step, Fault::PowerCut);
            let mut seen = Seen::default();
            let result = accept_and_work(&disk, &mut seen).await;
            if disk.faults_met() == 0 {
                assert!(
                    result.is_ok() && step > steps * 3 / 4,
                    "step {step} of {steps}: {result:?}"
                );
                break;
            }
            for seed in 0..4 {
                let context = format!("step {step} of {steps}, seed {seed}, {result:?}, {seen:?}");
                let left = disk.after_power_cut(seed);
                let file = JsonFile::start(Arc::new(left), &options(), None)
                    .unwrap_or_else(|error| panic!("{context}: {error:?}"));
                let applied = file
                    .store()
                    .applied(file.queue().id(), Partition(0))
                    .await
                    .unwrap();
                assert!(applied >= seen.applied, "{context}");
                let opened = file.store().shared.read().version;
                let before = contents(&file.store()).await.len();
                let mut after = seen.clone();
                while work(&file, &mut after)
                    .await
                    .unwrap_or_else(|error| panic!("{context}: {error:?}"))
                    > 0
                {}
                let found = contents(&file.store()).await;
                for (_, number) in &seen.accepted {
                    assert_eq!(found.get(&format!("j{number}")), Some(number), "{context}");
                }
                assert!(found.len() as u64 <= seen.attempted, "{context}");
                // Each was written once: there are as many versions as new entries.
                assert_eq!(
                    file.store().shared.read().version.0 - opened.0,
                    (found.len() - before) as u64,
                    "{context}"
                );
                // A position is never assigned twice.
                let next = file.queue().enqueue(vec![job(99)]).await.remove(0).unwrap();
                assert!(
                    seen.accepted
                        .iter()
                        .all(|(position, _)| *position < next.id.position),
                    "{context}"
                );
            }
        }
    });
}
