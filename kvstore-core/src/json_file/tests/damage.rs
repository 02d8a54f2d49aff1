//! What does damage cost? (In the crate, for the disk that can be stopped at any step.)
//!
//! A folder with every kind of data is damaged in one place. The findings are compared with the
//! error of opening it. Then it is repaired: it opens, it is found to be sound, it holds nothing
//! that was never written, and everything that it lacks was announced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::Result;
use crate::json_file::disk::Disk;
use crate::json_file::disk::simulated::{Fault, SimulatedDisk};
use crate::json_file::inspect::{Beside, FolderProblem, Salvage};
use crate::json_file::repair::repair_disk;
use crate::json_file::tests::crash::{Seen, block_on, contents, job, options, work};
use crate::json_file::{JsonFile, PARTITION};
use crate::model::commit::Commit;
use crate::model::entry::{Timestamp, Version};
use crate::model::id::Position;
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::{Change, Write};
use crate::queue::JobQueue;
use crate::store::Store;

const KEYS: u64 = 10;
const COMMITS: u64 = 40;
const JOBS: u64 = 12;

/// Creates a commit of one write, so that a damaged line costs one write.
pub(crate) fn commit(number: u64) -> Commit {
    let write = Write {
        key: Key::new(&format!("k{}", number % KEYS)).unwrap(),
        change: Change::Set {
            value: Value::from_serialize(&number).unwrap(),
            expires_at: number.is_multiple_of(4).then_some(Timestamp(u64::MAX)),
        },
    };
    Commit {
        writes: vec![write],
        ..Commit::default()
    }
}

pub(crate) fn start(disk: &SimulatedDisk) -> Result<JsonFile> {
    JsonFile::start(Arc::new(disk.clone()), &options(), None)
}

/// Returns the folder of a killed process: a snapshot and two later journals, with commits, and
/// with jobs half of which are applied.
pub(crate) async fn folder() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let file = start(&disk).unwrap();
    for number in 1..=COMMITS / 2 {
        file.store().commit(commit(number)).await.unwrap();
    }
    file.store().compact().await.unwrap();
    let jobs = (0..JOBS / 2).map(job).collect();
    for accepted in file.queue().enqueue(jobs).await {
        accepted.unwrap();
    }
    let mut seen = Seen::default();
    work(&file, &mut seen).await.unwrap();
    let disk = disk.after_kill();
    let file = start(&disk).unwrap();
    for number in COMMITS / 2 + 1..=COMMITS {
        file.store().commit(commit(number)).await.unwrap();
    }
    for number in JOBS / 2..JOBS {
        let accepted = file.queue().enqueue(vec![job(number)]).await;
        assert!(accepted.iter().all(Result::is_ok));
    }
    work(&file, &mut seen).await.unwrap();
    disk.after_kill()
}

/// Returns the contents of the undamaged folder once all jobs are applied.
pub(crate) fn complete() -> BTreeMap<String, u64> {
    let keys = (COMMITS - KEYS + 1..=COMMITS).map(|number| (format!("k{}", number % KEYS), number));
    keys.chain((0..JOBS).map(|number| (format!("j{number}"), number)))
        .collect()
}

pub(crate) fn copy(disk: &SimulatedDisk) -> SimulatedDisk {
    disk.after_kill()
}

fn problems(disk: &SimulatedDisk) -> Vec<FolderProblem> {
    Salvage::read(disk, Beside::Nobody).unwrap().found.problems
}

fn latest(disk: &SimulatedDisk) -> Version {
    Salvage::read(disk, Beside::Nobody)
        .unwrap()
        .pair
        .state
        .version
}

/// Opens the folder, applies the waiting jobs, and returns its contents.
pub(crate) async fn open_and_work(disk: &SimulatedDisk, context: &str) -> BTreeMap<String, u64> {
    let file = start(disk).unwrap_or_else(|error| panic!("{context}: {error:?}"));
    let mut seen = Seen::default();
    while work(&file, &mut seen)
        .await
        .unwrap_or_else(|error| panic!("{context}: {error:?}"))
        > 0
    {}
    contents(&file.store()).await
}

/// Repairs the folder, compares its contents with the originals, and returns how many entries are
/// missing or older.
async fn repair_and_check(disk: &SimulatedDisk, context: &str) -> usize {
    let found =
        repair_disk(disk, Timestamp(1)).unwrap_or_else(|error| panic!("{context}: {error:?}"));
    assert!(!found.is_empty(), "{context}");
    assert_eq!(problems(disk), [], "{context}");
    let left = open_and_work(disk, context).await;
    for (key, value) in &left {
        let is_written = match key.strip_prefix('k') {
            Some(digits) => *value <= COMMITS && (value % KEYS).to_string() == digits,
            None => format!("j{value}") == *key && *value < JOBS,
        };
        assert!(is_written, "{context}: {key} = {value} was never written");
    }
    let complete = complete();
    complete
        .iter()
        .filter(|(key, value)| left.get(*key) != Some(value))
        .count()
}

fn names(disk: &SimulatedDisk) -> Vec<String> {
    let names = disk.names().unwrap();
    names
        .into_iter()
        .filter(|name| !name.ends_with(".old"))
        .collect()
}

/// Returns where the text of a file ends, without the fill.
fn used(text: &[u8]) -> usize {
    text.iter()
        .rposition(|&byte| byte != b'\n')
        .map_or(0, |last| last + 1)
}

#[test]
fn sound_folder_has_no_problem_and_is_not_repaired() {
    block_on(async {
        let disk = folder().await;
        assert_eq!(problems(&disk), []);
        let steps = disk.steps();
        assert_eq!(repair_disk(&disk, Timestamp(1)).unwrap(), []);
        assert!(disk.steps() > steps, "it was read");
        let kinds: BTreeSet<String> = names(&disk)
            .iter()
            .map(|name| name.trim_end_matches(|it: char| it != '-').to_owned())
            .collect();
        assert!(kinds.len() >= 2, "{:?}", names(&disk));
        assert_eq!(open_and_work(&disk, "sound").await, complete());
    });
}

#[test]
fn flipped_bit_in_any_file_is_announced_and_costs_little() {
    block_on(async {
        let whole = folder().await;
        let mut costs = BTreeMap::new();
        for name in names(&whole) {
            let text = whole.read(&name).unwrap().unwrap();
            let mut torn = 0;
            for place in (0..used(&text)).step_by(23) {
                let context = format!("{name}, byte {place}");
                let disk = copy(&whole);
                let mut flipped = text.clone();
                flipped[place] ^= 1 << (place % 8);
                disk.put(&name, &flipped);
                let found = problems(&disk);
                if found.is_empty() {
                    // After the last mark it counts as a torn tail, as it does for opening.
                    torn += 1;
                    open_and_work(&disk, &context).await;
                    continue;
                }
                assert!(
                    found.iter().all(|it| it.loses.is_some()),
                    "{context}: {found:?}"
                );
                let before = latest(&whole);
                let cost = repair_and_check(&disk, &context).await;
                assert!(cost <= 4, "{context}: {cost}, {found:?}");
                assert!(latest(&disk) > before, "{context}");
                *costs.entry(name.clone()).or_insert(0) += cost;
                let kept = names(&disk)
                    .into_iter()
                    .filter(|it| it.starts_with(&format!("{name}.removed")));
                let kept: Vec<String> = kept.collect();
                assert!(
                    kept.iter()
                        .any(|it| disk.read(it).unwrap().as_ref() == Some(&flipped)),
                    "{context}: {kept:?}"
                );
            }
            assert!(torn < 40, "{name}: {torn}");
        }
        // Some damage must have cost something, or nothing was tested.
        assert!(costs.values().sum::<usize>() > 10, "{costs:?}");
    });
}

#[test]
fn missing_file_is_announced_and_the_rest_is_kept() {
    block_on(async {
        let whole = folder().await;
        let mut announced = 0;
        for name in names(&whole) {
            let disk = copy(&whole);
            disk.remove(&name).unwrap();
            let found = problems(&disk);
            if found.is_empty() {
                // None of its contents matter any more.
                assert_eq!(open_and_work(&disk, &name).await, complete(), "{name}");
                continue;
            }
            announced += 1;
            repair_and_check(&disk, &format!("without {name}")).await;
        }
        assert!(announced >= 3, "{announced}");
    });
}

#[test]
fn what_repair_calls_lost_is_unknown_and_positions_are_not_used_again() {
    block_on(async {
        let disk = folder().await;
        let name = names(&disk)
            .into_iter()
            .rfind(|it| it.starts_with("journal-"))
            .unwrap();
        let mut text = disk.read(&name).unwrap().unwrap();
        let lines = String::from_utf8(text.clone()).unwrap();
        let jobs = lines.lines().filter_map(|line| {
            let position = line.strip_prefix("{\"n\":\"")?.split('"').next()?;
            Some((line, position.parse::<Position>().unwrap()))
        });
        let jobs: Vec<_> = jobs.collect();
        let [.., (_, before), (line, last)] = jobs[..] else {
            panic!("{lines}");
        };
        text[lines.find(line).unwrap() + 2] ^= 1;
        disk.put(&name, &text);
        let [problem] = &problems(&disk)[..] else {
            panic!("{:?}", problems(&disk));
        };
        let loses = problem.loses.clone().unwrap();
        // It was the last one, so it is unknown whether others followed.
        let announced = format!("any job after {before}");
        assert!(loses.contains(&announced), "{problem}");
        repair_disk(&disk, Timestamp(1)).unwrap();
        let found = open_and_work(&disk, "repaired").await;
        assert!(!found.contains_key(&format!("j{}", JOBS - 1)));
        // Threads of the previous opening may still be about to end.
        let disk = copy(&disk);
        let file = start(&disk).unwrap();
        let id = |position| crate::model::id::JobId {
            queue: file.queue().id(),
            partition: PARTITION,
            position,
        };
        let next = file.queue().enqueue(vec![job(99)]).await.remove(0).unwrap();
        assert!(next.id.position.major > last.major, "{}", next.id);
        assert!(work(&file, &mut Seen::default()).await.unwrap() == 1);
        let state = file
            .store()
            .outcome(&id(last), std::time::Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(state, crate::model::job::JobState::Unknown);
    });
}

#[test]
fn power_cut_at_any_step_of_a_repair_is_repaired() {
    block_on(async {
        let whole = folder().await;
        let mut cuts = 0;
        for kind in ["data.json", "data.meta.json", "journal-"] {
            let name = names(&whole)
                .into_iter()
                .find(|it| it.starts_with(kind))
                .unwrap();
            let text = whole.read(&name).unwrap().unwrap();
            let mut flipped = text.clone();
            flipped[used(&text) / 2] ^= 1;
            let damaged = copy(&whole);
            damaged.put(&name, &flipped);
            let cost = repair_and_check(&copy(&damaged), &name).await;
            for step in 1.. {
                let disk = copy(&damaged);
                disk.plan(step, Fault::PowerCut);
                let done = repair_disk(&disk, Timestamp(1));
                if disk.faults_met() == 0 {
                    assert!(done.is_ok() && step > 10, "{name}, step {step}");
                    break;
                }
                cuts += 1;
                for seed in 0..4 {
                    let context = format!("{name}, step {step}, seed {seed}");
                    let left = disk.after_power_cut(seed);
                    let again = if problems(&left).is_empty() {
                        let found = open_and_work(&left, &context).await;
                        complete()
                            .iter()
                            .filter(|(key, value)| found.get(*key) != Some(value))
                            .count()
                    } else {
                        repair_and_check(&left, &context).await
                    };
                    assert_eq!(again, cost, "{context}: {done:?}");
                }
            }
        }
        assert!(cuts > 40, "{cuts}");
    });
}
