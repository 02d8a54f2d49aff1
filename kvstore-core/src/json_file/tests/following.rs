//! Does a follower ever show data that a loss of power takes back, or fall behind what was
//! acknowledged? And is a folder that lost power ever reported as damaged?
//!
//! A scenario runs on the simulated disk while another thread follows it. It is stopped at each of
//! its steps, including those of the follower.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::crash::{Seen, block_on, contents, job, options, work};
use super::damage::commit;
use crate::error::{Error, Result};
use crate::in_memory::log::PartitionLog;
use crate::in_memory::state::State;
use crate::json_file::JsonFile;
use crate::json_file::disk::simulated::{Fault, SimulatedDisk};
use crate::json_file::follower::tail::{Follower, Step};
use crate::json_file::inspect::{Beside, Salvage};
use crate::json_file::tests::damage::start;
use crate::model::entry::Version;
use crate::model::id::Position;
use crate::queue::JobQueue;
use crate::store::Store;

/// The acknowledged state: the latest version, and the last accepted job.
#[derive(Clone, Copy, Debug, Default)]
struct Acknowledged {
    version: Version,
    job: Position,
}

async fn tell(disk: &SimulatedDisk, acknowledged: &mut Acknowledged) -> Result<()> {
    let file = start(disk)?;
    for number in 1..=12 {
        let committed = file.store().commit(commit(number)).await?;
        acknowledged.version = committed.first_version;
        for accepted in file.queue().enqueue(vec![job(number)]).await {
            acknowledged.job = accepted?.id.position;
        }
        if number % 3 == 0 {
            work(&file, &mut Seen::default()).await?;
        }
        if number % 5 == 0 {
            file.store().compact().await?;
        }
    }
    Ok(())
}

/// Everything that a follower shows.
struct Shown {
    follower: Follower,
    state: State,
    log: PartitionLog,
}

impl Shown {
    fn load(disk: &SimulatedDisk) -> Result<Self> {
        let (follower, state, log) = Follower::load(Arc::new(disk.clone()))?;
        let mut shown = Self {
            follower,
            state,
            log,
        };
        shown.follow(disk)?;
        Ok(shown)
    }

    /// Follows until there is nothing more.
    fn follow(&mut self, disk: &SimulatedDisk) -> Result<()> {
        loop {
            match self.follower.step()? {
                Step::Lines(lines) => {
                    for line in lines {
                        line.apply(&mut self.state, &mut self.log).unwrap();
                    }
                }
                Step::Current => return Ok(()),
                Step::Lost => *self = Self::load(disk)?,
            }
        }
    }

    fn entries(&self) -> BTreeMap<String, Vec<u8>> {
        let rows = self.state.table.range_from(std::ops::Bound::Unbounded);
        rows.map(|row| (row.key_str().to_owned(), row.value_bytes().to_vec()))
            .collect()
    }
}

/// Follows until the scenario has ended, and returns the last state that could be shown.
fn follow_along(disk: &SimulatedDisk, has_ended: &AtomicBool) -> Option<Shown> {
    let mut shown: Option<Shown> = None;
    while !has_ended.load(Ordering::SeqCst) {
        let looked = match &mut shown {
            Some(shown) => shown.follow(disk),
            None => Shown::load(disk).map(|loaded| shown = Some(loaded)),
        };
        match looked {
            Ok(()) => {}
            // The power is off, or there is no store yet.
            Err(Error::Unavailable { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
        thread::yield_now();
    }
    shown
}

#[test]
fn nothing_that_was_shown_is_lost_by_a_power_cut_at_any_step() {
    let disk = SimulatedDisk::new();
    block_on(tell(&disk, &mut Acknowledged::default())).unwrap();
    let steps = disk.steps();
    let mut behind_a_cut = 0;
    for step in (1..=2 * steps).step_by(2) {
        let disk = SimulatedDisk::new();
        disk.plan(step, Fault::PowerCut);
        let has_ended = AtomicBool::new(false);
        let mut acknowledged = Acknowledged::default();
        let shown = thread::scope(|scope| {
            let following = scope.spawn(|| follow_along(&disk, &has_ended));
            let _ = block_on(tell(&disk, &mut acknowledged));
            has_ended.store(true, Ordering::SeqCst);
            following.join().unwrap()
        });
        behind_a_cut += u64::from(disk.faults_met() > 0);
        for seed in 0..3 {
            let context = format!("step {step} of {steps}, seed {seed}, {acknowledged:?}");
            let left = disk.after_power_cut(seed);
            let problems = Salvage::read(&left, Beside::Nobody).unwrap().found.problems;
            assert_eq!(problems, [], "{context}");
            let file = JsonFile::start(Arc::new(left), &options(), None).unwrap();
            let store = file.store();
            let state = store.shared.read();
            let last = block_on(file.queue().depth()).unwrap().jobs;
            assert!(state.version >= acknowledged.version, "{context}");
            let Some(shown) = &shown else { continue };
            assert!(state.version >= shown.state.version, "{context}");
            let applied = |state: &State| {
                state
                    .progress
                    .applied(shown.log.id(), super::super::PARTITION)
            };
            assert!(applied(&state) >= applied(&shown.state), "{context}");
            let waiting = shown
                .log
                .jobs()
                .filter(|job| job.id.position > applied(&state));
            assert!(last >= waiting.count() as u64, "{context}");
        }
    }
    assert!(behind_a_cut > steps / 3, "{behind_a_cut} of {steps}");
}

#[test]
fn follower_that_meets_an_error_shows_nothing_wrong_and_catches_up() {
    let mut met = 0;
    for step in 1..60 {
        let disk = SimulatedDisk::new();
        let mut acknowledged = Acknowledged::default();
        block_on(tell(&disk, &mut acknowledged)).unwrap();
        let whole = block_on(contents(&start(&disk.after_kill()).unwrap().store()));
        disk.plan(disk.steps() + step, Fault::ErrorOnce);
        let looked = Shown::load(&disk);
        met += disk.faults_met();
        disk.plan(u64::MAX, Fault::ErrorOnce);
        let mut shown = match looked {
            Ok(shown) => shown,
            Err(Error::Unavailable { .. }) => Shown::load(&disk).unwrap(),
            Err(error) => panic!("step {step}: {error:?}"),
        };
        shown.follow(&disk).unwrap();
        assert!(shown.state.version >= acknowledged.version);
        assert!(shown.log.last() >= acknowledged.job);
        let entries = shown.entries().into_iter();
        let entries = entries.map(|(key, value)| (key, serde_json::from_slice(&value).unwrap()));
        assert_eq!(entries.collect::<BTreeMap<String, u64>>(), whole);
    }
    assert!(met > 5, "{met}");
}
